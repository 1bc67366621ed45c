"""Enrolment secrets: rows that know a secret by its keyed digest, and few of them sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.statement import Listing, Statement
from tmad.storage.tables import enroll_secrets as t

TOPIC = "enroll_secrets"  # of the changes: a secret that was revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollSecret:
    """One secret: ``uses_left`` is 1 or 0 for a one-time secret, None for a static one.

    ``bound_to`` is the JSON of the binding; ``claimed_by`` the request that is using it.
    """

    id: str
    tenant: str
    endpoint: str
    bound_to: str
    uses_left: int | None
    claimed_by: str | None
    used_at: datetime | None
    revoked_at: datetime | None
    expires_at: datetime | None
    created_by: str
    created_at: datetime


_COLUMNS = (
    t.c.id,
    t.c.tenant,
    t.c.endpoint,
    t.c.bound_to,
    t.c.uses_left,
    t.c.claimed_by,
    t.c.used_at,
    t.c.revoked_at,
    t.c.expires_at,
    t.c.created_by,
    t.c.created_at,
)


_NAMES = tuple(column.name for column in _COLUMNS)
_BY_ID = Statement(
    sa.select(*_COLUMNS).where(t.c.id == sa.bindparam("key"), t.c.tenant == sa.bindparam("owner"))
)
_BY_DIGEST = Statement(
    sa.select(*_COLUMNS).where(
        t.c.endpoint == sa.bindparam("door"), t.c.digest == sa.bindparam("hash")
    )
)
_SEALED = Statement(
    sa.select(*_COLUMNS, t.c.sealed).where(
        t.c.id == sa.bindparam("key"),
        t.c.tenant == sa.bindparam("owner"),
        t.c.endpoint == sa.bindparam("door"),
    )
)
_IN_FORCE = sa.and_(
    t.c.revoked_at.is_(None),
    sa.or_(t.c.expires_at.is_(None), t.c.expires_at > sa.bindparam("now")),
)
_CLAIM = Statement(
    sa.update(t)
    .where(
        t.c.id == sa.bindparam("key"),
        _IN_FORCE,
        t.c.uses_left > 0,
        sa.or_(t.c.claimed_by.is_(None), t.c.claimed_by == sa.bindparam("request")),
    )
    .values(claimed_by=sa.bindparam("request"), claimed_at=sa.bindparam("now"))
)
_CONSUME = Statement(
    sa.update(t)
    .where(
        t.c.id == sa.bindparam("key"),
        t.c.uses_left > 0,
        t.c.claimed_by == sa.bindparam("request"),
    )
    .values(uses_left=t.c.uses_left - 1, used_at=sa.bindparam("now"))
)
# A static secret is nobody's to claim, and a row that every enrolment wrote to would make them
# wait for each other.
_STATIC = Listing(
    lambda listed: sa.select(t.c.id).where(t.c.id.in_(listed), t.c.uses_left.is_(None))
)
_USABLE_STATIC = Listing(
    lambda listed: sa.select(t.c.id).where(t.c.id.in_(listed), t.c.uses_left.is_(None), _IN_FORCE)
)


def by_id(connection: sa.Connection, tenant: str, secret_id: str) -> EnrollSecret | None:
    """Return one secret of a tenant."""
    return _one(_BY_ID.rows(connection, {"key": secret_id, "owner": tenant}))


def by_digest(connection: sa.Connection, endpoint: str, digest: bytes) -> EnrollSecret | None:
    """Return the secret of an endpoint that has this digest, whatever its state."""
    return _one(_BY_DIGEST.rows(connection, {"door": endpoint, "hash": digest}))


def sealed(
    connection: sa.Connection, tenant: str, endpoint: str, secret_id: str
) -> tuple[EnrollSecret, bytes] | None:
    """Return a secret of an endpoint that is kept sealed, whatever its state."""
    rows = _SEALED.rows(connection, {"key": secret_id, "owner": tenant, "door": endpoint})
    if not rows or rows[0][-1] is None:
        return None
    return EnrollSecret(**dict(zip(_NAMES, rows[0][:-1], strict=True))), bytes(rows[0][-1])


def find(
    connection: sa.Connection, tenant: str, endpoint: str | None, after: str, limit: int
) -> tuple[EnrollSecret, ...]:
    """Return a page of a tenant's secrets, oldest first, beginning after the id ``after``."""
    query = sa.select(*_COLUMNS).where(t.c.tenant == tenant, t.c.id > after)
    if endpoint is not None:
        query = query.where(t.c.endpoint == endpoint)
    rows = connection.execute(query.order_by(t.c.id).limit(limit)).mappings()
    return tuple([EnrollSecret(**row) for row in rows])


def insert(
    connection: sa.Connection, secret: EnrollSecret, *, digest: bytes, sealed: bytes | None = None
) -> None:
    """Add a secret; Fault(CONFLICT) when the endpoint already has the same one."""
    values = {column.name: getattr(secret, column.name) for column in _COLUMNS}
    try:
        connection.execute(sa.insert(t).values(digest=digest, sealed=sealed, **values))
    except sa.exc.IntegrityError:
        raise Fault(
            FaultCode.CONFLICT,
            "this endpoint has had that secret before",
            rule="secret.repeated",
            values={"endpoint": secret.endpoint},
        ) from None


def claim(connection: sa.Connection, wanted: Sequence[tuple[str, str]], now: datetime) -> bool:
    """Take usable secrets, each for one request; tell whether all were there to take.

    ``wanted`` are pairs of a secret's and a request's id. A conditional UPDATE: of many requests
    at once, the database lets one win. A static secret is not taken from anybody.
    """
    return _each(connection, _CLAIM, _USABLE_STATIC, wanted, now)


def consume(connection: sa.Connection, wanted: Sequence[tuple[str, str]], now: datetime) -> bool:
    """Use up the secrets that requests claimed; tell whether all claims still stood."""
    return _each(connection, _CONSUME, _STATIC, wanted, now)


def _each(
    connection: sa.Connection,
    change: Statement,
    static: Listing,
    wanted: Sequence[tuple[str, str]],
    now: datetime,
) -> bool:
    """Change each one-time secret; tell whether all were changed, or are static."""
    keys = sorted({key for key, _ in wanted})
    unchanged = {key for (key,) in static.rows(connection, keys, now=now)}
    values = [
        {"key": key, "request": request, "now": now}
        for key, request in sorted(wanted)
        if key not in unchanged
    ]
    return change.run_many(connection, values) == len(values)


def release(connection: sa.Connection, secret_id: str, request_id: str) -> bool:
    """Give back the secret that a request claimed and did not use up; tell whether it did."""
    result = connection.execute(
        sa.update(t)
        .where(t.c.id == secret_id, t.c.claimed_by == request_id, t.c.uses_left > 0)
        .values(claimed_by=None, claimed_at=None)
    )
    return result.rowcount == 1


def revoke(connection: sa.Connection, tenant: str, secret_id: str, now: datetime) -> bool:
    """Make a secret unusable; tell whether it was not so before."""
    result = connection.execute(
        sa.update(t)
        .where(t.c.id == secret_id, t.c.tenant == tenant, t.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    if result.rowcount == 1:
        changes.record(connection, TOPIC, secret_id)
    return result.rowcount == 1


def _one(rows: list[tuple[Any, ...]]) -> EnrollSecret | None:
    return EnrollSecret(**dict(zip(_NAMES, rows[0], strict=True))) if rows else None
