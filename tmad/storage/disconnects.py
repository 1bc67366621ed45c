"""Rows of what must end on the network: sessions whose NAS is to be told so (RFC 5176)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from tmad.storage import changes
from tmad.storage.tables import radius_disconnects as j
from tmad.storage.tables import radius_sessions as t

ClientKey: TypeAlias = tuple[str, str]  # tenant, name
# What a row says of the last attempt where the client could not be reached from this node, and
# where no node is known that could.
TOPIC: Final = "disconnects"  # "tenant/client" to whom something could not be said here
HANDED_OVER: Final = "handed-over"
NOT_SENT: Final = "not-sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectRow:
    """One session that must end; ``due_at`` None: nothing more will be tried."""

    id: int
    tenant: str
    session_id: str
    reason: str
    actor: str
    attempts: int
    due_at: datetime | None
    outcome: str
    created_at: datetime
    finished_at: datetime | None


_COLUMNS = tuple(j.c[field.name] for field in fields(DisconnectRow))
_UNREACHED = sa.and_(j.c.due_at.is_not(None), j.c.outcome.in_((HANDED_OVER, NOT_SENT)))
_INSERT = sa.text(
    "INSERT INTO radius_disconnects"
    " (tenant, session_id, reason, actor, attempts, due_at, outcome, created_at)"
    " VALUES (:tenant, :session_id, :reason, :actor, 0, :now, '', :now)"
    " ON CONFLICT (session_id) WHERE due_at IS NOT NULL DO NOTHING"
).bindparams(sa.bindparam("now", type_=j.c.due_at.type))


def insert(
    connection: sa.Connection,
    *,
    tenant: str,
    session_id: str,
    reason: str,
    actor: str,
    now: datetime,
) -> bool:
    """Ask for the end of a session; False when that is under way already."""
    # The partial unique index says the last word where two processes ask at once.
    values = {
        "tenant": tenant,
        "session_id": session_id,
        "reason": reason,
        "actor": actor,
        "now": now,
    }
    result = connection.execute(_INSERT, values)
    return result.rowcount == 1


def claim(
    connection: sa.Connection,
    now: datetime,
    until: datetime,
    limit: int,
    under_way: Collection[int] = (),
) -> tuple[DisconnectRow, ...]:
    """Take what is due and not ``under_way``, for this caller alone until an instant.

    Compare and set on ``due_at``: of two processes that see the same row one gets it. Whoever
    takes it counts an attempt, so that a crash is one, too.
    """
    due = (
        sa.select(*_COLUMNS)
        .where(j.c.due_at <= now, j.c.id.not_in(under_way))
        .order_by(j.c.due_at, j.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _take(connection, due, until)


def claim_unreached(
    connection: sa.Connection,
    tenant: str,
    client: str,
    until: datetime,
    limit: int,
) -> tuple[DisconnectRow, ...]:
    """Take, due or not, what nobody has reached a client for; as :func:`claim` does."""
    unreached = (
        sa.select(*_COLUMNS)
        .join(t, t.c.id == j.c.session_id)
        .where(_UNREACHED, t.c.tenant == tenant, t.c.client == client)
        .order_by(j.c.id)
        .limit(limit)
        .with_for_update(of=j, skip_locked=True)
    )
    return _take(connection, unreached, until)


def _take(
    connection: sa.Connection, query: sa.Select[Any], until: datetime
) -> tuple[DisconnectRow, ...]:
    taken = []
    for row in connection.execute(query).mappings().all():
        found = DisconnectRow(**row)
        claimed = connection.execute(
            j.update()
            .where(j.c.id == found.id, j.c.due_at == found.due_at)
            .values(
                due_at=until,
                attempts=j.c.attempts + 1,
                # Whoever looks for what nobody has reached leaves alone what is being tried.
                outcome=sa.case((_UNREACHED, ""), else_=j.c.outcome),
            )
        )
        if claimed.rowcount == 1:
            taken.append(found)
    return tuple(taken)


def unreached(connection: sa.Connection) -> frozenset[ClientKey]:
    """Return the clients for whom there is something that nobody has reached them for."""
    # Not as a join: SQLite would begin it with all the sessions there are.
    sessions = sa.select(j.c.session_id).where(_UNREACHED)
    query = sa.select(t.c.tenant, t.c.client).where(t.c.id.in_(sessions))
    return frozenset((row.tenant, row.client) for row in connection.execute(query))


def hand_over(
    connection: sa.Connection,
    job_id: int,
    claimed_until: datetime,
    client: ClientKey,
    due_at: datetime,
) -> None:
    """Leave an attempt to whoever can reach the client, until an instant; it does not count.

    Nothing happens when the claim had run out meanwhile.
    """
    result = connection.execute(
        j.update()
        .where(j.c.id == job_id, j.c.due_at == claimed_until)
        .values(due_at=due_at, attempts=j.c.attempts - 1, outcome=HANDED_OVER)
    )
    if result.rowcount == 1:
        changes.record(connection, TOPIC, "/".join(client))


def next_due(connection: sa.Connection) -> datetime | None:
    """Return when the next one is due."""
    due: datetime | None = connection.execute(
        sa.select(j.c.due_at).where(j.c.due_at.is_not(None)).order_by(j.c.due_at).limit(1)
    ).scalar()
    return due


def settle(
    connection: sa.Connection,
    job_id: int,
    claimed_until: datetime,
    *,
    due_at: datetime | None,
    outcome: str,
    now: datetime,
) -> bool:
    """Write what came of an attempt; False when the claim had run out meanwhile."""
    result = connection.execute(
        j.update()
        .where(j.c.id == job_id, j.c.due_at == claimed_until)
        .values(due_at=due_at, outcome=outcome, finished_at=now if due_at is None else None)
    )
    return result.rowcount == 1


def find_of_session(connection: sa.Connection, session_id: str) -> tuple[DisconnectRow, ...]:
    """Return what was tried to end a session, oldest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS).where(j.c.session_id == session_id).order_by(j.c.id).limit(100)
    ).mappings()
    return tuple([DisconnectRow(**row) for row in rows])
