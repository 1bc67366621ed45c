"""What accounting reports of a session, and what becomes of the session (RFC 2866, RFC 2869)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.events import JSON
from tmad.identity.credentials import new_id
from tmad.storage import radius_sessions as rows
from tmad.storage.radius_sessions import SessionRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

START, STOP, INTERIM, ON, OFF = 1, 2, 3, 7, 8  # RFC 2866, 5.1: Acct-Status-Type

# How long a session of which nothing is heard counts as there.
UNHEARD: Final = timedelta(hours=24)
# After Session-Timeout the NAS has ended it or asked for a new login.
GRACE: Final = timedelta(minutes=5)
# An ULID: what Access-Accept carries as Class.
_SESSION_ID: Final = re.compile(rb"[0-7][0-9A-HJKMNP-TV-Z]{25}")
# Records without Event-Timestamp that are alike within this time are one record sent again.
_ALIKE_SECONDS: Final = 300
# The clock of a NAS is believed as far as this, its delay, too.
_CLOCK_AHEAD: Final = timedelta(minutes=5)
# After these ends a session may turn out to go on.
_NOT_FINAL: Final = frozenset({"stale", "nas-on", "nas-off", "disconnected"})
# What was on its way when a session ended does not open it again.
_IN_FLIGHT: Final = timedelta(seconds=5)
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
    stale_at = stale_at_of(now, row.ends_at)
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


def stale_at_of(now: datetime, ends_at: datetime | None) -> datetime:
    """Return until when a session counts as there if nothing more is heard of it."""
    return now + UNHEARD if ends_at is None else max(ends_at, now) + GRACE


def unknown(report: Report, now: datetime) -> SessionRow:
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


def known(connection: Connection, report: Report) -> SessionRow | None:
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


def digests_of(report: Report, happened: datetime, *, has_time: bool) -> tuple[bytes, bytes, bytes]:
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


def believed(at: datetime | None, now: datetime) -> datetime | None:
    """Return the NAS's time of an event, unless its clock cannot be right."""
    if at is None or not now - UNHEARD <= at <= now + _CLOCK_AHEAD:
        return None
    return at
