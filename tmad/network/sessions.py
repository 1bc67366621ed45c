"""Sessions on the network: who is on, since when, and what accounting has told of it.

RFC 2866, RFC 2869. A session begins with the login that was admitted here; accounting opens,
counts and closes it. What accounting says is not authenticated (R-56): it is shown, and nothing
is ever allowed because of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.network.accounting import (
    INTERIM,
    OFF,
    ON,
    START,
    UNHEARD,
    Report,
    advanced,
    believed,
    digests_of,
    known,
    stale_at_of,
    unknown,
)
from tmad.storage import disconnects
from tmad.storage import radius_sessions as rows
from tmad.storage.batches import Batches
from tmad.storage.database import Database
from tmad.storage.disconnects import DisconnectRow
from tmad.storage.radius_sessions import AccountingRow, SessionRow
from tmad.storage.status import serial_octets

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.network.logins import Admitted
    from tmad.network.visit import Visit

T = TypeVar("T", "Report", SessionRow)
# What was admitted, how its client described it, by which method.
Login: TypeAlias = "tuple[Admitted, Visit, str]"


_MAC: Final = re.compile(r"[0-9a-f]{12}")
_LONGEST_DELAY: Final = 86_400  # seconds
_BATCH: Final = 500


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
        at = believed(report.at, now)
        digests = digests_of(report, happened, has_time=at is not None)
        if rows.has_accounting(connection, digests):
            return False
        row = None if report.status in (ON, OFF) else known(connection, report)
        is_new = row is None and report.status in (START, INTERIM)
        if is_new:
            row = unknown(report, now)
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
        stale_at=stale_at_of(now, ends_at),
        closed_at=None,
    )


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
