"""Rows of exchanges: enrolment conversations that take several messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.statement import Statement, is_integrity
from tmad.storage.tables import exchanges as t


class Exchange(NamedTuple):
    """One conversation; see the table for its columns."""

    endpoint: str
    transaction: bytes
    tenant: str
    state: str
    opening: int
    holder: bytes
    digest: bytes
    due_at: datetime
    created_at: datetime
    nonce: bytes = b""
    answer: bytes | None = None
    number: int = 0
    is_implicit: bool = False
    spki: bytes | None = None
    certificate_id: int | None = None
    request: bytes | None = None


_NAMES = Exchange._fields
_COLUMNS = tuple(t.c[name] for name in _NAMES)
_THIS = sa.and_(t.c.endpoint == sa.bindparam("door"), t.c.transaction == sa.bindparam("named"))
# What a change is made to must still be what was read: of two at once, one wins.
_UNCHANGED = sa.and_(
    _THIS, t.c.state == sa.bindparam("old_state"), t.c.digest == sa.bindparam("old_digest")
)
_CHANGING = ("state", "digest", "nonce", "answer", "spki", "certificate_id", "due_at", "request")
_CHANGED = tuple([f"new_{name}" for name in _CHANGING])
_changed = attrgetter(*_CHANGING)

_INSERT = Statement(t.insert(), columns=_NAMES)
_BY_TRANSACTION = Statement(sa.select(*_COLUMNS).where(_THIS))
_UPDATE = Statement(
    t.update().where(_UNCHANGED).values({name: sa.bindparam(f"new_{name}") for name in _CHANGING})
)
_DELETE = Statement(t.delete().where(_UNCHANGED))
_DUE = Statement(
    sa.select(*_COLUMNS)
    .where(t.c.due_at <= sa.bindparam("now"))
    .order_by(t.c.due_at)
    .limit(sa.bindparam("most"))
)


def insert(connection: sa.Connection, exchanges: Sequence[Exchange]) -> None:
    """Add some; Fault(CONFLICT) when an endpoint has one of the transactions already."""
    if not exchanges:
        return
    try:
        _INSERT.run_many(
            connection,
            [one._asdict() for one in sorted(exchanges, key=_place)],
        )
    except Exception as error:
        if not is_integrity(connection, error):
            raise
        raise Fault(
            FaultCode.CONFLICT, "the transaction exists already", rule="exchange.exists"
        ) from None


def by_transaction(connection: sa.Connection, endpoint: str, transaction: bytes) -> Exchange | None:
    """Return one conversation of an endpoint."""
    rows = _BY_TRANSACTION.rows(connection, {"door": endpoint, "named": transaction})
    return _read(rows[0]) if rows else None


def update(connection: sa.Connection, changes: Sequence[tuple[Exchange, Exchange]]) -> bool:
    """Change old ones into new ones; tell whether every row was still as the old one says."""
    values = [
        {**dict(zip(_CHANGED, _changed(new), strict=True)), **_key(old)}
        for old, new in sorted(changes, key=lambda each: _place(each[0]))
    ]
    return _UPDATE.run_many(connection, values) == len(values)


def delete(connection: sa.Connection, exchange: Exchange) -> bool:
    """Forget one; tell whether it was still as ``exchange`` says."""
    return _DELETE.run(connection, _key(exchange)) == 1


def find_due(connection: sa.Connection, now: datetime, *, limit: int) -> tuple[Exchange, ...]:
    """Return those that something is to be done about, the most urgent first."""
    return tuple([_read(row) for row in _DUE.rows(connection, {"now": now, "most": limit})])


def _place(exchange: Exchange) -> tuple[str, bytes]:
    """Return by what rows are sorted: two transactions never wait for each other."""
    return exchange.endpoint, exchange.transaction


def _key(exchange: Exchange) -> Mapping[str, Any]:
    return {
        "door": exchange.endpoint,
        "named": exchange.transaction,
        "old_state": exchange.state,
        "old_digest": exchange.digest,
    }


def _read(row: tuple[Any, ...]) -> Exchange:
    return Exchange._make(row)
