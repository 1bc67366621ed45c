"""Rows of log collectors: how far each has been served, and which there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from tmad.storage import journal as records
from tmad.storage import objects
from tmad.storage.tables import journal_cursors

KIND: Final = "log-collector"
_PAGE: Final = 500

_FORGET = journal_cursors.delete().where(journal_cursors.c.subscriber == sa.bindparam("key"))


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a collector has not had yet; ``since`` is the oldest record's time."""

    records: int
    since: datetime | None


def subscriber(tenant: str, name: str) -> str:
    """Return what the journal's cursors call a collector."""
    return f"{KIND}/{tenant}/{name}"


def find_all(connection: sa.Connection) -> list[objects.ObjectRow]:
    """Return the collectors of every tenant."""
    return [
        row
        for tenant in _each(connection, "*", "tenant")
        for row in _each(connection, tenant.name, KIND)
    ]


def _each(connection: sa.Connection, tenant: str, kind: str) -> Iterator[objects.ObjectRow]:
    after = ""
    while page := objects.find(connection, tenant, kind, after, _PAGE):
        yield from page
        after = page[-1].name


def begin_now(connection: sa.Connection, tenant: str, name: str) -> None:
    """Let a collector that has had nothing yet begin after the newest record."""
    key = subscriber(tenant, name)
    if not records.find_cursors(connection, key):
        heads = {head.writer: head.seq for head in records.find_heads(connection)}
        records.move_cursors(connection, key, heads)


def forget(connection: sa.Connection, tenant: str, name: str) -> None:
    """Remove a collector's cursors."""
    connection.execute(_FORGET, {"key": subscriber(tenant, name)})


def settle(connection: sa.Connection, tenant: str, name: str, reached: Mapping[str, int]) -> None:
    """Move a collector's cursors; not those of one that was deleted meanwhile."""
    if objects.by_name(connection, tenant, KIND, name) is not None:
        records.move_cursors(connection, subscriber(tenant, name), dict(reached))


def position(connection: sa.Connection, tenant: str, name: str) -> dict[str, int]:
    """Return how far a collector has been served in each chain."""
    return records.find_cursors(connection, subscriber(tenant, name))


def find_after(
    connection: sa.Connection, position: Mapping[str, int], limit: int
) -> list[list[records.Record]]:
    """Return the next records of each chain."""
    return [
        records.find_after(connection, head.writer, position.get(head.writer, 0), limit)
        for head in records.find_heads(connection)
        if head.seq > position.get(head.writer, 0)
    ]


def waiting(connection: sa.Connection, tenant: str, name: str) -> Waiting:
    """Return what a collector has not had yet, filtered out or not."""
    reached = position(connection, tenant, name)
    count = sum(
        max(0, head.seq - reached.get(head.writer, 0)) for head in records.find_heads(connection)
    )
    oldest = [page[0].at for page in find_after(connection, reached, 1) if page]
    return Waiting(count, min(oldest, default=None))
