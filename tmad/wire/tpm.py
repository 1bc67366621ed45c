"""What a TPM 2.0 says about a key it made (TPM 2.0 Library, Part 2: 10.12.12, 12.2.4).

Reading raises Fault(MALFORMED) and nothing else. Only RSA and the NIST curves are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1, sha256, sha384, sha512
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from tmad.errors import Fault, FaultCode

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_GENERATED: Final = 0xFF544347  # TPM_GENERATED_VALUE
_CERTIFY: Final = 0x8017  # TPM_ST_ATTEST_CERTIFY
_RSA: Final = 0x0001
_ECC: Final = 0x0023
_NULL: Final = 0x0010
_RSAES: Final = 0x0015
_ECDAA: Final = 0x001A
_CURVES: Final[dict[int, ec.EllipticCurve]] = {
    0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()
}  # fmt: skip
_HASHES: Final = {0x0004: sha1, 0x000B: sha256, 0x000C: sha384, 0x000D: sha512}
_SIGNED_WITH: Final = {0x000B: SHA256(), 0x000C: SHA384(), 0x000D: SHA512()}
_RSASSA: Final = 0x0014
_RSAPSS: Final = 0x0016
_ECDSA: Final = 0x0018
# TPMA_OBJECT: the key never leaves this TPM, and the TPM made it.
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5


@dataclass(frozen=True, slots=True)
class Certified:
    """TPMS_ATTEST of TPM2_Certify: ``name`` is of the key, ``extra`` the caller's own data."""

    extra: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Public:
    """TPMT_PUBLIC of a key; ``name`` is the hash algorithm and the hash of it."""

    key: PublicKey
    attributes: int
    name: bytes


def malformed(what: str) -> Fault:
    """Return the Fault for octets that no TPM wrote."""
    return Fault(FaultCode.MALFORMED, what, rule="wire.tpm")


def certified(data: bytes) -> Certified:
    """Read what a TPM signed to certify a key."""
    reader = _Reader(data)
    if reader.number(4) != _GENERATED:
        raise malformed("certInfo that no TPM wrote")
    if reader.number(2) != _CERTIFY:
        raise malformed("certInfo that certifies no key")
    reader.sized()  # qualifiedSigner
    extra = reader.sized()
    reader.take(8 + 4 + 4 + 1 + 8)  # clockInfo, firmwareVersion
    name = reader.sized()
    reader.sized()  # qualifiedName
    reader.end("certInfo")
    return Certified(extra, name)


def public(data: bytes) -> Public:
    """Read a key's public area."""
    reader = _Reader(data)
    kind, hash_id = reader.number(2), reader.number(2)
    attributes = reader.number(4)
    reader.sized()  # authPolicy
    digest = _HASHES.get(hash_id)
    if digest is None:
        raise malformed(f"a name by the unknown hash 0x{hash_id:04x}")
    if kind == _RSA:
        key: PublicKey = _rsa(reader)
    elif kind == _ECC:
        key = _ecc(reader)
    else:
        raise malformed(f"a key of the unknown type 0x{kind:04x}")
    reader.end("pubArea")
    return Public(key, attributes, hash_id.to_bytes(2) + digest(data).digest())


def _rsa(reader: _Reader) -> rsa.RSAPublicKey:
    _symmetric(reader)
    _scheme(reader)
    bits, exponent = reader.number(2), reader.number(4) or 65_537
    modulus = int.from_bytes(reader.sized())
    if modulus.bit_length() != bits or not 1024 <= bits <= 8192:
        raise malformed(f"an RSA key of {modulus.bit_length()} bits that says {bits}")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise malformed("an RSA key that is none") from None


def _ecc(reader: _Reader) -> ec.EllipticCurvePublicKey:
    _symmetric(reader)
    _scheme(reader)
    curve = _CURVES.get(reader.number(2))
    _scheme(reader)  # kdf
    x, y = int.from_bytes(reader.sized()), int.from_bytes(reader.sized())
    if curve is None:
        raise malformed("a key on an unknown curve")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:
        raise malformed("a point that is not on its curve") from None


def _symmetric(reader: _Reader) -> None:
    """Skip TPMT_SYM_DEF_OBJECT: of keys that protect others, with size and mode."""
    if reader.number(2) != _NULL:
        reader.take(4)


def _scheme(reader: _Reader) -> None:
    """Skip a scheme: all that are used here name one hash."""
    scheme = reader.number(2)
    if scheme in (_NULL, _RSAES):
        return
    reader.take(4 if scheme == _ECDAA else 2)


def verify(key: object, signature: bytes, data: bytes) -> None:
    """Check a TPMT_SIGNATURE over data; Fault(BAD_INTEGRITY) when it does not fit (11.3.4)."""
    reader = _Reader(signature)
    scheme, hash_id = reader.number(2), reader.number(2)
    digest = _SIGNED_WITH.get(hash_id)
    if digest is None:
        raise malformed(f"a signature with the unknown or weak hash 0x{hash_id:04x}")
    if scheme == _ECDSA:
        octets = encode_dss_signature(
            int.from_bytes(reader.sized()), int.from_bytes(reader.sized())
        )
    else:
        octets = reader.sized()
    reader.end("the signature")
    try:
        if scheme == _ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(octets, data, ec.ECDSA(digest))
        elif scheme == _RSASSA and isinstance(key, rsa.RSAPublicKey):
            key.verify(octets, data, padding.PKCS1v15(), digest)
        elif scheme == _RSAPSS and isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
            key.verify(octets, data, pss, digest)
        else:
            raise malformed(f"a signature scheme 0x{scheme:04x} that does not fit the key")
    except InvalidSignature:
        raise Fault(
            FaultCode.BAD_INTEGRITY, "the TPM's signature is wrong", rule="wire.tpm.signature"
        ) from None


class _Reader:
    """Takes a TPM's structures apart: big-endian numbers, and TPM2B with two octets of size."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise malformed("a TPM structure that ends too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length))

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def end(self, what: str) -> None:
        if self._at != len(self._data):
            raise malformed(f"octets behind {what}")
