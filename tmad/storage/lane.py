"""Bounded queues in front of the threads that talk to the database."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from tmad.errors import Fault, FaultCode

log = Logger()

# How long a writer waits for company when the last group had some (performance 5.5).
GROUP_WINDOW = 0.002
GROUP_LIMIT = 64
_WATCH_INTERVAL = 0.25

# How an outage is described that is none for readers: the database follows another one.
STANDBY = "read-only standby"


class Reactor(Protocol):
    """The two things of a Twisted reactor that storage needs."""

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> object:  # noqa: A002, N802  Twisted's names
        """Run a function in the reactor's thread."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object) -> Any:  # noqa: A002, N802  Twisted's names
        """Run a function after ``delay`` seconds."""


def unavailable(why: str) -> Fault:
    """Return the fault that every caller gets while the database cannot serve."""
    if why.startswith(STANDBY):
        return Fault(
            FaultCode.UNAVAILABLE,
            "the database of this node is a read-only standby; change it at a node of the"
            " primary, or promote it",
            private=why,
            rule="database.standby",
            retry_after=30.0,
        )
    return Fault(
        FaultCode.UNAVAILABLE, "the database is not available", private=why, retry_after=1.0
    )


class Job:
    """One function that waits for, runs in, or has run in its transaction."""

    __slots__ = (
        "abandoned",
        "arguments",
        "callbacks",
        "deadline",
        "deferred",
        "dry_run",
        "error",
        "function",
        "result",
    )

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[object], dry_run: bool = False
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.dry_run = dry_run
        self.callbacks: list[Callable[[], object]] = []
        self.result: Any = None
        self.error: BaseException | None = None
        self.deferred: Deferred[Any] | None = None
        self.deadline = 0.0
        self.abandoned = False

    def fail(self, error: BaseException) -> None:
        """Make this the outcome; what the function did was or will be rolled back."""
        self.result = None
        self.error = error
        self.callbacks = []

    def finish(self) -> Any:
        """Run the after-commit callbacks; return the result or raise the error."""
        if self.error is not None:
            raise self.error
        for callback in self.callbacks:
            callback()
        return self.result

    def answer(self, deferred: Deferred[Any]) -> None:
        """Finish, and fire a Deferred with what came of it."""
        try:
            result = self.finish()
        except BaseException as error:
            deferred.errback(error)
        else:
            deferred.callback(result)


class Session(Protocol):
    """What one thread works with: a connection that heals."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Run every job and set its outcome; never raise."""

    def abort(self) -> None:
        """Break a call that hangs, from another thread, where the driver can."""

    def close(self) -> None:
        """Give the connection back."""


class Lane:
    """A bounded queue and the threads that serve it, each with its own session.

    With ``group`` larger than one a thread takes several jobs at once, so that they share a
    commit. A job that has no outcome after ``patience`` seconds is answered with
    Fault(UNAVAILABLE): before it ran it never will; while it ran the outcome is unknown.
    """

    def __init__(
        self,
        reactor: Reactor,
        name: str,
        sessions: Sequence[Session],
        *,
        limit: int,
        patience: float,
        group: int = 1,
    ) -> None:
        self.trouble = ""  # why the last job could not be served; "" when it could
        self._reactor = reactor
        self._name = name
        self._limit = limit
        self._patience = patience
        self._group = group
        self._queue: deque[Job] = deque()
        self._unanswered: dict[Job, None] = {}  # in the order of their deadlines
        self._running: dict[Session, Sequence[Job]] = {}
        self._changed = threading.Condition()
        self._wanted = 1  # how many queued jobs are worth waking a thread for
        self._last_group = 1
        self._closing = False
        self._watch: Any = None
        self._closed: Deferred[None] = Deferred()
        self._alive = len(sessions)
        for number, session in enumerate(sessions):
            threading.Thread(
                target=self._serve, args=(session,), name=f"{name}-{number}", daemon=True
            ).start()

    @property
    def name(self) -> str:
        """What this queue is for."""
        return self._name

    @property
    def waiting(self) -> int:
        """How many jobs no thread has taken yet."""
        return len(self._queue)

    @property
    def is_busy(self) -> bool:
        """Whether a job waits or runs."""
        return bool(self._queue or self._running)

    def submit(self, job: Job) -> Deferred[Any]:
        """Queue a job; the Deferred fires in the reactor's thread once it has its outcome."""
        with self._changed:
            if self._closing:
                raise unavailable("the database is being closed")
            if len(self._queue) >= self._limit:
                raise Fault(
                    FaultCode.UNAVAILABLE,
                    "too much work is waiting for the database",
                    retry_after=1.0,
                    rule="database.queue",
                    values={"waiting": str(len(self._queue)), "limit": str(self._limit)},
                )
            self._queue.append(job)
            if len(self._queue) >= self._wanted:
                self._changed.notify()
        job.deferred = Deferred()
        job.deadline = time.monotonic() + self._patience
        self._unanswered[job] = None
        if self._watch is None:
            self._watch = self._reactor.callLater(_WATCH_INTERVAL, self._check_deadlines)
        return job.deferred

    def close(self) -> Deferred[None]:
        """Refuse new jobs, finish those that wait, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        return self._closed

    def _serve(self, session: Session) -> None:
        while jobs := self._take(session):
            session.run(jobs)
            with self._changed:
                del self._running[session]
            self._reactor.callFromThread(self._answer, jobs)
        session.close()
        self._reactor.callFromThread(self._ended)

    def _take(self, session: Session) -> Sequence[Job]:
        """Wait for work; an empty answer means: end."""
        with self._changed:
            while True:
                while not self._queue and not self._closing:
                    self._changed.wait()
                self._wait_for_company()
                count = min(len(self._queue), self._group)
                jobs = [self._queue.popleft() for _ in range(count)]
                self._last_group = count
                jobs = [job for job in jobs if not job.abandoned]
                if jobs or (self._closing and not self._queue):
                    break
            if jobs:
                self._running[session] = jobs
            return jobs

    def _wait_for_company(self) -> None:
        # A lone writer must not pay for company that never comes: only when the last commit
        # was shared is it likely that its callers are about to write again.
        target = min(self._last_group, self._group)
        if len(self._queue) >= target or self._closing:
            return
        self._wanted = target
        end = time.monotonic() + GROUP_WINDOW
        while len(self._queue) < target and not self._closing:
            left = end - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                break
        self._wanted = 1

    def _answer(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if self._unanswered.pop(job, 0) == 0:
                continue  # its deadline has passed and the caller was told so
            assert job.deferred is not None
            if job.error is not None or not job.dry_run:
                self.note(job.error)
            job.answer(job.deferred)

    def note(self, error: BaseException | None) -> None:
        """Say once that nothing is served any more, and once that it is again."""
        why = ""
        if isinstance(error, Fault) and error.code is FaultCode.UNAVAILABLE:
            why = error.private or error.detail
        elif error is not None:
            return  # a refusal says nothing of whether a commit succeeds
        if why and not self.trouble:
            log.error("{lane} fails: {why}", lane=self._name, why=why)
        elif self.trouble and not why:
            log.info("{lane} works again", lane=self._name)
        self.trouble = why

    def _check_deadlines(self) -> None:
        self._watch = None
        now = time.monotonic()
        late = []
        for job in self._unanswered:
            if job.deadline > now:
                break
            late.append(job)
        for job in late:
            del self._unanswered[job]
            with self._changed:
                job.abandoned = True
                hanging = [s for s, jobs in self._running.items() if job in jobs]
            for session in hanging:
                session.abort()
            assert job.deferred is not None
            fault = unavailable(f"no outcome within {self._patience} s")
            self.note(fault)
            job.deferred.errback(fault)
        if self._unanswered and self._watch is None:
            self._watch = self._reactor.callLater(_WATCH_INTERVAL, self._check_deadlines)

    def _ended(self) -> None:
        self._alive -= 1
        if self._alive == 0:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            self._closed.callback(None)
