"""SQLite: one file, write-ahead log, durable commits."""

from __future__ import annotations

import mmap
import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.storage.session import LockedError

BUSY_MILLISECONDS = 3_000  # how long another process may hold the write lock
_MMAP_OCTETS = 1 << 28
_JOURNAL_OCTETS = 1 << 26
_LOCK_PAUSE = 0.000_5  # seconds between two looks at the write lock
_WAL_INDEX_HEADER = 48  # octets; a second copy follows

# Results that mean that the database cannot serve now, not that the statement is wrong.
_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class SQLite:
    """Opens connections to one file, or to a database in memory that only one can see.

    Without ``waits`` a writer gets LockedError where it would wait for another one.
    """

    dialect = "sqlite"

    def __init__(self, path: str, now: Clock, *, create: bool = False, waits: bool = True) -> None:
        self.path = "" if path in {"", ":memory:"} else os.path.abspath(path)
        self._waits = waits
        self._now = now
        self.template: sqlite3.Connection | None = None  # what a database in memory begins with
        self._is_migrating = create
        if self.path:
            _protect(Path(self.path), create)
        self.engine = sa.create_engine(
            "sqlite+pysqlite://", creator=self._open, poolclass=sa.pool.NullPool
        )
        sa.event.listen(self.engine, "begin", _begin)

    def _open(self) -> sqlite3.Connection:
        # isolation_level None: the driver starts no transactions of its own.
        connection = sqlite3.connect(
            f"{Path(self.path).as_uri()}?mode=rw" if self.path else ":memory:",
            uri=True,
            isolation_level=None,
            check_same_thread=False,  # opened and used by one thread, closed by another
            cached_statements=512,
            timeout=BUSY_MILLISECONDS / 1000,
        )
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                f"mmap_size={_MMAP_OCTETS}",
                f"journal_size_limit={_JOURNAL_OCTETS}",
            ):
                # The first one needs a lock that SQLite does not wait for.
                _when_free(partial(connection.executescript, f"PRAGMA {pragma}"))
            if self.template is not None:
                self.template.backup(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def connect(self, read_only: bool) -> sa.Connection:
        """Open a connection whose transactions begin with the right kind of lock."""
        connection = self.engine.connect()
        connection.info["tmad.now"] = self._now
        connection.info["tmad.begin"] = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        connection.info["tmad.waits"] = self._waits
        # A writer waits for the lock by itself: see _begin.
        pragmas = ["query_only=ON" if read_only else "busy_timeout=0"]
        if not read_only and not self._is_migrating:
            # What a savepoint of a shared commit could undo would be written to a file in
            # /var/tmp, page by page. Migrations sort whole tables and keep their files.
            pragmas.append("temp_store=MEMORY")
        for pragma in pragmas:
            driver(connection).execute(f"PRAGMA {pragma}").close()
        return connection

    def outage(self, error: BaseException) -> str:
        """Say how this error means that the database cannot serve; "" when it does not."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, sqlite3.Error):
            code = getattr(cause, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in _OUTAGES:
                return f"{cause.sqlite_errorname}: {cause}"
        return ""

    def is_conflict(self, error: BaseException) -> bool:
        """Whether a read failed only because of what happened at the same time: never here."""
        return False

    def is_lost(self, connection: sa.Connection) -> bool:
        """Whether SQLite has rolled the whole transaction back, as it may when a disk is full."""
        return not driver(connection).in_transaction

    def has_failed(self, connection: sa.Connection) -> bool:
        """Whether a commit would keep nothing."""
        return self.is_lost(connection)

    def interrupt(self, connection: sa.Connection) -> None:
        """Stop a statement that runs too long; a hanging disk cannot be helped."""
        driver(connection).interrupt()


class CommitWatch:
    """Sees the commits of every process in the header of the WAL index.

    Each commit writes that header into shared memory (the -shm file; "WAL-Mode File Format",
    section 2.1), and comparing it is how SQLite itself notices: 0.2 µs, where asking by PRAGMA
    data_version takes 8 µs and four locks.

    POSIX drops all locks that a process holds on a file when it closes any descriptor of it.
    So the file stays open until the last database of this process that uses it has closed its
    own connections: call ``close`` after them.
    """

    _open: dict[tuple[int, int], CommitWatch] = {}  # noqa: RUF012  one for the process
    _lock = threading.Lock()

    def __init__(self, key: tuple[int, int], descriptor: int) -> None:
        self._key = key
        self._descriptor = descriptor
        self._users = 0
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ)

    @classmethod
    def of(cls, database: str) -> CommitWatch | None:
        """Return the watch of a database that this process has open; None if it has no index."""
        path = f"{database}-shm"
        with cls._lock:
            try:
                found = os.stat(path)
                if found.st_size < mmap.PAGESIZE:
                    return None
                key = (found.st_dev, found.st_ino)
                watch = cls._open.get(key)
                if watch is None:
                    watch = cls._open[key] = cls(key, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return None
            watch._users += 1
            return watch

    def version(self) -> bytes:
        """Return what is different after each commit."""
        return self._map[:_WAL_INDEX_HEADER]

    def close(self) -> None:
        """Let go of the file when nobody watches it any more."""
        with self._lock:
            self._users -= 1
            if not self._users:
                del self._open[self._key]
                self._map.close()
                os.close(self._descriptor)


def driver(connection: sa.Connection) -> Any:
    """Return the driver's own connection, for what must cost a microsecond only."""
    return connection.connection.driver_connection


def _begin(connection: sa.Connection) -> None:
    statement = connection.info.get("tmad.begin")
    if not statement:
        return
    # SQLite's own waiting for the write lock sleeps up to 100 ms at a time, while a commit of
    # another process takes 2.
    execute = driver(connection).execute
    if connection.info["tmad.waits"]:
        _when_free(lambda: execute(statement))
        return
    try:
        execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise LockedError from None


def _when_free(function: Callable[[], object]) -> None:
    """Call a function until no other process holds the lock that it needs."""
    end = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            function()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        # Relative, unlike time.sleep, which fails when somebody moves the clocks meanwhile.
        select.select((), (), (), _LOCK_PAUSE)


def _protect(path: Path, create: bool) -> None:
    """Let nobody but the owner read the file; SQLite gives -wal and -shm the same mode."""
    if create and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except FileNotFoundError:
        raise Fault(
            FaultCode.UNAVAILABLE,
            "the database does not exist; run `tmad init`, or `tmad migrate` to create it",
            private=str(path),
            rule="database.schema",
        ) from None
