"""Rows of the journal: records, the heads of their chains, checkpoints and cursors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.manyrows import ManyRows
from tmad.storage.session import doom
from tmad.storage.tables import (
    journal,
    journal_checkpoints,
    journal_cursors,
    journal_writers,
)
from tmad.storage.tables import microseconds as microseconds
from tmad.wire.chain import ChainVerifier, Checkpoint, Head, canonical, genesis, link

_WRITER = "tmad.journal_writer"
# "tmad" as a number: the class of the advisory locks below; and the one for checkpoints.
_SLOT_LOCK = 0x746D6164
_SEAL_LOCK = 0x746D_6164_0002
_CURSOR_LOCK = 0x746D6165
_SLOTS = 4_096

# Verification reads instants as the integers that were hashed.
_RAW = (
    journal.c.seq,
    sa.type_coerce(journal.c.at, sa.BigInteger).label("at"),
    journal.c.tenant,
    journal.c.kind,
    journal.c.actor,
    journal.c.object,
    journal.c.trace,
    journal.c.data,
    journal.c.previous,
    journal.c.hash,
)
_ROWS = (
    sa.select(*_RAW)
    .where(
        journal.c.writer == sa.bindparam("writer"),
        journal.c.seq > sa.bindparam("after"),
        journal.c.seq <= sa.bindparam("until"),
    )
    .order_by(journal.c.seq)
    .limit(sa.bindparam("limit"))
)
# Every change appends, so these go to the driver without a detour, which halves their cost
# (performance 5.5). The question marks become psycopg's %s.
_HEAD = "SELECT seq, hash FROM journal_writers WHERE writer = ?"
_INSERT_WRITER = (
    "INSERT INTO journal_writers (writer, node, started_at, seq, hash) VALUES (?, ?, ?, ?, ?)"
)
_MOVE_HEAD = "UPDATE journal_writers SET seq = ?, hash = ? WHERE writer = ?"
_INSERT = (
    "INSERT INTO journal"
    " (writer, seq, at, tenant, kind, actor, object, trace, data, previous, hash)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_MANY = ManyRows(_INSERT)
_STATEMENTS = {
    "sqlite": (_HEAD, _INSERT_WRITER, _INSERT, _MOVE_HEAD),
    "postgresql": tuple(
        statement.replace("?", "%s")
        for statement in (f"{_HEAD} FOR UPDATE", _INSERT_WRITER, _INSERT, _MOVE_HEAD)
    ),
}

_WRITERS = sa.select(
    journal_writers.c.writer,
    journal_writers.c.node,
    sa.type_coerce(journal_writers.c.started_at, sa.BigInteger),
    journal_writers.c.seq,
    journal_writers.c.hash,
).order_by(journal_writers.c.writer)
_NEXT_WRITER = sa.select(sa.func.min(journal.c.writer)).where(
    journal.c.writer > sa.bindparam("after")
)
# Two questions: SQLite answers min and max together by reading the whole chain.
_BOUNDS = sa.select(
    *(
        sa.select(end(journal.c.seq))
        .where(journal.c.writer == sa.bindparam("writer"))
        .scalar_subquery()
        for end in (sa.func.min, sa.func.max)
    )
)
_CHECKPOINT = sa.select(
    journal_checkpoints.c.id,
    sa.type_coerce(journal_checkpoints.c.at, sa.BigInteger),
    journal_checkpoints.c.heads,
    journal_checkpoints.c.previous,
    journal_checkpoints.c.hash,
    journal_checkpoints.c.key_id,
    journal_checkpoints.c.signature,
)
_CHECKPOINTS = (
    _CHECKPOINT.where(journal_checkpoints.c.id > sa.bindparam("after"))
    .order_by(journal_checkpoints.c.id)
    .limit(sa.bindparam("limit"))
)
_NEWEST_CHECKPOINT = _CHECKPOINT.order_by(journal_checkpoints.c.id.desc()).limit(1)
_SEALING_KEYS = (
    sa.select(journal_checkpoints.c.key_id).distinct().order_by(journal_checkpoints.c.key_id)
)
_INSERT_CHECKPOINT = journal_checkpoints.insert().values(at=sa.bindparam("at", type_=sa.BigInteger))
_RECORDS = sa.select(journal)
_BY_TRACE = (
    _RECORDS.where(journal.c.trace == sa.bindparam("trace"))
    .order_by(journal.c.at, journal.c.writer, journal.c.seq)
    .limit(100)
)
_AFTER_CURSOR = (
    _RECORDS.where(
        journal.c.writer == sa.bindparam("writer"), journal.c.seq > sa.bindparam("after")
    )
    .order_by(journal.c.seq)
    .limit(sa.bindparam("limit"))
)
_CURSORS = sa.select(journal_cursors.c.writer, journal_cursors.c.seq).where(
    journal_cursors.c.subscriber == sa.bindparam("subscriber")
)
# A cursor never goes back, whatever a subscriber that was paused still believes.
_HOLD_CURSORS = sa.text("SELECT pg_advisory_xact_lock(:class, hashtext(:subscriber))")
_MOVE_CURSOR = sa.text(
    "INSERT INTO journal_cursors (subscriber, writer, seq) VALUES (:subscriber, :writer, :seq)"
    " ON CONFLICT (subscriber, writer) DO UPDATE SET seq = excluded.seq"
    " WHERE journal_cursors.seq < excluded.seq"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One journal row; ``data`` is canonical JSON text."""

    writer: str
    seq: int
    at: datetime
    tenant: str
    kind: str
    actor: str
    object: str
    trace: str
    data: str
    previous: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as it is hashed; ``at`` in microseconds since 1970."""

    seq: int
    at: int
    tenant: str
    kind: str
    actor: str
    object: str
    trace: str
    data: str
    previous: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What is appended: an event with its time, its data as canonical JSON."""

    at: datetime
    tenant: str
    kind: str
    actor: str
    object: str
    trace: str
    data: str


def append(connection: sa.Connection, node: str, entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """Append to this connection's chain; return (writer, seq) of each row.

    Raises Fault(UNAVAILABLE) for whatever the database has against it, so that nobody takes
    it for a mistake of his own: what cannot be journaled must not happen.
    """
    try:
        return _append(connection, node, entries)
    except (sa.exc.SQLAlchemyError, connection.dialect.loaded_dbapi.Error) as error:
        fault = Fault(
            FaultCode.UNAVAILABLE,
            "the audit journal cannot be written",
            private=str(error),
            retry_after=5.0,
            rule="journal.unwritable",
        )
        # Even if somebody between here and the transaction swallows the fault.
        doom(connection, fault)
        raise fault from error


def _append(
    connection: sa.Connection, node: str, entries: Sequence[Entry]
) -> list[tuple[str, int]]:
    writer = _writer(connection, node)
    select_head, insert_writer, insert, move_head = _STATEMENTS[connection.dialect.name]
    cursor = connection.connection.cursor()
    try:
        # Never from memory: a savepoint that was rolled back took the newest rows with it.
        cursor.execute(select_head, (writer,))
        head = cursor.fetchone()
        if head is None:
            started_at = microseconds(entries[0].at)
            seq, previous = 0, genesis(writer, node, started_at)
            cursor.execute(insert_writer, (writer, node, started_at, seq, previous))
        else:
            seq, previous = head
        rows: list[tuple[object, ...]] = []
        for entry in entries:
            seq += 1
            at = microseconds(entry.at)
            digest = link(previous, canonical(writer, seq, at, entry))
            rows.append(
                (
                    writer,
                    seq,
                    at,
                    entry.tenant,
                    entry.kind,
                    entry.actor,
                    entry.object,
                    entry.trace,
                    entry.data,
                    previous,
                    digest,
                )
            )
            previous = digest
        if connection.dialect.name == "sqlite":
            for statement, values in _INSERT_MANY.calls(rows):
                cursor.execute(statement, values)
        else:
            cursor.executemany(insert, rows)
        cursor.execute(move_head, (seq, previous, writer))
    finally:
        cursor.close()
    return [(writer, seq - len(rows) + number + 1) for number in range(len(rows))]


def _writer(connection: sa.Connection, node: str) -> str:
    """Return the name of the chain that this connection appends to.

    SQLite has one writer at a time, so one chain does for all processes. On PostgreSQL every
    connection that writes holds a chain of its own, so that no transaction waits for another's
    commit: the first number whose advisory lock is free. The lock ends with the connection,
    the number is used again, and the chains stay few.
    """
    if connection.dialect.name == "sqlite":
        return node
    writer: str | None = connection.info.get(_WRITER)
    if writer is None:
        for slot in range(1, _SLOTS):
            writer = f"{node}/{slot}"
            taken = connection.execute(
                sa.text("SELECT pg_try_advisory_lock(:class, hashtext(:writer))"),
                {"class": _SLOT_LOCK, "writer": writer},
            ).scalar_one()
            if taken:
                break
        connection.info[_WRITER] = writer
    assert writer is not None
    return writer


def find_heads(connection: sa.Connection) -> list[Head]:
    """Return every chain and its head."""
    return [Head(*row) for row in connection.execute(_WRITERS)]


def find_strangers(connection: sa.Connection, known: Iterable[str]) -> list[str]:
    """Return the writers that have rows but are not ``known``: nobody's chain."""
    names = set(known)
    found = []
    after = ""
    while (name := connection.execute(_NEXT_WRITER, {"after": after}).scalar()) is not None:
        if name not in names:
            found.append(name)
        after = name
    return found


@dataclass(frozen=True, slots=True)
class Extent:
    """What there is to verify, in one snapshot."""

    heads: tuple[Head, ...]
    bounds: dict[str, tuple[int, int]]  # writer -> lowest and highest seq of its rows
    strangers: tuple[str, ...]
    checkpoint: int  # the newest


def extent(connection: sa.Connection) -> Extent:
    """Return what there is to verify."""
    heads = tuple(find_heads(connection))
    newest = newest_checkpoint(connection)
    return Extent(
        heads,
        {head.writer: bounds(connection, head.writer) for head in heads},
        tuple(find_strangers(connection, (head.writer for head in heads))),
        newest.id if newest else 0,
    )


def bounds(connection: sa.Connection, writer: str) -> tuple[int, int]:
    """Return the lowest and the highest seq of a writer's rows, (0, 0) without rows."""
    low, high = connection.execute(_BOUNDS, {"writer": writer}).one()
    return (low or 0, high or 0)


def find_raw(
    connection: sa.Connection, writer: str, after: int, until: int, limit: int
) -> list[RawRecord]:
    """Return a page of a chain as it was hashed: after < seq <= until."""
    rows = connection.execute(
        _ROWS, {"writer": writer, "after": after, "until": until, "limit": limit}
    )
    return [RawRecord(*row) for row in rows]


def check_page(
    connection: sa.Connection,
    writer: str,
    after: int,
    until: int,
    limit: int,
    verifier: ChainVerifier,
) -> int | None:
    """Feed a page of a chain to its verifier; return where to go on, None at the end."""
    rows = find_raw(connection, writer, after, until, limit)
    for row in rows:
        text = canonical(writer, row.seq, row.at, row)
        if not verifier.check(row.seq, row.at, text, row.hash, row.previous):
            found = verifier.finding
            if found is not None and found.problem == "altered" and found.seq == row.seq:
                # Two neighbours that changed places: each is whole but for its number.
                for place in (row.seq + 1, row.seq - 1):
                    if link(row.previous, canonical(writer, place, row.at, row)) == row.hash:
                        verifier.was_moved()
            return None
    return rows[-1].seq if len(rows) == limit else None


def find_after(connection: sa.Connection, writer: str, after: int, limit: int) -> list[Record]:
    """Return a page of a chain."""
    rows = connection.execute(_AFTER_CURSOR, {"writer": writer, "after": after, "limit": limit})
    return [Record(*row) for row in rows]


def by_trace(connection: sa.Connection, trace: str) -> list[Record]:
    """Return the records that carry an explain id, oldest first."""
    return [Record(*row) for row in connection.execute(_BY_TRACE, {"trace": trace})]


def find(
    connection: sa.Connection,
    tenant: str | None,
    after: tuple[datetime, str, int] | None,
    limit: int,
    newest_first: bool = False,
) -> list[Record]:
    """Return a page of records by time, of one tenant or (None) of all.

    ``after`` is (at, writer, seq) of the last record of the page before.
    """
    order = (journal.c.at, journal.c.writer, journal.c.seq)
    statement = _RECORDS.limit(limit)
    if tenant is not None:
        statement = statement.where(journal.c.tenant == tenant)
    if after is not None:
        place = sa.tuple_(*(sa.literal(v, c.type) for v, c in zip(after, order, strict=True)))
        here = sa.tuple_(*order)
        statement = statement.where(here < place if newest_first else here > place)
    statement = statement.order_by(*(c.desc() for c in order) if newest_first else order)
    return [Record(*row) for row in connection.execute(statement)]


def newest_checkpoint(connection: sa.Connection) -> Checkpoint | None:
    """Return the last checkpoint."""
    row = connection.execute(_NEWEST_CHECKPOINT).first()
    return None if row is None else Checkpoint(*row)


def find_checkpoints(connection: sa.Connection, after: int, limit: int) -> list[Checkpoint]:
    """Return a page of checkpoints, oldest first."""
    rows = connection.execute(_CHECKPOINTS, {"after": after, "limit": limit})
    return [Checkpoint(*row) for row in rows]


def find_sealing_keys(connection: sa.Connection) -> list[str]:
    """Return the ids of all keys that have signed checkpoints."""
    return list(connection.execute(_SEALING_KEYS).scalars())


def insert_checkpoint(connection: sa.Connection, checkpoint: Checkpoint) -> bool:
    """Add a checkpoint; False if another was added since its predecessor was read."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_SEAL_LOCK})"))
    newest = newest_checkpoint(connection)
    if (newest.id if newest else 0) != checkpoint.id - 1:
        return False
    connection.execute(
        _INSERT_CHECKPOINT,
        {
            "id": checkpoint.id,
            "at": checkpoint.at,
            "heads": checkpoint.heads,
            "previous": checkpoint.previous,
            "hash": checkpoint.hash,
            "key_id": checkpoint.key_id,
            "signature": checkpoint.signature,
        },
    )
    return True


def find_cursors(connection: sa.Connection, subscriber: str) -> dict[str, int]:
    """Return how far a subscriber has got in each chain."""
    return {row.writer: row.seq for row in connection.execute(_CURSORS, {"subscriber": subscriber})}


def hold_cursors(connection: sa.Connection, subscriber: str) -> None:
    """Make whoever else moves this subscriber's cursors wait until this transaction ends."""
    if connection.dialect.name == "postgresql":
        # SQLite has one writer anyway.
        connection.execute(_HOLD_CURSORS, {"class": _CURSOR_LOCK, "subscriber": subscriber})


def move_cursors(connection: sa.Connection, subscriber: str, reached: dict[str, int]) -> None:
    """Remember how far a subscriber has got."""
    for writer, seq in sorted(reached.items()):
        connection.execute(_MOVE_CURSOR, {"subscriber": subscriber, "writer": writer, "seq": seq})
