"""Rows of certificates that were issued elsewhere, or before tmad, and are known here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.storage import changes
from tmad.storage.certificates import serial_octets
from tmad.storage.tables import certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRow:
    """What is known of a certificate that somebody else signed."""

    tenant: str
    issuer_id: int
    serial: int
    owner: str
    subject: str
    not_before: datetime
    not_after: datetime
    spki_sha256: bytes
    tbs_sha256: bytes
    certificate_der: bytes
    sha256: bytes
    created_at: datetime


_PRESENT = sa.select(certificates.c.id, certificates.c.sha256).where(
    certificates.c.issuer_id == sa.bindparam("issuer"),
    certificates.c.serial == sa.bindparam("octets"),
)
_INSERT = certificates.insert().returning(certificates.c.id)


def by_serial(
    connection: sa.Connection, issuer_id: int, serial: int
) -> tuple[int, bytes | None] | None:
    """Return id and SHA-256 of the certificate that has this serial number."""
    row = connection.execute(
        _PRESENT, {"issuer": issuer_id, "octets": serial_octets(serial)}
    ).one_or_none()
    return None if row is None else (row.id, row.sha256)


def insert(connection: sa.Connection, row: ImportedRow) -> int:
    """Add a certificate and return its id; look for its serial number first."""
    serial = serial_octets(row.serial)
    values = {
        "tenant": row.tenant,
        "issuer_id": row.issuer_id,
        "serial": serial,
        "state": "imported",
        "via": "import",
        "endpoint": "",
        "profile": "",
        "profile_revision": 0,
        "owner": row.owner,
        "subject": row.subject,
        "not_before": row.not_before,
        "not_after": row.not_after,
        "spki_sha256": row.spki_sha256,
        "tbs_sha256": row.tbs_sha256,
        "certificate_der": row.certificate_der,
        "sha256": row.sha256,
        "created_at": row.created_at,
    }
    row_id = int(connection.execute(_INSERT, values).scalar_one())
    # It was "unknown" until now.
    changes.record(connection, "status", f"{row.issuer_id}:{serial.hex()}")
    return row_id
