"""What agents on other machines said last about their certificates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.statement import Statement, is_integrity
from tmad.storage.tables import agents as t


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """One certificate that an agent keeps; see the table for the columns."""

    tenant: str
    id: str
    certificate_id: int
    subject: str
    owner: str
    host: str
    label: str
    version: str
    source: str
    state: str
    served: str
    error: str
    renew_at: datetime | None
    first_contact: datetime
    last_contact: datetime


_NAMES = tuple(AgentRow.__dataclass_fields__)
_COLUMNS = tuple(t.c[name] for name in _NAMES)
_SELECT = sa.select(*_COLUMNS)
_THIS = (t.c.tenant == sa.bindparam("whose"), t.c.id == sa.bindparam("agent"))
_CHANGING = tuple(name for name in _NAMES if name not in ("tenant", "id", "first_contact"))

_BY_ID = Statement(_SELECT.where(*_THIS))
_BY_ID_LOCKED = _SELECT.where(*_THIS).with_for_update()
_INSERT = Statement(t.insert(), columns=_NAMES)
_UPDATE = Statement(
    t.update().where(*_THIS).values({name: sa.bindparam(f"new_{name}") for name in _CHANGING})
)
_OF_SUBJECT = Statement(
    sa.select(sa.func.count()).where(
        t.c.tenant == sa.bindparam("whose"), t.c.subject == sa.bindparam("subject")
    )
)


def by_id(connection: sa.Connection, tenant: str, id: str) -> AgentRow | None:  # noqa: A002
    """Return one agent, as one point read."""
    rows = _BY_ID.rows(connection, {"whose": tenant, "agent": id})
    return _read(rows[0]) if rows else None


def locked(connection: sa.Connection, tenant: str, id: str) -> AgentRow | None:  # noqa: A002
    """Return one agent whose row nobody else can change before this transaction ends."""
    row = connection.execute(_BY_ID_LOCKED, {"whose": tenant, "agent": id}).first()
    return None if row is None else _read(tuple(row))


def count_of_subject(connection: sa.Connection, tenant: str, subject: str) -> int:
    """Return how many agents say that they keep a certificate with this subject."""
    return int(_OF_SUBJECT.rows(connection, {"whose": tenant, "subject": subject})[0][0])


def insert(connection: sa.Connection, row: AgentRow) -> None:
    """Add one; Fault(UNAVAILABLE) when another process has just done so."""
    try:
        _INSERT.run(connection, {name: getattr(row, name) for name in _NAMES})
    except Exception as error:
        if not is_integrity(connection, error):
            raise
        raise Fault(
            FaultCode.UNAVAILABLE, "the agent is being added", retry_after=1.0, rule="agent.twice"
        ) from None


def update(connection: sa.Connection, row: AgentRow) -> None:
    """Write all that may change of one."""
    values = {f"new_{name}": getattr(row, name) for name in _CHANGING}
    _UPDATE.run(connection, {**values, "whose": row.tenant, "agent": row.id})


def delete(connection: sa.Connection, tenant: str, id: str) -> bool:  # noqa: A002
    """Forget one; tell whether there was one."""
    result = connection.execute(sa.delete(t).where(t.c.tenant == tenant, t.c.id == id))
    return result.rowcount == 1


def find(
    connection: sa.Connection,
    tenant: str,
    *,
    state: str | None = None,
    silent_since: datetime | None = None,
    after: str = "",
    limit: int = 100,
) -> tuple[AgentRow, ...]:
    """Return a page of a tenant's agents by id, beginning after ``after``."""
    query = _SELECT.where(t.c.tenant == tenant, t.c.id > after)
    if state is not None:
        query = query.where(t.c.state == state)
    if silent_since is not None:
        query = query.where(t.c.last_contact < silent_since)
    query = query.order_by(t.c.id).limit(limit)
    return tuple([_read(tuple(row)) for row in connection.execute(query)])


def _read(row: tuple[Any, ...]) -> AgentRow:
    return AgentRow(**dict(zip(_NAMES, row, strict=True)))
