"""CMS AuthenticatedData between two who share a password (RFC 5652, 9 and 6.2.4; RFC 3211).

The key of the MAC is random and wrapped with one that PBKDF2 makes of the password. Rounds are
bounded before anybody is believed: they are a stranger's choice.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import cms, der, envelopes, signatures
from tmad.wire.cms import Random
from tmad.wire.envelopes import AES256, Cipher
from tmad.wire.signatures import SHA1, SHA256, SHA384, SHA512, Algorithm, Digest, Policy

AUTHENTICATED_DATA: Final = der.oid("1.2.840.113549.1.9.16.1.2")
_PBKDF2: Final = der.oid("1.2.840.113549.1.5.12")
_PWRI_KEK: Final = der.oid("1.2.840.113549.1.9.16.3.9")
_HMAC_SHA256: Final = der.oid("1.2.840.113549.2.9")
HMACS: Final[Mapping[bytes, Digest]] = {
    der.oid("1.3.6.1.5.5.8.1.2"): SHA1,
    der.oid("1.2.840.113549.2.7"): SHA1,
    _HMAC_SHA256: SHA256,
    der.oid("1.2.840.113549.2.10"): SHA384,
    der.oid("1.2.840.113549.2.11"): SHA512,
}
ROUNDS: Final = range(1_000, 50_001)
_SALTS: Final = range(8, 129)
_OWN_ROUNDS: Final = 10_000
_MAC_KEY: Final = 32  # octets


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordRecipient:
    """How the key of the MAC is wrapped; sizes in octets."""

    salt: bytes
    rounds: int
    prf: Digest
    cipher: Cipher
    vector: bytes
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatedData:
    """An AuthenticatedData for one password; nothing is verified.

    ``covered`` are the authenticated attributes as the MAC covers them, None: the content.
    """

    recipient: PasswordRecipient
    mac: Algorithm
    content_type: bytes
    content: bytes = field(repr=False)
    attributes: Mapping[bytes, tuple[bytes, ...]]
    digest: Algorithm | None
    covered: bytes | None = field(repr=False)
    value: bytes


def decode(content_info: bytes) -> AuthenticatedData:
    """Read a ContentInfo that holds AuthenticatedData; MALFORMED, BAD_ALGORITHM."""
    outer = cms.unwrap(content_info, AUTHENTICATED_DATA)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    reader.integer()
    if reader.peek() == 0xA0:
        reader.raw()  # originatorInfo
    infos = reader.enter(der.SET)
    recipient = _read_recipient(infos)
    infos.finish()
    mac = Algorithm.read(reader)
    digest = None
    if reader.peek() == 0xA1:
        digest = Algorithm.read(der.Reader(b"\x30" + reader.raw()[1:]))
    encapsulated = reader.enter(der.SEQUENCE)
    content_type = encapsulated.raw(der.OBJECT_IDENTIFIER)
    explicit = encapsulated.enter(0xA0)
    content = explicit.content(der.OCTET_STRING)
    explicit.finish()
    encapsulated.finish()
    attributes: dict[bytes, tuple[bytes, ...]] = {}
    covered = None
    if reader.peek() == 0xA2:
        covered = b"\x31" + reader.raw()[1:]  # RFC 5652, 9.2: covered as a SET OF
        attributes = cms.read_attributes(der.read(covered, der.SET))
    value = reader.content(der.OCTET_STRING)
    if reader.peek() == 0xA3:
        reader.raw()
    reader.finish()
    return AuthenticatedData(
        recipient=recipient,
        mac=mac,
        content_type=content_type,
        content=content,
        attributes=attributes,
        digest=digest,
        covered=covered,
        value=value,
    )


def _read_recipient(infos: der.Reader) -> PasswordRecipient:
    """Read a PasswordRecipientInfo, the only kind of recipient that is served."""
    if infos.peek() != 0xA3:
        raise der.malformed("a password must be the only recipient", "wire.authenticated")
    reader = infos.enter(0xA3)
    reader.integer()
    if reader.peek() != 0xA0:
        raise der.malformed("the key derivation is missing", "wire.authenticated")
    derivation = Algorithm.read(der.Reader(b"\x30" + reader.raw()[1:]))
    wrapping = Algorithm.read(reader)
    wrapped = reader.content(der.OCTET_STRING)
    reader.finish()
    if derivation.oid != _PBKDF2:
        raise signatures.bad_algorithm("key derivation", derivation.oid)
    if wrapping.oid != _PWRI_KEK:
        raise signatures.bad_algorithm("key wrapping", wrapping.oid)
    inside = der.read(derivation.parameters, der.SEQUENCE)
    salt, rounds = inside.content(der.OCTET_STRING), inside.integer()
    if inside.peek() == der.INTEGER:
        inside.raw()  # keyLength: what the cipher takes
    prf = SHA1
    if inside.peek() == der.SEQUENCE:
        prf = _hmac(Algorithm.read(inside))
    inside.finish()
    if rounds not in ROUNDS or len(salt) not in _SALTS:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            f"a password's key takes {ROUNDS[0]} to {ROUNDS[-1]} rounds and {_SALTS[0]} to "
            f"{_SALTS[-1]} octets of salt here",
            rule="wire.authenticated.rounds",
            values={"rounds": str(rounds)[:20], "salt": str(len(salt))},
        )
    cipher_id = Algorithm.read(der.Reader(wrapping.parameters))
    cipher = envelopes.cipher_for(cipher_id, Policy())
    vector = der.content(cipher_id.parameters, der.OCTET_STRING)
    if len(vector) != cipher.block_size:
        raise der.malformed("the initialisation vector has a wrong length", "wire.authenticated")
    return PasswordRecipient(
        salt=salt, rounds=rounds, prf=prf, cipher=cipher, vector=vector, wrapped=wrapped
    )


def _hmac(algorithm: Algorithm) -> Digest:
    digest = HMACS.get(algorithm.oid)
    if digest is None:
        raise signatures.bad_algorithm("MAC", algorithm.oid)
    return digest


def is_made_with(data: AuthenticatedData, password: Secret, policy: Policy) -> bool:
    """Tell whether somebody who knows the password made it; Fault(BAD_ALGORITHM)."""
    mac = _hmac(data.mac)
    if mac.age > policy.oldest:
        raise signatures.bad_algorithm("MAC", data.mac.oid)
    covered = data.content
    if data.covered is not None:
        if data.digest is None:
            return False
        digest = signatures.digest_for(data.digest, policy)
        claimed = data.attributes.get(cms.MESSAGE_DIGEST, ())
        if claimed != (der.octets(digest.of(data.content)),):
            return False
        if data.attributes.get(cms.CONTENT_TYPE) != (data.content_type,):
            return False
        covered = data.covered
    elif data.content_type != cms.DATA:
        return False  # RFC 5652, 9.1: any other type has authenticated attributes
    key = _unwrap(data.recipient, password)
    if key is None:
        return False
    return hmac.compare_digest(hmac.digest(key, covered, mac.hash.name), data.value)


def _wrapping_key(recipient: PasswordRecipient, password: Secret) -> bytes:
    derivation = PBKDF2HMAC(
        recipient.prf.hash, recipient.cipher.key_size, recipient.salt, recipient.rounds
    )
    return derivation.derive(password.reveal())


def _unwrap(recipient: PasswordRecipient, password: Secret) -> bytes | None:
    """Undo RFC 3211, 2.3.1; None where the check octets do not fit."""
    cipher, wrapped = recipient.cipher, recipient.wrapped
    size = cipher.block_size
    if len(wrapped) < 2 * size or len(wrapped) % size or len(wrapped) > 256:
        return None
    key = cipher.algorithm(_wrapping_key(recipient, password))

    def decrypt(vector: bytes, octets: bytes) -> bytes:
        context = BlockCipher(key, CBC(vector)).decryptor()
        return context.update(octets) + context.finalize()

    # The vector of the second pass is the last block of the first, which is found by itself.
    last = decrypt(wrapped[-2 * size : -size], wrapped[-size:])
    once = decrypt(last, wrapped[:-size]) + last
    block = decrypt(recipient.vector, once)
    length, check, rest = block[0], block[1:4], block[4:]
    is_whole = length <= len(rest) and hmac.compare_digest(
        bytes(octet ^ 0xFF for octet in rest[:3]), check
    )
    return rest[:length] if is_whole and length >= 16 else None


def seal(content: bytes, content_type: bytes, password: Secret, *, random: Random) -> bytes:
    """Return a ContentInfo with AuthenticatedData for whoever knows the password."""
    key = random(_MAC_KEY)
    recipient = envelopes.password_recipient(
        key, password.reveal(), cipher=AES256, random=random, rounds=_OWN_ROUNDS
    )
    attributes = der.set_of(
        [
            der.sequence(cms.CONTENT_TYPE, der.tlv(der.SET, content_type)),
            der.sequence(cms.MESSAGE_DIGEST, der.tlv(der.SET, der.octets(SHA256.of(content)))),
        ]
    )
    body = der.sequence(
        der.integer(0),
        der.tlv(der.SET, recipient),
        Algorithm(_HMAC_SHA256).encode(),
        der.explicit(1, SHA256.oid),
        der.sequence(content_type, der.explicit(0, der.octets(content))),
        b"\xa2" + attributes[1:],
        der.octets(hmac.digest(key, attributes, "sha256")),
    )
    return der.sequence(AUTHENTICATED_DATA, der.explicit(0, body))
