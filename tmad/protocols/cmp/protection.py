"""CMP message protection: password-based MACs and signatures (RFC 9810, 5.1.3; RFC 9481, 6.1).

Numbers that a stranger chose (rounds, lengths) are bounded before anything is computed with
them: they would otherwise buy any amount of the processor before anybody is authenticated.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import der, signatures
from tmad.wire.cms import Random
from tmad.wire.signatures import SHA1, SHA224, SHA256, SHA384, SHA512, Algorithm, Digest

PASSWORD_BASED_MAC: Final = der.oid("1.2.840.113533.7.66.13")
PBMAC1: Final = der.oid("1.2.840.113549.1.5.14")
DH_BASED_MAC: Final = der.oid("1.2.840.113533.7.66.30")
KEM_BASED_MAC: Final = der.oid("1.2.840.113533.7.66.16")
PBKDF2: Final = der.oid("1.2.840.113549.1.5.12")
_HMAC_SHA1_OLD: Final = der.oid("1.3.6.1.5.5.8.1.2")

_HMACS: Final[Mapping[bytes, Digest]] = {
    _HMAC_SHA1_OLD: SHA1,
    der.oid("1.2.840.113549.2.7"): SHA1,
    der.oid("1.2.840.113549.2.8"): SHA224,
    der.oid("1.2.840.113549.2.9"): SHA256,
    der.oid("1.2.840.113549.2.10"): SHA384,
    der.oid("1.2.840.113549.2.11"): SHA512,
}
# As one-way function of PBM; SHA-1 is safe in it and in HMAC, and old devices know no other.
_OWFS: Final[Mapping[bytes, Digest]] = {d.oid: d for d in (SHA1, SHA256, SHA384, SHA512)}
_NAMES: Final[Mapping[str, str]] = {
    "SHA-1": "sha1", "SHA-224": "sha224", "SHA-256": "sha256",
    "SHA-384": "sha384", "SHA-512": "sha512",
}  # fmt: skip

SALT: Final = 16  # octets of ours; EJBCA's six were too few (CVE-2024-36066)
_SALTS: Final = range(8, 129)
PBM_ROUNDS: Final = range(100, 10_001)
PBKDF2_ROUNDS: Final = range(1_000, 200_001)
# From how many rounds of PBKDF2 on a thread does the work.
LONG: Final = 4_000
_KEY_LENGTHS: Final = range(16, 129)


@dataclass(frozen=True, slots=True, kw_only=True)
class MAC:
    """How a message is protected with a shared secret; sizes in octets.

    ``hash`` derives the key (PBM's owf, PBKDF2's prf), ``mac`` is HMAC's.
    """

    kind: Literal["pbm", "pbmac1"]
    salt: bytes
    rounds: int
    hash: Digest
    hash_oid: bytes
    mac: Digest
    mac_algorithm: Algorithm
    key_length: int = 0  # PBMAC1 only

    @property
    def is_long(self) -> bool:
        """Tell whether the key takes so long that a thread should make it."""
        return self.kind == "pbmac1" and self.rounds > LONG

    def renewed(self, random: Random) -> MAC:
        """Return the same with a salt of our own, for an answer."""
        return replace(self, salt=random(SALT))

    def key(self, secret: Secret) -> bytes:
        """Derive the key; PBM's is as long as one hash (RFC 9810, 5.1.3.1)."""
        if self.kind == "pbmac1":
            derivation = PBKDF2HMAC(self.hash.hash, self.key_length, self.salt, self.rounds)
            return derivation.derive(secret.reveal())
        # A copy of an empty hash spares OpenSSL looking the algorithm up each time.
        blank = hashlib.new(_NAMES[self.hash.name])
        key = secret.reveal() + self.salt
        for _ in range(self.rounds):
            one_way = blank.copy()
            one_way.update(key)
            key = one_way.digest()
        # HMAC takes a key of any length, so that it never "needs more than one hash output".
        return key

    def of(self, key: bytes, data: bytes) -> bytes:
        """Return the MAC of ``data``."""
        return hmac.digest(key, data, _NAMES[self.mac.name])

    def check(self, key: bytes, data: bytes, claimed: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.of(key, data), claimed)

    def algorithm(self) -> Algorithm:
        """Return it as protectionAlg."""
        if self.kind == "pbm":
            return Algorithm(
                PASSWORD_BASED_MAC,
                der.sequence(
                    der.octets(self.salt),
                    Algorithm(self.hash_oid).encode(),
                    der.integer(self.rounds),
                    self.mac_algorithm.encode(),
                ),
            )
        derivation = der.sequence(
            der.octets(self.salt),
            der.integer(self.rounds),
            der.integer(self.key_length),
            Algorithm(self.hash_oid, der.NULL_DER).encode(),
        )
        return Algorithm(
            PBMAC1, der.sequence(der.sequence(PBKDF2, derivation), self.mac_algorithm.encode())
        )


def is_mac(algorithm: Algorithm) -> bool:
    """Tell whether a message is protected with a shared secret rather than a signature."""
    return algorithm.oid in (PASSWORD_BASED_MAC, PBMAC1, DH_BASED_MAC, KEM_BASED_MAC)


def read_mac(algorithm: Algorithm) -> MAC:
    """Read protectionAlg; Fault(BAD_ALGORITHM) for what is unknown or out of bounds."""
    if algorithm.oid == PASSWORD_BASED_MAC:
        return _read_pbm(algorithm)
    if algorithm.oid == PBMAC1:
        return _read_pbmac1(algorithm)
    raise _refused("this kind of MAC is not supported", algorithm=str(algorithm))


def _read_pbm(algorithm: Algorithm) -> MAC:
    reader = der.read(algorithm.parameters, der.SEQUENCE)
    salt = reader.content(der.OCTET_STRING)
    owf = Algorithm.read(reader)
    rounds = reader.integer()
    mac = Algorithm.read(reader)
    reader.finish()
    hash_ = _OWFS.get(owf.oid)
    if hash_ is None:
        raise signatures.bad_algorithm("one-way function", owf.oid)
    _check(salt, rounds, PBM_ROUNDS)
    return MAC(
        kind="pbm",
        salt=salt,
        rounds=rounds,
        hash=hash_,
        hash_oid=owf.oid,
        mac=_hmac(mac),
        mac_algorithm=mac,
    )


def _read_pbmac1(algorithm: Algorithm) -> MAC:
    """Read PBMAC1-params (RFC 8018, A.5; RFC 9481, 6.1.2: keyLength is always given)."""
    reader = der.read(algorithm.parameters, der.SEQUENCE)
    derivation, mac = Algorithm.read(reader), Algorithm.read(reader)
    reader.finish()
    if derivation.oid != PBKDF2:
        raise signatures.bad_algorithm("key derivation", derivation.oid)
    inside = der.read(derivation.parameters, der.SEQUENCE)
    salt, rounds = inside.content(der.OCTET_STRING), inside.integer()
    if inside.peek() != der.INTEGER:
        raise _refused("PBMAC1 must say how long its key is")
    length = inside.integer()
    prf = Algorithm(next(oid for oid, digest in _HMACS.items() if digest is SHA1))
    if inside.peek() == der.SEQUENCE:
        prf = Algorithm.read(inside)
    inside.finish()
    _check(salt, rounds, PBKDF2_ROUNDS)
    if length not in _KEY_LENGTHS:
        raise _refused("the MAC's key has an odd length", keyLength=str(length)[:20])
    return MAC(
        kind="pbmac1",
        salt=salt,
        rounds=rounds,
        hash=_hmac(prf),
        hash_oid=prf.oid,
        mac=_hmac(mac),
        mac_algorithm=mac,
        key_length=length,
    )


def _hmac(algorithm: Algorithm) -> Digest:
    digest = _HMACS.get(algorithm.oid)
    if digest is None:
        raise signatures.bad_algorithm("MAC", algorithm.oid)
    return digest


def _check(salt: bytes, rounds: int, allowed: range) -> None:
    if rounds not in allowed:
        raise _refused(
            f"the MAC's key takes {allowed[0]} to {allowed[-1]} rounds", rounds=str(rounds)[:20]
        )
    if len(salt) not in _SALTS:
        raise _refused(
            f"the MAC's salt has {_SALTS[0]} to {_SALTS[-1]} octets", octets=str(len(salt))
        )


def _refused(detail: str, **values: str) -> Fault:
    return Fault(FaultCode.BAD_ALGORITHM, detail, rule="cmp.protection.algorithm", values=values)


# -- signatures -----------------------------------------------------------------------------


def sign(key: PrivateKeyTypes, protected: bytes) -> bytes:
    """Return the signature over header and body, by the algorithm of :func:`algorithm_of`."""
    if isinstance(key, ed448.Ed448PrivateKey):
        return key.sign(protected)  # which CMS could not, for want of a digest
    return signatures.sign(key, protected, digest_for(key), plain_rsa=False)[1]


def algorithm_of(key: CertificatePublicKeyTypes) -> Algorithm:
    """Return what :func:`sign` will do with the private half, for the header that it signs."""
    return signatures.algorithm_for(key, digest_for(key))


def digest_for(key: PrivateKeyTypes | CertificatePublicKeyTypes) -> Digest:
    """Return the digest that goes with a key of ours."""
    curve = getattr(key, "curve", None)
    return {384: SHA384, 521: SHA512}.get(getattr(curve, "key_size", 0), SHA256)


_SHAKE256: Final = Digest("SHAKE256", der.oid("2.16.840.1.101.3.4.2.12"), hashes.SHAKE256(64))
_ED448: Final = "1.3.101.113"


def confirmation_digest(
    signature_hash: hashes.HashAlgorithm | None, signature_oid: str, chosen: Algorithm | None
) -> Digest:
    """Return the digest that certConf's certHash is made with (RFC 9810, 5.3.18).

    ``signature_hash`` is that of the certificate's signature, None where the algorithm has its
    own (RFC 9481, 3.3: SHA-512 for Ed25519, SHAKE256 for Ed448; RFC 9882 for ML-DSA: SHA-512);
    ``chosen`` is hashAlg.
    """
    if chosen is not None:
        return signatures.digest_for(chosen, signatures.Policy())
    if signature_hash is None:
        return _SHAKE256 if signature_oid == _ED448 else SHA512
    name = signature_hash.name
    return next(d for d in (SHA1, SHA224, SHA256, SHA384, SHA512) if d.hash.name == name)
