"""Both databases behind one fixture, and a reactor that a test turns by hand."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from tests.postgres import Cluster, start_cluster
from tests.support import Clock
from tmad.storage.database import Database, migrate

T = TypeVar("T")


class Loop:
    """A real reactor that runs only while a test waits for something."""

    def __init__(self) -> None:
        self.reactor: Any = SelectReactor()
        self.reactor.startRunning()

    def run(self, work: Coroutine[Deferred[Any], Any, T] | Deferred[T], seconds: float = 20.0) -> T:
        """Turn the reactor until the work is done; return its result or raise its exception."""
        outcome: list[Any] = []
        (work if isinstance(work, Deferred) else ensureDeferred(work)).addBoth(outcome.append)
        end = time.monotonic() + seconds
        while not outcome:
            assert time.monotonic() < end, "no outcome in time"
            self.reactor.iterate(0.05)
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        result: T = outcome[0]
        return result

    def turn(self, until: Callable[[], bool], seconds: float = 20.0) -> None:
        """Turn the reactor until something is so."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "it never became so"
            self.reactor.iterate(0.05)


@pytest.fixture(scope="session")
def loop() -> Loop:
    return Loop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    cluster = start_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema, to be copied."""
    path = tmp_path_factory.mktemp("schema") / "tmad.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def database_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with the schema."""
    if dialect == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.database()
        yield url
        cluster.drop(url)
    else:
        shutil.copy(request.getfixturevalue("migrated"), tmp_path / "tmad.db")
        yield f"sqlite:///{tmp_path}/tmad.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_database(loop: Loop, database_url: str, clock: Clock) -> Iterator[Callable[..., Database]]:
    """A function that opens the fresh database once more, as another process would."""
    opened: list[Database] = []

    def open_(**options: Any) -> Database:
        options.setdefault("reactor", loop.reactor)
        database = Database(database_url, clock=clock, **options)
        opened.append(database)
        return database

    yield open_
    for database in opened:
        loop.run(database.close())


@pytest.fixture
def database(open_database: Callable[..., Database]) -> Database:
    return open_database()
