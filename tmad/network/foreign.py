"""CRLs of other people's authorities, read and believed (RFC 5280, 5 and 6.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from tmad.ca.trust import spki_der
from tmad.errors import Fault, FaultCode
from tmad.wire.parsing import UNREADABLE

LARGEST: Final = 20 * 1024 * 1024  # octets of one CRL
_AHEAD: Final = timedelta(minutes=10)  # two clocks may differ by
_MAXIMUM_ENTRIES: Final = 1_000_000
_PEM: Final = re.compile(
    rb"-----BEGIN X509 CRL-----\s+[A-Za-z0-9+/=\s]+-----END X509 CRL-----", re.ASCII
)
_UNDERSTOOD: Final = frozenset({ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER})
_ENTRY_UNDERSTOOD: Final = frozenset({"2.5.29.21", "2.5.29.24"})  # reason, invalidity date


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What a CRL says: serial number -> (since, reason)."""

    this_update: datetime
    next_update: datetime
    revoked: Mapping[int, tuple[datetime, int]]
    covers_authorities: bool  # not only certificates of end entities


def authority_key(certificate: x509.Certificate) -> bytes:
    """Return what a CA is known by here: the SHA-256 of its name and its key."""
    return hashlib.sha256(
        certificate.subject.public_bytes() + spki_der(certificate.public_key())
    ).digest()


def load(data: bytes) -> x509.CertificateRevocationList:
    """Read a CRL in DER or PEM; Fault(MALFORMED)."""
    if len(data) > LARGEST:
        raise _refusal(
            "network.crl-size", f"a CRL has more than {LARGEST >> 20} MiB", octets=len(data)
        )
    found = _PEM.search(data[:LARGEST]) if data.lstrip()[:11] == b"-----BEGIN " else None
    try:
        crl = (
            x509.load_pem_x509_crl(found[0]) if found is not None else x509.load_der_x509_crl(data)
        )
        # Whatever is wrong inside shows now, not at a login.
        _ = crl.issuer, crl.extensions, crl.last_update_utc, crl.next_update_utc, len(crl)
    except UNREADABLE as error:
        raise Fault(
            FaultCode.MALFORMED,
            "not a CRL",
            private=f"{type(error).__name__}: {error}",
            rule="network.crl-malformed",
            values={"mistake": str(error)[:200]},
        ) from error
    return crl


def signer(
    crl: x509.CertificateRevocationList, authorities: Iterable[x509.Certificate], now: datetime
) -> x509.Certificate:
    """Return which of these authorities signed a whole, ordinary CRL; Fault(REJECTED) for none."""
    _check_kind(crl)
    if crl.last_update_utc > now + _AHEAD:
        raise _refusal(
            "network.crl-time", "the CRL is from the future", this_update=crl.last_update_utc
        )
    same_name = [each for each in authorities if each.subject == crl.issuer]
    if not same_name:
        raise _refusal(
            "network.crl-issuer",
            "the CRL is of a CA whose certificate the trust anchor does not hold",
            issuer=crl.issuer.rfc4514_string(),
        )
    for certificate in same_name:
        if _may_sign(certificate) and _is_signed(crl, certificate):
            return certificate
    raise _refusal(
        "network.crl-signature",
        "no key of this trust anchor made the CRL's signature",
        issuer=crl.issuer.rfc4514_string(),
    )


def entries(crl: x509.CertificateRevocationList) -> RevocationList:
    """Return what a checked CRL says; Fault(REJECTED) when it cannot be understood.

    It takes a microsecond an entry or two: call it in a thread.
    """
    if len(crl) > _MAXIMUM_ENTRIES:
        raise _refusal("network.crl-size", "the CRL has too many entries", entries=len(crl))
    revoked: dict[int, tuple[datetime, int]] = {}
    try:
        for entry in crl:
            reason = 0
            for extension in entry.extensions:
                if isinstance(extension.value, x509.CRLReason):
                    reason = _REASONS.get(extension.value.reason, 0)
                elif extension.critical and extension.oid.dotted_string not in _ENTRY_UNDERSTOOD:
                    # RFC 5280, 5.3: such a CRL must not be used; an indirect one has these.
                    raise _refusal(
                        "network.crl-kind",
                        "an entry has a critical extension that is not known",
                        extension=extension.oid.dotted_string,
                    )
            if reason != _REMOVED:
                revoked[entry.serial_number] = (entry.revocation_date_utc, reason)
    except UNREADABLE as error:
        raise Fault(
            FaultCode.MALFORMED,
            "an entry of the CRL cannot be read",
            rule="network.crl-malformed",
            values={"mistake": str(error)[:200]},
        ) from error
    assert crl.next_update_utc is not None  # _check_kind
    return RevocationList(
        crl.last_update_utc, crl.next_update_utc, revoked, covers_authorities(crl)
    )


def covers_authorities(crl: x509.CertificateRevocationList) -> bool:
    """Tell whether a CRL lists revoked CA certificates, too (RFC 5280, 5.2.5)."""
    try:
        found = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    except x509.ExtensionNotFound:
        return True
    return not found.value.only_contains_user_certs


_REMOVED: Final = 8  # of a delta CRL only
_REASONS: Final = {
    x509.ReasonFlags.key_compromise: 1,
    x509.ReasonFlags.ca_compromise: 2,
    x509.ReasonFlags.affiliation_changed: 3,
    x509.ReasonFlags.superseded: 4,
    x509.ReasonFlags.cessation_of_operation: 5,
    x509.ReasonFlags.certificate_hold: 6,
    x509.ReasonFlags.remove_from_crl: _REMOVED,
    x509.ReasonFlags.privilege_withdrawn: 9,
    x509.ReasonFlags.aa_compromise: 10,
}


def _check_kind(crl: x509.CertificateRevocationList) -> None:
    """Refuse what lists only some certificates, and what nobody can say the end of."""
    if crl.next_update_utc is None:
        raise _refusal(
            "network.crl-kind", "the CRL has no nextUpdate: nobody knows when it is stale"
        )
    for extension in crl.extensions:
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            point = extension.value
            if (
                point.indirect_crl
                or point.only_some_reasons
                or point.only_contains_attribute_certs
                or point.only_contains_ca_certs
            ):
                raise _refusal(
                    "network.crl-kind", "the CRL covers other certificates, or only some reasons"
                )
        elif isinstance(extension.value, x509.DeltaCRLIndicator):
            raise _refusal("network.crl-kind", "a delta CRL; the complete one is needed")
        elif extension.critical and extension.oid not in _UNDERSTOOD:
            raise _refusal(
                "network.crl-kind",
                "the CRL has a critical extension that is not known",
                extension=extension.oid.dotted_string,
            )


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True  # RFC 5280, 6.3.3 (f): only where keyUsage is present
    except UNREADABLE:
        return False


def _is_signed(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]  # a CA's key signs, any other raises TypeError
    except UNREADABLE:
        return False


def encoded(crl: x509.CertificateRevocationList) -> bytes:
    """Return a CRL as the database keeps it."""
    return crl.public_bytes(Encoding.DER)


def _refusal(rule: str, detail: str, **values: object) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        detail,
        rule=rule,
        values={name: str(value) for name, value in values.items()},
    )
