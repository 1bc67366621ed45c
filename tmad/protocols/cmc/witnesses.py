"""Values that show knowledge of a secret, or of a key (RFC 10002, 6.2, 6.3 and 6.7).

Pure functions over secrets. Rounds that a stranger chose are bounded before anything is computed.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmc.controls import Witness
from tmad.wire import der, signatures
from tmad.wire.authenticated import HMACS
from tmad.wire.signatures import SHA1, Algorithm, Digest, Policy

_PBKDF2: Final = der.oid("1.2.840.113549.1.5.12")
HMAC_SHA256: Final = Algorithm(der.oid("1.2.840.113549.2.9"))
_ROUNDS: Final = range(1, 10_001)  # on the reactor: a few milliseconds
_SALTS: Final = range(8, 129)
_KEYS: Final = range(16, 129)
# RFC 10002, 6.7: no more of the proof value is a key than a block of SHA-256.
_LONGEST_KEY: Final = 64

# The fixed algorithms of the controls without version 2.
OLD: Final = Algorithm(SHA1.oid), Algorithm(der.oid("1.2.840.113549.2.7"))


def old(value: bytes) -> Witness:
    """Return a control of version 1 as one of version 2 (RFC 10002, 6.2.2 and 6.3.1.2)."""
    return Witness(key=OLD[0], mac=OLD[1], value=value)


def is_identity(
    witness: Witness, secret: Secret, identification: str, requests_der: bytes, policy: Policy
) -> bool:
    """Tell whether somebody who knows the secret asked for exactly these requests.

    ``identification`` is what names the secret, and part of the key (RFC 10002, 6.2.3).
    Fault(BAD_ALGORITHM).
    """
    words = Secret(secret.reveal() + identification.encode())
    return _is_made_with(witness, words, requests_der, policy)


def is_linked(
    witness: Witness, secret: Secret, identification: str, random: bytes, policy: Policy
) -> bool:
    """Tell whether a request was signed by somebody who knows the secret.

    Dogtag's client makes the key as for the identity proof; the RFC says of the secret alone.
    """
    words = Secret(secret.reveal() + identification.encode())
    return any(_is_made_with(witness, each, random, policy) for each in (secret, words))


def _is_made_with(witness: Witness, words: Secret, data: bytes, policy: Policy) -> bool:
    digest = _mac(witness.mac, policy)
    key = _key(witness.key, words, policy)
    return hmac.compare_digest(hmac.digest(key, data, digest.hash.name), witness.value)


def _mac(algorithm: Algorithm, policy: Policy) -> Digest:
    digest = HMACS.get(algorithm.oid)
    if digest is None or digest.age > policy.oldest:
        raise signatures.bad_algorithm("MAC", algorithm.oid)
    return digest


def _key(algorithm: Algorithm, words: Secret, policy: Policy) -> bytes:
    if algorithm.oid != _PBKDF2:
        digest = signatures.digest_for(algorithm, policy)
        return hashlib.new(digest.hash.name, words.reveal()).digest()
    reader = der.read(algorithm.parameters, der.SEQUENCE)
    salt, rounds = reader.content(der.OCTET_STRING), reader.integer()
    length = reader.integer() if reader.peek() == der.INTEGER else None
    prf = SHA1
    if reader.peek() == der.SEQUENCE:
        prf = HMACS.get(Algorithm.read(reader).oid, SHA1)
    reader.finish()
    length = prf.hash.digest_size if length is None else length
    if rounds not in _ROUNDS or len(salt) not in _SALTS or length not in _KEYS:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            f"PBKDF2 takes {_ROUNDS[0]} to {_ROUNDS[-1]} rounds, {_SALTS[0]} to {_SALTS[-1]} "
            f"octets of salt and keys of {_KEYS[0]} to {_KEYS[-1]} octets here",
            rule="cmc.identity.algorithm",
            values={"rounds": str(rounds)[:20], "salt": str(len(salt)), "key": str(length)[:20]},
        )
    return hashlib.pbkdf2_hmac(prf.hash.name, words.reveal(), salt, rounds, length)


# -- possession by decryption ---------------------------------------------------------------


def proof_of(value: Secret, request_der: bytes) -> bytes:
    """Return what DecryptedPOP must hold: HMAC-SHA-256 of the TaggedRequest."""
    return hmac.digest(value.reveal()[:_LONGEST_KEY], request_der, "sha256")


def is_proof(algorithm: Algorithm, claimed: bytes, value: Secret, request_der: bytes) -> bool:
    """Tell whether a client has decrypted the proof value; Fault(BAD_ALGORITHM)."""
    if algorithm.oid != HMAC_SHA256.oid:
        # thePOPAlgID is a copy of what we have said.
        raise signatures.bad_algorithm("POP", algorithm.oid)
    return hmac.compare_digest(proof_of(value, request_der), claimed)
