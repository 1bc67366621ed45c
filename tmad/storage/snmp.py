"""Rows of the SNMP agent: its engine on each node, and who may ask it.

A change of users or communities is announced as topic "snmp-users", key NAME.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.tables import snmp_communities as communities
from tmad.storage.tables import snmp_engines as engines
from tmad.storage.tables import snmp_users as users

TOPIC: Final = "snmp-users"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """The engine of one node; ``started_at`` is when it began to count the seconds anew."""

    engine_id: bytes
    boots: int
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    """One user of SNMPv3; ``keys`` are the sealed keys of both passphrases."""

    name: str
    authentication: str
    privacy: str
    keys: bytes
    view: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CommunityRow:
    """One community of SNMPv1 and SNMPv2c; ``prefixes`` are separated by spaces."""

    name: str
    sealed: bytes
    prefixes: str
    view: str
    created_at: datetime


def engine(connection: sa.Connection, node: str) -> EngineRow | None:
    """Return the engine of a node."""
    query = sa.select(engines.c.engine_id, engines.c.boots, engines.c.started_at)
    found = connection.execute(query.where(engines.c.node == node)).one_or_none()
    return None if found is None else EngineRow(**found._mapping)


def boot(connection: sa.Connection, node: str, engine_id: bytes, now: datetime) -> EngineRow:
    """Count one more start of a node's engine, whose id is ``engine_id`` if it is new."""
    changed = connection.execute(
        sa.update(engines)
        .where(engines.c.node == node)
        .values(boots=engines.c.boots + 1, started_at=now)
    )
    if changed.rowcount == 0:
        connection.execute(
            sa.insert(engines).values(node=node, engine_id=engine_id, boots=1, started_at=now)
        )
    found = engine(connection, node)
    assert found is not None  # written in this transaction
    return found


def every_user(connection: sa.Connection) -> list[UserRow]:
    """Return all users by name."""
    query = sa.select(users).order_by(users.c.name)
    return [UserRow(**row._mapping) for row in connection.execute(query)]


def every_community(connection: sa.Connection) -> list[CommunityRow]:
    """Return all communities by name."""
    query = sa.select(communities).order_by(communities.c.name)
    return [CommunityRow(**row._mapping) for row in connection.execute(query)]


def insert_user(connection: sa.Connection, row: UserRow) -> None:
    """Store a new user; Fault(CONFLICT) when there is one of that name."""
    values = {column.name: getattr(row, column.name) for column in users.c}
    _insert(connection, users, row.name, values)


def insert_community(connection: sa.Connection, row: CommunityRow) -> None:
    """Store a new community; Fault(CONFLICT) when there is one of that name."""
    values = {column.name: getattr(row, column.name) for column in communities.c}
    _insert(connection, communities, row.name, values)


def delete_user(connection: sa.Connection, name: str) -> bool:
    """Delete a user; tell whether there was one."""
    return _delete(connection, users, name)


def delete_community(connection: sa.Connection, name: str) -> bool:
    """Delete a community; tell whether there was one."""
    return _delete(connection, communities, name)


def _insert(
    connection: sa.Connection, table: sa.Table, name: str, values: dict[str, object]
) -> None:
    try:
        connection.execute(sa.insert(table).values(**values))
    except sa.exc.IntegrityError:
        raise Fault(
            FaultCode.CONFLICT,
            f"the name {name!r} is taken; remove it first",
            rule="snmp.name.taken",
            values={"name": name},
        ) from None
    changes.record(connection, TOPIC, name)


def _delete(connection: sa.Connection, table: sa.Table, name: str) -> bool:
    if connection.execute(sa.delete(table).where(table.c.name == name)).rowcount == 0:
        return False
    changes.record(connection, TOPIC, name)
    return True
