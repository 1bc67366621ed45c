"""Threads behind a bounded queue, with a reactor whose clock a test moves."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.signer.workers import Workers


class Reactor(Clock):
    """Twisted's Clock, plus calls from threads that wait until ``settle`` runs them."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = (
            queue.SimpleQueue()
        )

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        self._calls.put((function, args))

    def settle(self) -> None:
        function, args = self._calls.get(timeout=5)
        function(*args)


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def overdue() -> list[float]:
    return []


@pytest.fixture
def workers(reactor: Reactor, overdue: list[float]) -> Iterator[Workers]:
    workers = Workers("the store", threads=1, queue=2, reactor=reactor, on_overdue=overdue.append)
    yield workers
    workers.stop()
    assert workers.join(5)


def begin(
    workers: Workers, function: Callable[[], Any], patience: float | None = None
) -> list[Any]:
    results: list[Any] = []
    ensureDeferred(workers.run(function, patience=patience)).addBoth(results.append)
    return results


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_results_and_exceptions_come_back_in_the_reactor(
    workers: Workers, reactor: Reactor
) -> None:
    here = threading.get_ident()
    good = begin(workers, threading.get_ident)
    reactor.settle()
    assert good[0] != here
    bad = begin(workers, lambda: 1 / 0)
    reactor.settle()
    assert isinstance(bad[0], Failure)
    assert bad[0].check(ZeroDivisionError)


def test_without_a_reactor_functions_run_at_once() -> None:
    workers = Workers("x", threads=1, queue=0, reactor=None)
    assert drive(workers.run(threading.get_ident)) == threading.get_ident()


def test_a_full_queue_refuses_with_the_numbers(workers: Workers, reactor: Reactor) -> None:
    gate = threading.Event()
    running = begin(workers, gate.wait)
    until(lambda: workers.running)
    waiting = [begin(workers, lambda: "done") for _ in range(2)]
    [refused] = begin(workers, lambda: "never")
    fault = refused.value
    assert fault.code is FaultCode.UNAVAILABLE
    assert fault.values == {"waiting": "2", "limit": "2"}
    assert fault.retry_after == 1
    assert (workers.waiting, workers.refused) == (2, 1)
    gate.set()
    for _ in range(3):
        reactor.settle()
    assert [running, *waiting] == [[True], ["done"], ["done"]]


def test_impatience_in_the_queue_is_not_a_hung_thread(
    workers: Workers, reactor: Reactor, overdue: list[float]
) -> None:
    gate = threading.Event()
    begin(workers, gate.wait)
    until(lambda: workers.running)
    ran: list[int] = []
    waiting = begin(workers, lambda: ran.append(1), patience=2)
    reactor.advance(2)
    assert waiting[0].value.rule == "signer.patience"
    assert (workers.waiting, workers.expired, overdue) == (0, 1, [])
    gate.set()
    reactor.settle()
    after = begin(workers, lambda: "next")
    reactor.settle()
    assert after == ["next"]
    assert ran == []


def test_a_process_that_stood_still_does_not_blame_the_thread(
    workers: Workers, reactor: Reactor, overdue: list[float]
) -> None:
    """A timer that fires late: the machine was suspended, and what was asked with it."""
    gate = threading.Event()
    asked = begin(workers, lambda: gate.wait() and "done", patience=0.05)
    time.sleep(0.6)
    reactor.advance(0.05)
    assert (asked, overdue, workers.expired) == ([], [], 0)
    gate.set()
    reactor.settle()
    assert asked == ["done"]
    reactor.advance(1)
    assert (overdue, workers.expired) == ([], 0)


def test_who_hangs_for_longer_than_the_process_stood_still_is_overdue(
    workers: Workers, reactor: Reactor, overdue: list[float]
) -> None:
    gate = threading.Event()
    asked = begin(workers, gate.wait, patience=0.05)
    time.sleep(0.6)
    reactor.advance(0.05)
    reactor.advance(0.05)
    assert asked[0].value.rule == "signer.patience"
    assert (len(overdue), workers.expired) == (1, 1)
    gate.set()
    reactor.settle()


def test_a_hung_function_is_reported_and_its_late_result_dropped(
    workers: Workers, reactor: Reactor, overdue: list[float]
) -> None:
    gate = threading.Event()
    hung = begin(workers, gate.wait, patience=0.05)
    until(lambda: workers.longest > 0.06)
    reactor.advance(0.05)
    assert isinstance(hung[0], Failure)
    assert len(overdue) == 1
    assert overdue[0] >= 0.05
    assert workers.running == 1
    gate.set()
    reactor.settle()
    assert len(hung) == 1
    until(lambda: not workers.running)


def test_a_function_that_began_late_gets_its_own_time(
    workers: Workers, reactor: Reactor, overdue: list[float]
) -> None:
    gate = threading.Event()
    late = begin(workers, gate.wait, patience=1000)
    until(lambda: workers.running)
    reactor.advance(1000)  # the caller has waited so long, the function has only begun
    assert isinstance(late[0], Failure)
    assert overdue == []
    assert reactor.getDelayedCalls() != []
    gate.set()
    reactor.settle()
    assert reactor.getDelayedCalls() == []


def test_stopping_answers_everybody(workers: Workers, reactor: Reactor) -> None:
    gate = threading.Event()
    running = begin(workers, gate.wait)
    until(lambda: workers.running)
    waiting = begin(workers, lambda: "never", patience=5)
    workers.stop()
    assert waiting[0].value.code is FaultCode.UNAVAILABLE
    assert reactor.getDelayedCalls() == []
    [late] = begin(workers, lambda: "never")
    assert "shutting down" in late.value.detail
    gate.set()
    reactor.settle()
    assert running == [True]


def test_waiting_work_can_be_refused_with_a_reason(workers: Workers, reactor: Reactor) -> None:
    gate = threading.Event()
    begin(workers, gate.wait)
    until(lambda: workers.running)
    waiting = begin(workers, lambda: "never")
    workers.fail_waiting(lambda: Fault(FaultCode.UNAVAILABLE, "lost"))
    assert waiting[0].value.detail == "lost"
    gate.set()
    reactor.settle()
