"""Small numbers for requests that wait, where a protocol has no room for more (MS-WSTEP)."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from tmad.storage.statement import Statement
from tmad.storage.tables import request_numbers as t

_KEPT = timedelta(days=30)  # twice as long as a request may wait for a person
_FORGOTTEN = 100  # at once

_BY_REQUEST = Statement(
    sa.select(t.c.number).where(
        t.c.endpoint == sa.bindparam("door"), t.c.request_id == sa.bindparam("request")
    )
)
_BY_NUMBER = Statement(
    sa.select(t.c.request_id).where(
        t.c.endpoint == sa.bindparam("door"), t.c.number == sa.bindparam("asked")
    )
)


def of_request(connection: sa.Connection, endpoint: str, request_id: str) -> int | None:
    """Return the number that a request has, if it has one."""
    rows = _BY_REQUEST.rows(connection, {"door": endpoint, "request": request_id})
    return int(rows[0][0]) if rows else None


def by_number(connection: sa.Connection, endpoint: str, number: int) -> str | None:
    """Return the request that has a number at an endpoint."""
    rows = _BY_NUMBER.rows(connection, {"door": endpoint, "asked": number})
    return str(rows[0][0]) if rows else None


def insert(
    connection: sa.Connection, endpoint: str, request_id: str, number: int, now: datetime
) -> bool:
    """Give a request a number; False when either is taken already."""
    try:
        with connection.begin_nested():
            connection.execute(
                sa.insert(t).values(
                    endpoint=endpoint, request_id=request_id, number=number, created_at=now
                )
            )
    except sa.exc.IntegrityError:
        return False
    return True


def forget(connection: sa.Connection, now: datetime) -> None:
    """Remove some of those that nobody asks about any more."""
    old = sa.select(t.c.request_id).where(t.c.created_at < now - _KEPT).limit(_FORGOTTEN)
    connection.execute(sa.delete(t).where(t.c.request_id.in_(old)))
