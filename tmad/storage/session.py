"""One thread's connection: transactions, savepoints, loss and healing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from tmad.storage.lane import Job, unavailable

_AFTER_COMMIT = "tmad.after_commit"
_DOOM = "tmad.doom"


def after_commit(connection: sa.Connection, callback: Callable[[], object]) -> None:
    """Call ``callback`` in the reactor's thread once this transaction has been committed."""
    connection.info[_AFTER_COMMIT].append(callback)


def doom(connection: sa.Connection, error: Exception) -> None:
    """Make this transaction fail with ``error``, whatever its function returns or catches."""
    connection.info[_DOOM] = error


class Backend(Protocol):
    """What differs between SQLite and PostgreSQL for a session."""

    def connect(self, read_only: bool) -> sa.Connection:
        """Open a connection; raise a driver or SQLAlchemy error when that fails."""

    def outage(self, error: BaseException) -> str:
        """Say how this error means that the database cannot serve; "" when it does not."""

    def is_conflict(self, error: BaseException) -> bool:
        """Whether a read failed only because of what happened at the same time."""

    def is_lost(self, connection: sa.Connection) -> bool:
        """Whether the transaction is gone with everything that was done in it."""

    def has_failed(self, connection: sa.Connection) -> bool:
        """Whether a commit would keep nothing."""

    def interrupt(self, connection: sa.Connection) -> None:
        """Break a call that hangs in another thread, if that is possible."""


class _Lost(Exception):  # noqa: N818  the text says why
    """The transaction is gone, with everything that any job of it has done."""


class _Disturbed(_Lost):
    """It was a read, and the same read is likely to succeed a moment later."""


class LockedError(Exception):
    """Another connection is writing, and this one does not wait for that."""


class GroupSession:
    """Runs jobs in transactions of one connection, several jobs in one commit.

    The outcome of a job is final only once the commit that holds it has succeeded: if that
    fails, all jobs of the group get Fault(UNAVAILABLE), whatever they had returned.
    """

    def __init__(self, backend: Backend, *, read_only: bool) -> None:
        self._backend = backend
        self._read_only = read_only
        self._connection: sa.Connection | None = None
        self._transaction: sa.RootTransaction | None = None  # what is to be committed

    def run(self, jobs: Sequence[Job]) -> None:
        """Run every job and set its outcome; never raise."""
        try:
            was_open = self._connection is not None
            try:
                self._run_group(jobs)
            except _Lost as error:
                # A read may simply be done again, if only its idle connection had died.
                if not (self._read_only and (was_open or isinstance(error, _Disturbed))):
                    raise
                self._discard()
                self._run_group(jobs)
        except Exception as error:
            self._fail(jobs, error)

    def prepare(self, jobs: Sequence[Job]) -> bool:
        """Run every job and set its outcome; tell whether there is something to commit.

        Raise LockedError, and nothing else, when another connection writes: nothing was done.
        """
        try:
            return self._attempt_all(jobs)
        except LockedError:
            raise
        except Exception as error:
            self._fail(jobs, error)
            return False

    def commit(self) -> None:
        """Commit what was prepared, in whichever thread; Fault(UNAVAILABLE) if that fails."""
        try:
            self._commit()
        except _Lost as error:
            self._discard()
            raise unavailable(str(error)) from error

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        self._discard()
        outcome = unavailable(str(error)) if isinstance(error, _Lost) else error
        for job in jobs:
            job.fail(outcome)

    def abort(self) -> None:
        """Break a call that hangs, from another thread, where the driver can."""
        connection = self._connection
        if connection is not None:
            self._backend.interrupt(connection)

    def close(self) -> None:
        """Close the connection."""
        self._discard()

    def _begin(self) -> tuple[sa.Connection, sa.RootTransaction]:
        # A connection that died while it was idle is noticed here, before anything was done
        # on it, so one fresh attempt is safe.
        for attempt in (1, 2):
            fresh = self._connection is None
            try:
                if self._connection is None:
                    self._connection = self._backend.connect(self._read_only)
                return self._connection, self._connection.begin()
            except LockedError:
                raise
            except Exception as error:
                self._discard()
                why = self._backend.outage(error)
                if not why:
                    raise
                if fresh or attempt == 2:
                    raise _Lost(why) from error
        raise AssertionError("unreachable")

    def _run_group(self, jobs: Sequence[Job]) -> None:
        if self._attempt_all(jobs):
            self._commit()

    def _attempt_all(self, jobs: Sequence[Job]) -> bool:
        """Run every job in one transaction; say whether it did something to keep. Raise _Lost."""
        connection, transaction = self._begin()
        keep = False
        for job in jobs:
            keep |= self._attempt(connection, transaction, job, shared=len(jobs) > 1)
        self._transaction = transaction if keep else None
        if not keep:
            self._end(transaction.rollback)
        return keep

    def _commit(self) -> None:
        assert self._transaction is not None
        transaction, self._transaction = self._transaction, None
        self._end(transaction.commit)

    def _end(self, how: Callable[[], None]) -> None:
        try:
            how()
        except Exception as error:
            raise _Lost(self._backend.outage(error) or repr(error)) from error

    def _attempt(
        self, connection: sa.Connection, transaction: sa.RootTransaction, job: Job, *, shared: bool
    ) -> bool:
        """Run one job; say whether it did something to keep. Raise _Lost."""
        if job.abandoned:
            # Its caller was told that nothing came of it, so nothing shall.
            job.fail(unavailable("nobody waits for it any more"))
            return False
        driver: Any = connection.connection.driver_connection
        connection.info[_AFTER_COMMIT] = job.callbacks
        connection.info.pop(_DOOM, None)
        job.error = None  # a read that is done again had one
        if shared:
            driver.execute("SAVEPOINT job")
        try:
            job.result = job.function(connection, *job.arguments)
        except Exception as error:
            why = self._backend.outage(error)
            if self._read_only and self._backend.is_conflict(error):
                raise _Disturbed(why) from error
            job.fail(unavailable(why) if why else error)
            if connection.invalidated or self._backend.is_lost(connection):
                raise _Lost(why or repr(error)) from error
        else:
            if not transaction.is_active or connection.get_transaction() is not transaction:
                raise RuntimeError("a storage function must not end its transaction")
            if isinstance(job.result, Iterator) and getattr(job.result, "returns_rows", True):
                # It would be read outside the transaction, in another thread.
                raise TypeError("a storage function must return rows, not an iterator over them")
            doomed = connection.info.pop(_DOOM, None)
            # PostgreSQL answers COMMIT with a silent rollback if a statement had failed and
            # the function went on: that must not be acknowledged.
            if self._backend.is_lost(connection) or (
                doomed is None and self._backend.has_failed(connection)
            ):
                raise _Lost("the function went on after a failed statement")
            if doomed is not None:
                job.fail(doomed)
            elif job.dry_run:
                job.callbacks = []
        undo = job.error is not None or job.dry_run
        if shared:
            if undo:
                driver.execute("ROLLBACK TO job")
            driver.execute("RELEASE job")
        return not undo

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # It may be thrown away because it does not work: whatever the pool thinks of it, the
        # descriptor goes.
        driver: Any = None
        with contextlib.suppress(Exception):
            driver = connection.connection.driver_connection
        with contextlib.suppress(Exception):
            connection.close()
        if driver is not None:
            with contextlib.suppress(Exception):
                driver.close()
