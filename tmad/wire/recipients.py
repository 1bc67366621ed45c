"""CMS envelopes for a key that has no certificate yet: challenges that only its holder can read.

RSA: RFC 3370 and 3560; elliptic curves: RFC 5753; X25519 and X448: RFC 8418; ML-KEM: RFC 9629 and
9936.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mlkem, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from tmad.errors import Fault, FaultCode
from tmad.wire import agreement, der, envelopes
from tmad.wire.agreement import WRAPS
from tmad.wire.cms import IssuerAndSerial, Random
from tmad.wire.envelopes import AES256, RSAES_OAEP
from tmad.wire.signatures import MGF1, SHA256, Algorithm

_X25519: Final = der.oid("1.3.101.110")
_X448: Final = der.oid("1.3.101.111")
# dhSinglePass-stdDH-hkdf-sha256-scheme and its like with SHA-512 (RFC 8418, 2.2).
_HKDF_SCHEMES: Final = {
    _X25519: (der.oid("1.2.840.113549.1.9.16.3.19"), hashes.SHA256()),
    _X448: (der.oid("1.2.840.113549.1.9.16.3.21"), hashes.SHA512()),
}
_ORI_KEM: Final = der.oid("1.2.840.113549.1.9.16.13.3")
_HKDF_SHA256: Final = der.oid("1.2.840.113549.1.9.16.3.28")
_ML_KEM_768: Final = der.oid("2.16.840.1.101.3.4.4.2")
_ML_KEM_1024: Final = der.oid("2.16.840.1.101.3.4.4.3")
_KEY: Final = 32  # octets of a content key and of one that wraps it
_NULL_DN: Final = der.sequence()


def seal_to_key(
    content: bytes,
    key: CertificatePublicKeyTypes,
    *,
    key_identifier: bytes | None,
    number: int,
    random: Random,
) -> bytes:
    """Return a ContentInfo with EnvelopedData of AES-256 for one key.

    The key is named by its identifier, or without one by an empty issuer and ``number`` as the
    serial number (RFC 10002, 6.7). Fault(BAD_ALGORITHM) for a key that can only sign.
    """
    content_key = random(_KEY)
    is_named = key_identifier is not None
    issuer_and_serial = IssuerAndSerial(_NULL_DN, number).encode()
    rid = der.tlv(0x80, key_identifier) if key_identifier is not None else issuer_and_serial
    if isinstance(key, rsa.RSAPublicKey):
        version = 2 if is_named else 0
        recipient = _transport(key, rid, version, content_key)
    elif isinstance(key, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
        version, recipient = 3, _encapsulate(key, rid, content_key)
    else:
        version = 2
        if key_identifier is not None:
            rid = der.explicit(0, der.octets(key_identifier))  # RecipientKeyIdentifier
        recipient = _agree(key, rid, content_key)
    return envelopes.enclose(version, recipient, content, content_key, AES256, random)


def _transport(key: rsa.RSAPublicKey, rid: bytes, version: int, content_key: bytes) -> bytes:
    scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    try:
        encrypted = key.encrypt(content_key, scheme)
    except ValueError:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "this RSA key is too short to encrypt to",
            rule="wire.envelope.recipient",
        ) from None
    digest = SHA256.algorithm.encode()
    parameters = der.sequence(
        der.explicit(0, digest), der.explicit(1, Algorithm(MGF1, digest).encode())
    )
    return der.sequence(
        der.integer(version),
        rid,
        Algorithm(RSAES_OAEP, parameters).encode(),
        der.octets(encrypted),
    )


def _agree(key: CertificatePublicKeyTypes, rid: bytes, content_key: bytes) -> bytes:
    if isinstance(key, x25519.X25519PublicKey):
        own = x25519.X25519PrivateKey.generate()
        public, shared = own.public_key().public_bytes_raw(), own.exchange(key)
        return _agree_by_hkdf(_X25519, public, shared, rid, content_key)
    if isinstance(key, x448.X448PublicKey):
        other = x448.X448PrivateKey.generate()
        public, shared = other.public_key().public_bytes_raw(), other.exchange(key)
        return _agree_by_hkdf(_X448, public, shared, rid, content_key)
    return agreement.recipient_of(key, rid, content_key)


def _agree_by_hkdf(
    curve: bytes, public: bytes, shared: bytes, rid: bytes, content_key: bytes
) -> bytes:
    scheme, digest = _HKDF_SCHEMES[curve]
    wrapping = Algorithm(WRAPS[_KEY]).encode()
    shared_info = der.sequence(wrapping, der.explicit(2, der.octets((8 * _KEY).to_bytes(4, "big"))))
    wrapping_key = HKDF(digest, _KEY, None, shared_info).derive(shared)
    originator = der.explicit(1, Algorithm(curve).encode(), der.tlv(der.BIT_STRING, b"\0", public))
    return der.explicit(
        1,
        der.integer(3),
        der.explicit(0, originator),
        Algorithm(scheme, wrapping).encode(),
        der.sequence(der.sequence(rid, der.octets(aes_key_wrap(wrapping_key, content_key)))),
    )


def _encapsulate(
    key: mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey, rid: bytes, content_key: bytes
) -> bytes:
    """Return a KEMRecipientInfo (RFC 9629, 3; RFC 9936, 2)."""
    shared, encapsulated = key.encapsulate()
    wrapping = Algorithm(WRAPS[_KEY]).encode()
    # CMSORIforKEMOtherInfo (RFC 9629, 5)
    info = der.sequence(wrapping, der.integer(_KEY))
    wrapping_key = HKDF(hashes.SHA256(), _KEY, None, info).derive(shared)
    name = _ML_KEM_768 if isinstance(key, mlkem.MLKEM768PublicKey) else _ML_KEM_1024
    value = der.sequence(
        der.integer(0),
        rid,
        Algorithm(name).encode(),
        der.octets(encapsulated),
        Algorithm(_HKDF_SHA256).encode(),
        der.integer(_KEY),
        wrapping,
        der.octets(aes_key_wrap(wrapping_key, content_key)),
    )
    return der.explicit(4, _ORI_KEM, value)
