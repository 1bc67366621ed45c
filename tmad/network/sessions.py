"""Sessions on the network: who is on, since when, and what accounting has told of it.

RFC 2866, RFC 2869. A session begins with the login that was admitted here; accounting opens,
counts and closes it. What accounting says is not authenticated (R-56): it is shown, and nothing
is ever allowed because of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import new_id
from tmad.storage import disconnects
from tmad.storage import radius_sessions as rows
from tmad.storage.batches import Batches
from tmad.storage.database import Database
from tmad.storage.disconnects import DisconnectRow
from tmad.storage.radius_sessions import AccountingRow, SessionRow
from tmad.storage.status import serial_octets

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.network.decision import Admitted
    from tmad.network.visit import Visit

T = TypeVar("T", "Report", SessionRow)
# What was admitted, how its client described it, by which method.
Login: TypeAlias = "tuple[Admitted, Visit, str]"

START, STOP, INTERIM, ON, OFF = 1, 2, 3, 7, 8  # RFC 2866, 5.1: Acct-Status-Type

# How long a session of which nothing is heard counts as there.
UNHEARD: Final = timedelta(hours=24)
# After Session-Timeout the NAS has ended it or asked for a new login.
GRACE: Final = timedelta(minutes=5)
# An ULID: what Access-Accept carries as Class.
_SESSION_ID: Final = re.compile(rb"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_MAC: Final = re.compile(r"[0-9a-f]{12}")
# Records without Event-Timestamp that are alike within this time are one record sent again.
_ALIKE_SECONDS: Final = 300
# The clock of a NAS is believed as far as this, its delay, too.
_CLOCK_AHEAD: Final = timedelta(minutes=5)
_LONGEST_DELAY: Final = 86_400  # seconds
# After these ends a session may turn out to go on.
_NOT_FINAL: Final = frozenset({"stale", "nas-on", "nas-off", "disconnected"})
# What was on its way when a session ended does not open it again.
_IN_FLIGHT: Final = timedelta(seconds=5)
_BATCH: Final = 500
_MOST_OCTETS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One accounting request, decoded; texts are what the NAS says.

    ``content`` is what makes two requests the same record: every attribute but those that
    change from one transmission to the next. ``identifier`` is the NAS-Identifier, else the
    NAS-IP-Address.
    """

    tenant: str
    client: str
    address: str
    identifier: str
    status: int
    content: bytes
    classes: tuple[bytes, ...] = ()
    session_key: str = ""
    user_name: str = ""
    nas_port: str = ""
    calling_station: str = ""
    calling_sent: str = ""
    called_station: str = ""
    ssid: str = ""
    framed_address: str = ""
    octets_in: int = 0
    octets_out: int = 0
    seconds: int = 0
    cause: str = ""
    delay: int = 0
    at: datetime | None = None  # Event-Timestamp
    data: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """A session with what was tried to end it."""

    session: SessionRow
    disconnects: tuple[DisconnectRow, ...]


class Sessions:
    """The sessions of one database."""

    def __init__(self, database: Database, journal: Records, now: Clock) -> None:
        self.journal = journal
        self._database = database
        self._reports = Batches(database, self._account_all_in)
        self._now = now

    # -- for the decision -------------------------------------------------------------------

    def open_in(self, connection: Connection, logins: Sequence[Login]) -> None:
        """Add the sessions of admitted logins, in the transaction that journals them.

        What the same station had at the same port before is thereby over.
        """
        now = self._now()
        begun = [_storable(opened(*login, now)) for login in logins]
        # A telephone number or an address of a VPN client may have many sessions.
        rows.insert(connection, *[row for row in begun if not _MAC.fullmatch(row.calling_station)])
        stations = [row for row in begun if _MAC.fullmatch(row.calling_station)]
        while stations:
            # Of several logins of one station each ends the one before.
            heirs = {row.calling_station: row for row in reversed(stations)}
            stations = [row for row in stations if heirs[row.calling_station] is not row]
            # In one order: two transactions never wait for each other.
            turn = [heirs[station] for station in sorted(heirs)]
            rows.supersede(connection, turn)
            rows.insert(connection, *turn)

    # -- for accounting ---------------------------------------------------------------------

    async def account(self, report: Report) -> None:
        """Store an accounting record; when this returns, it is durable (R-51).

        A record that is sent again, also with another Acct-Delay-Time, is stored once (R-54).
        """
        await self._reports.add(report)

    def _account_all_in(self, connection: Connection, reports: Sequence[Report]) -> list[bool]:
        return [self.account_in(connection, report) for report in reports]

    def account_in(self, connection: Connection, report: Report) -> bool:
        """Store a record in the caller's transaction; False when it was there already."""
        report = _storable(report)
        now = self._now()
        happened = now - timedelta(seconds=min(max(report.delay, 0), _LONGEST_DELAY))
        at = _believed(report.at, now)
        digests = _digests(report, happened, has_time=at is not None)
        if rows.has_accounting(connection, digests):
            return False
        row = None if report.status in (ON, OFF) else _known(connection, report)
        is_new = row is None and report.status in (START, INTERIM)
        if is_new:
            row = _unknown(report, now)
        added = rows.insert_accounting(
            connection,
            tenant=report.tenant,
            client=report.client,
            digest=digests[0],
            session_id=None if row is None else row.id,
            status=report.status,
            at=at or happened,
            data=json.dumps(dict(report.data), sort_keys=True, separators=(",", ":")),
        )
        if not added:
            return False
        if report.status in (ON, OFF):
            self._restarted(connection, report, happened, now)
        elif row is not None and is_new:
            rows.insert(connection, row)
        elif row is not None:
            rows.update(connection, advanced(rows.lock(connection, row), report, happened, now))
        return True

    def _restarted(
        self, connection: Connection, report: Report, happened: datetime, now: datetime
    ) -> None:
        """Close every session of a NAS that says it has started or will stop (R-52)."""
        word = "on" if report.status == ON else "off"
        closed = rows.close_of_nas(
            connection,
            report.tenant,
            report.client,
            report.address,
            report.identifier,
            before=happened,
            cause=f"nas-{word}",
            now=now,
        )
        self.journal.append(
            connection,
            Event(
                kind=f"network.nas-{word}",
                tenant=report.tenant,
                actor=f"radius-client:{report.client}",
                object=report.client,
                data={
                    "address": report.address,
                    "identifier": report.identifier,
                    "sessions_closed": closed,
                },
            ),
        )

    # -- by itself --------------------------------------------------------------------------

    async def expire(self) -> int:
        """Close sessions of which nothing was heard for too long; return how many (R-55)."""
        return await self._in_batches(
            lambda connection: rows.close_stale(connection, self._now(), _BATCH)
        )

    async def prune(self, *, accounting: timedelta, sessions: timedelta) -> int:
        """Delete raw accounting records and closed sessions older than this; return how many."""
        # A record is what a retransmission is recognised by: a day is kept in any case.
        records = self._now() - max(accounting, UNHEARD)
        before = self._now() - max(sessions, UNHEARD)
        gone = await self._in_batches(
            lambda connection: rows.prune_accounting(connection, records, _BATCH)
        )
        return gone + await self._in_batches(
            lambda connection: rows.prune(connection, before, _BATCH)
        )

    async def _in_batches(self, step: Callable[[Connection], int]) -> int:
        total = 0
        while True:
            done = await self._database.write(step)
            total += done
            if done < _BATCH:
                return total

    # -- for actors -------------------------------------------------------------------------

    @guarded("session.read")
    async def list(
        self,
        actor: Actor,
        tenant: str,
        *,
        everything: bool = False,
        client: str = "",
        person: str = "",
        device: str = "",
        station: str = "",
        user_name: str = "",
        before: str = "",
        limit: int = 100,
    ) -> tuple[SessionRow, ...]:
        """Return a page of a tenant's sessions, newest first: the live ones, or ``everything``."""

        def find(connection: Connection) -> tuple[SessionRow, ...]:
            return rows.find(
                connection,
                tenant,
                live=not everything,
                client=client,
                person=person,
                device=device,
                station=station,
                user_name=user_name,
                before=before,
                limit=limit,
            )

        return await self._database.read(find)

    @guarded("session.read")
    async def show(self, actor: Actor, tenant: str, session_id: str) -> SessionDetails:
        """Return one session with what was tried to end it. Fault(NOT_FOUND)."""

        def details(connection: Connection) -> SessionDetails:
            row = _own(connection, tenant, session_id)
            return SessionDetails(row, disconnects.find_of_session(connection, row.id))

        return await self._database.read(details)

    @guarded("session.read")
    async def accounting(
        self,
        actor: Actor,
        tenant: str,
        session_id: str | None = None,
        *,
        before: int = 0,
        limit: int = 100,
    ) -> Sequence[AccountingRow]:
        """Return a page of accounting records, newest first, of one session or of all."""

        def find(connection: Connection) -> tuple[AccountingRow, ...]:
            if session_id is not None:
                _own(connection, tenant, session_id)
            return rows.find_accounting(connection, tenant, session_id, before, limit)

        return await self._database.read(find)

    @guarded("session.disconnect")
    async def disconnect(
        self, actor: Actor, tenant: str, session_id: str, *, dry_run: bool = False
    ) -> bool:
        """Have a session ended; False when that is under way already.

        A daemon sends the Disconnect-Request; ``show`` tells what came of it. Raise
        Fault(NOT_FOUND), or CONFLICT when the session is over.
        """
        return await self._database.write(
            self._disconnect, actor, tenant, session_id, dry_run=dry_run
        )

    def _disconnect(
        self, connection: Connection, actor: Actor, tenant: str, session_id: str
    ) -> bool:
        row = _own(connection, tenant, session_id)
        if not row.is_live:
            raise Fault(
                FaultCode.CONFLICT,
                f"the session {session_id} is over since {row.closed_at}: {row.cause}",
                rule="network.session-closed",
                values={"session": session_id, "cause": row.cause, "closed": str(row.closed_at)},
            )
        return self.condemn_in(connection, row, reason="administrator", actor=actor.name)

    def condemn_in(
        self, connection: Connection, row: SessionRow, *, reason: str, actor: str
    ) -> bool:
        """Ask for the end of a session and journal it; False when that is under way already."""
        asked = disconnects.insert(
            connection,
            tenant=row.tenant,
            session_id=row.id,
            reason=reason,
            actor=actor,
            now=self._now(),
        )
        if asked:
            self.journal.append(
                connection,
                Event(
                    kind="network.disconnect-requested",
                    tenant=row.tenant,
                    actor=actor,
                    object=row.id,
                    data={"reason": reason, **about(row)},
                ),
            )
        return asked


def about(row: SessionRow) -> dict[str, JSON]:
    """Return what the journal says of a session, without what only its NAS claims."""
    return {
        "client": row.client,
        "user_name": row.user_name,
        "calling_station": row.calling_station,
        "nas_address": row.nas_address,
        "person": row.person,
        "device": row.device,
        "serial": None if row.serial is None else row.serial.hex(),
    }


def advanced(row: SessionRow, report: Report, happened: datetime, now: datetime) -> SessionRow:
    """Return a session as it is after a report that may be late, or come again."""
    row = replace(
        row,
        user_sent=report.user_name or row.user_sent,
        session_key=row.session_key or report.session_key,
        nas_port=row.nas_port or report.nas_port,
        calling_station=row.calling_station or report.calling_station,
        calling_sent=row.calling_sent or report.calling_sent,
        called_station=row.called_station or report.called_station,
        ssid=row.ssid or report.ssid,
        framed_address=report.framed_address or row.framed_address,
    )
    if report.seconds >= row.seconds:
        # Numbers only grow: an older report that comes late takes nothing back.
        row = replace(
            row,
            octets_in=max(row.octets_in, min(report.octets_in, _MOST_OCTETS)),
            octets_out=max(row.octets_out, min(report.octets_out, _MOST_OCTETS)),
            seconds=report.seconds,
        )
    if report.status == STOP:
        if row.is_live or row.cause in _NOT_FINAL - {"disconnected"}:
            row = replace(row, state="closed", cause=report.cause or "stop", closed_at=happened)
        return replace(row, seen_at=now)
    if not row.is_live and not _goes_on(row, happened):
        return row
    stale_at = _stale_at(now, row.ends_at)
    if report.status == INTERIM and row.interim:
        # Two in a row that are missing, of a NAS that is known to send them.
        stale_at = now + timedelta(seconds=2 * row.interim + 60)
    return replace(row, state="open", cause="", closed_at=None, seen_at=now, stale_at=stale_at)


def _goes_on(row: SessionRow, happened: datetime) -> bool:
    """Tell whether a report from this time means that a closed session is not over after all."""
    if row.cause == "stale":
        # It was only believed to be over.
        return happened > row.seen_at
    if row.cause not in _NOT_FINAL or row.closed_at is None:
        return False
    return happened > row.closed_at + _IN_FLIGHT


def _stale_at(now: datetime, ends_at: datetime | None) -> datetime:
    return now + UNHEARD if ends_at is None else max(ends_at, now) + GRACE


def opened(admitted: Admitted, visit: Visit, method: str, now: datetime) -> SessionRow:
    """Return the session that a login begins."""
    seconds = admitted.session_timeout
    ends_at = None if seconds is None else now + timedelta(seconds=seconds)
    issuer_id, serial = admitted.certificate or (None, None)
    anchor_issuer, number = admitted.foreign or (None, None)
    interim = dict(admitted.attributes).get("Acct-Interim-Interval", 0)
    return SessionRow(
        id=admitted.session,
        tenant=visit.tenant,
        client=visit.client,
        state="admitted",
        nas_address=visit.address,
        nas_identifier=visit.nas_identifier,
        nas_port=visit.nas_port,
        session_key=visit.session_key,
        user_name=admitted.user_name,
        user_sent=visit.user_name,
        person=admitted.person,
        device=admitted.device,
        issuer_id=issuer_id,
        serial=serial,
        anchor=admitted.anchor,
        anchor_issuer=anchor_issuer,
        anchor_serial=None if number is None else serial_octets(number),
        method=method,
        policy=admitted.policy,
        ssid=visit.ssid,
        calling_station=visit.calling_station,
        calling_sent=visit.calling_station_sent or visit.calling_station,
        called_station=visit.called_station,
        framed_address="",
        octets_in=0,
        octets_out=0,
        seconds=0,
        cause="",
        admitted_at=now,
        seen_at=now,
        ends_at=ends_at,
        interim=int(interim),
        stale_at=_stale_at(now, ends_at),
        closed_at=None,
    )


def _unknown(report: Report, now: datetime) -> SessionRow:
    """Return a session that only accounting tells of: nobody was authenticated here."""
    return SessionRow(
        id=new_id(now),
        tenant=report.tenant,
        client=report.client,
        state="open",
        nas_address=report.address,
        nas_identifier=report.identifier,
        nas_port=report.nas_port,
        session_key=report.session_key,
        user_name=report.user_name,
        user_sent=report.user_name,
        person=None,
        device=None,
        issuer_id=None,
        serial=None,
        anchor=None,
        anchor_issuer=None,
        anchor_serial=None,
        method="",
        policy="",
        ssid=report.ssid,
        calling_station=report.calling_station,
        calling_sent=report.calling_sent,
        called_station=report.called_station,
        framed_address=report.framed_address,
        octets_in=min(report.octets_in, _MOST_OCTETS),
        octets_out=min(report.octets_out, _MOST_OCTETS),
        seconds=report.seconds,
        cause="",
        admitted_at=now,
        seen_at=now,
        ends_at=None,
        interim=0,
        stale_at=now + UNHEARD,
        closed_at=None,
    )


def _known(connection: Connection, report: Report) -> SessionRow | None:
    """Find the session of a report: by Class, by Acct-Session-Id, by its station (R-12)."""
    found = _by_class(connection, report)
    if found is not None and (found.is_live or report.status == STOP or found.cause in _NOT_FINAL):
        return found
    if report.session_key:
        by_key = rows.by_key(
            connection, report.tenant, report.client, report.identifier, report.session_key
        )
        # A NAS that starts counting anew uses the same numbers again.
        is_over = by_key is not None and not by_key.is_live and by_key.cause not in _NOT_FINAL
        if by_key is not None and not (is_over and report.status == START):
            return by_key
    if report.calling_station:
        by_station = rows.by_station(
            connection,
            report.tenant,
            report.client,
            report.identifier,
            report.calling_station,
            report.session_key,
        )
        if by_station is not None:
            return by_station
    return found


def _by_class(connection: Connection, report: Report) -> SessionRow | None:
    for octets in report.classes:
        if _SESSION_ID.fullmatch(octets) is None:
            continue
        row = rows.by_id(connection, octets.decode())
        # Another NAS, or another tenant's, speaks of what is none of its business.
        if row is not None and (row.tenant, row.client) == (report.tenant, report.client):
            return row
    return None


def _digests(report: Report, happened: datetime, *, has_time: bool) -> tuple[bytes, bytes, bytes]:
    """Return what makes a record the same record, and the same a little before and after.

    With an Event-Timestamp the content alone says it. Without, the time at which it happened
    (received less Acct-Delay-Time) in steps: it wavers from one transmission to the next.
    """
    whole = hashlib.sha256()
    for text in (report.tenant, report.client, report.identifier):
        whole.update(len(text).to_bytes(4) + text.encode("utf-8", "surrogatepass"))
    whole.update(report.content)

    def at(number: int) -> bytes:
        copy = whole.copy()
        copy.update(number.to_bytes(8))
        return copy.digest()

    if has_time:
        return at(0), at(0), at(0)
    step = int(happened.timestamp()) // _ALIKE_SECONDS
    return at(step), at(step - 1), at(step + 1)


def _believed(at: datetime | None, now: datetime) -> datetime | None:
    """Return the NAS's time of an event, unless its clock cannot be right."""
    if at is None or not now - UNHEARD <= at <= now + _CLOCK_AHEAD:
        return None
    return at


def _storable(said: T) -> T:
    """Return what a NAS says as both databases can hold it: PostgreSQL knows no NUL."""
    found: dict[str, Any] = {}
    for name in said.__dataclass_fields__:
        text = getattr(said, name)
        if isinstance(text, str) and "\0" in text:
            found[name] = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return replace(said, **found) if found else said


def _own(connection: Connection, tenant: str, session_id: str) -> SessionRow:
    row = rows.by_id(connection, session_id)
    if row is None or row.tenant != tenant:
        # Another tenant's session is one that does not exist.
        raise Fault(
            FaultCode.NOT_FOUND,
            f"there is no session {session_id}",
            rule="network.session-absent",
            values={"session": session_id},
        )
    return row
