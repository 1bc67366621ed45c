"""Rows of service_certificates: what tmad holds for its own OCSP, SCEP and TLS doors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tmad.storage import changes
from tmad.storage.tables import service_certificates

TOPIC = "service_certificates"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCertificateRow:
    """One certificate with its key; ``superseded_at`` is None for the one in use."""

    id: int = 0
    tenant: str
    purpose: str  # "ocsp" | "scep-ra" | "tls" | "eap"
    scope: str  # issuer id, endpoint id, host name, or tenant and host name
    certificate_der: bytes
    chain_der: bytes  # concatenated DER, this certificate first
    key_id: str
    not_before: datetime
    not_after: datetime
    renew_at: datetime
    superseded_at: datetime | None = None


_COLUMNS = (
    service_certificates.c.id,
    service_certificates.c.tenant,
    service_certificates.c.purpose,
    service_certificates.c.scope,
    service_certificates.c.certificate_der,
    service_certificates.c.chain_der,
    service_certificates.c.key_id,
    service_certificates.c.not_before,
    service_certificates.c.not_after,
    service_certificates.c.renew_at,
    service_certificates.c.superseded_at,
)


def insert(connection: sa.Connection, row: ServiceCertificateRow) -> int:
    """Add a certificate and return its id; see supersede for the one before."""
    result = connection.execute(
        service_certificates.insert().values(
            tenant=row.tenant,
            purpose=row.purpose,
            scope=row.scope,
            certificate_der=row.certificate_der,
            chain_der=row.chain_der,
            key_id=row.key_id,
            not_before=row.not_before,
            not_after=row.not_after,
            renew_at=row.renew_at,
            superseded_at=row.superseded_at,
        )
    )
    changes.record(connection, TOPIC, f"{row.purpose}/{row.scope}")
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def supersede(connection: sa.Connection, purpose: str, scope: str, now: datetime) -> None:
    """Take whatever is in use for this purpose and scope out of use."""
    connection.execute(
        service_certificates.update()
        .where(
            service_certificates.c.purpose == purpose,
            service_certificates.c.scope == scope,
            service_certificates.c.superseded_at.is_(None),
        )
        .values(superseded_at=now)
    )
    changes.record(connection, TOPIC, f"{purpose}/{scope}")


def delete(connection: sa.Connection, row: ServiceCertificateRow) -> None:
    """Forget a certificate whose key is no longer needed."""
    connection.execute(service_certificates.delete().where(service_certificates.c.id == row.id))
    changes.record(connection, TOPIC, f"{row.purpose}/{row.scope}")


def find_of_scope(
    connection: sa.Connection, purpose: str, scope: str, *, limit: int = 20
) -> list[ServiceCertificateRow]:
    """Return what this purpose and scope has, newest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(
            service_certificates.c.purpose == purpose,
            service_certificates.c.scope == scope,
        )
        .order_by(service_certificates.c.id.desc())
        .limit(limit)
    )
    return [_read(row) for row in rows]


def find(connection: sa.Connection, *, after: int = 0, limit: int) -> list[ServiceCertificateRow]:
    """Return a page of all service certificates, by id."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(service_certificates.c.id > after)
        .order_by(service_certificates.c.id)
        .limit(limit)
    )
    return [_read(row) for row in rows]


def _read(row: sa.Row[*tuple[Any, ...]]) -> ServiceCertificateRow:
    return ServiceCertificateRow(**dict(row._mapping))
