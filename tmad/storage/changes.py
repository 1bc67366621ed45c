"""Tells caches what other transactions changed, before each use of the cache.

The change is a row, written in the transaction that makes it; a reader asks for the newer rows
each time, so that a revocation committed anywhere is seen by the very next query everywhere
(docs/decisions/0001-changes-table-instead-of-notify.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from tmad.storage.database import Database
from tmad.storage.statement import Statement
from tmad.storage.tables import changes

EVERYTHING = "*"

# More news than this at once is not worth reading: all caches start anew.
_PAGE = 10_000

# "tmad" and a number: serialises recording transactions, so that ids are visible in order.
_ORDER_LOCK = 0x746D_6164_0001

_INSERT = changes.insert()
_LOCK = sa.text(f"SELECT pg_advisory_xact_lock({_ORDER_LOCK})")
_NEWS = Statement(
    sa.select(changes.c.id, changes.c.topic, changes.c.key)
    .where(changes.c.id >= sa.bindparam("last"))
    .order_by(changes.c.id)
    .limit(_PAGE)
)
_NEWEST = sa.select(sa.func.coalesce(sa.func.max(changes.c.id), 0))
_NEWEST_OF_TOPIC = sa.select(sa.func.coalesce(sa.func.max(changes.c.id), 0)).where(
    changes.c.topic == sa.bindparam("topic")
)
_PRUNE = changes.delete().where(
    changes.c.at < sa.bindparam("before"),
    # The newest row stays: it is how a reader sees that it has missed nothing.
    changes.c.id < sa.select(sa.func.max(changes.c.id)).scalar_subquery(),
)


def record(connection: sa.Connection, topic: str, key: str) -> int:
    """Announce, in the transaction that makes it, a change of ``key`` in ``topic``.

    Return the change's id: whoever sees it sees all that have lower ones.

    Call it late in the transaction: on PostgreSQL recording transactions wait for each other
    from here to their commit, which is what makes ids become visible in their order.
    """
    in_turn(connection)
    values = {"topic": topic, "key": key, "at": connection.info["tmad.now"]()}
    inserted = connection.execute(_INSERT, values).inserted_primary_key
    assert inserted is not None  # one row
    return int(inserted[0])


def in_turn(connection: sa.Connection) -> None:
    """Let no other transaction record a change before this one ends.

    For one that reads what it is going to change: where there is more than one writer, another
    could change it in between.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)


def newest(connection: sa.Connection, topic: str) -> int:
    """Return the id of the newest change of a topic, 0 when there is none."""
    found: int = connection.execute(_NEWEST_OF_TOPIC, {"topic": topic}).scalar_one()
    return found


def prune(connection: sa.Connection, before: datetime) -> int:
    """Delete what was recorded before an instant; readers that lag drop their caches."""
    return connection.execute(_PRUNE, {"before": before}).rowcount


@dataclass(frozen=True, slots=True)
class News:
    """What a reader at ``last`` has missed; ``continuous`` unless rows between are gone."""

    latest: int
    continuous: bool
    changes: tuple[tuple[str, str], ...]  # topic, key


def since(connection: sa.Connection, last: int) -> News:
    """Return the changes after ``last``, in commit order."""
    rows = _NEWS.rows(connection, {"last": last})
    if rows and rows[0][0] == last:
        # The row that was read last is still there, so nothing after it has been pruned.
        continuous, rows = True, rows[1:]
    else:
        continuous = last == 0 and (not rows or rows[0][0] == 1)
    if len(rows) >= _PAGE - 1:
        continuous = False
    if not continuous:
        return News(connection.execute(_NEWEST).scalar_one(), False, ())
    latest = rows[-1][0] if rows else last
    return News(latest, True, tuple((topic, key) for _, topic, key in rows))


class Changes:
    """Delivers every committed change to the caches that listen, when they ask."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: dict[str, list[Callable[[str], None]]] = {}
        self._watch = database.watch_commits()
        self._version: object = None
        self._missed = False
        self._waiting: list[Deferred[None]] = []
        self._asking = False
        self.latest = 0

    def listen(self, topic: str, callback: Callable[[str], None]) -> None:
        """Call ``callback(key)`` for each change; the key "*" means: drop everything."""
        self._listeners.setdefault(topic, []).append(callback)

    def is_current(self) -> bool:
        """Tell, without waiting, that there is certainly nothing to catch up with."""
        if self._watch is None or self._missed:
            return False
        try:
            return self._watch() == self._version
        except Exception:
            return False  # ``catch_up`` says why

    async def catch_up(self) -> None:
        """Deliver every change that any process has committed so far.

        Call it before each use of a cache. Fault(UNAVAILABLE) means that nobody knows what
        has changed: the cache must not be used.
        """
        if self._watch is not None:
            try:
                version = self._watch()
            except Exception:
                self._missed = True
                raise
            if version == self._version and not self._missed:
                return
            await self._ask()
            self._version = version
        elif self._database.reactor is None:
            await self._ask()
        else:
            await self._share_question()

    async def _ask(self) -> None:
        try:
            news = await self._database.lookup(since, self.latest)
        except BaseException:
            self._missed = True
            raise
        self._deliver(news)

    def _deliver(self, news: News) -> None:
        # State moves only after every listener has heard it: one that raises hears it again.
        if self._missed or not news.continuous:
            for callbacks in self._listeners.values():
                for callback in callbacks:
                    callback(EVERYTHING)
        else:
            for topic, key in news.changes:
                for callback in self._listeners.get(topic, ()):
                    callback(key)
        self.latest = news.latest
        self._missed = False

    async def _share_question(self) -> None:
        """Ask once for everyone who waits in this reactor turn.

        A question that is already under way was asked before this caller came: its answer may
        be too old, so whoever comes meanwhile waits for the next one.
        """
        answer: Deferred[None] = Deferred()
        self._waiting.append(answer)
        if not self._asking:
            self._asking = True
            assert self._database.reactor is not None
            self._database.reactor.callLater(0, self._ask_for_all)
        await answer

    def _ask_for_all(self) -> None:
        waiting, self._waiting = self._waiting, []

        def answered(outcome: object) -> None:
            if isinstance(outcome, Failure):
                # Whoever came meanwhile would only wait once more for a database that is away.
                waiting.extend(self._waiting)
                self._waiting = []
            for answer in waiting:
                if isinstance(outcome, Failure):
                    answer.errback(outcome)
                else:
                    answer.callback(None)
            if self._waiting:
                assert self._database.reactor is not None
                self._database.reactor.callLater(0, self._ask_for_all)
            else:
                self._asking = False

        ensureDeferred(self._ask()).addBoth(answered)
