"""Outages: the database killed, frozen, locked, full; a process killed in mid-commit."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.contract.test_database import count, names, put
from tests.postgres import Cluster, start_cluster
from tests.support import Clock
from tmad.errors import Fault, FaultCode
from tmad.storage import changes, sqlite
from tmad.storage import database as database_module
from tmad.storage.changes import Changes
from tmad.storage.database import Database, migrate


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of one's own, to be killed."""
    cluster = start_cluster()
    yield cluster
    cluster.remove()


def unavailable(loop: Loop, work: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        loop.run(work)
    assert caught.value.code is FaultCode.UNAVAILABLE
    assert caught.value.retry_after
    return caught.value


def test_G_FAULT_2_a_killed_postmaster_is_answered_and_heals(
    loop: Loop, cluster: Cluster, clock: Clock
) -> None:
    database = Database(cluster.database(), reactor=loop.reactor, clock=clock)
    source = Changes(database)
    heard: list[str] = []
    source.listen("status", heard.append)
    loop.run(database.write(put, "before"))
    loop.run(database.write(changes.record, "status", "1:a"))
    loop.run(database.lookup(count))
    loop.run(source.catch_up())
    busiest = 0
    for outage in range(3):
        cluster.kill()
        begin = time.monotonic()
        unavailable(loop, database.write(put, "during"))
        unavailable(loop, database.read(count))
        unavailable(loop, database.lookup(count))
        unavailable(loop, source.catch_up())
        assert time.monotonic() - begin < 5
        cluster.start()
        heard.clear()
        # The first of each kind already succeeds: nobody else pays for the dead connections.
        loop.run(database.write(put, f"after {outage}"))
        assert "during" not in loop.run(database.read(names))
        assert loop.run(database.lookup(count)) == 2 + outage
        loop.run(source.catch_up())
        assert heard == ["*"]
        busiest = max(busiest, cluster.connections())
    assert busiest <= 12
    loop.run(database.close())
    time.sleep(0.2)
    assert cluster.connections() == 0


def test_G_FAULT_2_a_connection_that_dies_in_a_transaction_loses_only_that(
    loop: Loop, cluster: Cluster
) -> None:
    database = Database(cluster.database(), reactor=loop.reactor, threads=1)

    def suicide(connection: sa.Connection) -> None:
        put(connection, "lost")
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    unavailable(loop, database.write(suicide))
    loop.run(database.write(put, "kept"))
    assert loop.run(database.read(names)) == {"kept"}
    loop.run(database.close())


def test_G_FAULT_2_a_frozen_server_is_answered_in_time_and_heals(
    loop: Loop, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("WRITE_PATIENCE", "READ_PATIENCE", "LOOKUP_PATIENCE"):
        monkeypatch.setattr(database_module, patience, 1.0)
    database = Database(cluster.database(), reactor=loop.reactor, threads=1)
    loop.run(database.write(put, "before"))
    cluster.freeze()
    try:
        begin = time.monotonic()
        unavailable(loop, database.write(put, "during"))
        unavailable(loop, database.lookup(count))
        assert time.monotonic() - begin < 5
    finally:
        cluster.thaw()
    end = time.monotonic() + 10
    while True:
        try:
            loop.run(database.write(put, f"after {time.monotonic()}"))
            break
        except Fault:
            assert time.monotonic() < end, "it did not heal within ten seconds"
    loop.run(database.close())


def test_a_statement_that_takes_too_long_is_unavailable(
    loop: Loop, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tmad.storage.postgresql._WRITE_STATEMENT", 200)
    database = Database(postgres.database(), reactor=loop.reactor)

    def sleepy(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT pg_sleep(30)"))

    begin = time.monotonic()
    assert "57014" in unavailable(loop, database.write(sleepy)).private
    assert time.monotonic() - begin < 3
    loop.run(database.close())


def test_another_process_that_holds_the_lock_is_waited_for_only_so_long(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MILLISECONDS", 400)
    url = f"sqlite:///{tmp_path}/tmad.db"
    migrate(url)
    database = Database(url, reactor=loop.reactor)
    other = sqlite3.connect(tmp_path / "tmad.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begin = time.monotonic()
    assert "SQLITE_BUSY" in unavailable(loop, database.write(put, "a")).private
    assert 0.3 < time.monotonic() - begin < 3
    assert loop.run(database.read(count)) == 0  # readers do not wait
    waiting = ensureDeferred(database.write(put, "b"))
    other.execute("COMMIT")
    loop.run(waiting)
    other.close()
    loop.run(database.close())


def test_a_commit_that_fails_acknowledges_nothing(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/tmad.db"
    migrate(url)
    database = Database(url, reactor=loop.reactor)
    loop.run(database.write(put, "before"))

    def refuse(self: object, connection: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.engine.default.DefaultDialect.do_commit", refuse)
        called: list[int] = []

        def announced(connection: sa.Connection, name: str) -> None:
            put(connection, name)
            database.after_commit(connection, lambda: called.append(1))

        work = [ensureDeferred(database.write(announced, f"n{i}")) for i in range(5)]
        results = loop.run(DeferredList(work, consumeErrors=True))
    for success, failure in results:
        error: Any = failure
        assert not success
        assert error.value.code is FaultCode.UNAVAILABLE
    assert called == []
    loop.run(database.write(put, "after"))
    assert loop.run(database.read(names)) == {"before", "after"}
    loop.run(database.close())


def test_G_FAULT_5_a_full_disk_refuses_and_recovers(loop: Loop, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tmad.db"
    migrate(url)
    database = Database(url, reactor=loop.reactor)
    loop.run(database.write(put, "before"))

    def limit(connection: sa.Connection, pages: int) -> None:
        # SQLite's own way to be full: no page more than the file has already.
        connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))

    def big(connection: sa.Connection) -> None:
        for number in range(100):
            put(connection, f"{number}" * 2_000)

    loop.run(database.write(limit, 1))
    assert "SQLITE_FULL" in unavailable(loop, database.write(big)).private
    assert loop.run(database.lookup(count)) == 1  # who only reads goes on
    loop.run(database.write(limit, 1_000_000))
    loop.run(database.write(put, "after"))
    assert loop.run(database.read(names)) == {"before", "after"}
    loop.run(database.close())


def test_a_transaction_that_sqlite_gave_up_is_nobody_s_success(loop: Loop, tmp_path: Path) -> None:
    """RAISE(ROLLBACK) does what a full disk may do: it takes the neighbours' work along."""
    url = f"sqlite:///{tmp_path}/tmad.db"
    migrate(url)
    database = Database(url, reactor=loop.reactor)

    def forbid(connection: sa.Connection) -> None:
        connection.execute(
            sa.text(
                "CREATE TRIGGER gone BEFORE INSERT ON leases WHEN NEW.name = 'bad'"
                " BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END"
            )
        )

    loop.run(database.write(forbid))
    gate, started = threading.Event(), threading.Event()

    def block(connection: sa.Connection) -> None:
        started.set()
        gate.wait(10)

    blocked = ensureDeferred(database.write(block))
    assert started.wait(10)
    work = [ensureDeferred(database.write(put, name)) for name in ("a", "bad", "c")]
    gate.set()
    loop.run(blocked)
    results = loop.run(DeferredList(work, consumeErrors=True))
    kept = loop.run(database.read(names))
    assert not results[1][0]
    for name, (success, _) in zip(("a", "bad", "c"), results, strict=True):
        assert success == (name in kept)
    loop.run(database.write(put, "after"))
    loop.run(database.close())


_WRITER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from tests.contract.test_database import put
from tmad.errors import Fault
from tmad.storage.database import Database
database = Database(sys.argv[1], reactor=reactor)
numbers = iter(range(10**9))
async def write_for_ever():
    while True:
        number = next(numbers)
        try:
            await database.write(put, f"{sys.argv[2]}-{number}")
        except Fault as fault:  # what is refused is not promised
            print(fault, fault.private, file=sys.stderr)
            continue
        sys.stdout.write(f"{sys.argv[2]}-{number}\\n")
        sys.stdout.flush()
for _ in range(32):
    reactor.callWhenRunning(lambda: ensureDeferred(write_for_ever()).addErrback(print))
reactor.run()
"""


def killed_in_mid_work(url: str, tag: str, seconds: float) -> set[str]:
    """Write, be killed with SIGKILL, and return what had been acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, url, tag],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(seconds)
        os.kill(writer.pid, signal.SIGKILL)
        said = first + writer.stdout.read()
    return {line for line in said.splitlines(keepends=True) if line.endswith("\n")}


def assert_nothing_is_lost(
    loop: Loop, open_database: Callable[..., Database], url: str, rounds: int
) -> None:
    chance = random.Random(20261123)
    promised: set[str] = set()
    for number in range(rounds):
        said = killed_in_mid_work(url, f"r{number}", chance.uniform(0.02, 0.4))
        promised |= {line.strip() for line in said}
        database = open_database(reactor=None)
        assert promised <= loop.run(database.read(names))
        database.close()
    assert len(promised) > rounds * 10


def test_G_FAULT_1_kill_9_loses_nothing_that_was_acknowledged(
    loop: Loop, open_database: Callable[..., Database], database_url: str
) -> None:
    assert_nothing_is_lost(loop, open_database, database_url, 3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_G_FAULT_1_kill_9_a_hundred_times(
    loop: Loop, open_database: Callable[..., Database], database_url: str
) -> None:
    assert_nothing_is_lost(loop, open_database, database_url, 100)
