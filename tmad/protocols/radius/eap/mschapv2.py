"""MS-CHAP-V2: one challenge, one proof in each direction, and keys from both.

RFC 2759, 8 (responses); RFC 3079, 3 (keys). MD4 and single DES are what it is made of: it says
nothing outside a TLS tunnel, and is offered only inside one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from tmad.wire.md4 import md4

CHALLENGE_OCTETS = 16
HASH_OCTETS = 16

_SERVER_MAGIC = b"Magic server to client signing constant"
_PAD_MAGIC = b"Pad to make it do more than one iteration"
_MASTER_MAGIC = b"This is the MPPE Master Key"
# RFC 3079, 3.4: the same octets say "send" at one end and "receive" at the other.
_CLIENT_SENDS = (
    b"On the client side, this is the send key; on the server side, it is the receive key."
)
_SERVER_SENDS = (
    b"On the client side, this is the receive key; on the server side, it is the send key."
)
_PAD_1 = bytes(40)
_PAD_2 = b"\xf2" * 40


def account(name: str) -> str:
    """Return the part of a name that goes into the challenge: without ``DOMAIN\\``."""
    return name.rsplit("\\", 1)[-1]


def challenge_hash(peer_challenge: bytes, challenge: bytes, name: str) -> bytes:
    """RFC 2759, 8.2: the eight octets that are answered."""
    octets = peer_challenge + challenge + account(name).encode()
    return hashlib.sha1(octets, usedforsecurity=False).digest()[:8]


def nt_response(nt_hash: bytes, challenge: bytes, peer_challenge: bytes, name: str) -> bytes:
    """RFC 2759, 8.1: what somebody who knows the password answers."""
    plain = challenge_hash(peer_challenge, challenge, name)
    keys = nt_hash.ljust(21, b"\x00")
    return b"".join(_des(keys[at : at + 7], plain) for at in (0, 7, 14))


def verify(
    nt_hash: bytes | None, challenge: bytes, peer_challenge: bytes, response: bytes, name: str
) -> bool:
    """Tell whether a response is right; without a hash it never is, and costs the same."""
    known = secrets.token_bytes(HASH_OCTETS) if nt_hash is None else nt_hash
    expected = nt_response(known, challenge, peer_challenge, name)
    return hmac.compare_digest(expected, response) and nt_hash is not None


def authenticator_response(
    nt_hash: bytes, challenge: bytes, peer_challenge: bytes, response: bytes, name: str
) -> str:
    """RFC 2759, 8.7: how the server shows that it knows the password, too."""
    digest = _sha1(md4(nt_hash) + response + _SERVER_MAGIC)
    bound = challenge_hash(peer_challenge, challenge, name)
    return "S=" + _sha1(digest + bound + _PAD_MAGIC).hex().upper()


def keys(nt_hash: bytes, response: bytes) -> tuple[bytes, bytes]:
    """Return the server's receive and send keys of 128 bits (RFC 3079, 3.4)."""
    master = _sha1(md4(nt_hash) + response + _MASTER_MAGIC)[:16]
    return _start_key(master, _CLIENT_SENDS), _start_key(master, _SERVER_SENDS)


def _start_key(master: bytes, magic: bytes) -> bytes:
    return _sha1(master + _PAD_1 + magic + _PAD_2)[:16]


def _sha1(octets: bytes) -> bytes:
    return hashlib.sha1(octets, usedforsecurity=False).digest()


def _des(key: bytes, plain: bytes) -> bytes:
    # 56 bits become eight octets of seven, each with a parity bit that nobody looks at.
    bits = int.from_bytes(key)
    spread = bytes((bits >> shift & 0x7F) << 1 for shift in range(49, -1, -7))
    # One block: there is nothing to chain.
    encryptor = Cipher(TripleDES(spread * 3), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(plain)
