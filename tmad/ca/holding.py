"""Which certificates the holder of one may revoke: inside the transaction that revokes."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.errors import Fault, FaultCode
from tmad.storage import certificates, enroll_secrets, issuers
from tmad.storage.certificates import CertificateRow
from tmad.storage.issuers import IssuerRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint

_MOST_ISSUERS = 32  # of one name


def find(
    connection: Connection,
    endpoint: Endpoint,
    signer: x509.Certificate,
    issuer_der: bytes,
    serial: int,
    now: datetime,
) -> CertificateRow:
    """Return the certificate that is to be revoked; Fault where the signer may not have it so."""
    holder = certificates.by_sha256(
        connection,
        endpoint.tenant,
        hashlib.sha256(signer.public_bytes(Encoding.DER)).digest(),
    )
    if holder is None:
        raise _not_believed("revocation.signer-foreign", "the signer was not certified here")
    if not _is_of(connection, endpoint, holder):
        raise _not_believed(
            "revocation.signer-authority", "the signer's authority is not this endpoint's"
        )
    if holder.revoked_at is not None or not holder.not_before <= now <= holder.not_after:
        raise _not_believed("revocation.signer-status", "the signer's certificate is not good")
    target = _target(connection, endpoint, issuer_der, serial)
    is_ra = endpoint.document.is_registration_authority(holder.profile, holder.serial)
    if target is None or not (
        target.spki_sha256 == holder.spki_sha256 or (is_ra and target.endpoint == str(endpoint.id))
    ):
        # What belongs to others is answered as what does not exist.
        raise Fault(
            FaultCode.NOT_FOUND,
            "there is no such certificate that the signer may revoke",
            rule="revocation.not-yours",
            values={"serial": f"{serial:x}", "signer": f"{holder.serial:x}"},
        )
    return target


def find_by_secret(
    connection: Connection,
    endpoint: Endpoint,
    digest: bytes,
    issuer_der: bytes,
    serial: int,
) -> CertificateRow:
    """Return the certificate that was enrolled with the secret of a digest (RFC 10002, 6.11).

    Whoever still knows the one-time secret, and has nothing else left, may give it up. Which of
    secret and serial number is wrong is not told.
    """
    secret = enroll_secrets.by_digest(connection, str(endpoint.id), digest)
    target = _target(connection, endpoint, issuer_der, serial)
    if (
        secret is None
        or target is None
        or secret.tenant != endpoint.tenant
        # A static secret is known to more than one holder.
        or secret.uses_left is None
        or secret.revoked_at is not None
        or target.endpoint != str(endpoint.id)
        or target.owner != f"secret:{secret.id}"
    ):
        raise _not_believed(
            "revocation.passphrase", "the passphrase is not that of such a certificate"
        )
    return target


def _target(
    connection: Connection, endpoint: Endpoint, issuer_der: bytes, serial: int
) -> CertificateRow | None:
    if serial < 0:
        return None  # RFC 5280, 4.1.2.2: no serial number of ours is negative
    for issuer in issuers.find_by_subject(connection, issuer_der, limit=_MOST_ISSUERS):
        row = certificates.by_serial(connection, issuer.id, serial)
        if row is not None and row.tenant == endpoint.tenant and _is_listed(endpoint, issuer):
            return row
    return None


def _is_of(connection: Connection, endpoint: Endpoint, row: CertificateRow) -> bool:
    issuer = issuers.by_id(connection, row.issuer_id)
    return issuer is not None and issuer.compromised_at is None and _is_listed(endpoint, issuer)


def _is_listed(endpoint: Endpoint, issuer: IssuerRow) -> bool:
    document = endpoint.document
    listed = document.renewal.authorities or (document.authority,)
    return issuer.tenant == endpoint.tenant and issuer.authority in listed


def _not_believed(rule: str, detail: str) -> Fault:
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule)
