"""The figures of this installation: one sample for SNMP, metrics and ``tmad status`` alike.

A timer takes the sample in every process; whoever shows figures reads the newest one and asks
nobody. Questions to the database go by indexes (storage/figures.py); the counts of certificates,
which walk an index, are taken rarely: never more than a hundredth of the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.errors import Fault
from tmad.events import Clock
from tmad.lifecycle.workers import Board, Door, Worker, summed
from tmad.signer.keyring import Keyring, StoreHealth
from tmad.storage import figures as rows
from tmad.storage.database import Database
from tmad.storage.figures import CRLHead, JournalState, Signed, Waiting
from tmad.storage.issuers import IssuerState

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()

# Days until the end of a certificate's life.
WINDOWS = (1, 7, 30, 90)

# How often an HSM that nobody uses is asked whether it is there.
_PROBE_SECONDS = 15.0
_COUNT_SECONDS = 60.0
_COUNT_SHARE = 0.01

# A CRL is made by a timer; that it is a little late is no news.
_GRACE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityFigures:
    """One authority with one of its keys, and the newest CRL of that key.

    ``crl_state`` is "none" (it signs no CRL here), "missing" (none was made yet), "current",
    "overdue" (the next one should be there) or "expired" (clients refuse it).
    """

    id: int
    tenant: str
    authority: str
    slug: str
    generation: int
    state: str
    not_after: datetime | None
    is_compromised: bool
    has_key: bool
    crl: CRLHead | None
    crl_state: str
    signed: Signed | None  # None: not counted yet


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFigures:
    """The certificates of one tenant; ``expiring`` by WINDOWS, revoked ones left out.

    None means not counted yet.
    """

    tenant: str
    pending: int  # requests, up to storage.figures.MOST_WAITING
    valid: int | None = None  # neither expired nor revoked
    expiring: Mapping[int, int] | None = None  # days -> certificates that end within them


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFigures:
    """How the database does: "ok", "read-only" (the trouble says why) or "failed"."""

    dialect: str
    state: str
    trouble: str = ""
    seconds: float = 0.0  # what this sample's questions took


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFigures:
    """The journal: ``behind`` is how many records each subscriber has not had yet."""

    records: int
    writers: int
    checkpoint: int
    sealed_at: datetime | None
    behind: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFigures:
    """The file system of the data directory, in octets."""

    size: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that is shown of this installation; ``counted_at`` is of the certificates."""

    sampled_at: datetime
    counted_at: datetime | None = None
    node: str
    authorities: tuple[AuthorityFigures, ...] = ()
    tenants: tuple[TenantFigures, ...] = ()
    stores: tuple[StoreHealth, ...] = ()
    database: DatabaseFigures
    journal: JournalFigures | None = None
    disk: DiskFigures
    workers: tuple[Worker, ...] = ()  # those of this node that are alive
    doors: tuple[Door, ...] = ()  # summed over the workers
    queues: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Census:
    """What was counted, and when by the monotonic clock it may be again."""

    at: datetime
    again: float
    signed: Mapping[int, Signed]
    tenants: Mapping[str, tuple[int, Mapping[int, int]]]


class Sampler:
    """Takes the figures; ``newest`` is what everybody shows."""

    def __init__(
        self,
        database: Database,
        hierarchy: Hierarchy,
        keyring: Keyring,
        now: Clock,
        *,
        node: str,
        data: Path,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """``data`` is the node's data directory."""
        self._database = database
        self._hierarchy = hierarchy
        self._keyring = keyring
        self._now = now
        self.node = node
        self._data = data
        self._seconds = seconds
        self._board = Board(data / "run")
        self._describe: Callable[[], Worker] | None = None
        self._listeners: list[Callable[[Figures], object]] = []
        self._census: _Census | None = None
        self._probe_at = 0.0
        self.newest: Figures | None = None

    def watch(self, describe: Callable[[], Worker]) -> None:
        """Take up what ``describe`` says of this process, and tell the other workers of it."""
        self._describe = describe

    def listen(self, callback: Callable[[Figures], object]) -> None:
        """Call ``callback`` with each new sample."""
        self._listeners.append(callback)

    async def sample(self) -> Figures:
        """Take a sample now; what cannot be asked keeps its last value. Never a Fault."""
        figures = await self._sample()
        self._publish(figures)
        if figures.database.state != "failed" and self._is_count_due():
            try:
                self._census = await self._count(figures)
            except Fault as fault:
                log.warn("the certificates could not be counted: {why}", why=str(fault))
            else:
                figures = self._with_census(figures)
                self._publish(figures)
        return figures

    def _publish(self, figures: Figures) -> None:
        self.newest = figures
        for listener in self._listeners:
            listener(figures)

    async def _sample(self) -> Figures:
        now = self._now()
        workers, doors = self._processes(now)
        if self._seconds() >= self._probe_at:
            self._probe_at = self._seconds() + _PROBE_SECONDS
            await self._keyring.probe()
        stores = tuple(await self._keyring.health())
        begin = self._seconds()
        figures = Figures(
            sampled_at=now,
            node=self.node,
            stores=stores,
            database=DatabaseFigures(dialect=self._database.dialect, state="failed"),
            disk=self._disk(),
            workers=workers,
            doors=doors,
        )
        try:
            issuers = await self._hierarchy.all_issuers()
            signing = [issuer.id for issuer in issuers if _signs(issuer, now)]
            heads, waiting, journal, tenants = await self._database.read(_read, signing)
        except Fault as fault:
            return self._without_database(figures, fault.detail)
        trouble = self._database.why_not_writing
        figures = replace(
            figures,
            authorities=tuple(_authority(issuer, heads.get(issuer.id), now) for issuer in issuers),
            tenants=tuple(
                TenantFigures(tenant=name, pending=waiting.requests.get(name, 0))
                for name in tenants
            ),
            database=DatabaseFigures(
                dialect=self._database.dialect,
                state="read-only" if trouble else "ok",
                trouble=trouble,
                seconds=self._seconds() - begin,
            ),
            journal=_journal(journal),
            queues=_queues(waiting, workers),
        )
        return self._with_census(figures)

    def _without_database(self, figures: Figures, trouble: str) -> Figures:
        figures = replace(figures, database=replace(figures.database, trouble=trouble))
        last = self.newest
        if last is None:
            return figures
        return replace(
            figures,
            counted_at=last.counted_at,
            # Time goes on: a CRL expires while nobody can ask for a newer one.
            authorities=tuple(_later(known, figures.sampled_at) for known in last.authorities),
            tenants=last.tenants,
            journal=last.journal,
            queues=last.queues,
        )

    def _processes(self, now: datetime) -> tuple[tuple[Worker, ...], tuple[Door, ...]]:
        """Return the workers that are alive, and the doors' sums over all of this run."""
        if self._describe is None:
            workers = self._board.read()
            run = next((worker.run for worker in workers if worker.is_fresh(now)), None)
        else:
            own = self._describe()
            run = own.run
            try:
                self._board.write(own)
                workers = self._board.read()
            except OSError as error:
                # A full disk must not hide what it does to everything else.
                log.warn("the figures of this worker could not be told: {why}", why=str(error))
                workers = (own,)
        same = [worker for worker in workers if worker.run == run]
        doors = summed(door for worker in same for door in worker.doors)
        return tuple(worker for worker in same if worker.is_fresh(now)), doors

    def _disk(self) -> DiskFigures:
        try:
            found = os.statvfs(self._data)
        except OSError:
            return DiskFigures(size=0, free=0)
        return DiskFigures(
            size=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize
        )

    # -- counts of certificates ---------------------------------------------------------------

    def _is_count_due(self) -> bool:
        return self._census is None or self._seconds() >= self._census.again

    async def _count(self, figures: Figures) -> _Census:
        begin = self._seconds()
        now = figures.sampled_at
        ends = [now + timedelta(days=days) for days in WINDOWS]
        # One question after the other, so that nobody else waits for all of them.
        signed = {
            known.id: await self._database.read(rows.signed, known.id, now, ends)
            for known in figures.authorities
        }
        tenants: dict[str, tuple[int, Mapping[int, int]]] = {}
        for known in figures.tenants:
            *until, unexpired = await self._database.read(rows.ending, known.tenant, now, ends)
            own = [signed[a.id] for a in figures.authorities if a.tenant == known.tenant]
            valid = unexpired - sum(of.revoked_unexpired for of in own)
            expiring = {
                days: max(0, number - sum(of.revoked_until[place] for of in own))
                for place, (days, number) in enumerate(zip(WINDOWS, until, strict=True))
            }
            tenants[known.tenant] = (max(0, valid), expiring)
        end = self._seconds()
        pause = max(_COUNT_SECONDS, (end - begin) / _COUNT_SHARE)
        return _Census(now, end + pause, signed, tenants)

    def _with_census(self, figures: Figures) -> Figures:
        census = self._census
        if census is None:
            return figures
        tenants = []
        for known in figures.tenants:
            valid, expiring = census.tenants.get(known.tenant, (None, None))
            tenants.append(replace(known, valid=valid, expiring=expiring))
        return replace(
            figures,
            counted_at=census.at,
            authorities=tuple(
                replace(known, signed=census.signed.get(known.id)) for known in figures.authorities
            ),
            tenants=tuple(tenants),
        )


def _read(
    connection: Connection, issuers: Sequence[int]
) -> tuple[dict[int, CRLHead], Waiting, JournalState, tuple[str, ...]]:
    heads = {head.issuer_id: head for head in rows.find_crl_heads(connection, issuers)}
    tenants = rows.find_tenants(connection)
    return heads, rows.waiting(connection, tenants), rows.journal_state(connection), tenants


def _signs(issuer: Issuer, now: datetime) -> bool:
    """Tell whether a CRL of this issuer is made here, and believed by anybody."""
    return issuer.signs and (issuer.not_after is None or now < issuer.not_after)


def _authority(issuer: Issuer, head: CRLHead | None, now: datetime) -> AuthorityFigures:
    state = "none"
    if _signs(issuer, now):
        due = None
        if head is not None:
            due = head.this_update + issuer.document.crl.interval
        state = _crl_state(head, due, now)
        if state == "missing" and issuer.state is IssuerState.NEXT:
            state = "none"  # nothing was signed with it yet
    return AuthorityFigures(
        id=issuer.id,
        tenant=issuer.tenant,
        authority=issuer.authority,
        slug=issuer.slug,
        generation=issuer.generation,
        state=issuer.state.value,
        not_after=issuer.not_after,
        is_compromised=issuer.compromised_at is not None,
        has_key=bool(issuer.key_id),
        crl=head,
        crl_state=state,
        signed=None,
    )


def _crl_state(head: CRLHead | None, due: datetime | None, now: datetime) -> str:
    if head is None:
        return "missing"
    if now >= head.next_update:
        return "expired"
    return "overdue" if due is not None and now >= due + _GRACE else "current"


def _later(known: AuthorityFigures, now: datetime) -> AuthorityFigures:
    is_over = known.crl is not None and now >= known.crl.next_update
    return replace(known, crl_state="expired") if is_over else known


def _journal(state: JournalState) -> JournalFigures:
    return JournalFigures(
        records=state.records,
        writers=state.writers,
        checkpoint=state.checkpoint,
        sealed_at=state.sealed_at,
        behind={name: max(0, state.records - had) for name, had in state.delivered.items()},
    )


def _queues(waiting: Waiting, workers: Sequence[Worker]) -> dict[str, int]:
    """Return how much waits: for people, for other machines, for this node's threads."""
    queues = {
        "requests": sum(waiting.requests.values()),
        "deliveries": waiting.deliveries,
        "disconnects": waiting.disconnects,
    }
    for worker in workers:
        for name, number in worker.waiting.items():
            queues[name] = queues.get(name, 0) + number
    return queues
