"""TBSCertificates and the signatures over them: RFC 5280, 4.1.

A certificate is put together from encoded pieces, in two phases: the TBSCertificate first, so
that exactly its octets can be committed before anybody signs them, then the signature over
those octets. Subject, issuer and key keep the octets they came with. cryptography's
CertificateBuilder, which cannot be stopped between the two, is the oracle in the tests.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

from tmad.ca.scheme import SignatureScheme
from tmad.ca.signature import check
from tmad.errors import Fault, FaultCode

_SEQUENCE, _BIT_STRING, _OCTET_STRING, _OID, _INTEGER = 0x30, 0x03, 0x04, 0x06, 0x02
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_TRUE = b"\x01\x01\xff"
_VERSION_3 = b"\xa0\x03\x02\x01\x02"
# RFC 5280, 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050.
_FIRST_GENERALIZED_YEAR = 2050


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Everything of a certificate that its profile decides; only issuer and serial are open."""

    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    spki_der: bytes
    not_before: datetime
    not_after: datetime
    extensions_der: tuple[bytes, ...]  # whole Extension SEQUENCEs, in their order


def new_serial() -> int:
    """Return a serial number: 159 random bits, never zero (RFC 5280, 4.1.2.2; T-CA-01)."""
    while True:
        serial = secrets.randbits(159)
        # Zero is not positive; a tiny one is a broken generator rather than chance.
        if serial >> 64:
            return serial


def tbs_certificate(
    template: Template, *, serial: int, issuer_der: bytes, algorithm_der: bytes
) -> bytes:
    """Return the DER TBSCertificate, version 3 and without unique identifiers (X5-05)."""
    parts = (
        _VERSION_3,
        _integer(serial),
        algorithm_der,
        issuer_der,
        tlv(_SEQUENCE, _time(template.not_before) + _time(template.not_after)),
        template.subject.public_bytes(),
        template.spki_der,
        tlv(0xA3, tlv(_SEQUENCE, b"".join(template.extensions_der))),
    )
    return tlv(_SEQUENCE, b"".join(parts))


def extension(oid: x509.ObjectIdentifier, value_der: bytes, *, critical: bool) -> bytes:
    """Return one DER Extension; FALSE is the default and left out."""
    body = oid_der(oid.dotted_string) + (_TRUE if critical else b"")
    return tlv(_SEQUENCE, body + tlv(_OCTET_STRING, value_der))


def assemble(tbs_der: bytes, algorithm_der: bytes, signature: bytes) -> bytes:
    """Return the DER Certificate around a TBSCertificate and its signature."""
    return tlv(_SEQUENCE, tbs_der + algorithm_der + tlv(_BIT_STRING, b"\x00" + signature))


def finish(
    tbs_der: bytes,
    algorithm_der: bytes,
    signature: bytes,
    *,
    public_key: CertificateIssuerPublicKeyTypes,
    scheme: SignatureScheme,
) -> x509.Certificate:
    """Assemble the certificate, read it back and verify it with the issuer's key.

    Raise Fault(INTERNAL) when any of that fails: nothing unverified leaves.
    """
    try:
        certificate = x509.load_der_x509_certificate(assemble(tbs_der, algorithm_der, signature))
    except ValueError as error:
        raise Fault(
            FaultCode.INTERNAL,
            "the certificate could not be read back",
            private=str(error),
            rule="issue.read",
        ) from error
    check(public_key, scheme, signature, certificate.tbs_certificate_bytes, digest=False)
    if certificate.tbs_certificate_bytes != tbs_der:
        raise Fault(
            FaultCode.INTERNAL, "the certificate is not what was recorded", rule="issue.tbs"
        )
    return certificate


def tlv(tag: int, content: bytes) -> bytes:
    """Return one DER element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + content


def oid_der(dotted: str) -> bytes:
    """Return a DER OBJECT IDENTIFIER."""
    arcs = [int(arc) for arc in dotted.split(".")]
    return tlv(_OID, b"".join(_arc(arc) for arc in (arcs[0] * 40 + arcs[1], *arcs[2:])))


def sequence(parts: Iterable[bytes]) -> bytes:
    """Return a DER SEQUENCE of encoded parts."""
    return tlv(_SEQUENCE, b"".join(parts))


def _arc(value: int) -> bytes:
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(0x80 | (value & 0x7F))
    return bytes(reversed(octets))


def _integer(value: int) -> bytes:
    return tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def _time(moment: datetime) -> bytes:
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return tlv(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(_GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())
