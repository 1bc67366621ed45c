"""Devices that attest keys: a maker, Apple's kind of certificates, a TPM in software, a token.

CBOR and TPM structures are put together here by hand, apart from the code that reads them.
"""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
AIK = x509.ObjectIdentifier("2.23.133.8.3")
FROM_THIS_TPM = 0x72  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth


def cbor(value: Any) -> bytes:
    """Encode as RFC 8949 says, for what statements hold."""
    if isinstance(value, bool) or value is None:
        return bytes([{False: 0xF4, True: 0xF5, None: 0xF6}[value]])
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    return _head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    for low, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([kind << 5 | low]) + number.to_bytes(size)
    raise ValueError(number)


def payload(kind: str, statement: dict[str, Any]) -> bytes:
    """Return what is posted to the challenge."""
    octets = cbor({"fmt": kind, "attStmt": statement})
    return json.dumps({"attObj": base64.urlsafe_b64encode(octets).rstrip(b"=").decode()}).encode()


class Maker:
    """A root, an authority below it, and the certificates that they give out."""

    def __init__(self, name: str = "Maker") -> None:
        self.root_key = ec.generate_private_key(ec.SECP384R1())
        self.root = self.sign(f"{name} Root", self.root_key.public_key(), ca=None, by_root=True)
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.authority = self.sign(f"{name} CA", self.key.public_key(), ca=0, by_root=True)

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(Encoding.PEM).decode()

    def sign(
        self,
        subject: str,
        key: Any,
        *extensions: tuple[x509.ExtensionType, bool],
        ca: int | bool | None = False,
        by_root: bool = False,
        since: datetime = NOW - timedelta(days=1),
        until: datetime = NOW + timedelta(days=3650),
    ) -> x509.Certificate:
        """Return a certificate; ``ca`` is a path length, None for any, False for a device."""
        issuer = getattr(self, "root", None) if by_root else self.authority
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
        builder = (
            x509.CertificateBuilder()
            .subject_name(own)
            .issuer_name(own if issuer is None else issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )
        if ca is not False:
            builder = builder.add_extension(x509.BasicConstraints(True, ca), critical=True)
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        signer = self.root_key if by_root else self.key
        return builder.sign(signer, SHA256())

    def chain(self, leaf: x509.Certificate) -> list[bytes]:
        return [each.public_bytes(Encoding.DER) for each in (leaf, self.authority)]


def raw(oid: str, octets: bytes) -> tuple[x509.ExtensionType, bool]:
    """Return an extension that cryptography does not know."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), octets), False


def apple(
    maker: Maker, key: Any, token: str, *, serial: str = "C02XK1", udid: str = "0000-1", **more: Any
) -> dict[str, Any]:
    """Return Apple's kind of statement (Managed Device Attestation)."""
    leaf = maker.sign(
        "device",
        key.public_key(),
        raw("1.2.840.113635.100.8.9.1", serial.encode()),
        raw("1.2.840.113635.100.8.9.2", udid.encode()),
        raw("1.2.840.113635.100.8.11.1", sha256(token.encode()).digest()),
        *more.pop("extensions", ()),
        **more,
    )
    return {"x5c": maker.chain(leaf)}


def yubikey(
    maker: Maker, key: Any, key_authorization: str, *, serial: int = 4711
) -> dict[str, Any]:
    """Return a token's statement, as step makes it."""
    number = serial.to_bytes(4)
    leaf = maker.sign(
        "YubiKey PIV Attestation 9a",
        key.public_key(),
        raw("1.3.6.1.4.1.41482.3.7", b"\x02\x04" + number),
    )
    data = key_authorization.encode()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(data, ec.ECDSA(SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(data, padding.PKCS1v15(), SHA256())
    else:
        signature = key.sign(data)
    return {"alg": -7, "x5c": maker.chain(leaf), "sig": cbor(signature)}


def permanent_identifier(value: str) -> x509.OtherName:
    """Return the name of RFC 4043."""
    text = value.encode()
    inner = b"\x0c" + bytes([len(text)]) + text
    der = b"\x30" + bytes([len(inner)]) + inner
    return x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3"), der)


def sized(octets: bytes) -> bytes:
    """Return a TPM2B."""
    return struct.pack(">H", len(octets)) + octets


def public_area(key: Any, attributes: int = FROM_THIS_TPM) -> bytes:
    """Return the TPMT_PUBLIC of a software key."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        size = key.key_size
        return (
            struct.pack(">HHI", 1, 0x000B, attributes) + sized(b"")
            + struct.pack(">HHHI", 0x10, 0x10, size, 0) + sized(numbers.n.to_bytes(size // 8))
        )  # fmt: skip
    point = key.public_key().public_numbers()
    return (
        struct.pack(">HHI", 0x23, 0x000B, attributes) + sized(b"")
        + struct.pack(">HHHH", 0x10, 0x10, 3, 0x10)
        + sized(point.x.to_bytes(32)) + sized(point.y.to_bytes(32))
    )  # fmt: skip


def certify_info(public: bytes, extra: bytes) -> bytes:
    """Return the TPMS_ATTEST of TPM2_Certify over a key."""
    name = b"\x00\x0b" + sha256(public).digest()
    return (
        struct.pack(">IH", 0xFF544347, 0x8017) + sized(b"\x00\x0b" + bytes(32)) + sized(extra)
        + bytes(25) + sized(name) + sized(name)
    )  # fmt: skip


def tpm_signature(key: Any, data: bytes) -> bytes:
    """Return a TPMT_SIGNATURE."""
    if isinstance(key, rsa.RSAPrivateKey):
        return struct.pack(">HH", 0x14, 0x0B) + sized(key.sign(data, padding.PKCS1v15(), SHA256()))
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return struct.pack(">HH", 0x18, 0x0B) + sized(r.to_bytes(32)) + sized(s.to_bytes(32))


def tpm(
    maker: Maker,
    key: Any,
    key_authorization: str,
    *,
    device: str = "tpm-1",
    attestation_key: Any = None,
    usage: x509.ExtensionType | None = None,
    attributes: int = FROM_THIS_TPM,
    **changed: Any,
) -> dict[str, Any]:
    """Return a TPM's statement (WebAuthn, 8.3), with members exchanged as told."""
    signer = attestation_key or ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([permanent_identifier(device)])
    leaf = maker.sign(
        "",
        signer.public_key(),
        (names, True),
        (usage or x509.ExtendedKeyUsage([AIK]), False),
    )
    public = changed.pop("public", None) or public_area(key, attributes)
    extra = sha256(key_authorization.encode()).digest()
    information = changed.pop("information", None) or certify_info(public, extra)
    return {
        "ver": "2.0",
        "alg": -7,
        "x5c": maker.chain(leaf),
        "sig": tpm_signature(signer, information),
        "certInfo": information,
        "pubArea": public,
    } | changed
