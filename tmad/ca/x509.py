"""TBSCertificates and the signatures over them: RFC 5280, 4.1.

A certificate is put together from encoded pieces, in two phases: the TBSCertificate first, so
that exactly its octets can be committed before anybody signs them, then the signature over
those octets. Subject, issuer and key keep the octets they came with. cryptography's
CertificateBuilder, which cannot be stopped between the two, is the oracle in the tests.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509

from tmad.errors import Fault, FaultCode
from tmad.wire import der

_BIT_STRING = 0x03
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
        # In one call: each gives the interpreter's lock away, and a busy thread takes it.
        serial = int.from_bytes(secrets.token_bytes(20)) >> 1
        # Zero is not positive; a tiny one is a broken generator rather than chance.
        if serial >> 64:
            return serial


def tbs_certificate(
    template: Template, *, serial: int, issuer_der: bytes, algorithm_der: bytes
) -> bytes:
    """Return the DER TBSCertificate, version 3 and without unique identifiers (X5-05)."""
    parts = (
        _VERSION_3,
        der.integer(serial),
        algorithm_der,
        issuer_der,
        der.sequence(_time(template.not_before), _time(template.not_after)),
        template.subject.public_bytes(),
        template.spki_der,
        der.explicit(3, der.sequence(*template.extensions_der)),
    )
    return der.sequence(*parts)


def extension(oid: x509.ObjectIdentifier, value_der: bytes, *, critical: bool) -> bytes:
    """Return one DER Extension; FALSE is the default and left out."""
    parts = [_oid(oid.dotted_string), der.octets(value_der)]
    if critical:
        parts.insert(1, _TRUE)
    return der.sequence(*parts)


# A request may name any: only so many are kept.
_oid = lru_cache(maxsize=256)(der.oid)


def assemble(tbs_der: bytes, algorithm_der: bytes, signature: bytes) -> bytes:
    """Return the DER Certificate around a TBSCertificate and its signature."""
    return der.sequence(tbs_der, algorithm_der, der.tlv(_BIT_STRING, b"\x00", signature))


def finish(tbs_der: bytes, algorithm_der: bytes, signature: bytes) -> x509.Certificate:
    """Assemble the certificate and read it back; Fault(INTERNAL) when that fails."""
    try:
        certificate = x509.load_der_x509_certificate(assemble(tbs_der, algorithm_der, signature))
    except ValueError as error:
        raise Fault(
            FaultCode.INTERNAL,
            "the certificate could not be read back",
            private=str(error),
            rule="issue.read",
        ) from error
    if certificate.tbs_certificate_bytes != tbs_der:
        raise Fault(
            FaultCode.INTERNAL, "the certificate is not what was recorded", rule="issue.tbs"
        )
    return certificate


@lru_cache(maxsize=64)
def _time(moment: datetime) -> bytes:
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return der.tlv(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return der.tlv(_GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())
