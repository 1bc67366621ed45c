"""Rows of private_keys: where a key lives and what its store needs to find or unseal it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tmad.errors import Fault, FaultCode
from tmad.storage.tables import private_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """One key; ``material`` is opaque here and never shown."""

    id: str
    tenant: str
    store: str  # "soft" | "pkcs11"
    algorithm: str
    label: str
    public_key_der: bytes  # SubjectPublicKeyInfo
    spki_sha256: bytes
    material: bytes = field(repr=False)
    created_at: datetime


_COLUMNS = (
    private_keys.c.id,
    private_keys.c.tenant,
    private_keys.c.store,
    private_keys.c.algorithm,
    private_keys.c.label,
    private_keys.c.public_key_der,
    private_keys.c.spki_sha256,
    private_keys.c.material,
    private_keys.c.created_at,
)


def insert(connection: sa.Connection, row: KeyRow) -> None:
    """Add a key; Fault(CONFLICT) when its id exists."""
    try:
        connection.execute(
            private_keys.insert().values(
                id=row.id,
                tenant=row.tenant,
                store=row.store,
                algorithm=row.algorithm,
                label=row.label,
                public_key_der=row.public_key_der,
                spki_sha256=row.spki_sha256,
                material=row.material,
                created_at=row.created_at,
            )
        )
    except IntegrityError as error:
        raise Fault(FaultCode.CONFLICT, f"a key with the id {row.id} exists") from error


def by_id(connection: sa.Connection, key_id: str) -> KeyRow | None:
    """Return one key."""
    row = connection.execute(sa.select(*_COLUMNS).where(private_keys.c.id == key_id)).one_or_none()
    return None if row is None else _read(row)


def by_public_key(connection: sa.Connection, spki_sha256: bytes) -> KeyRow | None:
    """Return the oldest key with this public half, of any tenant."""
    row = connection.execute(
        sa.select(*_COLUMNS)
        .where(private_keys.c.spki_sha256 == spki_sha256)
        .order_by(private_keys.c.created_at, private_keys.c.id)
        .limit(1)
    ).one_or_none()
    return None if row is None else _read(row)


def find(connection: sa.Connection, tenant: str, *, after: str, limit: int) -> list[KeyRow]:
    """Return a page of a tenant's keys, by id."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(private_keys.c.tenant == tenant, private_keys.c.id > after)
        .order_by(private_keys.c.id)
        .limit(limit)
    )
    return [_read(row) for row in rows]


def delete(connection: sa.Connection, key_id: str) -> bool:
    """Forget a key; True when there was one."""
    result = connection.execute(private_keys.delete().where(private_keys.c.id == key_id))
    return result.rowcount > 0


def _read(row: sa.Row[*tuple[Any, ...]]) -> KeyRow:
    return KeyRow(
        id=row.id,
        tenant=row.tenant,
        store=row.store,
        algorithm=row.algorithm,
        label=row.label,
        public_key_der=row.public_key_der,
        spki_sha256=row.spki_sha256,
        material=row.material,
        created_at=row.created_at,
    )
