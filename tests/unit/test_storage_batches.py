"""Writes that share a transaction: who waits for whom, and that each stands for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tmad.errors import Fault, FaultCode
from tmad.storage.batches import Batches


class Slow:
    """A database whose transactions run when a test says so."""

    def __init__(self) -> None:
        self.reactor: Clock | None = Clock()
        self.asked: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self.away: Fault | None = None

    async def write_briefly(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self.away is not None:
            raise self.away
        if self.reactor is None:
            return function(None, *arguments)
        done: Deferred[Any] = Deferred()
        self.asked.append((done, lambda: function(None, *arguments)))
        return await done

    def run(self) -> None:
        """Run the transaction that was asked for first."""
        done, function = self.asked.pop(0)
        try:
            result = function()
        except Exception:
            done.errback(Failure())  # type: ignore[no-untyped-call]  # untyped
        else:
            done.callback(result)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = Slow()
        self.transactions: list[list[str]] = []
        self.time = 0.0
        monkeypatch.setattr("tmad.storage.batches.time.monotonic", lambda: self.time)
        self.batches: Batches[str, str] = Batches(self.database, self.write)  # type: ignore[arg-type]

    def write(self, connection: object, entries: Sequence[str]) -> list[str]:
        self.transactions.append(list(entries))
        if any(entry.startswith("bad") for entry in entries):
            raise Fault(FaultCode.REJECTED, "it does not fit", rule="test.bad")
        return [entry.upper() for entry in entries]

    def add(self, entry: str) -> list[object]:
        """Return the outcome, once it is there, in a list."""
        found: list[object] = []

        def failed(failure: Failure) -> None:
            found.append(failure.value)

        ensureDeferred(self.batches.add(entry)).addCallbacks(found.append, failed)
        return found

    def crowd(self) -> None:
        """Let so many come that more are waited for."""
        for name in "xyz":
            self.add(name)
        self.database.run()
        self.transactions.clear()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_who_comes_alone_waits_for_nobody(world: World) -> None:
    outcome = world.add("a")
    assert outcome == []
    world.database.run()
    assert outcome == ["A"]
    assert world.transactions == [["a"]]


def test_who_comes_until_the_transaction_begins_is_of_the_party(world: World) -> None:
    outcomes = [world.add("a"), world.add("b")]
    assert len(world.database.asked) == 1
    world.database.run()
    assert outcomes == [["A"], ["B"]]
    assert world.transactions == [["a", "b"]]


def test_who_comes_after_it_began_gets_the_next_one(world: World) -> None:
    first = world.add("a")
    done, function = world.database.asked.pop()
    result = function()
    second = world.add("b")
    assert len(world.database.asked) == 1
    done.callback(result)
    world.database.run()
    assert (first, second) == (["A"], ["B"])
    assert world.transactions == [["a"], ["b"]]


def test_in_a_crowd_the_first_one_waits_a_moment_for_more(world: World) -> None:
    world.crowd()
    outcomes = [world.add("a")]
    assert world.database.asked == []
    outcomes.append(world.add("b"))
    assert world.database.reactor is not None
    world.database.reactor.advance(0.011)
    world.database.run()
    assert outcomes == [["A"], ["B"]]
    assert world.transactions == [["a", "b"]]


def test_enough_of_them_wait_for_nobody_else(world: World) -> None:
    world.crowd()
    outcomes = [world.add(name) for name in "abcdef"]
    assert len(world.database.asked) == 1
    assert world.database.reactor is not None
    assert world.database.reactor.getDelayedCalls() == []
    world.database.run()
    assert outcomes == [["A"], ["B"], ["C"], ["D"], ["E"], ["F"]]


def test_when_the_crowd_is_gone_nobody_waits_any_more(world: World) -> None:
    world.crowd()
    world.time += 1.0
    world.add("a")
    assert len(world.database.asked) == 1


def test_one_that_fails_fails_alone(world: World) -> None:
    outcomes = [world.add("a"), world.add("bad"), world.add("c")]
    world.database.run()
    for _ in range(3):
        world.database.run()
    assert outcomes[0] == ["A"]
    assert outcomes[2] == ["C"]
    [fault] = outcomes[1]
    assert isinstance(fault, Fault)
    assert fault.rule == "test.bad"
    assert world.transactions[1:] == [["a"], ["bad"], ["c"]]


def test_nothing_is_tried_again_while_the_database_is_away(world: World) -> None:
    outcomes = [world.add("a"), world.add("b")]
    done, _ = world.database.asked.pop()
    done.errback(Fault(FaultCode.UNAVAILABLE, "away", retry_after=1.0))
    faults = [outcome[0] for outcome in outcomes]
    assert [fault.code for fault in faults if isinstance(fault, Fault)] == [
        FaultCode.UNAVAILABLE,
        FaultCode.UNAVAILABLE,
    ]
    # Each caller gives its own an explain id.
    assert faults[0] is not faults[1]
    assert world.database.asked == []


def test_a_database_that_takes_nothing_refuses_those_who_wait_and_then_works(world: World) -> None:
    world.database.away = Fault(FaultCode.UNAVAILABLE, "too much work", rule="database.queue")
    [refused] = world.add("a")
    assert isinstance(refused, Fault)
    assert refused.rule == "database.queue"
    world.database.away = None
    outcome = world.add("b")
    world.database.run()
    assert outcome == ["B"]


def test_more_than_fit_one_transaction_get_another(world: World) -> None:
    outcomes = [world.add(f"a{number}") for number in range(100)]
    world.database.run()
    assert sum(map(len, outcomes)) == 64
    world.database.run()
    assert sum(map(len, outcomes)) == 100
    assert [len(entries) for entries in world.transactions] == [64, 36]


def test_who_did_not_fit_a_transaction_that_fails_gets_another(world: World) -> None:
    outcomes = [world.add("bad"), *(world.add(f"a{number}") for number in range(99))]
    while world.database.asked:
        world.database.run()
    assert all(len(outcome) == 1 for outcome in outcomes)
    assert outcomes[1:] == [[f"A{number}"] for number in range(99)]


def test_who_did_not_fit_a_transaction_that_never_begins_is_refused_too(world: World) -> None:
    outcomes = [world.add(f"a{number}") for number in range(100)]
    world.database.away = Fault(FaultCode.UNAVAILABLE, "away", retry_after=1.0)
    done, _ = world.database.asked.pop()
    done.errback(world.database.away)
    assert [len(outcome) for outcome in outcomes] == [1] * 100


def test_a_transaction_that_was_given_up_takes_nobody_when_it_runs_after_all(
    world: World,
) -> None:
    """Its caller waited in vain while it stood in the queue of a thread."""
    late = world.add("a")
    done, function = world.database.asked.pop()
    done.errback(Fault(FaultCode.UNAVAILABLE, "no outcome within 5 s", retry_after=1.0))
    assert isinstance(late[0], Fault)
    outcome = world.add("b")
    function()
    world.database.run()
    assert outcome == ["B"]
    assert world.transactions == [["b"]]


def test_a_transaction_that_is_given_up_while_it_runs_answers_all_that_it_took(
    world: World,
) -> None:
    first, second = world.add("a"), world.add("b")
    done, function = world.database.asked.pop()
    function()
    done.errback(Fault(FaultCode.UNAVAILABLE, "no outcome within 5 s", retry_after=1.0))
    assert isinstance(first[0], Fault)
    assert isinstance(second[0], Fault)
    world.time += 1.0
    third = world.add("c")
    world.database.run()
    assert third == ["C"]


def test_without_a_reactor_it_is_one_transaction_each(world: World) -> None:
    world.database.reactor = None
    assert world.add("a") == ["A"]
    assert world.transactions == [["a"]]


def accompanied(world: World, count: int) -> Batches[str, str]:
    return Batches(world.database, world.write, company=lambda: count)  # type: ignore[arg-type]


def test_where_it_is_known_who_is_at_it_the_last_one_begins(world: World) -> None:
    world.batches = accompanied(world, 5)
    outcomes = [world.add(name) for name in "abcd"]
    assert world.database.asked == []
    outcomes.append(world.add("e"))
    assert world.database.reactor is not None
    assert world.database.reactor.getDelayedCalls() == []
    world.database.run()
    assert outcomes == [["A"], ["B"], ["C"], ["D"], ["E"]]
    assert world.transactions == [list("abcde")]


def test_who_dawdles_is_waited_for_a_moment_only(world: World) -> None:
    world.batches = accompanied(world, 5)
    world.add("a")
    assert world.database.reactor is not None
    world.database.reactor.advance(0.004)
    assert world.database.asked == []
    world.database.reactor.advance(0.002)
    world.database.run()
    assert world.transactions == [["a"]]


def test_a_few_wait_for_nobody_however_often_they_come(world: World) -> None:
    world.batches = accompanied(world, 3)
    for name in "abcdefgh":
        world.add(name)
        world.database.run()
    assert world.transactions == [[name] for name in "abcdefgh"]
    assert world.batches.waiting == 0
