"""What several test layers share: a settable clock and a driver for coroutines."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Clock:
    """A wall clock that moves only when a test says so."""

    def __init__(self, start: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)) -> None:
        self.time = start

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **units: float) -> None:
        """Move on by ``timedelta(**units)``."""
        self.time += timedelta(**units)


def tries(seconds: float, *, longest: float = 2.0) -> Iterator[float]:
    """Yield until so many seconds have gone by; of each try ``longest`` counts at most.

    So a machine that is stopped for a while in the middle takes no patience away.
    """
    spent, last = 0.0, time.monotonic()
    while spent < seconds:
        yield spent
        now = time.monotonic()
        spent, last = spent + min(now - last, longest), now


def drive(coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
    """Run a coroutine that needs no reactor; return its result or raise its exception."""
    results: list[T | Failure] = []
    ensureDeferred(coroutine).addBoth(results.append)
    if not results:
        raise AssertionError("the coroutine waits for something that never happens here")
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[return-value]  # raiseException does not return
