"""Whoever may not be on the network any more is put off it (RFC 5176; R-80..R-87).

A session ends when what it stands on is gone: its certificate revoked or on hold, its person
disabled, its device blocked, its trust anchor removed. The changes that any process commits are
followed, so that this begins within a second; and all live sessions are compared with the
database at the start and each minute, so that nothing is lost in a crash between a revocation
and its consequence. What must end is a row; one process takes it, asks the NAS, and writes down
what came of it. A NAS that can only be asked down a connection of its own making may have made it
to another node: what does not reach it is handed over to whoever has that connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tmad.errors import Fault
from tmad.events import JSON, Clock, Event
from tmad.identity.access import Records
from tmad.network.client import Client
from tmad.network.sessions import Sessions, about
from tmad.storage import disconnects
from tmad.storage import radius_sessions as rows
from tmad.storage.changes import EVERYTHING, Changes
from tmad.storage.database import Database
from tmad.storage.disconnects import HANDED_OVER, NOT_SENT, ClientKey, DisconnectRow
from tmad.storage.radius_sessions import Condemned, SessionRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()

ACTOR: Final = "system"
# For so long a NAS that is silent or refuses is asked again.
PATIENCE: Final = timedelta(minutes=10)
_FIRST_WAIT: Final = timedelta(seconds=5)
_LONGEST_WAIT: Final = timedelta(seconds=160)
# Longer than one conversation with a NAS; whoever claimed a row and died is replaced after it.
_CLAIM: Final = timedelta(seconds=60)
# So long whoever is connected to the NAS may take to hear that its end of the line is wanted.
_HAND_OVER: Final = timedelta(seconds=3)
_UNDER_WAY: Final = 512
_BATCH: Final = 200
# With more news than this, to compare everything is less work.
_MOST_NEWS: Final = 200
# A login that was being decided while its certificate was revoked is written soon after.
_LOOK_AGAIN: Final = timedelta(seconds=5)

News: TypeAlias = tuple[str, str]  # topic, key
IsRevoked: TypeAlias = Callable[[str, str, bytes, int], Awaitable[bool]]
_Find: TypeAlias = "Callable[[Connection], tuple[Condemned, ...]]"
_EVERYTHING: Final[News] = (EVERYTHING, EVERYTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One session that a NAS is to end.

    ``attempt`` counts from 0. ``is_alone`` says that its station has no other session there,
    so that the station alone names it.
    """

    session: SessionRow
    client: Client
    attempt: int
    is_alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of asking.

    ``word`` is for people: "acknowledged", "session-gone", "silent", "refused" …;
    ``is_over`` that the session is known to have ended; ``is_final`` that it is of no use to
    ask again; ``may_be_elsewhere`` that the NAS can be asked only where it is connected, which
    is not here.
    """

    word: str
    is_done: bool = False
    is_over: bool = False
    is_final: bool = False
    may_be_elsewhere: bool = False
    error_cause: int | None = None
    detail: str = ""


class Disconnects:
    """Ends the sessions that may not go on.

    ``ask`` tells a NAS (protocols/radius/coa.py); ``client`` finds one by tenant and name;
    ``is_revoked`` says what the CRLs of a trust anchor know (tenant, anchor, issuer, serial);
    ``count`` gets the word of each outcome; ``connected`` names the NASes that this process can
    ask down connections of their making.
    ``locked`` also ends the sessions of people who were locked out for wrong codes.
    """

    def __init__(
        self,
        database: Database,
        changes: Changes,
        journal: Records,
        sessions: Sessions,
        now: Clock,
        *,
        client: Callable[[str, str], Awaitable[Client | None]],
        is_revoked: IsRevoked,
        ask: Callable[[Order], Awaitable[Outcome]],
        count: Callable[[str], object],
        connected: Callable[[], Set[ClientKey]] = frozenset,
        locked: bool = False,
    ) -> None:
        self._database = database
        self._changes = changes
        self._journal = journal
        self._sessions = sessions
        self._now = now
        self._client = client
        self._is_revoked = is_revoked
        self._ask = ask
        self._count = count
        self._connected = connected
        self._locked = locked
        self._news: set[News] = set()
        self._again: list[tuple[datetime, News]] = []
        self._under_way: dict[int, Deferred[None]] = {}
        for topic in ("status", "people", "devices", "objects", "anchors"):
            changes.listen(topic, partial(self._heard, topic))

    # -- what must end ----------------------------------------------------------------------

    def _heard(self, topic: str, key: str) -> None:
        if topic == "objects" and key != EVERYTHING and "/trust-anchor/" not in key:
            return
        # In a process that does not send, nobody takes the news away.
        if key == EVERYTHING or len(self._news) >= _MOST_NEWS:
            self._news = {_EVERYTHING}
        elif _EVERYTHING not in self._news:
            self._news.add((topic, key))

    async def tick(self) -> None:
        """Look at what has changed, and ask what is due; call it every half second."""
        await self._changes.catch_up()
        await self._look()
        await self._send()

    async def take(self) -> None:
        """Ask who is connected here what nobody could ask him elsewhere.

        For every process, once it hears of a connection or of something that is handed over.
        """
        waiting = await self._database.lookup(disconnects.unreached)
        for tenant, name in waiting & self._connected():
            await self._take(tenant, name)

    async def _take(self, tenant: str, name: str) -> None:
        while (free := _UNDER_WAY - len(self._under_way)) > 0:
            until = self._now() + _CLAIM
            limit = min(free, _BATCH)
            jobs = await self._database.write(
                disconnects.claim_unreached, tenant, name, until, limit
            )
            for job in jobs:
                self._begin(job, until)
            if len(jobs) < limit:
                return

    async def scan(self) -> int:
        """Compare all live sessions with what they stand on; return how many must end."""
        return await self._condemn(_EVERYTHING)

    async def _look(self) -> None:
        now = self._now()
        heard, self._news = self._news, set()
        due = {news for at, news in self._again if at <= now}
        self._again = [(at, news) for at, news in self._again if at > now]
        self._again += [(now + _LOOK_AGAIN, news) for news in heard]
        work = heard | due
        try:
            for news in {_EVERYTHING} if len(work) > _MOST_NEWS else set(work):
                await self._condemn(news)
        except BaseException:
            self._news |= work
            raise

    async def _condemn(self, news: News) -> int:
        """Enqueue the live sessions that a change has made impossible; return how many."""
        count = 0
        for find in self._questions(news):
            while True:
                found = await self._database.read(find)
                if found:
                    count += await self._database.write(self._enqueue, found)
                if len(found) < _BATCH:
                    break
        if news[0] in ("anchors", EVERYTHING):
            count += await self._condemn_foreign(news[1])
        return count

    async def _condemn_foreign(self, key: str) -> int:
        """Enqueue the live sessions whose foreign certificate stands in a CRL by now."""
        tenant, name = (None, None) if key == EVERYTHING else key.split("/", 1)
        count, after = 0, ""
        while True:
            page = await self._database.read(rows.find_foreign, after, _BATCH, tenant, name)
            found = [
                Condemned(each.id, "certificate-revoked")
                for each in page
                if await self._is_revoked(
                    each.tenant, each.anchor, each.issuer, int.from_bytes(each.serial)
                )
            ]
            if found:
                count += await self._database.write(self._enqueue, tuple(found))
            if len(page) < _BATCH:
                return count
            after = page[-1].id

    def _questions(self, news: News) -> Iterator[_Find]:
        match news:
            case ("status", key) if key != EVERYTHING:
                issuer, _, serial = key.partition(":")
                octets = None if serial == EVERYTHING else bytes.fromhex(serial)
                number = int(issuer)
                yield lambda c: rows.bad_certificates(c, _BATCH, number, octets)
            case ("people", key) if key != EVERYTHING:
                tenant, _, name = key.partition("/")
                yield lambda c: rows.bad_people(c, self._now(), _BATCH, tenant, name)
            case ("devices", key) if key != EVERYTHING:
                tenant, _, name = key.partition("/")
                yield lambda c: rows.bad_devices(c, _BATCH, tenant, name)
                yield lambda c: rows.bad_stations(c, _BATCH, tenant, name)
            case ("objects", key):
                tenant, _, name = key.partition("/trust-anchor/")
                yield lambda c: rows.bad_anchors(c, _BATCH, tenant, name)
            case ("anchors", _):
                return
            case _:
                yield lambda c: rows.bad_certificates(c, _BATCH)
                yield lambda c: rows.bad_people(c, self._now(), _BATCH)
                yield lambda c: rows.bad_devices(c, _BATCH)
                yield lambda c: rows.bad_stations(c, _BATCH)
                yield lambda c: rows.bad_anchors(c, _BATCH)
                if self._locked:
                    yield lambda c: rows.locked_out(c, self._now(), _BATCH)

    def _enqueue(self, connection: Connection, condemned: tuple[Condemned, ...]) -> int:
        count = 0
        for each in condemned:
            row = rows.by_id(connection, each.session_id)
            if row is not None and row.is_live:
                count += self._sessions.condemn_in(connection, row, reason=each.reason, actor=ACTOR)
        return count

    # -- asking -----------------------------------------------------------------------------

    async def _send(self) -> None:
        """Take what is due and begin to ask; a silent NAS keeps nobody else waiting."""
        while (free := _UNDER_WAY - len(self._under_way)) > 0:
            now = self._now()
            due = await self._database.lookup(disconnects.next_due)
            if due is None or due > now:
                return
            until = now + _CLAIM
            jobs = await self._database.write(
                disconnects.claim, now, until, min(free, _BATCH), tuple(self._under_way)
            )
            if not jobs:
                return
            for job in jobs:
                self._begin(job, until)

    def _begin(self, job: DisconnectRow, until: datetime) -> None:
        def over(result: object) -> None:
            self._under_way.pop(job.id, None)
            if isinstance(result, Failure):
                # Its claim runs out, and it is taken again.
                if isinstance(result.value, Fault):
                    log.warn("the end of a session: {why}", why=str(result.value))
                else:
                    log.failure("the end of a session failed", result)

        running = ensureDeferred(self._attempt(job, until))
        self._under_way[job.id] = running.addBoth(over)
        if running.called:
            self._under_way.pop(job.id, None)

    async def _attempt(self, job: DisconnectRow, until: datetime) -> None:
        session, is_alone = await self._database.read(_session, job.session_id)
        outcome = await self._asked(job, session, is_alone)
        if session is not None and outcome.may_be_elsewhere and job.outcome != HANDED_OVER:
            due = self._now() + _HAND_OVER
            client = session.tenant, session.client
            await self._database.write(disconnects.hand_over, job.id, until, client, due)
            return
        self._count(outcome.word)
        await self._database.write(self._settle, job, until, session, outcome)

    async def _asked(
        self, job: DisconnectRow, session: SessionRow | None, is_alone: bool
    ) -> Outcome:
        if session is None or not session.is_live:
            return Outcome(word="over-already", is_done=True)
        client = await self._client(session.tenant, session.client)
        if client is None:
            return Outcome(word="no-client", is_final=True)
        if not client.coa.enabled:
            return Outcome(word="switched-off", is_final=True)
        try:
            return await self._ask(
                Order(session=session, client=client, attempt=job.attempts, is_alone=is_alone)
            )
        except Fault as fault:
            return Outcome(word=NOT_SENT, detail=fault.detail)

    def _settle(
        self,
        connection: Connection,
        job: DisconnectRow,
        until: datetime,
        session: SessionRow | None,
        outcome: Outcome,
    ) -> None:
        now = self._now()
        again = None if outcome.is_done or outcome.is_final else _next(job, now)
        if not disconnects.settle(
            connection, job.id, until, due_at=again, outcome=outcome.word, now=now
        ):
            return
        if session is None or outcome.word == "over-already":
            return
        if outcome.is_over:
            rows.end(connection, session.id, now)
        # The first failure and the last are news, those between are not.
        if outcome.is_done or again is None or job.attempts == 0:
            self._journal.append(connection, _event(job, session, outcome, again))
        if not outcome.is_done:
            _complain(session, outcome, again)


def _next(job: DisconnectRow, now: datetime) -> datetime | None:
    """Return when to ask again; None when it is time to give up."""
    wait = min(_FIRST_WAIT * 2 ** min(job.attempts, 10), _LONGEST_WAIT)
    due = now + wait
    return due if due < job.created_at + PATIENCE else None


def _event(
    job: DisconnectRow, session: SessionRow, outcome: Outcome, again: datetime | None
) -> Event:
    data: dict[str, JSON] = {
        **about(session),
        "reason": job.reason,
        "outcome": outcome.word,
        "attempts": job.attempts + 1,
    }
    if outcome.error_cause is not None:
        data["error_cause"] = outcome.error_cause
    if outcome.detail:
        data["detail"] = outcome.detail
    if not outcome.is_done:
        data["tries_again"] = again is not None
    return Event(
        kind="network.disconnected" if outcome.is_done else "network.disconnect-failed",
        tenant=session.tenant,
        actor=job.actor,
        object=session.id,
        data=data,
    )


def _complain(session: SessionRow, outcome: Outcome, again: datetime | None) -> None:
    said: dict[str, Any] = {
        "session": session.id,
        "client": session.client,
        "outcome": outcome.word,
        "detail": outcome.detail,
    }
    if again is None:
        log.error(
            "the session {session} at {client} could not be ended and may go on:"
            " {outcome} {detail}",
            **said,
        )
    else:
        log.warn("the session {session} at {client} goes on: {outcome} {detail}", **said)


def _session(connection: Connection, session_id: str) -> tuple[SessionRow | None, bool]:
    row = rows.by_id(connection, session_id)
    return row, row is not None and not rows.has_heir(connection, row)
