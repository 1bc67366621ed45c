"""Rows of those who get SNMP notifications: which there are, and what each has not had yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from tmad.storage import journal as records
from tmad.storage import objects
from tmad.storage.journal import Record
from tmad.storage.tables import journal, journal_cursors, journal_writers

KIND: Final = "snmp-target"
_PAGE: Final = 500
# How many records of a chain are looked at in one go: few of them are for anybody's ears.
_WINDOW: Final = 5_000

_NEWS = (
    sa.select(*(column for column in journal.c))
    .where(
        journal.c.writer == sa.bindparam("writer"),
        journal.c.seq > sa.bindparam("after"),
        journal.c.seq <= sa.bindparam("end"),
        journal.c.kind.in_(sa.bindparam("kinds", expanding=True)),
    )
    .order_by(journal.c.seq)
)


@dataclass(frozen=True, slots=True)
class News:
    """What somebody has not had yet, by time, and how far that reaches in each chain."""

    records: tuple[Record, ...]
    reached: Mapping[str, int]

    @property
    def is_nothing(self) -> bool:
        """Whether nothing at all was journaled."""
        return not self.reached


def find_all(connection: sa.Connection) -> list[objects.ObjectRow]:
    """Return the targets of every tenant."""
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


def extent(connection: sa.Connection) -> tuple[int, int]:
    """Return how many records and chains there are: as long as that stays, there is no news."""
    query = sa.select(sa.func.coalesce(sa.func.sum(journal_writers.c.seq), 0), sa.func.count())
    found, chains = connection.execute(query.select_from(journal_writers)).one()
    return int(found), int(chains)


def news(connection: sa.Connection, subscriber: str, kinds: Sequence[str]) -> News:
    """Return the next records of these kinds for a subscriber."""
    cursors = records.find_cursors(connection, subscriber)
    found: list[Record] = []
    reached: dict[str, int] = {}
    for head in records.find_heads(connection):
        after = cursors.get(head.writer, 0)
        if head.seq <= after:
            continue
        end = min(head.seq, after + _WINDOW)
        values = {"writer": head.writer, "after": after, "end": end, "kinds": list(kinds)}
        found += [Record(**row._mapping) for row in connection.execute(_NEWS, values)]
        reached[head.writer] = end
    return News(tuple(sorted(found, key=lambda record: record.at)), reached)


def settle(connection: sa.Connection, subscriber: str, reached: Mapping[str, int]) -> None:
    """Remember how far a subscriber has been served."""
    records.move_cursors(connection, subscriber, dict(reached))


def begin_now(connection: sa.Connection, subscriber: str) -> None:
    """Let a subscriber that has had nothing yet begin after the newest record."""
    if not records.find_cursors(connection, subscriber):
        heads = {head.writer: head.seq for head in records.find_heads(connection)}
        records.move_cursors(connection, subscriber, heads)


def forget(connection: sa.Connection, subscriber: str) -> None:
    """Remove a subscriber's cursors."""
    connection.execute(journal_cursors.delete().where(journal_cursors.c.subscriber == subscriber))
