"""A hot standby of PostgreSQL: it reads as any database does, and says why it takes no changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from tests.contract.test_snmp_databases import access
from tests.postgres import Cluster, start_cluster
from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import utc_now
from tmad.identity.actors import Actor
from tmad.storage import changes, leases
from tmad.storage.database import Database

Pair = tuple[Cluster, Cluster]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary and its standby, which gives queries no time to finish first."""
    primary = start_cluster()
    standby = primary.standby(max_standby_streaming_delay="0")
    yield primary, standby
    standby.remove()
    primary.remove()


def test_it_shows_what_the_primary_has_committed(pair: Pair) -> None:
    primary, standby = pair
    url = primary.database()
    first = Database(url)
    drive(first.write(changes.record, "people", "default/alice"))
    standby.replay(primary)
    second = Database(standby.follow(url))
    news = drive(second.lookup(changes.since, 0))
    assert (news.continuous, news.changes) == (True, (("people", "default/alice"),))
    caches = changes.Changes(second)
    heard: list[str] = []
    caches.listen("people", heard.append)
    drive(caches.catch_up())
    drive(first.write(changes.record, "people", "default/bob"))
    standby.replay(primary)
    drive(caches.catch_up())
    assert heard == ["default/alice", "default/bob"]
    first.close()
    second.close()


def test_a_write_is_refused_in_words_and_reads_go_on(pair: Pair) -> None:
    primary, standby = pair
    url = primary.database()
    standby.replay(primary)
    database = Database(standby.follow(url))
    with pytest.raises(Fault, match="read-only standby") as raised:
        drive(database.write(leases.acquire, "timers", "me", 12.0, utc_now()))
    assert raised.value.code is FaultCode.UNAVAILABLE
    assert raised.value.rule == "database.standby"
    assert drive(database.read(changes.newest, "people")) == 0
    database.close()


def test_it_takes_changes_as_soon_as_it_is_promoted() -> None:
    primary = start_cluster()
    standby = primary.standby()
    url = primary.database()
    standby.replay(primary)
    database = Database(standby.follow(url))
    with pytest.raises(Fault, match="read-only standby"):
        drive(database.write(changes.record, "people", "default/alice"))
    primary.kill()
    standby.promote()
    drive(database.write(changes.record, "people", "default/alice"))
    assert drive(database.lookup(changes.newest, "people")) >= 1
    database.close()
    standby.remove()
    primary.remove()


def test_a_read_that_replay_cancels_is_done_again(pair: Pair) -> None:
    primary, standby = pair
    url = primary.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE busy AS SELECT 1 AS number")
    standby.replay(primary)
    database = Database(standby.follow(url))
    attempts: list[float] = []

    def slowly(connection: sa.Connection) -> int:
        attempts.append(time.monotonic())
        connection.execute(sa.text("SELECT number FROM busy"))
        if len(attempts) == 1:
            disturb.start()
        connection.execute(sa.text("SELECT pg_sleep(2)"))
        found: int = connection.execute(sa.text("SELECT number FROM busy")).scalar_one()
        return found

    def disturbance() -> None:
        # The rows that the read has seen go away on the primary, and for good.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE busy SET number = number + 1")
            connection.execute("VACUUM FULL busy")

    disturb = threading.Thread(target=disturbance)
    assert drive(database.read(slowly)) == 2
    disturb.join()
    assert len(attempts) == 2
    database.close()


def test_an_snmp_engine_counts_seconds_where_it_cannot_count_boots(pair: Pair) -> None:
    primary, standby = pair
    url, clock = primary.database(), Clock()
    first = Database(url, clock=clock)
    state = drive(access(first, clock).boot())
    drive(access(first, clock).add_user(Actor.administrator("local:test"), "*", "noc"))
    standby.replay(primary)
    second = Database(standby.follow(url), clock=clock)
    clock.advance(seconds=100)
    again = drive(access(second, clock).boot())
    assert (again.engine_id, again.boots, again.age) == (state.engine_id, 1, 100.0)
    assert list(drive(access(second, clock).current()).users) == [b"noc"]
    # A node that was never anything but a standby has an engine, too.
    assert drive(access(second, clock, "n2").boot()).boots == 1
    first.close()
    second.close()
