"""The database, as the rest of tmad sees it: functions go in, committed results come out."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import sqlalchemy as sa
from twisted.internet.defer import Deferred, DeferredList, succeed

from tmad.events import Clock, utc_now
from tmad.storage.brief import BriefWriter
from tmad.storage.lane import GROUP_LIMIT, STANDBY, Job, Lane, Reactor, unavailable
from tmad.storage.schema import HEAD, require_head
from tmad.storage.schema import migrate as migrate
from tmad.storage.session import GroupSession
from tmad.storage.session import after_commit as after_commit
from tmad.storage.sqlite import CommitWatch, SQLite, driver
from tmad.storage.tables import metadata

if TYPE_CHECKING:
    from tmad.storage.postgresql import PostgreSQL

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

QUEUE_LIMIT = 1_024
# Seconds after which a caller is told that there is no outcome (security, G-FAULT-2).
WRITE_PATIENCE = 5.0
READ_PATIENCE = 30.0
LOOKUP_PATIENCE = 5.0

_SWITCH_INTERVAL = 0.0002  # seconds


class Database:
    """One SQLite file or one PostgreSQL database.

    One function is one transaction: ``await database.write(certificates.insert, row)``. The
    function gets a connection first, must not end its transaction, and returns plain values.
    Whatever it raises reaches the caller; an outage becomes Fault(UNAVAILABLE). The result of
    a write is delivered only after the commit.

    Without a reactor everything happens at once in the calling thread, in the same
    transactions: for unit tests and tools.
    """

    def __init__(
        self, url: str, *, reactor: Reactor | None = None, threads: int = 4, clock: Clock = utc_now
    ) -> None:
        self.url = url
        self.now = clock
        self.reactor = reactor
        parsed = sa.make_url(url)
        self._sqlite: SQLite | None = None
        self._point: sa.Connection | None = None
        self._private: list[sa.Connection] = []
        self._watches: list[CommitWatch] = []
        points: SQLite | PostgreSQL
        if parsed.get_backend_name() == "sqlite":
            backend: SQLite | PostgreSQL = SQLite(parsed.database or "", clock)
            assert isinstance(backend, SQLite)
            self._sqlite = points = backend
            writers = 1
        else:
            # Its driver takes 6 MiB and a tenth of a second that SQLite can do without.
            from tmad.storage.postgresql import PostgreSQL

            backend = PostgreSQL(parsed, clock)
            points = PostgreSQL(parsed, clock, point=True)
            writers = threads
        self._backend = backend
        self.dialect: str = backend.dialect
        self._lanes: list[Lane] = []
        self._brief: BriefWriter | None = None
        self._closed = False
        self._writer = GroupSession(backend, read_only=False)
        self._reader = self._writer
        if not self.in_one_connection:
            self._check_schema()
            self._reader = GroupSession(backend, read_only=True)
        self._looker = self._reader
        if self.dialect == "postgresql":
            self._looker = GroupSession(points, read_only=True)
        if reactor is not None:
            self._start(reactor, backend, points, writers, threads)

    def _start(
        self,
        reactor: Reactor,
        backend: SQLite | PostgreSQL,
        points: SQLite | PostgreSQL,
        writers: int,
        threads: int,
    ) -> None:
        # SQLite gives the interpreter lock up several times a statement, and a busy reactor
        # hands it back only when this time is over. Beside a reactor that never idles, eight
        # writers got 171 writes a second with Python's 5 ms (p99 258 ms) and 803 with 0.2 ms
        # (p99 31 ms); beside an idle one it makes no difference (2026-11-23).
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
        self._writes = Lane(
            reactor,
            "database-write",
            [GroupSession(backend, read_only=False) for _ in range(writers)],
            limit=QUEUE_LIMIT,
            patience=WRITE_PATIENCE,
            group=GROUP_LIMIT if self.dialect == "sqlite" else 1,
        )
        self._reads = Lane(
            reactor,
            "database-read",
            [GroupSession(backend, read_only=True) for _ in range(threads)],
            limit=QUEUE_LIMIT,
            patience=READ_PATIENCE,
        )
        self._lanes = [self._writes, self._reads]
        if self._sqlite is not None and self._sqlite.path:
            unwaiting = SQLite(self._sqlite.path, self.now, waits=False)
            self._brief = BriefWriter(
                reactor,
                GroupSession(unwaiting, read_only=False),
                self._writes,
                patience=WRITE_PATIENCE,
            )
        if self.dialect == "postgresql":
            self._lookups = Lane(
                reactor,
                "database-lookup",
                [GroupSession(points, read_only=True) for _ in range(threads)],
                limit=QUEUE_LIMIT,
                patience=LOOKUP_PATIENCE,
            )
            self._lanes.append(self._lookups)

    @classmethod
    def in_memory(cls, *, clock: Clock = utc_now) -> Database:
        """Return an inline SQLite database with the schema, for unit tests."""
        database = cls("sqlite://", clock=clock)
        assert database._sqlite is not None
        database._sqlite.template = driver(_with_schema())
        return database

    @property
    def is_writing(self) -> bool:
        """Whether the last write could be made durable, as far as that is known."""
        return self.reactor is None or not self._writes.trouble

    @property
    def why_not_writing(self) -> str:
        """Return "" if writes succeed, else what may be told to anybody; the log has it all."""
        if self.is_writing:
            return ""
        return STANDBY if self._writes.trouble.startswith(STANDBY) else "failed"

    @property
    def waiting(self) -> dict[str, int]:
        """How many jobs wait in each queue of this process."""
        waiting = {lane.name: lane.waiting for lane in self._lanes}
        if self._brief is not None:
            waiting["database-brief"] = self._brief.waiting
        return waiting

    @property
    def in_one_connection(self) -> bool:
        """Whether this database lives in memory, seen by a single connection."""
        return self._sqlite is not None and not self._sqlite.path

    @staticmethod
    def after_commit(connection: sa.Connection, callback: Callable[[], object]) -> None:
        """Call ``callback`` in the reactor's thread once this transaction has been committed."""
        after_commit(connection, callback)

    async def write(
        self,
        function: Callable[[sa.Connection, *Arguments], T],
        *arguments: *Arguments,
        dry_run: bool = False,
    ) -> T:
        """Run ``function`` in a transaction; return its result once that is durable.

        With ``dry_run`` the same is done and rolled back.
        """
        job = Job(function, arguments, dry_run)
        result: T
        if self.reactor is None:
            result = self._inline(self._writer, job)
        else:
            result = await self._writes.submit(job)
        return result

    async def write_briefly(
        self, function: Callable[[sa.Connection, *Arguments], T], *arguments: *Arguments
    ) -> T:
        """Like ``write``, for what takes a few milliseconds: it may be the reactor that waits."""
        if self._brief is None:
            return await self.write(function, *arguments)
        result: T = await self._brief.submit(Job(function, arguments))
        return result

    async def read(
        self, function: Callable[[sa.Connection, *Arguments], T], *arguments: *Arguments
    ) -> T:
        """Run ``function`` in a read-only transaction, in a thread of the pool."""
        job = Job(function, arguments)
        result: T
        if self.reactor is None:
            result = self._inline_read(self._reader, job)
        else:
            result = await self._reads.submit(job)
        return result

    async def lookup(
        self, function: Callable[[sa.Connection, *Arguments], T], *arguments: *Arguments
    ) -> T:
        """Run a point read: microseconds, by an index.

        On SQLite it runs in the reactor's thread at once, since a hop to a thread and back
        costs ten times the read (performance 5.4). Each statement sees its own snapshot.
        """
        if self._sqlite is not None and self._sqlite.path:
            return self._look(function, *arguments)
        job = Job(function, arguments)
        result: T
        if self.reactor is None:
            result = self._inline_read(self._looker, job)
        else:
            result = await self._lookups.submit(job)
        return result

    def _look(
        self, function: Callable[[sa.Connection, *Arguments], T], *arguments: *Arguments
    ) -> T:
        if self._closed:
            raise unavailable("the database is being closed")
        try:
            if self._point is None:
                self._point = self._connect_point()
            # Without BEGIN, as on PostgreSQL: it and its ROLLBACK cost as much as the read.
            return function(self._point, *arguments)
        except Exception as error:
            why = self._backend.outage(error)
            if not why:
                raise
            if self._point is not None:
                self._point.close()
                self._point = None
            raise unavailable(why) from error

    def _connect_point(self) -> sa.Connection:
        """Open a read-only connection of the reactor's thread that starts no transactions."""
        connection = self._backend.connect(read_only=True)
        connection.info["tmad.begin"] = ""
        return connection

    def watch_commits(self) -> Callable[[], object] | None:
        """Return a function whose value changes whenever another connection has committed.

        None where there is no such thing: PostgreSQL, and in memory.
        """
        if self._sqlite is None or not self._sqlite.path:
            return None
        connection = self._connect_point()
        self._private.append(connection)
        raw = driver(connection)

        def version() -> int:
            try:
                number: int = raw.execute("PRAGMA data_version").fetchone()[0]
            except Exception as error:
                raise unavailable(self._backend.outage(error) or repr(error)) from error
            return number

        version()  # makes SQLite open the index
        watch = CommitWatch.of(self._sqlite.path)
        if watch is None:
            return version
        self._watches.append(watch)
        return watch.version

    def _inline(self, session: GroupSession, job: Job) -> Any:
        if self._closed:
            raise unavailable("the database is being closed")
        session.run([job])
        return job.finish()

    def _inline_read(self, session: GroupSession, job: Job) -> Any:
        if not self.in_one_connection:
            return self._inline(session, job)
        # The only connection is the writer's: hold it to the rules of a reader meanwhile.
        function = job.function

        def read_only(connection: sa.Connection, *arguments: object) -> Any:
            driver(connection).execute("PRAGMA query_only=ON")
            try:
                return function(connection, *arguments)
            finally:
                driver(connection).execute("PRAGMA query_only=OFF")

        job.function = read_only
        return self._inline(session, job)

    def _check_schema(self) -> None:
        try:
            with self._backend.connect(read_only=True) as connection:
                require_head(connection)
        except Exception as error:
            why = self._backend.outage(error)
            if why:
                raise unavailable(why) from error
            raise

    def close(self) -> Deferred[None]:
        """Finish what waits, then close every connection; later calls get a Fault."""
        if self._closed:
            return succeed(None)
        self._closed = True
        # First of all the one that hands to another what it does not finish.
        closing = [] if self._brief is None else [self._brief.close()]
        closing += [lane.close() for lane in self._lanes]
        done = DeferredList(closing, fireOnOneErrback=True)
        return done.addCallback(self._close_own)

    def _close_own(self, _: object) -> None:
        for session in (self._writer, self._reader, self._looker):
            session.close()
        for connection in (self._point, *self._private):
            if connection is not None:
                connection.close()
        self._point = None
        self._private = []
        for watch in self._watches:
            watch.close()
        self._watches = []


@functools.cache
def _with_schema() -> sa.Connection:
    """Return a database that is only copied: that takes a tenth of making its tables."""
    connection = SQLite("", utc_now).connect(read_only=False)
    with connection.begin():
        metadata.create_all(connection)
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    return connection
