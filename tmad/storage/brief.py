"""Brief transactions on SQLite: statements in the reactor's thread, commits in another one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from tmad.errors import Fault
from tmad.storage.lane import Job, Lane, Reactor, unavailable
from tmad.storage.session import GroupSession, LockedError

_GROUP: Final = 4  # jobs of one transaction; each has many rows
_PAUSE: Final = 0.001  # seconds between two looks at a lock that somebody else holds
_LOOKS: Final = 12

_Party: TypeAlias = Sequence[tuple[Job, Deferred[Any]]]


class _Commits:
    """What the committing thread works with: each of its jobs is one commit."""

    def __init__(self, session: GroupSession) -> None:
        self._session = session

    def run(self, jobs: Sequence[Job]) -> None:
        """Commit; never raise."""
        for job in jobs:
            try:
                job.function(*job.arguments)
            except Exception as error:
                job.fail(error)

    def abort(self) -> None:
        """Break a commit that hangs, where that can be done."""
        self._session.abort()

    def close(self) -> None:
        """Give the connection back."""
        self._session.close()


class BriefWriter:
    """Runs jobs of a few milliseconds, several in one transaction, in the reactor's thread.

    Their statements change pages in memory; only the commit waits for a disk, and it has a thread.
    Python's driver gives the interpreter's lock away at each statement, so that a writer's thread
    and a busy reactor hand it to and fro all the time: that costs more than the statements do.

    Nobody waits for a lock here. While another connection writes, jobs stay queued, and go
    ``instead`` when that lasts for long.
    """

    def __init__(
        self, reactor: Reactor, session: GroupSession, instead: Lane, *, patience: float
    ) -> None:
        self._reactor = reactor
        self._session = session
        self._instead = instead
        self.commits = Lane(
            reactor, "database-commit", [_Commits(session)], limit=1, patience=patience
        )
        self._queue: deque[tuple[Job, Deferred[Any]]] = deque()
        self._is_under_way = False
        self._looks = 0
        self._timer: Any = None
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many jobs have not been run yet."""
        return len(self._queue)

    def submit(self, job: Job) -> Deferred[Any]:
        """Run a job once those before it are committed; the Deferred fires after its own commit."""
        if self._is_closed:
            raise unavailable("the database is being closed")
        deferred: Deferred[Any] = Deferred()
        self._queue.append((job, deferred))
        if not self._is_under_way:
            self._go_on()
        return deferred

    def close(self) -> Deferred[None]:
        """Refuse new jobs; finish those that wait, if the lane that serves instead still does."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._give_away()
        return self.commits.close()

    def _go_on(self) -> None:
        self._timer = None
        self._is_under_way = bool(self._queue)
        if not self._queue:
            return
        if not self._may_write():
            self._look_again()
            return
        party = [self._queue.popleft() for _ in range(min(len(self._queue), _GROUP))]
        try:
            is_to_commit = self._session.prepare([job for job, _ in party])
        except LockedError:
            self._queue.extendleft(reversed(party))
            self._look_again()
            return
        self._looks = 0
        if is_to_commit:
            self._commit().addBoth(self._committed, party)
        else:
            self._committed(None, party)

    def _may_write(self) -> bool:
        # Those in the other queue came first. A commit that nobody waits for any more may still
        # be at the connection.
        return not (self._instead.is_busy or self.commits.is_busy)

    def _look_again(self) -> None:
        self._looks += 1
        if self._looks < _LOOKS:
            self._timer = self._reactor.callLater(_PAUSE, self._go_on)
            return
        self._looks = 0
        self._is_under_way = False
        self._give_away()

    def _give_away(self) -> None:
        while self._queue:
            job, deferred = self._queue.popleft()
            try:
                self._instead.submit(job).chainDeferred(deferred)
            except Fault as fault:
                deferred.errback(fault)

    def _commit(self) -> Deferred[Any]:
        try:
            return self.commits.submit(Job(self._session.commit, ()))
        except Fault as fault:
            self._session.close()
            return fail(fault)

    def _committed(self, outcome: object, party: _Party) -> None:
        if isinstance(outcome, Failure):
            assert outcome.value is not None
            for job, _ in party:
                job.fail(outcome.value)
        self._go_on()
        for job, deferred in party:
            self._instead.note(job.error)
            job.answer(deferred)
