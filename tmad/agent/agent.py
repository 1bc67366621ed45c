"""All certificates of one machine: one run over each, or one run after the other for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from tmad.agent import settings as settings_
from tmad.agent import store as stores
from tmad.agent.keeper import Keeper, Result
from tmad.agent.store import Store
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, utc_now

_LONGEST: Final = timedelta(minutes=15)  # a new certificate's settings are found after so long
_SHORTEST: Final = timedelta(seconds=1)
_BROKEN: Final = timedelta(minutes=10)


def run_once(
    directory: Path, *, names: tuple[str, ...] = (), is_forced: bool = False, now: Clock = utc_now
) -> Iterator[Result]:
    """Do what is due for each certificate, or for those named; one's Fault stops no other."""
    found = [stores.open_one(directory, name) for name in names] or stores.open_all(directory)
    for store in found:
        yield _run_one(store, is_forced, now)


def _run_one(store: Store, is_forced: bool, now: Clock) -> Result:
    try:
        return Keeper(store, settings_.load(store.directory), now=now).run(is_forced=is_forced)
    except OSError as error:
        where = error.filename or store.directory
        fault = Fault(
            FaultCode.UNAVAILABLE, f"{where}: {error.strerror or error}", rule="agent.disk"
        )
    except Fault as found:  # of its settings or its store: nothing could be done or noted
        fault = found
    return Result(name=store.name, fault=fault, next_at=now() + _BROKEN)


def run(directory: Path, tell: Callable[[Result], None], *, now: Clock = utc_now) -> None:
    """Keep every certificate until SIGTERM or SIGINT; SIGHUP looks at all of them at once."""
    wake, end = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        end.set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: wake.set())
    due: dict[str, datetime] = {}
    while not end.is_set():
        is_all = wake.is_set()
        wake.clear()
        for store in stores.open_all(directory):
            if end.is_set():
                return
            if is_all or due.get(store.name, now()) <= now():
                result = _run_one(store, False, now)
                due[store.name] = result.next_at
                tell(result)
        wake.wait(_pause(due, now()).total_seconds())


def _pause(due: dict[str, datetime], now: datetime) -> timedelta:
    soonest = min(due.values(), default=now + _LONGEST) - now
    return max(min(soonest, _LONGEST), _SHORTEST)
