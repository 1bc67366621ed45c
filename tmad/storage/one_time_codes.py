"""Codes that work once: rows that know a code only by its keyed digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from tmad.storage.statement import Statement
from tmad.storage.tables import one_time_codes as t

# "tmad" and a number: serialises who counts sent codes and adds one.
_SEND_LOCK: Final = 0x746D_6164_0005


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRow:
    """One code; ``kind`` is "sms", "mail" or "emergency", ``expires_at`` None means never."""

    id: str  # a ULID, so that ids sort by time
    tenant: str
    person: str
    kind: str
    digest: bytes = field(repr=False)
    tries_left: int
    used_at: datetime | None = None
    expires_at: datetime | None
    created_at: datetime


_COLUMNS = tuple(t.c)
_NAMES = tuple(column.name for column in _COLUMNS)
_OWNED = (
    t.c.tenant == sa.bindparam("owner"),
    t.c.person == sa.bindparam("holder"),
    t.c.kind == sa.bindparam("sort"),
)
_NOW = sa.bindparam("now", type_=t.c.created_at.type)
_GOOD = (
    t.c.used_at.is_(None),
    t.c.tries_left > 0,
    sa.or_(
        t.c.expires_at.is_(None), t.c.expires_at > sa.bindparam("now", type_=t.c.created_at.type)
    ),
)
_LIVE = Statement(
    sa.select(*_COLUMNS)
    .where(*_OWNED, *_GOOD)
    .order_by(t.c.id.desc())
    .limit(sa.bindparam("most", type_=sa.Integer))
)
# The one place where a code is used up: of many at once, the database lets one win.
_USE = Statement(sa.update(t).where(t.c.id == sa.bindparam("key"), *_GOOD).values(used_at=_NOW))
_MISS = Statement(sa.update(t).where(*_OWNED, *_GOOD).values(tries_left=t.c.tries_left - 1))


def insert(connection: sa.Connection, rows: Sequence[CodeRow]) -> None:
    """Add codes."""
    values = [{name: getattr(row, name) for name in _NAMES} for row in rows]
    connection.execute(sa.insert(t), values)


def find_live(
    connection: sa.Connection, tenant: str, person: str, kind: str, now: datetime, most: int
) -> tuple[CodeRow, ...]:
    """Return a person's codes of a kind that may still be used, newest first."""
    key = {"owner": tenant, "holder": person, "sort": kind, "now": now, "most": most}
    found = _LIVE.rows(connection, key)
    return tuple([CodeRow(**dict(zip(_NAMES, row, strict=True))) for row in found])


def use(connection: sa.Connection, code_id: str, now: datetime) -> bool:
    """Use a code up; tell whether it was ours to use."""
    return _USE.run(connection, {"key": code_id, "now": now}) == 1


def miss(connection: sa.Connection, tenant: str, person: str, kind: str, now: datetime) -> None:
    """Count one wrong try against every code of a kind that the person could mean."""
    _MISS.run(connection, {"owner": tenant, "holder": person, "sort": kind, "now": now})


def void(
    connection: sa.Connection, tenant: str, person: str, kind: str | None, now: datetime
) -> int:
    """Make a person's unused codes of a kind, or of all, unusable; return how many there were."""
    update = sa.update(t).where(t.c.tenant == tenant, t.c.person == person, t.c.used_at.is_(None))
    if kind is not None:
        update = update.where(t.c.kind == kind)
    return connection.execute(update.values(used_at=now, tries_left=0)).rowcount


def lock_sending(connection: sa.Connection) -> None:
    """Let one transaction at a time count codes and add one; SQLite has but one writer."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_SEND_LOCK})"))


def count_sent(
    connection: sa.Connection, since_id: str, limit: int, *, tenant: str = "", person: str = ""
) -> int:
    """Return how many codes were sent since an id, to one person or to all; at most ``limit``."""
    query = sa.select(t.c.id).where(t.c.id >= since_id, t.c.kind.in_(("sms", "mail")))
    if person:
        query = query.where(t.c.tenant == tenant, t.c.person == person)
    counted = sa.select(sa.func.count()).select_from(query.limit(limit).subquery())
    found: int = connection.execute(counted).scalar_one()
    return found


def prune(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Delete codes that ended or were used before an instant, some at a time; return how many."""
    ended = (
        sa.select(t.c.id)
        .where(t.c.created_at < before, sa.or_(t.c.expires_at < before, t.c.used_at < before))
        .order_by(t.c.id)
        .limit(limit)
    )
    return connection.execute(sa.delete(t).where(t.c.id.in_(ended))).rowcount
