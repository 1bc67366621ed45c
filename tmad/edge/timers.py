"""What happens by itself: jobs that repeat, some of them in one process of all."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from tmad.errors import Fault
from tmad.events import Clock
from tmad.storage import leases
from tmad.storage.database import Database

log = Logger()

LEASE = "timers"
# A dead holder is replaced within both together and one more beat (G-FAULT-11: 20 seconds).
_LEASE_SECONDS = 12.0
_HEARTBEAT = 4.0
_HEARTBEAT_AWAY = 2.0  # while the database does not answer
_LONGEST_BACK_OFF = 300.0
_AFTER_FAILURE = 1.0  # however urgent it is


@dataclass(slots=True)
class _Job:
    name: str
    seconds: float
    function: Callable[[], Awaitable[object]]
    lease: bool
    failures: int = 0
    call: Any = None
    running: Deferred[None] | None = field(default=None)
    is_wanted: bool = False  # since the run that goes on has begun


class Timers:
    """Repeats functions, never two runs of the same one at once."""

    def __init__(self, reactor: Any, database: Database, now: Clock, holder: str) -> None:
        self._reactor = reactor
        self._database = database
        self._now = now
        self._holder = holder
        self._jobs: list[_Job] = []
        self._lease: leases.Lease | None = None
        self._held_until = float("-inf")
        self._heart: Any = None
        self._is_running = False
        self._trouble = ""  # why the lease could not be asked for, said once
        self._is_away = False  # the database, when it was last asked

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        name: str,
        lease: bool = False,
    ) -> Callable[[], None]:
        """Call ``function`` about every so many seconds, soon after the start for the first time.

        With ``lease`` only while this process holds the timers' lease. What it raises is
        logged and delays the next run. Return what lets the next run be in the next turn of
        the reactor, for whoever hears that there is something to do.
        """
        job = _Job(name, seconds, function, lease)
        self._jobs.append(job)
        if self._is_running:
            self._schedule(job, first=True)
        return partial(self._hasten, job)

    async def start(self) -> None:
        """Begin; returns when it is known whether this process has the lease."""
        self._is_running = True
        await self._beat()
        for job in self._jobs:
            self._schedule(job, first=True)

    async def stop(self) -> None:
        """Start nothing more, wait for what runs, and let other processes have the lease."""
        self._is_running = False
        for job in self._jobs:
            if job.call is not None and job.call.active():
                job.call.cancel()
        if self._heart is not None and self._heart.active():
            self._heart.cancel()
        for job in self._jobs:
            if job.running is not None:
                await job.running
        if self._lease is not None:
            lease, self._lease = self._lease, None
            self._held_until = float("-inf")
            try:
                await self._database.write(leases.release, lease, self._now())
            except Fault as fault:
                # It expires by itself.
                log.warn("the timers' lease could not be released: {why}", why=str(fault))

    @property
    def is_leader(self) -> bool:
        """Whether this process may run the jobs that run once."""
        return bool(self._reactor.seconds() < self._held_until)

    @property
    def failures(self) -> dict[str, int]:
        """How often each job has failed in a row."""
        return {job.name: job.failures for job in self._jobs}

    async def _beat(self) -> None:
        begin = self._reactor.seconds()
        was = self.is_leader
        try:
            self._lease = await self._database.write(
                leases.acquire, LEASE, self._holder, _LEASE_SECONDS, self._now()
            )
        except Fault as fault:
            # A node at a standby database asks in vain for as long as it is one.
            if fault.detail != self._trouble:
                log.warn("the timers' lease could not be asked for: {why}", why=str(fault))
            self._trouble = fault.detail
            self._note_database(is_away=fault.rule != "database.standby")
        else:
            self._trouble = ""
            self._note_database(is_away=False)
            # By the monotonic clock, and from before the question: never longer than it is.
            is_held = self._lease is not None
            self._held_until = begin + _LEASE_SECONDS - 1 if is_held else float("-inf")
            if is_held and not was:
                log.info("this process now runs what only one of all runs")
        if self._is_running:
            wait = _HEARTBEAT_AWAY if self._is_away else _HEARTBEAT
            self._heart = self._reactor.callLater(wait, lambda: ensureDeferred(self._beat()))

    def _note_database(self, *, is_away: bool) -> None:
        """Let what has failed for want of the database go on as soon as it is back.

        By itself a job would wait for twice as long as the outage has lasted.
        """
        was_away, self._is_away = self._is_away, is_away
        if was_away and not is_away:
            for job in self._jobs:
                if job.failures:
                    self._hasten(job)

    def _hasten(self, job: _Job) -> None:
        if job.running is not None:
            job.is_wanted = True
        elif self._is_running and job.call is not None and job.call.active():
            wait = _AFTER_FAILURE if job.failures else 0.0
            if job.call.getTime() > self._reactor.seconds() + wait:
                job.call.reset(wait)

    def _schedule(self, job: _Job, *, first: bool = False) -> None:
        if not self._is_running:
            return
        if job.is_wanted:
            job.is_wanted = False
            delay = _AFTER_FAILURE if job.failures else 0.0
        elif first:
            delay = random.uniform(0, min(1.0, job.seconds))  # noqa: S311  jitter, no secret
        elif job.failures:
            longest = max(job.seconds, _LONGEST_BACK_OFF)
            delay = min(max(1.0, job.seconds) * 2 ** min(job.failures - 1, 20), longest)
        elif job.lease and not self.is_leader:
            delay = min(job.seconds, _HEARTBEAT)
        else:
            delay = job.seconds * random.uniform(0.9, 1.1)  # noqa: S311
        job.call = self._reactor.callLater(delay, self._run, job)

    def _run(self, job: _Job) -> None:
        if job.lease and not self.is_leader:
            self._schedule(job)
            return
        job.running = ensureDeferred(self._once(job))

        def over(_: object) -> None:
            job.running = None
            self._schedule(job)

        # The result stays None: stop() may be waiting for it.
        job.running.addCallback(over)

    async def _once(self, job: _Job) -> None:
        try:
            await job.function()
        except Fault as fault:
            job.failures += 1
            log.warn(
                "the job {job} failed: {why} {private}",
                job=job.name,
                why=str(fault),
                private=fault.private,
            )
        except Exception:
            job.failures += 1
            log.failure("the job {job} failed", job=job.name)
        else:
            job.failures = 0
