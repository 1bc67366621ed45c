"""Links that hand a configuration profile to a device, once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tmad.storage.tables import device_links as t


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLink:
    """One link; ``wish`` is the JSON of what the profile shall be for.

    ``sealed`` is the enrolment secret ``secret_id`` until the link is opened or ends; both are
    None where the endpoint's protocol has no secrets.
    """

    id: str
    tenant: str
    endpoint: str
    platform: str
    wish: str
    secret_id: str | None
    sealed: bytes | None
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    opened_at: datetime | None = None
    opened_by: str | None = None


_COLUMNS = tuple(column for column in t.c if column.name != "digest")
_NAMES = tuple(column.name for column in _COLUMNS)


def by_digest(connection: sa.Connection, digest: bytes) -> DeviceLink | None:
    """Return the link whose token has this digest, whatever its state."""
    return _one(connection.execute(sa.select(*_COLUMNS).where(t.c.digest == digest)))


def by_id(connection: sa.Connection, tenant: str, link_id: str) -> DeviceLink | None:
    """Return one link of a tenant."""
    query = sa.select(*_COLUMNS).where(t.c.id == link_id, t.c.tenant == tenant)
    return _one(connection.execute(query))


def find(
    connection: sa.Connection, tenant: str, endpoint: str | None, after: str, limit: int
) -> tuple[DeviceLink, ...]:
    """Return a page of a tenant's links, oldest first, beginning after the id ``after``."""
    query = sa.select(*_COLUMNS).where(t.c.tenant == tenant, t.c.id > after)
    if endpoint is not None:
        query = query.where(t.c.endpoint == endpoint)
    rows = connection.execute(query.order_by(t.c.id).limit(limit)).mappings()
    return tuple([DeviceLink(**row) for row in rows])


def insert(connection: sa.Connection, link: DeviceLink, digest: bytes) -> None:
    """Add a link."""
    values = {name: getattr(link, name) for name in _NAMES}
    connection.execute(sa.insert(t).values(digest=digest, **values))


def open_once(connection: sa.Connection, link_id: str, peer: str, now: datetime) -> bool:
    """Use a link up and forget its secret; tell whether it was still good.

    One conditional UPDATE: of many at once, the database lets one win.
    """
    result = connection.execute(
        sa.update(t)
        .where(
            t.c.id == link_id,
            t.c.opened_at.is_(None),
            t.c.revoked_at.is_(None),
            t.c.expires_at > now,
        )
        .values(opened_at=now, opened_by=peer, sealed=None)
    )
    return result.rowcount == 1


def revoke(connection: sa.Connection, link_id: str, now: datetime) -> bool:
    """Make a link unusable and forget its secret; tell whether it was not so before."""
    result = connection.execute(
        sa.update(t)
        .where(t.c.id == link_id, t.c.revoked_at.is_(None), t.c.opened_at.is_(None))
        .values(revoked_at=now, sealed=None)
    )
    return result.rowcount == 1


def forget(connection: sa.Connection, ended: datetime, old: datetime, limit: int) -> int:
    """Forget the secrets of links that ended before ``ended``, links that did before ``old``.

    At most ``limit`` of each at once; return how many rows were changed.
    """
    spent = sa.select(t.c.id).where(t.c.expires_at <= ended, t.c.sealed.is_not(None)).limit(limit)
    wiped = connection.execute(sa.update(t).where(t.c.id.in_(spent)).values(sealed=None))
    gone = sa.select(t.c.id).where(t.c.expires_at <= old).limit(limit)
    removed = connection.execute(sa.delete(t).where(t.c.id.in_(gone)))
    return int(wiped.rowcount) + int(removed.rowcount)


def _one(rows: sa.CursorResult[Any]) -> DeviceLink | None:
    row = rows.mappings().first()
    return None if row is None else DeviceLink(**row)
