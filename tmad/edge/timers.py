"""What happens by itself: repeated work, in each process or in one of all."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tmad.errors import Fault
from tmad.events import Clock
from tmad.storage import leases
from tmad.storage.database import Database
from tmad.storage.leases import Lease

log = Logger()

# Of the interval, so that the processes of a cluster do not all wake at once.
_JITTER = 0.1
_LONGEST_PAUSE = 600.0
# A lease outlives the pause to the next run by this much; who holds it goes on holding it.
_LEASE_MARGIN = 15.0


class Timers:
    """Calls functions again and again until ``stop``; a failure is logged and tried later."""

    def __init__(self, reactor: Any, database: Database, holder: str, now: Clock) -> None:
        self._reactor = reactor
        self._database = database
        self._holder = holder
        self._now = now
        self._timers: list[_Timer] = []
        self._is_stopped = False

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        name: str,
        lease: bool = False,
    ) -> None:
        """Call ``function`` soon, then every ``seconds``, never twice at once.

        With ``lease`` it runs in one process of all that share the database; when that process
        dies another one takes over as soon as its lease has expired.
        """
        timer = _Timer(self, seconds, function, name, lease)
        self._timers.append(timer)
        timer.schedule(min(seconds, 1.0) * random.random())  # noqa: S311  spreads load only

    async def stop(self) -> None:
        """Start nothing more, wait for what runs, give the leases back."""
        self._is_stopped = True
        for timer in self._timers:
            await timer.stop()

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        """Take the lease of a timer, or None while another process has it."""
        return await self._database.write(
            leases.acquire, f"timer:{name}", self._holder, seconds, self._now()
        )

    async def release(self, lease: Lease) -> None:
        """Let another process go on at once."""
        await self._database.write(leases.release, lease, self._now())

    def later(self, seconds: float, function: Callable[[], object]) -> Any:
        """Call a function after a while, unless everything stops."""
        return None if self._is_stopped else self._reactor.callLater(seconds, function)


class _Timer:
    def __init__(
        self,
        timers: Timers,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        name: str,
        lease: bool,
    ) -> None:
        self._timers = timers
        self._seconds = seconds
        self._function = function
        self._name = name
        self._wants_lease = lease
        self._lease: Lease | None = None
        self._failures = 0
        self._call: Any = None
        self._running: Deferred[None] | None = None

    def schedule(self, seconds: float) -> None:
        self._call = self._timers.later(seconds, self._start)

    async def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._running is not None:
            await self._running
        if self._lease is not None:
            try:
                await self._timers.release(self._lease)
            except Fault as fault:
                log.warn(
                    "a lease was left to expire: {name}: {fault}", name=self._name, fault=fault
                )

    def _start(self) -> None:
        self._running = Deferred()
        ensureDeferred(self._run()).addBoth(self._ended)

    async def _run(self) -> None:
        if self._wants_lease:
            patience = self._pause() + _LEASE_MARGIN
            self._lease = await self._timers.acquire(self._name, patience)
            if self._lease is None:
                return
        await self._function()

    def _ended(self, result: object) -> None:
        if isinstance(result, Failure):
            self._failures += 1
            if not isinstance(result.value, CancelledError):
                log.error(
                    "{name} failed, the next try is in {seconds:.0f} s: {error}",
                    name=self._name,
                    seconds=self._pause(),
                    error=result.value,
                    log_failure=None if isinstance(result.value, Fault) else result,
                )
        else:
            self._failures = 0
        running, self._running = self._running, None
        self.schedule(self._pause() * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
        if running is not None:
            running.callback(None)

    def _pause(self) -> float:
        """Return the time to the next run: twice as long after each failure in a row."""
        return min(self._seconds * 2.0**self._failures, max(_LONGEST_PAUSE, self._seconds))
