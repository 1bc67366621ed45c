"""Signature and digest algorithms as CMS and its relatives name them.

RFC 3370, 5754 (RSA, ECDSA), 4056 (PSS), 8419 (Ed25519), 9882 (ML-DSA).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed448,
    ed25519,
    mldsa,
    padding,
    rsa,
)
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)

from tmad.errors import Fault, FaultCode
from tmad.wire import der


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An AlgorithmIdentifier; ``oid`` and ``parameters`` are DER, parameters b"" if absent."""

    oid: bytes
    parameters: bytes = b""

    @classmethod
    def read(cls, reader: der.Reader) -> Algorithm:
        """Read one from where the reader stands."""
        inside = reader.enter(der.SEQUENCE)
        oid = inside.raw(der.OBJECT_IDENTIFIER)
        parameters = inside.raw() if inside.peek() >= 0 else b""
        inside.finish()
        return cls(oid, parameters)

    def encode(self) -> bytes:
        """Return it as DER."""
        return der.sequence(self.oid, self.parameters)

    def __str__(self) -> str:
        return der.dotted(self.oid)


class Age(IntEnum):
    """How far an algorithm is behind the times."""

    MODERN = 0
    LEGACY = 1  # SHA-1, three-key DES
    INSECURE = 2  # MD5, single DES


@dataclass(frozen=True, slots=True)
class Policy:
    """The oldest algorithms that are accepted."""

    oldest: Age = Age.MODERN


@dataclass(frozen=True, slots=True)
class Digest:
    """A message digest."""

    name: str
    oid: bytes
    hash: hashes.HashAlgorithm
    age: Age = Age.MODERN

    def of(self, data: bytes) -> bytes:
        """Return the digest of ``data``."""
        context = hashes.Hash(self.hash)
        context.update(data)
        return context.finalize()

    @property
    def algorithm(self) -> Algorithm:
        """As an AlgorithmIdentifier without parameters (RFC 5754, 2)."""
        return Algorithm(self.oid)


MD5 = Digest("MD5", der.oid("1.2.840.113549.2.5"), hashes.MD5(), Age.INSECURE)  # noqa: S303
SHA1 = Digest("SHA-1", der.oid("1.3.14.3.2.26"), hashes.SHA1(), Age.LEGACY)  # noqa: S303
SHA224 = Digest("SHA-224", der.oid("2.16.840.1.101.3.4.2.4"), hashes.SHA224())
SHA256 = Digest("SHA-256", der.oid("2.16.840.1.101.3.4.2.1"), hashes.SHA256())
SHA384 = Digest("SHA-384", der.oid("2.16.840.1.101.3.4.2.2"), hashes.SHA384())
SHA512 = Digest("SHA-512", der.oid("2.16.840.1.101.3.4.2.3"), hashes.SHA512())

DIGESTS: Mapping[bytes, Digest] = {d.oid: d for d in (MD5, SHA1, SHA224, SHA256, SHA384, SHA512)}

RSA_ENCRYPTION = der.oid("1.2.840.113549.1.1.1")
RSA_PSS = der.oid("1.2.840.113549.1.1.10")
MGF1 = der.oid("1.2.840.113549.1.1.8")
EC_PUBLIC_KEY = der.oid("1.2.840.10045.2.1")
ED25519 = der.oid("1.3.101.112")

# Signature algorithms that name their digest; None: the digest is the signer's choice.
_RSA: Mapping[bytes, Digest | None] = {
    RSA_ENCRYPTION: None,
    der.oid("1.2.840.113549.1.1.4"): MD5,
    der.oid("1.2.840.113549.1.1.5"): SHA1,
    der.oid("1.2.840.113549.1.1.14"): SHA224,
    der.oid("1.2.840.113549.1.1.11"): SHA256,
    der.oid("1.2.840.113549.1.1.12"): SHA384,
    der.oid("1.2.840.113549.1.1.13"): SHA512,
}
_ECDSA: Mapping[bytes, Digest | None] = {
    EC_PUBLIC_KEY: None,
    der.oid("1.2.840.10045.4.1"): SHA1,
    der.oid("1.2.840.10045.4.3.1"): SHA224,
    der.oid("1.2.840.10045.4.3.2"): SHA256,
    der.oid("1.2.840.10045.4.3.3"): SHA384,
    der.oid("1.2.840.10045.4.3.4"): SHA512,
}
_ML_DSA_44 = der.oid("2.16.840.1.101.3.4.3.17")
_ML_DSA_65 = der.oid("2.16.840.1.101.3.4.3.18")
_ML_DSA_87 = der.oid("2.16.840.1.101.3.4.3.19")
# Keys that sign the message whole: no digest of ours is involved.
PureKey: TypeAlias = (
    ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
_PURE: Mapping[bytes, type[PureKey]] = {
    ED25519: ed25519.Ed25519PublicKey,
    der.oid("1.3.101.113"): ed448.Ed448PublicKey,
    _ML_DSA_44: mldsa.MLDSA44PublicKey,
    _ML_DSA_65: mldsa.MLDSA65PublicKey,
    _ML_DSA_87: mldsa.MLDSA87PublicKey,
}


def bad_algorithm(what: str, oid: bytes) -> Fault:
    """Return the Fault for an algorithm that is unknown or not allowed here."""
    name = _OLD_NAMES.get(oid) or der.dotted(oid)
    return Fault(
        FaultCode.BAD_ALGORITHM,
        f"{what} {name} is not accepted; use SHA-256 and AES, RSA or ECDSA",
        rule="wire.algorithm",
        values={"algorithm": name, "use": what},
    )


# What old devices send by default: an operator reads the name, not the number.
_OLD_NAMES: Mapping[bytes, str] = {
    der.oid("1.2.840.113549.2.5"): "MD5",
    der.oid("1.2.840.113549.1.1.4"): "MD5 with RSA",
    der.oid("1.3.14.3.2.26"): "SHA-1",
    der.oid("1.2.840.113549.1.1.5"): "SHA-1 with RSA",
    der.oid("1.2.840.10045.4.1"): "SHA-1 with ECDSA",
    der.oid("1.3.14.3.2.7"): "single DES",
    der.oid("1.2.840.113549.3.7"): "triple DES",
    der.oid("1.2.840.113549.3.2"): "RC2",
}


def digest_for(algorithm: Algorithm, policy: Policy) -> Digest:
    """Return the digest that is named; raise Fault(BAD_ALGORITHM) where policy forbids it."""
    digest = DIGESTS.get(algorithm.oid)
    if digest is None or digest.age > policy.oldest:
        raise bad_algorithm("digest", algorithm.oid)
    return digest


def verify(
    key: CertificatePublicKeyTypes,
    algorithm: Algorithm,
    digest: Digest,
    signature: bytes,
    data: bytes,
    policy: Policy,
) -> None:
    """Check one signature over ``data``.

    ``digest`` is what the message names beside the signature algorithm, already allowed by
    ``policy``; where both name one they must agree. Raise Fault(BAD_INTEGRITY) for a wrong
    signature, Fault(BAD_ALGORITHM) for an algorithm that does not fit the key or the policy.
    """
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if algorithm.oid == RSA_PSS:
                scheme, salted = _pss(algorithm, policy)
                key.verify(signature, data, scheme, salted.hash)
            else:
                agreed = _agreed(_RSA, algorithm, digest)
                key.verify(signature, data, padding.PKCS1v15(), agreed.hash)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            agreed = _agreed(_ECDSA, algorithm, digest)
            key.verify(signature, data, ec.ECDSA(agreed.hash))
        elif isinstance(key, PureKey) and isinstance(key, _PURE.get(algorithm.oid, ())):
            key.verify(signature, data)
        else:
            raise bad_algorithm("signature algorithm", algorithm.oid)
    except InvalidSignature:
        raise Fault(
            FaultCode.BAD_INTEGRITY, "the signature is not valid", rule="wire.signature"
        ) from None
    except (UnsupportedAlgorithm, ValueError) as error:
        # OpenSSL's limits on modulus and exponent, a digest too long for the key, and the like.
        fault = bad_algorithm("signature algorithm", algorithm.oid)
        fault.private = str(error)
        raise fault from None


def verify_whole(
    key: CertificatePublicKeyTypes,
    algorithm: Algorithm,
    signature: bytes,
    data: bytes,
    policy: Policy,
) -> None:
    """Check a signature whose algorithm names the digest, as in X.509 and PKCS#10.

    Faults as :func:`verify`.
    """
    digest = _RSA.get(algorithm.oid) or _ECDSA.get(algorithm.oid)
    if digest is None and algorithm.oid != RSA_PSS and algorithm.oid not in _PURE:
        raise bad_algorithm("signature algorithm", algorithm.oid)
    if digest is not None and digest.age > policy.oldest:
        raise bad_algorithm("signature algorithm", algorithm.oid)
    verify(key, algorithm, digest or SHA256, signature, data, policy)


def _agreed(table: Mapping[bytes, Digest | None], algorithm: Algorithm, digest: Digest) -> Digest:
    if algorithm.oid not in table:
        raise bad_algorithm("signature algorithm", algorithm.oid)
    named = table[algorithm.oid]
    if named is not None and named is not digest:
        raise bad_algorithm("signature algorithm", algorithm.oid)
    return digest


def _pss(algorithm: Algorithm, policy: Policy) -> tuple[padding.PSS, Digest]:
    """Read RSASSA-PSS-params (RFC 4055, 3.1); each absent field means its SHA-1 default."""
    reader = der.read(algorithm.parameters or der.sequence(), der.SEQUENCE)
    digest_id = mask_digest_id = Algorithm(SHA1.oid)
    salt = 20
    if reader.peek() == 0xA0:
        digest_id = Algorithm.read(reader.enter(0xA0))
    if reader.peek() == 0xA1:
        mask = Algorithm.read(reader.enter(0xA1))
        if mask.oid != MGF1:
            raise bad_algorithm("mask generation", mask.oid)
        mask_digest_id = Algorithm.read(der.Reader(mask.parameters))
    if reader.peek() == 0xA2:
        salt = reader.enter(0xA2).integer()
    if reader.peek() == 0xA3:
        reader.enter(0xA3)
    reader.finish()
    digest = digest_for(digest_id, policy)
    mask_digest = digest_for(mask_digest_id, policy)
    if not 0 <= salt <= 64:
        raise bad_algorithm("salt length of", algorithm.oid)
    return padding.PSS(padding.MGF1(mask_digest.hash), salt), digest


def sign(
    key: PrivateKeyTypes, data: bytes, digest: Digest, *, plain_rsa: bool = True
) -> tuple[Algorithm, bytes]:
    """Sign ``data``; return the algorithm as a SignerInfo names it, and the signature.

    With ``plain_rsa`` an RSA signature is named rsaEncryption and the digest stands in
    digestAlgorithm alone (RFC 3370, 3.2), which old PKCS#7 code insists on. Ed25519 wants
    SHA-512 as the message digest (RFC 8419, 2.3); the caller chooses it.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        name = RSA_ENCRYPTION if plain_rsa else _name_of(_RSA, digest)
        signature = key.sign(data, padding.PKCS1v15(), digest.hash)
        return Algorithm(name, der.NULL_DER), signature
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return Algorithm(_name_of(_ECDSA, digest)), key.sign(data, ec.ECDSA(digest.hash))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Algorithm(ED25519), key.sign(data)
    if isinstance(key, mldsa.MLDSA44PrivateKey):
        return Algorithm(_ML_DSA_44), key.sign(data)
    if isinstance(key, mldsa.MLDSA65PrivateKey):
        return Algorithm(_ML_DSA_65), key.sign(data)
    if isinstance(key, mldsa.MLDSA87PrivateKey):
        return Algorithm(_ML_DSA_87), key.sign(data)
    raise Fault(FaultCode.BAD_ALGORITHM, "this kind of key does not sign messages here")


def fitting_digest(key: CertificatePublicKeyTypes) -> Digest:
    """Return the digest of a CMS content that is no weaker than the key which signs it."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        size = key.curve.key_size
        return SHA256 if size <= 256 else SHA384 if size <= 384 else SHA512
    # RFC 8419, 2.3; RFC 9882, 3.3: one that does for each of them
    return SHA512 if isinstance(key, PureKey) else SHA256


def algorithm_for(key: CertificatePublicKeyTypes, digest: Digest) -> Algorithm:
    """Return how :func:`sign` names a signature of this key's private half, ``plain_rsa`` off."""
    if isinstance(key, rsa.RSAPublicKey):
        return Algorithm(_name_of(_RSA, digest), der.NULL_DER)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return Algorithm(_name_of(_ECDSA, digest))
    for oid, kind in _PURE.items():
        if isinstance(key, kind):
            return Algorithm(oid)
    raise Fault(FaultCode.BAD_ALGORITHM, "this kind of key does not sign messages here")


def _name_of(table: Mapping[bytes, Digest | None], digest: Digest) -> bytes:
    return next(oid for oid, named in table.items() if named is digest)
