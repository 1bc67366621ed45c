"""A real reactor that a test turns by hand, for code that needs threads and timers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure

T = TypeVar("T")


class Pump:
    """Runs coroutines to their end and measures how long the reactor stood still."""

    def __init__(self, reactor: EPollReactor) -> None:
        self.reactor = reactor
        self.longest_gap = 0.0

    def turn(self, seconds: float = 0.01) -> None:
        """Let the reactor work once, waiting for at most ``seconds``."""
        before = time.monotonic()
        self.reactor.iterate(seconds)
        self.longest_gap = max(self.longest_gap, time.monotonic() - before - seconds)

    def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        """Turn until the condition holds; AssertionError after ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"nothing happened for {seconds} s")
            self.turn()

    def begin(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> list[T | Failure]:
        """Start a coroutine; its result or Failure will be in the list."""
        results: list[T | Failure] = []
        ensureDeferred(coroutine).addBoth(results.append)
        return results

    def wait(
        self, coroutine: Coroutine[Deferred[Any], Any, T], seconds: float = 30
    ) -> list[T | Failure]:
        """Run a coroutine to its end; return a list with its result or Failure."""
        results = self.begin(coroutine)
        self.until(lambda: results, seconds)
        return results

    def rest(self, seconds: float) -> None:
        """Turn for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, seconds + 1)

    def run(self, coroutine: Coroutine[Deferred[Any], Any, T], seconds: float = 30) -> T:
        """Run a coroutine to its end; return its result or raise its exception."""
        [result] = self.wait(coroutine, seconds)
        if isinstance(result, Failure):
            result.raiseException()
        return result  # type: ignore[return-value]  # raiseException does not return


@contextlib.contextmanager
def pumping() -> Iterator[Pump]:
    """Give a reactor of one's own, and clear it away."""
    reactor = EPollReactor()
    try:
        yield Pump(reactor)
    finally:
        for call in reactor.getDelayedCalls():
            call.cancel()
        reactor.iterate(0)
        reactor.removeAll()
        reactor.waker.connectionLost(Failure(ConnectionAbortedError()))
        reactor._poller.close()


@pytest.fixture
def pump() -> Iterator[Pump]:
    """Return a reactor of the test's own."""
    with pumping() as pump:
        yield pump
