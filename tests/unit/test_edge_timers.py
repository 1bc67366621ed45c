"""Jobs that repeat: no overlap, back-off, one process of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as Reactor
from twisted.logger import globalLogPublisher

from tests.support import Clock, drive
from tmad.edge.timers import Timers
from tmad.errors import Fault, FaultCode
from tmad.storage.database import Database


class World:
    """A reactor and a wall clock that move together, and one database."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)

    def timers(self, holder: str) -> Timers:
        return Timers(self.reactor, self.database, self.clock, holder)

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.clock.advance(seconds=0.25)
            self.reactor.advance(0.25)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


class Job:
    """Counts its runs; may fail or take its time."""

    def __init__(self) -> None:
        self.runs = 0
        self.failure: Exception | None = None
        self.gate: Deferred[None] | None = None

    async def __call__(self) -> None:
        self.runs += 1
        if self.gate is not None:
            await self.gate
        if self.failure is not None:
            raise self.failure


def test_a_job_runs_soon_and_then_at_its_pace(world: World) -> None:
    job, timers = Job(), world.timers("a")
    timers.every(10, job, name="job")
    drive(timers.start())
    world.advance(1.25)
    assert job.runs == 1
    world.advance(100)
    assert 9 <= job.runs <= 13


def test_a_job_runs_at_once_when_it_is_told_to(world: World) -> None:
    job, timers = Job(), world.timers("a")
    soon = timers.every(60, job, name="job")
    soon()  # before the start it is nothing
    drive(timers.start())
    world.advance(1.25)
    assert job.runs == 1

    soon()
    soon()
    assert job.runs == 1  # not within whoever says so
    world.reactor.advance(0)

    assert job.runs == 2
    world.advance(50)
    assert job.runs == 2
    world.advance(20)
    assert job.runs == 3  # and then at its pace


def test_a_job_that_runs_while_it_is_told_to_runs_once_more(world: World) -> None:
    job, timers = Job(), world.timers("a")
    gate = job.gate = Deferred()
    soon = timers.every(60, job, name="job")
    drive(timers.start())
    world.advance(1.25)
    soon()
    soon()
    world.reactor.advance(0)
    assert job.runs == 1

    job.gate = None
    gate.callback(None)
    world.reactor.advance(0)

    assert job.runs == 2
    world.advance(50)
    assert job.runs == 2


def test_a_job_that_fails_is_not_told_to_run_more_than_once_a_second(world: World) -> None:
    job, timers = Job(), world.timers("a")
    soon = timers.every(60, job, name="job")
    job.failure = Fault(FaultCode.UNAVAILABLE, "not yet")
    drive(timers.start())
    world.advance(1.25)
    runs = job.runs

    for _ in range(8):
        soon()
        world.advance(0.25)

    assert job.runs - runs == 2


def test_nobody_is_told_anything_after_the_end(world: World) -> None:
    job, timers = Job(), world.timers("a")
    soon = timers.every(60, job, name="job")
    drive(timers.start())
    world.advance(1.25)
    drive(timers.stop())
    soon()
    world.advance(100)
    assert job.runs == 1


def test_a_job_never_overlaps_itself(world: World) -> None:
    job, timers = Job(), world.timers("a")
    job.gate = Deferred()
    timers.every(1, job, name="job")
    drive(timers.start())
    world.advance(30)
    assert job.runs == 1

    gate, job.gate = job.gate, None
    gate.callback(None)
    world.advance(2)
    assert job.runs > 1


@pytest.mark.parametrize("failure", [Fault(FaultCode.UNAVAILABLE, "away"), RuntimeError("broken")])
def test_a_failing_job_is_logged_and_comes_back_later_and_later(
    world: World, logged: list[dict[str, Any]], failure: Exception
) -> None:
    job, timers = Job(), world.timers("a")
    job.failure = failure
    timers.every(10, job, name="flaky")
    drive(timers.start())
    world.advance(1.25)
    assert [event["job"] for event in logged if "job" in event] == ["flaky"]
    # 10, 20 and 40 seconds after it: the third is still to come.
    world.advance(62)
    assert job.runs == 3

    job.failure = None
    world.advance(70)
    before = job.runs
    world.advance(100)
    assert job.runs - before >= 8


@pytest.mark.parametrize("ends", ["it is back", "it is back as a standby"])
def test_g_fault_2_what_failed_goes_on_as_soon_as_the_database_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    job, idle, timers = Job(), Job(), world.timers("a")
    timers.every(1, job, name="news")
    timers.every(300, idle, name="rare")
    drive(timers.start())
    world.advance(5)

    async def away(*_: object) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the database is away", rule="database.away")

    async def standby(*_: object) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "a read-only standby", rule="database.standby")

    with monkeypatch.context() as patch:
        patch.setattr(world.database, "write", away)
        job.failure = Fault(FaultCode.UNAVAILABLE, "the database is away")
        world.advance(600)
        before = job.runs
        world.advance(60)
        assert job.runs - before <= 1  # it has become rare
    if ends == "it is back as a standby":
        monkeypatch.setattr(world.database, "write", standby)
    job.failure = None
    idle.runs = before = 0
    job.runs = 0
    world.advance(3.25)
    assert job.runs >= 1
    world.advance(10)
    assert job.runs >= 8
    assert idle.runs == 0  # what did not fail keeps its pace


def test_g_fault_11_a_job_with_a_lease_runs_in_one_process_and_moves(world: World) -> None:
    jobs = {name: Job() for name in "ab"}
    timers = {name: world.timers(name) for name in jobs}
    for name, job in jobs.items():
        timers[name].every(1, job, name="once", lease=True)
        drive(timers[name].start())
    world.advance(10)
    assert jobs["a"].runs >= 8
    assert jobs["b"].runs == 0

    # "a" dies: its heart stops, and so do its jobs.
    for call in list(world.reactor.getDelayedCalls()):
        if "a" in (getattr(part, "_holder", "") for part in _owners(call)):
            call.cancel()
    before = jobs["a"].runs
    world.advance(20)
    assert jobs["a"].runs == before
    assert jobs["b"].runs > 0


def _owners(call: Any) -> list[Any]:
    function = call.func
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [getattr(function, "__self__", None), *cells]


def test_a_holder_that_has_lost_its_lease_stops(world: World) -> None:
    job, timers = Job(), world.timers("a")
    timers.every(1, job, name="once", lease=True)
    drive(timers.start())
    world.advance(3)
    assert timers.is_leader
    drive(world.database.write(_steal))
    world.advance(2)
    assert not timers.is_leader
    before = job.runs
    world.advance(4)
    assert job.runs == before


def _steal(connection: Any) -> None:
    from tmad.storage.tables import leases

    connection.execute(leases.update().values(holder="b"))


def test_stop_waits_for_what_runs_and_hands_the_lease_over(world: World) -> None:
    job, timers = Job(), world.timers("a")
    job.gate = Deferred()
    timers.every(1, job, name="slow", lease=True)
    drive(timers.start())
    world.advance(2)
    from twisted.internet.defer import ensureDeferred

    stopped = ensureDeferred(timers.stop())
    assert not stopped.called
    job.gate.callback(None)
    assert stopped.called
    world.advance(5)
    assert job.runs == 1

    other = world.timers("b")
    drive(other.start())
    assert other.is_leader
