"""Certificate revocation lists: made when due, found whole or not at all. RFC 5280, 5.

Here is when; ``ca/crlmaking.py`` is how.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from tmad.ca.crlmaking import CRL, CRLMaker, Delta, from_row
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.turns import Turns
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.keyring import Keyring
from tmad.signer.workers import Reactor
from tmad.storage import crls, leases
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.leases import Lease

_log = Logger()

# How long one process may be busy with one CRL before another may think that it died.
_LEASE_SECONDS = 60
# How long a process waits for another that makes the same CRL; then it makes its own, and
# whoever publishes first wins (storage.crls.insert).
_PATIENCE = 5.0
_GLANCE = 0.05
# After a failure the last good CRL is served, and the signer is left alone for a while.
_PAUSE = timedelta(seconds=5)
# What nobody can replace any more is kept.
_FOREVER = timedelta(days=3650)
_ATTEMPTS = 5


class _News(NamedTuple):
    """How often something was heard that may concern an issuer's CRL; it only rises."""

    others: int  # another CRL, another authority, or nobody knows what
    statuses: int


_NONE = _News(0, 0)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A CRL in memory, right until then; ``waits``: whatever else is revoked meanwhile.

    ``news``: what had been heard before anything was read that the CRL was judged by.
    """

    crl: CRL
    until: datetime
    waits: bool
    news: _News


class CRLs:
    """The CRL of each issuer: one for each key, kept after the key has been replaced."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        hierarchy: Hierarchy,
        keyring: Keyring,
        journal: Journal,
        now: Clock,
        *,
        holder: str,
        reactor: Reactor | None = None,
    ) -> None:
        """``holder`` names this process in leases; without a reactor nothing ever waits."""
        self._database = database
        self._changes = changes
        self._hierarchy = hierarchy
        self.journal = journal
        self._now = now
        self._holder = holder
        self._reactor = reactor
        self._maker = CRLMaker(database, hierarchy, keyring, journal, now, reactor=reactor)
        self._kept: dict[int, _Kept] = {}
        self._heard: dict[int, _News] = {}
        self._heard_by_all = 0
        self._turns: dict[int, Turns] = {}
        changes.listen("status", self._on_status)
        changes.listen("crls", self._on_crl)
        changes.listen("issuers", self._on_everything)
        changes.listen("objects", self._on_object)

    async def current(self, issuer_id: int) -> CRL:
        """Return the issuer's CRL as it is now.

        Where the authority's policy is "immediate", a CRL is made first when a status has
        changed since the last one. When that fails, the last good one is served as long as it
        is valid. Raise Fault(NOT_FOUND) for an issuer that signs no CRLs here.
        """
        await self._changes.catch_up()
        crl = self.at_hand(issuer_id)
        if crl is not None:
            return crl
        return await self._bring_up_to_date(issuer_id)

    def at_hand(self, issuer_id: int) -> CRL | None:
        """Return the CRL if it is in memory and right, after ``changes.catch_up()``."""
        kept = self._kept.get(issuer_id)
        if kept is None or self._now() >= kept.until:
            return None
        news = self._news(issuer_id)
        if kept.news.others != news.others:
            return None
        if kept.news.statuses != news.statuses and not kept.waits:
            return None
        return kept.crl

    async def current_with_delta(self, issuer_id: int) -> tuple[CRL, Delta]:
        """Return the issuer's CRL as it is now, and its delta CRL.

        Raise Fault(NOT_FOUND) where none is made, UNAVAILABLE when it is over and no newer one
        could be made.
        """
        crl = await self.current(issuer_id)
        if crl.delta is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no delta CRL: the authority's rule crl.delta_hours makes them, unless"
                " its key is compromised",
                rule="crl.delta",
            )
        delta = self.fresh_delta(crl)
        if delta is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the delta CRL is over, and no newer one could be made",
                rule="crl.delta-over",
                values={"number": str(crl.number)},
            )
        return crl, delta

    def fresh_delta(self, crl: CRL) -> Delta | None:
        """Return the delta CRL of a CRL unless there is none, or it is over."""
        if crl.delta is None or self._now() >= crl.delta.next_update:
            return None
        return crl.delta

    @guarded("crl.build")
    async def build(
        self, actor: Actor, tenant: str, authority: str, *, dry_run: bool = False
    ) -> tuple[CRL, ...]:
        """Make a new CRL now for every key of an authority, oldest first."""
        built = []
        for issuer in await self._hierarchy.generations(tenant, authority):
            if self._may_sign(issuer):
                built.append(await self._build(issuer.id, actor.name, dry_run=dry_run))
        if not built:
            raise _signs_none(authority)
        return tuple(built)

    @guarded("crl.read")
    async def show(
        self,
        actor: Actor,
        tenant: str,
        authority: str,
        *,
        generation: int | None = None,
        before: int | None = None,
        limit: int = 20,
    ) -> list[crls.CRLRow]:
        """Return a page of an authority's CRLs without their octets, newest first.

        The active generation's, unless another one is named.
        """
        found = await self._hierarchy.generations(tenant, authority)
        chosen = [i for i in found if generation in (None, i.generation) and i.signs]
        if not chosen:
            raise _signs_none(authority)
        active = [issuer for issuer in chosen if issuer.is_able] or chosen
        return await self._database.read(crls.find_heads, active[-1].id, before, limit)

    async def rebuild_due(self) -> int:
        """Make every CRL that its policy says is due; return how many.

        One that fails is logged and does not keep the others from being made.
        """
        made = 0
        for issuer in await self._hierarchy.all_issuers():
            if not self._may_sign(issuer):
                continue
            try:
                before = await self._database.read(crls.newest_head, issuer.id)
                interval = issuer.document.crl.interval
                if before is None or self._now() >= before.this_update + interval:
                    await self._build(issuer.id, "system")
                    made += 1
                else:
                    crl = await self.current(issuer.id)
                    made += crl.number > before.number
            except Fault as fault:
                _log.error(
                    "the CRL of {slug} could not be made: {fault} {private}",
                    slug=issuer.slug,
                    fault=str(fault),
                    private=fault.private,
                )
        return made

    async def _bring_up_to_date(self, issuer_id: int) -> CRL:
        async with self._turns.setdefault(issuer_id, Turns()):
            crl = self.at_hand(issuer_id)
            if crl is not None:
                return crl
            # Before all reads: what comes after it, and is perhaps in none of them, asks again.
            news = self._news(issuer_id)
            issuer = await self._hierarchy.by_id(issuer_id)
            last = await self._load(issuer)
            if last is not None:
                return await self._keep_or_replace(issuer, news, *last)
            if not self._may_sign(issuer):
                raise _signs_none(issuer.authority)
            return await self._make(issuer, news, "system")

    async def _load(self, issuer: Issuer) -> tuple[CRL, int] | None:
        """Return the newest CRL, and up to which change it is complete."""
        head = await self._database.read(crls.newest_head, issuer.id)
        kept = self._kept.get(issuer.id)
        if head is not None and kept is not None and kept.crl.number == head.number:
            return kept.crl, head.change_id
        row = await self._database.read(crls.newest, issuer.id)
        if row is None or row.crl_der is None:
            return None
        return from_row(row), row.change_id

    async def _keep_or_replace(self, issuer: Issuer, news: _News, crl: CRL, change_id: int) -> CRL:
        policy = issuer.document.crl
        now = self._now()
        due = crl.this_update + policy.interval
        if not self._may_sign(issuer):
            self._kept[issuer.id] = _Kept(crl, now + _FOREVER, True, news)
            return crl
        waits = policy.rebuild == "scheduled"
        # Also when deltas have been switched on or off: the CRL says where they are.
        is_due = now >= due or (crl.delta is not None) is not issuer.makes_deltas
        if not (waits or is_due):
            changed = await self._database.read(crls.find_status_changes, issuer.id, change_id)
            if changed.serials is None or changed.serials:
                soonest = crl.this_update + timedelta(seconds=policy.delay_seconds)
                # A clock that was set back must not keep a revocation off the list.
                is_due = not crl.this_update <= now < soonest
                if not is_due:
                    due, waits = soonest, True
        if is_due:
            try:
                return await self._make(issuer, news, "system")
            except Fault as fault:
                if crl.next_update <= now:
                    raise
                _log.error(
                    "the last good CRL of {slug} is served: {fault} {private}",
                    slug=issuer.slug,
                    fault=str(fault),
                    private=fault.private,
                )
                due, waits = now + _PAUSE, True
        self._kept[issuer.id] = _Kept(crl, due, waits, news)
        return crl

    async def _build(self, issuer_id: int, actor: str, *, dry_run: bool = False) -> CRL:
        async with self._turns.setdefault(issuer_id, Turns()):
            news = self._news(issuer_id)
            issuer = await self._hierarchy.by_id(issuer_id)
            if dry_run:
                last = await self._database.read(crls.newest_head, issuer.id)
                return (await self._maker.sign(issuer, last)).crl
            return await self._make(issuer, news, actor)

    async def _make(self, issuer: Issuer, news: _News, actor: str) -> CRL:
        """Make and publish a CRL; the caller holds this process's lock for the issuer.

        ``news`` is from before the issuer was read.
        """
        lease = await self._take_lease(issuer)
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                last = await self._database.read(crls.newest_head, issuer.id)
                signed = await self._maker.sign(issuer, last)
                try:
                    await self._database.write(self._maker.publish, issuer, signed, lease, actor)
                except Fault as fault:
                    if fault.code is not FaultCode.CONFLICT or attempt == _ATTEMPTS:
                        raise
                    lease = None  # lost, or somebody did not wait: the number decides
                    continue
                break
        finally:
            if lease is not None:
                await self._database.write(leases.release, lease, self._now())
        # Delivers this very change, too; what was published meanwhile by others is newer.
        await self._changes.catch_up()
        head = await self._database.read(crls.newest_head, issuer.id)
        crl = signed.crl
        if head is not None and head.number == crl.number:
            due = crl.this_update + issuer.document.crl.interval
            waits = issuer.document.crl.rebuild == "scheduled"
            # This very publication is one that was heard since.
            heard = news._replace(others=news.others + 1)
            self._kept[issuer.id] = _Kept(crl, due, waits, heard)
        return crl

    async def _take_lease(self, issuer: Issuer) -> Lease | None:
        waited = 0.0
        while True:
            lease = await self._database.write(
                leases.acquire, f"crl/{issuer.id}", self._holder, _LEASE_SECONDS, self._now()
            )
            if lease is not None or self._reactor is None or waited >= _PATIENCE:
                return lease
            await _sleep(self._reactor, _GLANCE)
            waited += _GLANCE

    def _may_sign(self, issuer: Issuer) -> bool:
        """Tell whether a new CRL of this issuer could still be believed by anybody."""
        return issuer.signs and (issuer.not_after is None or self._now() < issuer.not_after)

    def _news(self, issuer_id: int) -> _News:
        others, statuses = self._heard.get(issuer_id, _NONE)
        return _News(others + self._heard_by_all, statuses)

    def _on_status(self, key: str) -> None:
        issuer_id, _, _ = key.partition(":")
        if issuer_id.isdecimal():
            others, statuses = self._heard.get(int(issuer_id), _NONE)
            self._heard[int(issuer_id)] = _News(others, statuses + 1)
        else:
            self._on_everything(key)

    def _on_crl(self, key: str) -> None:
        if key.isdecimal():
            others, statuses = self._heard.get(int(key), _NONE)
            self._heard[int(key)] = _News(others + 1, statuses)
        else:
            self._on_everything(key)

    def _on_object(self, key: str) -> None:
        if key == "*" or key.split("/")[1] == "authority":
            self._on_everything(key)

    def _on_everything(self, key: str) -> None:
        self._heard_by_all += 1


def _signs_none(authority: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        f"authority {authority} signs no CRLs here",
        rule="crl.signer",
        values={"authority": authority},
    )


def _sleep(reactor: Reactor, seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done
