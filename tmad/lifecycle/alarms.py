"""Alarms: what the figures show to be wrong becomes records of the journal, and is dampened.

Each condition is kept as a row. When it begins, grows worse or is over, one event goes into the
journal in the same transaction ("alarm.raised", "alarm.cleared"), so that SNMP notifications,
mail, webhooks and syslog hear of it by their own durable cursors. The same condition of the same
object is told at most once an hour each way, however often it comes and goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from twisted.logger import Logger

from tmad.audit import Audit
from tmad.events import Clock, Event
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.lifecycle.figures import AuthorityFigures, Figures
from tmad.storage import alarms as rows
from tmad.storage.alarms import CLEARED, AlarmRow
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()

WARNING, ERROR, CRITICAL = "warning", "error", "critical"
_GRAVE = (CLEARED, WARNING, ERROR, CRITICAL)

AUTHORITY_EXPIRING = "authority-expiring"
CERTIFICATES_EXPIRING = "certificates-expiring"
CRL_STALE = "crl-stale"
KEYS_LOST = "keys-lost"
DISK_LOW = "disk-low"
WORKERS_MISSING = "workers-missing"
AUDIT_BROKEN = "audit-broken"

# What is the same for every node, and what each node says of itself.
EVERYWHERE = frozenset({AUTHORITY_EXPIRING, CERTIFICATES_EXPIRING, CRL_STALE, AUDIT_BROKEN})
NODE = frozenset({KEYS_LOST, DISK_LOW, WORKERS_MISSING})

# What concerns the installation as a whole belongs to the tenant that its operators are in.
OPERATORS = "default"

_AGAIN = timedelta(hours=1)
_REMEMBERED = timedelta(days=1)
# Certificates are renewed by somebody else: a reminder once a day.
_REMIND = timedelta(days=1)
_ENDING = timedelta(days=7)
_MOST_ENDING = 1_000
_LOOK_SECONDS = 3_600.0
_VERIFY = timedelta(days=1)
_JOURNAL = "journal"

# Days until the end of an authority's certificate → how grave that is.
_AUTHORITY_DAYS = ((7, CRITICAL), (30, ERROR), (90, WARNING))
# A disk with less of it free than this share.
_DISK_SHARES = ((0.02, CRITICAL), (0.05, ERROR), (0.1, WARNING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is wrong now."""

    name: str
    object: str
    tenant: str = OPERATORS
    severity: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other."""
        return (self.name, self.object)


# -- what the figures show -----------------------------------------------------------------------


def everywhere(figures: Figures) -> Iterator[Condition]:
    """Iterate over what is wrong with authorities and their CRLs."""
    for known in figures.authorities:
        yield from _authority(known, figures.sampled_at)
        yield from _crl(known)


def _authority(known: AuthorityFigures, now: datetime) -> Iterator[Condition]:
    # A retired generation ends as it must; its successor is at work.
    if known.state != "active" or known.not_after is None or not known.has_key:
        return
    left = known.not_after - now
    for days, severity in _AUTHORITY_DAYS:
        if left <= timedelta(days=days):
            ended = "has ended" if left <= timedelta() else "ends"
            yield Condition(
                name=AUTHORITY_EXPIRING,
                object=f"authority/{known.slug}",
                tenant=known.tenant,
                severity=severity,
                text=f"the certificate of authority {known.authority} {ended} on"
                f" {known.not_after:%Y-%m-%d %H:%M} UTC; renew it or roll over to a new key",
            )
            return


def _crl(known: AuthorityFigures) -> Iterator[Condition]:
    if known.crl is None or known.crl_state not in ("overdue", "expired"):
        return
    is_over = known.crl_state == "expired"
    until = f"{known.crl.next_update:%Y-%m-%d %H:%M} UTC"
    why = (
        f"expired on {until}: clients refuse it, and with it every certificate of this authority"
        if is_over
        else f"should have been replaced; it is good until {until}"
    )
    yield Condition(
        name=CRL_STALE,
        object=f"authority/{known.slug}",
        tenant=known.tenant,
        severity=CRITICAL if is_over else ERROR,
        text=f"CRL number {known.crl.number} of {known.slug} {why}",
    )


def of_node(figures: Figures, workers: int) -> Iterator[Condition]:
    """Iterate over what is wrong with this node, which ought to have so many workers."""
    for store in figures.stores:
        if store.state != "ok":
            yield Condition(
                name=KEYS_LOST,
                object=f"{figures.node}/{store.store}",
                severity=CRITICAL,
                text=f"the key store {store.store} of node {figures.node} does not sign:"
                f" {store.reason or store.state}",
            )
    disk = figures.disk
    for share, severity in _DISK_SHARES:
        if disk.size and disk.free < share * disk.size:
            yield Condition(
                name=DISK_LOW,
                object=figures.node,
                severity=severity,
                text=f"less than {share:.0%} of the data directory's disk is free on node"
                f" {figures.node}",
            )
            break
    # Nobody is missing before all had the time to start.
    is_young = any(
        figures.sampled_at - worker.started_at < timedelta(minutes=1) for worker in figures.workers
    )
    if figures.workers and len(figures.workers) < workers and not is_young:
        yield Condition(
            name=WORKERS_MISSING,
            object=figures.node,
            severity=ERROR,
            text=f"{len(figures.workers)} of {workers} workers run on node {figures.node}",
        )


# -- what becomes of it --------------------------------------------------------------------------


class Alarms:
    """Keeps what is wrong, and tells the journal of it."""

    def __init__(self, database: Database, journal: Journal, audit: Audit, now: Clock) -> None:
        self._database = database
        self._journal = journal
        self._audit = audit
        self._now = now
        self._looked_at: datetime | None = None
        self._ending: tuple[Condition, ...] = ()
        self.newest: tuple[AlarmRow, ...] = ()

    async def current(self) -> tuple[AlarmRow, ...]:
        """Return what is wrong now; ``newest`` is the last answer."""
        found = await self._database.read(rows.find)
        self.newest = tuple(row for row in found if row.cleared_at is None)
        return self.newest

    async def watch(self, figures: Figures) -> int:
        """Settle what holds for the installation; call it in one process of all."""
        if figures.database.state != "ok":
            return 0  # nothing could be journaled
        conditions = [*everywhere(figures), *await self._find_ending(figures)]
        names = EVERYWHERE - {AUDIT_BROKEN}
        return await self.settle(conditions, names)

    async def watch_node(self, figures: Figures, workers: int) -> int:
        """Settle what this node says of itself; call it in one worker of each node."""
        if figures.database.state != "ok":
            return 0  # nothing could be journaled
        return await self.settle(of_node(figures, workers), NODE, node=figures.node)

    async def verify_due(self) -> bool:
        """Verify the journal if that was a day ago, and tell whether it was done."""
        found = await self._database.read(rows.find)
        last = next((row for row in found if row.key == (AUDIT_BROKEN, _JOURNAL)), None)
        now = self._now()
        if last is not None and last.since <= now < last.since + _VERIFY:
            return False
        report = await self._audit.verify(Actor.system(), None)
        conditions = [
            Condition(
                name=AUDIT_BROKEN,
                object=_JOURNAL,
                severity=CRITICAL,
                text=f"the journal was changed: {finding}; run tmad audit verify",
            )
            for finding in report.findings[:1]
        ]
        await self._database.write(self._note_verified, conditions, now)
        return True

    def _note_verified(
        self, connection: Connection, conditions: Collection[Condition], now: datetime
    ) -> None:
        self._settle(connection, conditions, frozenset({AUDIT_BROKEN}), "")
        found = {row.key: row for row in rows.find(connection)}
        row = found.get((AUDIT_BROKEN, _JOURNAL)) or AlarmRow(
            name=AUDIT_BROKEN,
            object=_JOURNAL,
            tenant=OPERATORS,
            severity=CRITICAL,
            text="",
            since=now,
            cleared_at=now,
        )
        # Of this row ``since`` is when the journal was verified last.
        rows.put(connection, replace(row, since=now))

    async def settle(
        self, conditions: Iterable[Condition], names: Collection[str], *, node: str = ""
    ) -> int:
        """Bring the rows of these names to what is so; return how many events that was.

        With ``node`` only those of this node's objects are taken for over when they are not
        among the conditions.
        """
        wanted = tuple(conditions)
        found = await self._database.read(rows.find)
        if not any(True for _ in _steps(found, wanted, names, node, self._now())):
            return 0
        told = await self._database.write(self._settle, wanted, names, node)
        await self.current()
        return told

    def _settle(
        self,
        connection: Connection,
        conditions: Collection[Condition],
        names: Collection[str],
        node: str,
    ) -> int:
        told = 0
        rows.lock(connection)
        # Anew, in the transaction: another process may have done it meanwhile.
        steps = tuple(_steps(rows.find(connection), conditions, names, node, self._now()))
        for row, event in steps:
            if _is_forgotten(row, self._now()):
                rows.delete(connection, row)
            else:
                rows.put(connection, row)
            if event is not None:
                self._journal.append(connection, event)
                told += 1
        return told

    async def _find_ending(self, figures: Figures) -> tuple[Condition, ...]:
        """Return which tenants have certificates that end soon; looked up once an hour."""
        now = self._now()
        if self._looked_at is not None and now - self._looked_at < timedelta(seconds=_LOOK_SECONDS):
            return self._ending
        found = []
        for known in figures.tenants:
            ending = await self._database.read(
                rows.ending, known.tenant, now, now + _ENDING, _MOST_ENDING
            )
            if ending is None:
                continue
            most = " or more" if ending.number == _MOST_ENDING else ""
            found.append(
                Condition(
                    name=CERTIFICATES_EXPIRING,
                    object=f"tenant/{known.tenant}",
                    tenant=known.tenant,
                    severity=WARNING,
                    text=f"{ending.number}{most} certificates of tenant {known.tenant} end within"
                    f" {_ENDING.days} days and were not renewed; the first on"
                    f" {ending.first_at:%Y-%m-%d %H:%M} UTC: {ending.first}",
                )
            )
        self._looked_at, self._ending = now, tuple(found)
        return self._ending


def _steps(
    found: Iterable[AlarmRow],
    conditions: Collection[Condition],
    names: Collection[str],
    node: str,
    now: datetime,
) -> Iterator[tuple[AlarmRow, Event | None]]:
    """Iterate over the rows that change, with what the journal is told of each."""
    before = {row.key: row for row in found}
    wanted = {condition.key: condition for condition in conditions}
    for key, condition in wanted.items():
        known = before.get(key)
        row = _raised(known, condition, now)
        if is_news := _is_news(row, now):
            row = replace(row, told=row.severity, raised_told_at=now)
        if row != known:
            yield row, _event("alarm.raised", row) if is_news else None
    for key, known in before.items():
        if key in wanted or known.name not in names or not _is_of(known, node):
            continue
        row = known if known.cleared_at is not None else replace(known, cleared_at=now)
        if is_news := row.told != CLEARED and _is_past(row.cleared_told_at, _AGAIN, now):
            row = replace(row, told=CLEARED, cleared_told_at=now)
        if row != known or _is_forgotten(row, now):
            yield row, _event("alarm.cleared", row) if is_news else None


def _raised(known: AlarmRow | None, condition: Condition, now: datetime) -> AlarmRow:
    row = known or AlarmRow(
        name=condition.name,
        object=condition.object,
        tenant=condition.tenant,
        severity=condition.severity,
        text=condition.text,
        since=now,
    )
    return replace(
        row,
        severity=condition.severity,
        text=condition.text,
        since=row.since if row.cleared_at is None else now,
        cleared_at=None,
    )


def _is_news(row: AlarmRow, now: datetime) -> bool:
    if _GRAVE.index(row.severity) > _GRAVE.index(row.told) and row.told != CLEARED:
        return True  # it has grown worse
    if row.told == CLEARED:
        return _is_past(row.raised_told_at, _AGAIN, now)
    return row.name == CERTIFICATES_EXPIRING and _is_past(row.raised_told_at, _REMIND, now)


def _is_past(at: datetime | None, pause: timedelta, now: datetime) -> bool:
    """Tell whether a pause is over; a clock that was set back does not prolong it for ever."""
    return at is None or now >= at + pause or now < at


def _is_of(row: AlarmRow, node: str) -> bool:
    return not node or row.object == node or row.object.startswith(f"{node}/")


def _is_forgotten(row: AlarmRow, now: datetime) -> bool:
    return (
        row.name != AUDIT_BROKEN
        and row.told == CLEARED
        and row.cleared_at is not None
        and _is_past(row.cleared_at, _REMEMBERED, now)
    )


def _event(kind: str, row: AlarmRow) -> Event:
    return Event(
        kind=kind,
        tenant=row.tenant,
        actor="system",
        object=row.object,
        data={"alarm": row.name, "severity": row.severity, "object": row.object, "text": row.text},
    )
