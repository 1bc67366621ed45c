"""Rows of requests: what was asked at an endpoint, by whom, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.statement import Statement, is_integrity
from tmad.storage.tables import requests


class RequestRow(NamedTuple):
    """One request; ``body`` is the EnrollmentRequest as JSON, without secrets."""

    id: str
    tenant: str
    endpoint: str
    via: str
    transaction: str
    spki_sha256: bytes
    fingerprint: bytes
    idempotency: bytes | None
    state: str  # "issuing", "pending", "issued", "denied", "failed"
    applicant: str
    peer: str
    subject: str
    body: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    certificate_id: int | None = None
    comment: str = ""
    decided_by: str = ""


_NAMES = RequestRow._fields
_COLUMNS = tuple(requests.c[name] for name in _NAMES)
_SELECT = sa.select(*_COLUMNS)
_INSERT = Statement(requests.insert(), columns=_NAMES)
_FORGET = Statement(
    requests.update()
    .where(
        requests.c.idempotency == sa.bindparam("digest"),
        requests.c.created_at < sa.bindparam("before"),
        requests.c.state != "pending",
    )
    .values(idempotency=None)
)
_BY_ID = Statement(
    _SELECT.where(requests.c.id == sa.bindparam("row"), requests.c.tenant == sa.bindparam("whose"))
)
_OF_TRANSACTION = Statement(
    _SELECT.where(
        requests.c.endpoint == sa.bindparam("door"),
        requests.c.transaction == sa.bindparam("asked"),
    )
    .order_by(requests.c.id.desc())
    .limit(sa.bindparam("most"))
)
_ISSUED = Statement(
    requests.update()
    .where(requests.c.id == sa.bindparam("row"), requests.c.state == "issuing")
    .values(
        state="issued",
        certificate_id=sa.bindparam("certificate"),
        updated_at=sa.bindparam("now"),
    )
)


def insert(connection: sa.Connection, rows: Sequence[RequestRow]) -> None:
    """Add requests; Fault(CONFLICT) when one of them is there already."""
    try:
        _INSERT.run_many(connection, [row._asdict() for row in rows])
    except Exception as error:
        if not is_integrity(connection, error):
            raise
        raise Fault(
            FaultCode.CONFLICT, "the same request is being served", rule="request.duplicate"
        ) from error


def forget_idempotency(
    connection: sa.Connection, digests: Iterable[tuple[bytes, datetime]]
) -> None:
    """End the idempotency windows of requests made before an instant and decided since."""
    _FORGET.run_many(connection, [{"digest": one, "before": before} for one, before in digests])


def by_id(connection: sa.Connection, tenant: str, request_id: str) -> RequestRow | None:
    """Return one request of a tenant."""
    for row in _BY_ID.rows(connection, {"row": request_id, "whose": tenant}):
        return RequestRow._make(row)
    return None


def find_of_transaction(
    connection: sa.Connection, endpoint: str, transaction: str, limit: int
) -> tuple[RequestRow, ...]:
    """Return the newest requests with a protocol's own id, newest first."""
    values = {"door": endpoint, "asked": transaction, "most": limit}
    return tuple(RequestRow._make(row) for row in _OF_TRANSACTION.rows(connection, values))


def find(
    connection: sa.Connection, tenant: str, *, state: str, after: str, limit: int
) -> tuple[RequestRow, ...]:
    """Return a page of a tenant's requests in one state, oldest first."""
    rows = connection.execute(
        _SELECT.where(requests.c.tenant == tenant, requests.c.state == state, requests.c.id > after)
        .order_by(requests.c.id)
        .limit(limit)
    )
    return tuple(RequestRow._make(row) for row in rows)


def find_expired(connection: sa.Connection, now: datetime, *, limit: int) -> tuple[RequestRow, ...]:
    """Return requests of every tenant that have waited too long."""
    rows = connection.execute(
        _SELECT.where(
            # A literal, so that the partial index serves the query.
            requests.c.state == sa.literal_column("'pending'"),
            requests.c.expires_at < now,
        )
        .order_by(requests.c.expires_at)
        .limit(limit)
    )
    return tuple(RequestRow._make(row) for row in rows)


def count(
    connection: sa.Connection, endpoint: str, states: tuple[str, ...], since: str, most: int
) -> int:
    """Return how many requests of an endpoint are in these states, counting to ``most``.

    ``since`` is the smallest id that counts; ids sort by time.
    """
    counted = (
        sa.select(sa.literal(1))
        .where(
            requests.c.endpoint == endpoint,
            requests.c.state.in_(states),
            requests.c.id >= since,
        )
        .limit(most)
        .subquery()
    )
    return int(connection.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one())


def update_issued(
    connection: sa.Connection, issued: Sequence[tuple[str, int]], now: datetime
) -> None:
    """Record that requests got their certificates; Fault(CONFLICT) if one was given up."""
    done = _ISSUED.run_many(
        connection,
        [{"row": request, "certificate": found, "now": now} for request, found in issued],
    )
    if done != len(issued):
        raise Fault(
            FaultCode.CONFLICT,
            "the request was given up meanwhile",
            rule="request.state",
            values={"request": ", ".join(request for request, _ in issued)},
        )


def update_state(
    connection: sa.Connection,
    row: RequestRow,
    state: str,
    now: datetime,
    *,
    decided_by: str = "",
    comment: str = "",
    keep_idempotency: bool = True,
) -> None:
    """Move a request on from the state that ``row`` has; Fault(CONFLICT) if it left it."""
    values: dict[str, Any] = {"state": state, "updated_at": now}
    if decided_by:
        values["decided_by"] = decided_by
    if comment:
        values["comment"] = comment
    if not keep_idempotency:
        values["idempotency"] = None
    done = connection.execute(
        requests.update()
        .where(requests.c.id == row.id, requests.c.state == row.state)
        .values(**values)
    )
    if done.rowcount != 1:
        raise Fault(
            FaultCode.CONFLICT,
            "somebody else has decided about this request",
            rule="request.state",
            values={"request": row.id, "expected": row.state},
        )


def update_comment(connection: sa.Connection, request_id: str, comment: str, now: datetime) -> None:
    """Replace the comment of a request."""
    connection.execute(
        requests.update().where(requests.c.id == request_id).values(comment=comment, updated_at=now)
    )
