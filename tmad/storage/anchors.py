"""Rows of anchor_crls: the newest CRL of each key of somebody else's authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tmad.storage import changes
from tmad.storage.tables import anchor_crls as t

TOPIC = "anchors"  # of storage/changes.py; the key is "tenant/name"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorCRL:
    """One CRL. ``issuer`` is the SHA-256 of the CA's subject and SubjectPublicKeyInfo (DER).

    ``octets`` is its size; ``crl_der`` is empty where only the rest was asked for.
    """

    tenant: str
    anchor: str
    issuer: bytes
    this_update: datetime
    next_update: datetime | None
    fetched_at: datetime
    octets: int = 0
    crl_der: bytes = b""


_KEY = (
    t.c.tenant == sa.bindparam("key_tenant"),
    t.c.anchor == sa.bindparam("key_anchor"),
    t.c.issuer == sa.bindparam("key_issuer"),
)
_HEAD = (
    t.c.tenant,
    t.c.anchor,
    t.c.issuer,
    t.c.this_update,
    t.c.next_update,
    t.c.fetched_at,
    sa.func.length(t.c.crl_der).label("octets"),
)
_OF_TENANT = (
    sa.select(*_HEAD).where(t.c.tenant == sa.bindparam("tenant")).order_by(t.c.anchor, t.c.issuer)
)
_ONE = sa.select(*_HEAD, t.c.crl_der).where(*_KEY)
_LOCKED = _ONE.with_for_update()
_TOUCH = t.update().where(*_KEY).values(fetched_at=sa.bindparam("at"))
_REPLACE = (
    t.update()
    .where(*_KEY)
    .values(
        crl_der=sa.bindparam("der"),
        this_update=sa.bindparam("begin"),
        next_update=sa.bindparam("end"),
        fetched_at=sa.bindparam("at"),
    )
)
_DELETE = t.delete().where(
    t.c.tenant == sa.bindparam("key_tenant"), t.c.anchor == sa.bindparam("key_anchor")
)


def find(connection: sa.Connection, tenant: str) -> list[AnchorCRL]:
    """Return the CRLs of a tenant's anchors, without their octets."""
    rows = connection.execute(_OF_TENANT, {"tenant": tenant})
    return [AnchorCRL(**row._mapping) for row in rows]


def by_issuer(
    connection: sa.Connection, tenant: str, anchor: str, issuer: bytes
) -> AnchorCRL | None:
    """Return one CRL."""
    row = connection.execute(_ONE, _key(tenant, anchor, issuer)).one_or_none()
    return None if row is None else AnchorCRL(**row._mapping)


def put(connection: sa.Connection, row: AnchorCRL) -> bool:
    """Keep a CRL if it is newer than the one that is there, and announce it then.

    False when it is the same or older: only the time of fetching is noted.
    """
    key = _key(row.tenant, row.anchor, row.issuer)
    old = connection.execute(_LOCKED, key).one_or_none()
    if old is not None and old.this_update >= row.this_update:
        connection.execute(_TOUCH, key | {"at": row.fetched_at})
        return False
    values: dict[str, Any] = {
        "der": row.crl_der,
        "begin": row.this_update,
        "end": row.next_update,
        "at": row.fetched_at,
    }
    if old is None:
        connection.execute(
            t.insert().values(
                tenant=row.tenant,
                anchor=row.anchor,
                issuer=row.issuer,
                crl_der=row.crl_der,
                this_update=row.this_update,
                next_update=row.next_update,
                fetched_at=row.fetched_at,
            )
        )
    else:
        connection.execute(_REPLACE, key | values)
    changes.record(connection, TOPIC, f"{row.tenant}/{row.anchor}")
    return True


def delete(connection: sa.Connection, tenant: str, anchor: str) -> int:
    """Forget the CRLs of an anchor; return how many."""
    count = connection.execute(_DELETE, {"key_tenant": tenant, "key_anchor": anchor}).rowcount
    if count:
        changes.record(connection, TOPIC, f"{tenant}/{anchor}")
    return count


def _key(tenant: str, anchor: str, issuer: bytes) -> dict[str, object]:
    return {"key_tenant": tenant, "key_anchor": anchor, "key_issuer": issuer}
