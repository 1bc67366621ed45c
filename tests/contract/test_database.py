"""The database: transactions, durability, back-pressure, on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tmad.errors import Fault, FaultCode
from tmad.storage import database as database_module
from tmad.storage import leases
from tmad.storage.database import Database
from tmad.storage.tables import leases as table

_COUNT = sa.select(sa.func.count()).select_from(table)


def put(connection: sa.Connection, name: str) -> str:
    connection.execute(
        sa.text("INSERT INTO leases (name, holder, token, expires_at) VALUES (:n, 'h', 1, 0)"),
        {"n": name},
    )
    return name


def count(connection: sa.Connection) -> int:
    return int(connection.execute(_COUNT).scalar_one())


def put_and_raise(connection: sa.Connection, name: str) -> None:
    put(connection, name)
    raise Fault(FaultCode.REJECTED, "no")


def names(connection: sa.Connection) -> set[str]:
    return set(connection.execute(sa.select(table.c.name)).scalars())


def test_a_write_is_seen_by_every_reader_once_it_is_acknowledged(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    first, second = open_database(), open_database()
    assert loop.run(first.write(put, "a")) == "a"
    assert loop.run(first.read(count)) == 1
    assert loop.run(first.lookup(count)) == 1
    assert loop.run(second.lookup(count)) == 1
    assert loop.run(second.read(count)) == 1


def test_many_writes_at_once_all_arrive(loop: Loop, database: Database) -> None:
    async def all_of_them() -> list[str]:
        waiting = [ensureDeferred(database.write(put, f"n{i}")) for i in range(200)]
        return [await one for one in waiting]

    assert loop.run(all_of_them()) == [f"n{i}" for i in range(200)]
    assert loop.run(database.read(names)) == {f"n{i}" for i in range(200)}


def test_a_function_that_raises_undoes_itself_and_not_its_neighbours(
    loop: Loop, database: Database
) -> None:
    work = [ensureDeferred(database.write(put, "a"))]
    work += [ensureDeferred(database.write(put_and_raise, "b"))]
    work += [ensureDeferred(database.write(put, "c"))]
    results = loop.run(DeferredList(work, consumeErrors=True))
    assert [success for success, _ in results] == [True, False, True]
    error: Any = results[1][1]
    assert isinstance(error.value, Fault)
    assert error.value.code is FaultCode.REJECTED
    assert loop.run(database.read(names)) == {"a", "c"}


def test_integrity_errors_reach_the_storage_function(loop: Loop, database: Database) -> None:
    def twice(connection: sa.Connection) -> str:
        put(connection, "x")
        try:
            put(connection, "x")
        except sa.exc.IntegrityError:
            raise Fault(FaultCode.CONFLICT, "taken") from None
        return "not reached"

    with pytest.raises(Fault) as caught:
        loop.run(database.write(twice))
    assert caught.value.code is FaultCode.CONFLICT
    assert loop.run(database.read(count)) == 0


def test_what_went_on_after_a_failed_statement_is_kept_or_refused_never_lost(
    loop: Loop, database: Database, dialect: str
) -> None:
    def careless(connection: sa.Connection) -> None:
        put(connection, "a")
        with contextlib.suppress(sa.exc.IntegrityError):
            put(connection, "a")

    def careful(connection: sa.Connection) -> None:
        put(connection, "b")
        with contextlib.suppress(sa.exc.IntegrityError), connection.begin_nested():
            put(connection, "b")
        put(connection, "c")

    if dialect == "postgresql":
        with pytest.raises(Fault, match="not available"):
            loop.run(database.write(careless))
        assert loop.run(database.read(names)) == set()
    else:
        loop.run(database.write(careless))
        assert loop.run(database.read(names)) == {"a"}
    loop.run(database.write(careful))
    assert loop.run(database.read(names)) >= {"b", "c"}


def test_dry_run_returns_the_effect_and_keeps_nothing(loop: Loop, database: Database) -> None:
    called: list[str] = []

    def announced(connection: sa.Connection) -> int:
        put(connection, "a")
        database.after_commit(connection, lambda: called.append("committed"))
        return count(connection)

    assert loop.run(database.write(announced, dry_run=True)) == 1
    assert loop.run(database.read(count)) == 0
    assert called == []
    assert loop.run(database.write(announced)) == 1
    assert called == ["committed"]


def test_after_commit_runs_in_the_reactor_thread_and_only_after_the_commit(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    database, other = open_database(), open_database(reactor=None)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        job = ensureDeferred(other.read(count))
        job.addCallback(lambda number: seen.append((threading.get_ident(), number)))

    def announced(connection: sa.Connection, name: str = "a") -> None:
        put(connection, name)
        database.after_commit(connection, look)

    def failing(connection: sa.Connection) -> None:
        announced(connection, "b")
        raise Fault(FaultCode.REJECTED, "no")

    loop.run(database.write(announced))
    assert seen == [(threading.get_ident(), 1)]
    with pytest.raises(Fault):
        loop.run(database.write(failing))
    assert len(seen) == 1


def test_readers_cannot_write(loop: Loop, database: Database) -> None:
    for way in (database.read, database.lookup):
        with pytest.raises(Fault):
            loop.run(way(put, "a"))
    assert loop.run(database.read(count)) == 0


def test_a_read_sees_one_snapshot(loop: Loop, open_database: Callable[..., Database]) -> None:
    database, other = open_database(), open_database(reactor=None)
    counts: list[int] = []

    def slow(connection: sa.Connection) -> None:
        counts.append(count(connection))
        written.wait(10)
        counts.append(count(connection))

    written = threading.Event()
    reading = ensureDeferred(database.read(slow))
    loop.turn(lambda: bool(counts))
    ensureDeferred(other.write(put, "a"))
    written.set()
    loop.run(reading)
    assert counts == [0, 0]
    assert loop.run(database.read(count)) == 1


def test_a_function_must_not_end_its_transaction(loop: Loop, database: Database) -> None:
    def commits(connection: sa.Connection) -> None:
        put(connection, "a")
        connection.commit()

    with pytest.raises(RuntimeError, match="must not end"):
        loop.run(database.write(commits))
    loop.run(database.write(put, "b"))


def test_a_full_queue_is_refused_with_a_time_to_come_back(
    loop: Loop, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "QUEUE_LIMIT", 3)
    database = open_database(threads=1)
    gate = threading.Event()
    started = threading.Event()

    def blocked(connection: sa.Connection) -> None:
        started.set()
        gate.wait(10)

    first = ensureDeferred(database.write(blocked))
    started.wait(10)
    waiting = [ensureDeferred(database.write(put, f"n{i}")) for i in range(3)]
    with pytest.raises(Fault) as caught:
        loop.run(database.write(put, "one too many"))
    assert caught.value.code is FaultCode.UNAVAILABLE
    assert caught.value.retry_after == 1.0
    assert caught.value.rule == "database.queue"
    gate.set()
    loop.run(DeferredList([first, *waiting]))
    assert loop.run(database.read(count)) == 3


def test_a_job_without_an_outcome_is_answered_in_time(
    loop: Loop, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WRITE_PATIENCE", 0.3)
    database = open_database(threads=1)
    gate = threading.Event()
    started = threading.Event()

    def blocked(connection: sa.Connection) -> None:
        started.set()
        gate.wait(10)

    slow = ensureDeferred(database.write(blocked))
    started.wait(10)
    queued = ensureDeferred(database.write(put, "never"))
    begin = time.monotonic()
    results = loop.run(DeferredList([slow, queued], consumeErrors=True))
    assert time.monotonic() - begin < 2
    for success, failure in results:
        error: Any = failure
        assert not success
        assert error.value.code is FaultCode.UNAVAILABLE
    gate.set()
    # The one that had not begun never runs.
    loop.run(database.write(put, "later"))
    assert loop.run(database.read(names)) == {"later"}


def test_G_LOAD_6_a_busy_reactor_hands_the_interpreter_over_quickly(
    open_database: Callable[..., Database],
) -> None:
    """Beside a busy reactor this is worth a factor of four (benchmarks/database.py)."""
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        open_database()
        assert sys.getswitchinterval() < 0.001
        sys.setswitchinterval(0.00005)
        open_database()
        assert sys.getswitchinterval() < 0.0001  # somebody wanted it even shorter
    finally:
        sys.setswitchinterval(before)


def test_closing_finishes_what_waits_and_refuses_the_rest(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    waiting = [ensureDeferred(database.write(put, f"n{i}")) for i in range(20)]
    closing = database.close()
    with pytest.raises(Fault) as caught:
        loop.run(database.write(put, "late"))
    assert caught.value.code is FaultCode.UNAVAILABLE
    loop.run(closing)
    loop.run(DeferredList(waiting, fireOnOneErrback=True))
    assert loop.run(open_database().read(count)) == 20


def test_two_processes_write_without_losing_anything(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    databases = [open_database(), open_database()]
    work = [ensureDeferred(databases[i % 2].write(put, f"n{i}")) for i in range(100)]
    results = loop.run(DeferredList(work, fireOnOneErrback=True))
    assert len(results) == 100
    assert loop.run(databases[0].read(count)) == 100


def test_the_inline_database_behaves_alike(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    database = open_database(reactor=None)
    assert loop.run(database.write(put, "a")) == "a"
    with pytest.raises(Fault):
        loop.run(database.write(put_and_raise, "b"))
    loop.run(database.write(put, "c", dry_run=True))
    assert loop.run(database.read(names)) == {"a"}
    assert loop.run(database.lookup(count)) == 1


def test_a_paused_lease_holder_can_do_no_harm(
    loop: Loop, open_database: Callable[..., Database], clock: Any
) -> None:
    database, other = open_database(), open_database()

    def take(connection: sa.Connection, holder: str) -> leases.Lease | None:
        return leases.acquire(connection, "crl", holder, 30, clock())

    def guarded(connection: sa.Connection, lease: leases.Lease) -> None:
        leases.assert_held(connection, lease, clock())
        put(connection, f"work of {lease.holder}")

    paused = loop.run(database.write(take, "old"))
    assert paused is not None
    assert loop.run(other.write(take, "new")) is None
    loop.run(database.write(guarded, paused))
    clock.advance(seconds=31)
    # Not taken over yet, but over: what it protects is no longer done.
    with pytest.raises(Fault) as caught:
        loop.run(database.write(guarded, paused))
    assert caught.value.rule == "lease.lost"
    current = loop.run(other.write(take, "new"))
    assert current is not None
    assert current.token == paused.token + 1
    with pytest.raises(Fault):
        loop.run(database.write(guarded, paused))
    assert loop.run(database.write(leases.renew, paused, 30.0, clock())) is None
    loop.run(database.write(leases.release, paused, clock()))  # releases nothing of the other
    loop.run(other.write(guarded, current))
    loop.run(other.write(leases.release, current, clock()))
    again = loop.run(database.write(take, "old"))
    assert again is not None
    assert again.token == current.token + 1
    assert loop.run(database.read(names)) == {"crl", "work of old", "work of new"}


def test_an_iterator_over_rows_does_not_leave_its_transaction(
    loop: Loop, database: Database
) -> None:
    def lazy(connection: sa.Connection) -> Iterator[int]:
        yield connection.execute(sa.text("SELECT 1")).scalar_one()

    with pytest.raises(TypeError, match="not an iterator"):
        loop.run(database.read(lazy))
