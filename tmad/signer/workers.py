"""A few threads behind a bounded queue: the reactor never waits for a private key."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from tmad.errors import Fault, FaultCode

T = TypeVar("T")

# A timer that comes later than this says that the process itself stood still.
_LATE = 0.5


class Reactor(Protocol):
    """The two things that workers need of a Twisted reactor."""

    def callLater(  # noqa: N802  Twisted's name
        self, delay: float, function: Callable[..., object], /, *args: object
    ) -> IDelayedCall: ...

    def callFromThread(  # noqa: N802  Twisted's name
        self, function: Callable[..., object], /, *args: object
    ) -> None: ...


class _Job(Generic[T]):
    """One call: waiting, running (``started`` is set) or over (``deferred`` has fired)."""

    __slots__ = ("deferred", "due", "function", "is_spared", "patience", "started", "timer")

    def __init__(self, function: Callable[[], T], patience: float | None) -> None:
        self.function = function
        # A cancelled caller no longer listens; what the thread does cannot be undone.
        self.deferred: Deferred[T] = Deferred(lambda _: None)
        self.patience = patience
        self.started: float | None = None
        self.timer: IDelayedCall | None = None
        self.due = 0.0  # when it fires
        self.is_spared = False  # for once, since the process stood still


class Workers:
    """Runs functions in daemon threads that start when the first job comes.

    Threads are made by the first job, so an instance may be built before a fork. They are
    daemons because a call into a hung token never returns and must not keep the process
    from stopping. Without a reactor, functions run at once in the calling thread.

    ``on_overdue`` is called in the reactor thread with the seconds a function has been
    running when that exceeds the job's patience; the function goes on, nobody waits for it.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        queue: int,
        reactor: Reactor | None,
        on_overdue: Callable[[float], None] | None = None,
    ) -> None:
        self._name = name
        self._wanted = threads
        self._limit = queue
        self._reactor = reactor
        self._on_overdue = on_overdue
        self._condition = threading.Condition()
        self._waiting: deque[_Job[Any]] = deque()
        self._running: set[_Job[Any]] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self.refused = 0
        self.expired = 0

    @property
    def waiting(self) -> int:
        """Jobs that no thread has taken up yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs that a thread is busy with, also those whose caller has given up."""
        return len(self._running)

    @property
    def longest(self) -> float:
        """How many seconds the oldest running job has been running."""
        with self._condition:
            started = [job.started for job in self._running if job.started is not None]
        return time.monotonic() - min(started) if started else 0.0

    async def run(self, function: Callable[[], T], *, patience: float | None = None) -> T:
        """Run ``function`` in a thread and return its result or raise its exception.

        ``patience`` is how many seconds the caller waits, in the queue and for the function
        together. Raises Fault(UNAVAILABLE) when the queue is full or the patience is over.
        """
        if self._reactor is None:
            return function()
        with self._condition:
            if self._stopping:
                raise Fault(FaultCode.UNAVAILABLE, f"{self._name} is shutting down")
            if len(self._waiting) >= self._limit:
                self.refused += 1
                raise Fault(
                    FaultCode.UNAVAILABLE,
                    f"{self._name} has too much to do",
                    retry_after=1,
                    rule="signer.queue",
                    values={"waiting": str(len(self._waiting)), "limit": str(self._limit)},
                )
            job = _Job(function, patience)
            if patience is not None:
                self._expire_in(patience, job)
            self._waiting.append(job)
            if len(self._threads) < self._wanted:
                self._spawn()
            self._condition.notify()
        return await job.deferred

    def fail_waiting(self, fault: Callable[[], Fault]) -> None:
        """Give every job that no thread has taken up an answer now."""
        with self._condition:
            jobs = list(self._waiting)
            self._waiting.clear()
        for job in jobs:
            self._finish(job, None, fault())

    def stop(self) -> None:
        """Refuse what waits; threads end when their present job does."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self.fail_waiting(lambda: Fault(FaultCode.UNAVAILABLE, f"{self._name} is shutting down"))

    def join(self, seconds: float) -> bool:
        """Wait for the threads; True when all have ended. Only for the end of the process."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _spawn(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        assert self._reactor is not None
        while True:
            with self._condition:
                while not self._waiting:
                    if self._stopping:
                        return
                    self._condition.wait()
                job = self._waiting.popleft()
                if job.deferred.called:
                    continue
                job.started = time.monotonic()
                self._running.add(job)
            result: Any = None
            failure: BaseException | None = None
            try:
                result = job.function()
            except BaseException as error:  # whatever it is, it belongs to the caller
                failure = error
            with self._condition:
                self._running.discard(job)
            self._reactor.callFromThread(self._finish, job, result, failure)
            # Nothing of this job may live on while the thread waits for the next one.
            del job, result, failure

    def _finish(self, job: _Job[Any], result: object, failure: BaseException | None) -> None:
        if job.timer is not None and job.timer.active():
            job.timer.cancel()
        if job.deferred.called:
            return
        if failure is None:
            job.deferred.callback(result)
        else:
            job.deferred.errback(failure)

    def _expire_in(self, seconds: float, job: _Job[Any]) -> None:
        assert self._reactor is not None
        job.due = time.monotonic() + seconds
        job.timer = self._reactor.callLater(seconds, self._expire, job)

    def _expire(self, job: _Job[Any]) -> None:
        """The caller's patience is over; find out whether a thread hangs in the function."""
        assert self._reactor is not None
        assert job.patience is not None
        late = time.monotonic() - job.due
        if late > _LATE and not job.is_spared:
            # The machine was stopped, or suspended, and the threads with it: that is nobody's
            # fault, and most often they are done in a moment.
            job.is_spared = True
            self._expire_in(min(late, job.patience), job)
            return
        with self._condition:
            started = job.started
            is_running = job in self._running
            if started is None and job in self._waiting:
                self._waiting.remove(job)
        if not job.deferred.called:
            self.expired += 1
            job.deferred.errback(
                Fault(
                    FaultCode.UNAVAILABLE,
                    f"{self._name} did not answer in time",
                    retry_after=1,
                    rule="signer.patience",
                    values={"seconds": f"{job.patience:g}"},
                )
            )
        if is_running and started is not None and self._on_overdue is not None:
            ran = time.monotonic() - started
            if ran >= job.patience:
                self._on_overdue(ran)
            else:
                # It waited in the queue for part of the time: the function has had less.
                self._expire_in(job.patience - ran, job)
