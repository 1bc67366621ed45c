"""Brief writes: what `write` promises, from the reactor's thread, and nobody waits there."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.contract.test_database import count, names, put, put_and_raise
from tmad.errors import Fault, FaultCode
from tmad.storage import database as database_module
from tmad.storage.database import Database, migrate
from tmad.storage.session import GroupSession


@pytest.fixture
def file(tmp_path: Path) -> Path:
    migrate(f"sqlite:///{tmp_path}/tmad.db")
    return tmp_path / "tmad.db"


@pytest.fixture
def on_file(loop: Loop, file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{file}", reactor=loop.reactor)
    yield database
    loop.run(database.close())


def where(connection: sa.Connection, name: str) -> str:
    put(connection, name)
    return threading.current_thread().name


def test_a_brief_write_is_seen_by_every_reader_once_it_is_acknowledged(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    first, second = open_database(), open_database()
    assert loop.run(first.write_briefly(put, "a")) == "a"
    assert loop.run(first.lookup(count)) == 1
    assert loop.run(second.read(count)) == 1


def test_many_brief_and_other_writes_at_once_all_arrive(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    databases = [open_database(), open_database()]

    async def all_of_them() -> set[str]:
        waiting = [
            ensureDeferred(write(put, f"{kind}{i}.{number}"))
            for i in range(60)
            for number, database in enumerate(databases)
            for kind, write in (("b", database.write_briefly), ("w", database.write))
        ]
        return {await one for one in waiting}

    written = loop.run(all_of_them())
    assert len(written) == 240
    assert loop.run(databases[0].read(names)) == written


def test_a_brief_one_that_raises_undoes_itself_and_not_its_neighbours(
    loop: Loop, database: Database
) -> None:
    work = [ensureDeferred(database.write_briefly(put, "first"))]
    work += [ensureDeferred(database.write_briefly(put_and_raise, "b"))]
    work += [ensureDeferred(database.write_briefly(put, "c"))]
    results = loop.run(DeferredList(work, consumeErrors=True))
    assert [success for success, _ in results] == [True, False, True]
    error: Any = results[1][1]
    assert error.value.code is FaultCode.REJECTED
    assert loop.run(database.read(names)) == {"first", "c"}


def test_a_brief_one_that_raises_alone_leaves_the_lock_to_others(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    first, second = open_database(), open_database()
    with pytest.raises(Fault, match="no"):
        loop.run(first.write_briefly(put_and_raise, "b"))
    loop.run(second.write(put, "c"))
    loop.run(first.write_briefly(put, "d"))
    assert loop.run(first.read(names)) == {"c", "d"}


def test_what_is_to_follow_a_brief_commit_follows_it(loop: Loop, database: Database) -> None:
    told: list[int] = []

    def announced(connection: sa.Connection, name: str, fails: bool) -> None:
        put(connection, name)
        database.after_commit(
            connection, lambda: told.append(loop.run(database.lookup(count), seconds=1))
        )
        if fails:
            raise Fault(FaultCode.REJECTED, "no")

    loop.run(database.write_briefly(announced, "a", False))
    with pytest.raises(Fault, match="no"):
        loop.run(database.write_briefly(announced, "b", True))
    assert told == [1]


def test_the_statements_are_run_where_the_reactor_is(loop: Loop, on_file: Database) -> None:
    assert loop.run(on_file.write_briefly(where, "a")) == threading.current_thread().name
    assert loop.run(on_file.write(where, "b")) == "database-write-0"


def test_a_lock_that_somebody_holds_is_waited_for_elsewhere(
    loop: Loop, on_file: Database, file: Path
) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    longest = 0.0
    waiting = ensureDeferred(on_file.write_briefly(where, "a"))
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        begin = time.monotonic()
        loop.reactor.iterate(0)
        longest = max(longest, time.monotonic() - begin)
    other.execute("COMMIT")
    assert loop.run(waiting) == "database-write-0"
    assert longest < 0.1  # and not the 0.3 s
    assert loop.run(on_file.write_briefly(where, "b")) == threading.current_thread().name
    other.close()


def test_a_lock_that_is_held_for_a_moment_is_come_back_to(
    loop: Loop, on_file: Database, file: Path
) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = ensureDeferred(on_file.write_briefly(where, "a"))
    assert on_file.waiting["database-brief"] == 1
    other.execute("COMMIT")
    other.close()
    assert loop.run(waiting) == threading.current_thread().name


def test_those_in_the_other_queue_go_first(loop: Loop, on_file: Database) -> None:
    gate = threading.Event()
    order: list[str] = []

    def slow(connection: sa.Connection) -> None:
        gate.wait(5)
        order.append("slow")

    first = ensureDeferred(on_file.write(slow))
    second = ensureDeferred(on_file.write_briefly(put, "a"))
    second.addCallback(lambda _: order.append("brief"))
    gate.set()
    loop.run(DeferredList([first, second], fireOnOneErrback=True))
    assert order == ["slow", "brief"]


def test_a_brief_commit_that_fails_acknowledges_nothing(
    loop: Loop, on_file: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.run(on_file.write_briefly(put, "before"))

    def refuse(self: object, connection: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.engine.default.DefaultDialect.do_commit", refuse)
        work = [ensureDeferred(on_file.write_briefly(put, f"n{i}")) for i in range(9)]
        results = loop.run(DeferredList(work, consumeErrors=True))
        assert not on_file.is_writing
    for success, failure in results:
        error: Any = failure
        assert not success
        assert error.value.code is FaultCode.UNAVAILABLE
    loop.run(on_file.write_briefly(put, "after"))
    assert on_file.is_writing
    assert loop.run(on_file.read(names)) == {"before", "after"}


def test_G_FAULT_5_a_full_disk_refuses_a_brief_write_and_it_recovers(
    loop: Loop, on_file: Database
) -> None:
    def fill(connection: sa.Connection, pages: int) -> None:
        connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
        for number in range(100):
            put(connection, f"big {number} " + "x" * 4_000)

    with pytest.raises(Fault) as caught:
        loop.run(on_file.write_briefly(fill, 1))
    assert caught.value.code is FaultCode.UNAVAILABLE
    assert "SQLITE_FULL" in caught.value.private
    assert not on_file.is_writing
    loop.run(on_file.write_briefly(put, "after"))
    assert on_file.is_writing
    assert loop.run(on_file.read(names)) == {"after"}


def test_G_FAULT_2_a_commit_that_hangs_is_answered_and_others_are_served(
    loop: Loop, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WRITE_PATIENCE", 0.5)
    gate = threading.Event()
    commit = GroupSession.commit

    def hangs(session: GroupSession) -> None:
        gate.wait(10)
        commit(session)

    monkeypatch.setattr(GroupSession, "commit", hangs)
    database = Database(f"sqlite:///{file}", reactor=loop.reactor)
    begin = time.monotonic()
    with pytest.raises(Fault, match="not available") as caught:
        loop.run(database.write_briefly(put, "a"))
    assert "no outcome" in caught.value.private
    assert not database.is_writing
    # The hanging one holds the lock: nobody can write, and nobody waits for ever.
    with pytest.raises(Fault, match="not available"):
        loop.run(database.write_briefly(put, "b"))
    assert time.monotonic() - begin < 5
    assert loop.run(database.read(count)) == 0
    gate.set()
    loop.turn(lambda: loop.run(database.lookup(count)) == 1)  # "a": its caller could not know
    loop.run(database.write_briefly(put, "c"))
    assert database.is_writing
    loop.run(database.close())


def test_closing_finishes_what_waits_and_refuses_what_comes(loop: Loop, file: Path) -> None:
    database = Database(f"sqlite:///{file}", reactor=loop.reactor)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = [ensureDeferred(database.write_briefly(put, f"n{i}")) for i in range(3)]
    closed = database.close()
    other.execute("COMMIT")
    results = loop.run(DeferredList(waiting, consumeErrors=True))
    assert [success for success, _ in results] == [True, True, True]
    with pytest.raises(Fault, match="not available"):
        loop.run(database.write_briefly(put, "late"))
    loop.run(closed)
    assert other.execute("SELECT count(*) FROM leases").fetchone() == (3,)
    other.close()


def test_closing_during_a_commit_waits_for_it(loop: Loop, file: Path) -> None:
    database = Database(f"sqlite:///{file}", reactor=loop.reactor)
    waiting = [ensureDeferred(database.write_briefly(put, f"n{i}")) for i in range(9)]
    closed = database.close()
    results = loop.run(DeferredList(waiting, consumeErrors=True))
    assert [success for success, _ in results] == [True] * 9
    loop.run(closed)
    with sqlite3.connect(file) as other:
        assert other.execute("SELECT count(*) FROM leases").fetchone() == (9,)
    other.close()


def test_a_function_must_not_end_a_brief_transaction(loop: Loop, on_file: Database) -> None:
    def ends(connection: sa.Connection) -> None:
        put(connection, "a")
        connection.commit()

    with pytest.raises(RuntimeError, match="must not end"):
        loop.run(on_file.write_briefly(ends))
    loop.run(on_file.write_briefly(put, "b"))
    assert "b" in loop.run(on_file.read(names))
