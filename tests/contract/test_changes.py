"""Nothing cached is ever stale: changes between two Database objects and two processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.support import Clock
from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.changes import Changes
from tmad.storage.database import Database

_OTHER_PROCESS = """
import sys
from twisted.internet.defer import ensureDeferred
from tmad.storage import changes
from tmad.storage.database import Database
database = Database(sys.argv[1])
for line in sys.stdin:
    ensureDeferred(database.write(changes.record, "status", line.strip())).addBoth(print)
    sys.stdout.flush()
"""


class Cache:
    """What a cache hears."""

    def __init__(self, source: Changes, topic: str = "status") -> None:
        self.heard: list[str] = []
        source.listen(topic, self.heard.append)


def test_every_committed_change_is_delivered_before_the_cache_is_used(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    writer, reader = open_database(), open_database()
    source = Changes(reader)
    status, objects = Cache(source), Cache(source, "objects")
    loop.run(source.catch_up())
    for number in range(20):
        loop.run(writer.write(changes.record, "status", f"1:{number:x}"))
        loop.run(source.catch_up())
        assert status.heard[-1] == f"1:{number:x}"
    assert len(status.heard) == 20
    assert objects.heard == []
    loop.run(reader.write(changes.record, "objects", "default/profile/tls"))
    loop.run(source.catch_up())
    assert objects.heard == ["default/profile/tls"]
    latest = source.latest
    loop.run(source.catch_up())
    assert (len(status.heard), len(objects.heard), source.latest) == (20, 1, latest)


def test_a_change_in_another_process_is_seen_by_the_next_question(
    loop: Loop, database: Database
) -> None:
    source = Changes(database)
    cache = Cache(source)
    loop.run(source.catch_up())
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS, database.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for number in range(50):
            other.stdin.write(f"{number}\n")
            other.stdin.flush()
            assert other.stdout.readline().strip().isdecimal()  # committed and acknowledged
            loop.run(source.catch_up())
            assert cache.heard[-1:] == [str(number)]
        other.stdin.close()
    assert cache.heard == [str(number) for number in range(50)]


def test_what_is_rolled_back_is_never_announced(loop: Loop, database: Database) -> None:
    source = Changes(database)
    cache = Cache(source)
    loop.run(source.catch_up())

    def failing(connection: sa.Connection) -> None:
        changes.record(connection, "status", "1:a")
        raise Fault(FaultCode.REJECTED, "no")

    with pytest.raises(Fault):
        loop.run(database.write(failing))
    loop.run(database.write(changes.record, "status", "1:b"))
    loop.run(source.catch_up())
    # On PostgreSQL the gap in the ids may cost the cache everything, but never a change.
    assert cache.heard in (["1:b"], ["*"])
    loop.run(database.write(changes.record, "status", "1:c"))
    loop.run(source.catch_up())
    assert cache.heard[-1] == "1:c"


def test_a_slow_transaction_is_not_overtaken_and_lost(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    """The id of a transaction that commits late must not lie below one already read."""
    slow, quick = open_database(), open_database()
    source = Changes(open_database())
    cache = Cache(source)
    loop.run(quick.write(changes.record, "status", "first"))
    loop.run(source.catch_up())
    del cache.heard[:]
    recorded, gate = threading.Event(), threading.Event()

    def holding(connection: sa.Connection) -> None:
        changes.record(connection, "status", "slow")
        recorded.set()
        gate.wait(10)

    late = ensureDeferred(slow.write(holding))
    assert recorded.wait(10)
    early = ensureDeferred(quick.write(changes.record, "objects", "quick"))
    # Time enough for the quick one to commit, if nothing kept it from that.
    end = time.monotonic() + 0.5
    loop.turn(lambda: bool(early.called) or time.monotonic() > end)
    loop.run(source.catch_up())
    gate.set()
    loop.run(DeferredList([late, early], fireOnOneErrback=True))
    loop.run(source.catch_up())
    assert cache.heard == ["slow"]


def test_a_reader_that_lags_behind_pruning_drops_everything(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    database = open_database()
    source, prompt = Changes(open_database()), Changes(open_database())
    cache, kept = Cache(source), Cache(prompt)
    loop.run(database.write(changes.record, "status", "first"))
    loop.run(source.catch_up())
    loop.run(prompt.catch_up())
    del cache.heard[:], kept.heard[:]
    for number in range(5):
        loop.run(database.write(changes.record, "status", str(number)))
    loop.run(prompt.catch_up())
    clock.advance(hours=1)
    before = clock() - timedelta(minutes=30)
    assert loop.run(database.write(changes.prune, before)) == 5
    loop.run(source.catch_up())
    assert cache.heard == ["*"]
    loop.run(prompt.catch_up())
    assert kept.heard == [str(number) for number in range(5)]
    loop.run(database.write(changes.record, "status", "last"))
    loop.run(source.catch_up())
    loop.run(prompt.catch_up())
    assert (cache.heard[-1], kept.heard[-1]) == ("last", "last")


def test_more_news_than_one_page_drops_everything(
    loop: Loop, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    source = Changes(open_database())
    cache = Cache(source)
    loop.run(database.write(changes.record, "status", "first"))
    loop.run(source.catch_up())

    def flood(connection: sa.Connection) -> None:
        connection.execute(
            changes.changes.insert(),
            [{"topic": "status", "key": str(n), "at": database.now()} for n in range(12_000)],
        )

    loop.run(database.write(flood))
    loop.run(source.catch_up())
    assert cache.heard[-1] == "*"
    loop.run(database.write(changes.record, "status", "after"))
    loop.run(source.catch_up())
    assert cache.heard[-1] == "after"


def test_a_listener_that_fails_hears_it_again(loop: Loop, database: Database) -> None:
    source = Changes(database)
    heard: list[str] = []

    def failing(key: str) -> None:
        heard.append(key)
        if len(heard) == 1:
            raise RuntimeError("once")

    loop.run(source.catch_up())
    source.listen("status", failing)
    loop.run(database.write(changes.record, "status", "1:a"))
    with pytest.raises(RuntimeError):
        loop.run(source.catch_up())
    loop.run(source.catch_up())
    assert heard == ["1:a", "1:a"]


def test_callers_of_one_turn_share_a_question(
    loop: Loop, database: Database, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Changes(database)
    loop.run(source.catch_up())
    asked: list[int] = []
    real = changes.since

    def counting(connection: sa.Connection, last: int) -> changes.News:
        asked.append(last)
        return real(connection, last)

    monkeypatch.setattr(changes, "since", counting)
    loop.run(database.write(changes.record, "status", "1:a"))
    loop.run(
        DeferredList([ensureDeferred(source.catch_up()) for _ in range(100)], fireOnOneErrback=True)
    )
    assert len(asked) == 1
    loop.run(source.catch_up())
    # SQLite knows without a question that nothing has changed.
    assert len(asked) == (1 if dialect == "sqlite" else 2)
