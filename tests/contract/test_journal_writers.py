"""The journal on both databases: chains of several writers, loss of one, delivery, triggers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.test_journal import Keys, event
from tmad.errors import Fault, FaultCode
from tmad.journal import Journal
from tmad.storage.database import Database
from tmad.storage.journal import Record
from tmad.wire.evidence import verify_export


def test_G_LOSS_6_concurrent_writers_have_whole_chains(
    loop: Loop, open_database: Callable[..., Database], clock: Clock, dialect: str
) -> None:
    keys = Keys(audit=ed25519.Ed25519PrivateKey.generate())
    journals = [Journal(open_database(), "node1", clock) for _ in range(3)]
    for _ in range(3):
        work = [ensureDeferred(journals[n % 3].write(event(n), event(n))) for n in range(60)]
        loop.run(DeferredList(work, fireOnOneErrback=True))
        assert loop.run(journals[0].seal(keys, "audit")) is not None
    report = loop.run(journals[1].verify(keys.public))
    assert report.is_intact, report.findings
    assert (report.records, report.sealed, report.checkpoints) == (360, 360, 3)
    # One chain on SQLite; on PostgreSQL one a connection that wrote, not one a process start.
    assert report.writers == 1 if dialect == "sqlite" else 2 <= report.writers <= 12

    async def export() -> bytes:
        return b"".join([line async for line in journals[2].export(keys.public)])

    exported = verify_export(io.BytesIO(loop.run(export())), keys.public)
    assert exported == report


def test_chains_are_taken_up_again_after_a_restart(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    for number in range(5):
        database = open_database(threads=1)
        journal = Journal(database, "node1", clock)
        loop.run(journal.write(event(number)))
        report = loop.run(journal.verify({}))
        assert report.is_intact
        assert (report.writers, report.records) == (1, number + 1)
        loop.run(database.close())
        if database.dialect == "postgresql":
            _wait_until_free(loop, open_database)


def _wait_until_free(loop: Loop, open_database: Callable[..., Database]) -> None:
    """PostgreSQL gives a closed connection's lock back a moment later."""

    def locked(connection: sa.Connection) -> int:
        return int(
            connection.execute(
                sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            ).scalar_one()
        )

    database = open_database(reactor=None)
    loop.turn(lambda: loop.run(database.read(locked)) == 0)
    database.close()


def test_every_subscriber_gets_every_chain_in_order(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    journals = [Journal(open_database(), "node1", clock) for _ in range(2)]
    got: list[Record] = []
    failures: list[list[Record]] = []

    def take(connection: sa.Connection, records: list[Record]) -> None:
        if got and not failures:
            failures.append(records)
            raise ConnectionError("the next process goes on here")
        got.extend(records)

    work = [ensureDeferred(journals[n % 2].write(event(n))) for n in range(50)]
    loop.run(DeferredList(work, fireOnOneErrback=True))
    # One of each chain, of which PostgreSQL has as many as there were busy connections.
    loop.run(journals[0].transfer("syslog", take, 1))
    with pytest.raises(ConnectionError):
        loop.run(journals[0].transfer("syslog", take, 1))
    while loop.run(journals[1].transfer("syslog", take, 1)):
        pass
    assert sorted(int(record.object) for record in got) == [*range(50)]
    for writer in {record.writer for record in got}:
        seqs = [record.seq for record in got if record.writer == writer]
        assert seqs == sorted(seqs)


_REFUSING_TRIGGER = {
    "sqlite": [
        "CREATE TRIGGER full BEFORE INSERT ON journal"
        " BEGIN SELECT RAISE(ABORT, 'no space for evidence'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no space for evidence'; END $$",
        "CREATE TRIGGER journal_full BEFORE INSERT ON journal"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}


def test_nothing_is_done_when_the_journal_cannot_be_written(
    loop: Loop, open_database: Callable[..., Database], clock: Clock, dialect: str
) -> None:
    database = open_database()
    journal = Journal(database, "node1", clock)
    loop.run(journal.write(event(1)))

    def forbid(connection: sa.Connection) -> None:
        for statement in _REFUSING_TRIGGER[dialect]:
            connection.execute(sa.text(statement))

    loop.run(database.write(forbid))

    def issue(connection: sa.Connection) -> str:
        connection.execute(sa.text("INSERT INTO leases VALUES ('certificate', 'h', 1, 0)"))
        with contextlib.suppress(Fault):  # somebody else's mistake: it must not help
            journal.append(connection, event(2))
        return "issued"

    def issued(connection: sa.Connection) -> Any:
        return connection.execute(sa.text("SELECT name FROM leases")).scalar()

    results = loop.run(
        DeferredList([ensureDeferred(database.write(issue)) for _ in range(3)], consumeErrors=True)
    )
    for success, failure in results:
        error: Any = failure
        assert not success
        assert error.value.code is FaultCode.UNAVAILABLE
        assert error.value.rule == "journal.unwritable"
    assert loop.run(database.read(issued)) is None
    report = loop.run(journal.verify({}))
    assert report.is_intact
    assert report.records == 1


def test_two_sealers_at_once_make_one_chain_of_checkpoints(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    keys = Keys(audit=ed25519.Ed25519PrivateKey.generate())
    journals = [Journal(open_database(), "node1", clock) for _ in range(2)]
    for number in range(5):
        loop.run(journals[0].write(event(number)))
        both = [ensureDeferred(journal.seal(keys, "audit")) for journal in journals]
        loop.run(DeferredList(both, fireOnOneErrback=True))
    report = loop.run(journals[0].verify(keys.public))
    assert report.is_intact
    assert report.checkpoints == 5
