"""A small outside authority: certificates and keys in files, good ones and bad ones.

What tmad itself issues comes from a daemon under test; this is for reference servers and for
certificates that an authority of ours must not or cannot make (expired, of another use, alien).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Kind = Literal["p256", "rsa"]


def make_key(kind: Kind) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return a fresh key: P-256 or RSA-2048."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Identity:
    """A certificate and its key in PEM files; the chain above it follows in ``chain``."""

    certificate: x509.Certificate
    path: Path
    key: Path
    chain: Path

    @property
    def serial(self) -> str:
        """Return the serial number as tmad's commands take it."""
        return f"{self.certificate.serial_number:x}"


class Authority:
    """A self-signed authority with its files in a directory."""

    def __init__(self, directory: Path, name: str = "Outside CA", kind: Kind = "p256") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._kind: Kind = kind
        self._key = make_key(kind)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1000))
            .not_valid_after(now + timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.path = directory / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        kind: Kind | None = None,
        uses: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
        begins: timedelta = timedelta(hours=-1),
        ends: timedelta = timedelta(days=30),
        padding: int = 0,
        addresses: Iterable[str] = (),
    ) -> Identity:
        """Issue a certificate with ``name`` as common name and DNS name, and IP ``addresses``.

        ``begins`` and ``ends`` count from now; ``padding`` octets of comment make it large.
        """
        key = make_key(kind or self._kind)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName(name), *(x509.IPAddress(ip_address(each)) for each in addresses)]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if padding:
            comment = x509.ObjectIdentifier("2.16.840.1.113730.1.13")
            builder = builder.add_extension(
                x509.UnrecognizedExtension(comment, bytes(padding)), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        path, key_path, chain = (
            self._directory / f"{name}{end}" for end in (".pem", ".key", ".chain.pem")
        )
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        chain.write_bytes(path.read_bytes() + self.path.read_bytes())
        return Identity(certificate, path, key_path, chain)

    def crl(
        self,
        revoked: Mapping[int, x509.ReasonFlags] | Iterable[int] = (),
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
        extensions: Iterable[x509.ExtensionType] = (),
    ) -> bytes:
        """Return a CRL in DER, good from ``begins`` (now) to ``ends`` (a day later)."""
        begins = begins or datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(begins)
            .next_update(ends or begins + timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begins)
            if isinstance(revoked, Mapping):
                entry = entry.add_extension(x509.CRLReason(revoked[serial]), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
