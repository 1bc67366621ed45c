"""Trust anchors: other people's authorities whose certificates may log in here, and their CRLs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.catalogue import Kind
from tmad.network import foreign
from tmad.network.anchor import Anchor, Path, TrustAnchorDocument, Vouched
from tmad.network.facts import Facts
from tmad.network.foreign import RevocationList
from tmad.storage import anchors as rows
from tmad.storage import objects
from tmad.storage.anchors import AnchorCRL
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey
from tmad.storage.objects import ObjectRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = Logger()

KIND: Final = "trust-anchor"

_PAGE: Final = 500
_KEPT: Final = 4096  # paths that are remembered
_RETRY: Final = timedelta(minutes=5)

Fetch = Callable[[str, int], Awaitable[bytes]]


def kind() -> Kind:
    """Return the managed kind "trust-anchor"."""

    def forget(connection: Connection, tenant: str, name: str, document: Any) -> None:
        rows.delete(connection, tenant, name)

    return Kind(name=KIND, model=TrustAnchorDocument, check_delete=forget)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What fetching one CRL led to."""

    url: str
    issuer: str
    this_update: datetime
    next_update: datetime | None
    is_new: bool


class TrustAnchors:
    """The trust anchors of every tenant, with what their CRLs say."""

    def __init__(
        self, database: Database, journal: Journal, changes: Changes, now: Clock, fetch: Fetch
    ) -> None:
        """``fetch(url, largest)`` returns a document or raises Fault(UNAVAILABLE)."""
        self.journal = journal
        self._database = database
        self._changes = changes
        self._now = now
        self._fetch = fetch
        self._kept: KeptByKey[str, tuple[Anchor, ...]] = KeptByKey()
        self._lists: dict[tuple[str, str, bytes], tuple[AnchorCRL, RevocationList]] = {}
        self._paths: OrderedDict[tuple[str, bytes], tuple[Anchor, Path]] = OrderedDict()
        self._next: dict[tuple[str, str], datetime] = {}
        self._failing: set[tuple[str, str]] = set()
        changes.listen(rows.TOPIC, self._forget)
        changes.listen("objects", self._forget_object)

    # -- for the decision, after changes.catch_up() -------------------------------------------

    async def certificates(self, tenant: str) -> list[x509.Certificate]:
        """Return what a tenant's clients may come from, beside our own authorities."""
        return [each for anchor in await self._for_network(tenant) for each in anchor.certificates]

    async def vouch(
        self,
        tenant: str,
        facts: Facts,
        chain: Sequence[x509.Certificate],
        at: datetime,
        *,
        enrolling: Collection[str] | None = None,
    ) -> Vouched | None:
        """Return which anchor a certificate comes from, or None.

        Raise Fault(UNAUTHENTICATED) when its path does not hold. ``chain`` is what the client
        showed, its own certificate first. Asked are the anchors for the network, or those of
        these names that are for enrolling.
        """
        if enrolling is None:
            anchors = await self._for_network(tenant)
        else:
            anchors = tuple(
                anchor
                for anchor in await self._of(tenant)
                if anchor.name in enrolling and "enrollment" in anchor.document.uses
            )
        if not anchors:
            return None
        found = self._path(tenant, anchors, facts, chain)
        if found is None:
            return None
        anchor, path = found
        return anchor.vouch(path, at)

    async def is_revoked(self, tenant: str, name: str, issuer: bytes, serial: int) -> bool:
        """Tell whether a certificate that an anchor vouched for stands in a CRL by now.

        One of an anchor that is gone or switched off counts as revoked, a stale CRL speaks
        against nobody who is in already.
        """
        for anchor in await self._of(tenant):
            if anchor.name == name:
                found = anchor.lists.get(issuer)
                is_off = anchor.document.revocation == "off"
                return not is_off and found is not None and serial in found.revoked
        return True

    def vouch_in(
        self, connection: Connection, tenant: str, name: str, path: Path, at: datetime
    ) -> Vouched | None:
        """Return what an anchor that is for enrolling says of a path, as a transaction sees it.

        None where it does not end this path any more. Raise as :meth:`vouch` does.
        """
        row = objects.by_name(connection, tenant, KIND, name)
        anchor = row and self._read(connection, row, rows.find(connection, tenant))
        if not anchor or "enrollment" not in anchor.document.uses:
            return None
        return anchor.vouch(path, at) if path[-1] in anchor.certificates else None

    def _path(
        self,
        tenant: str,
        anchors: tuple[Anchor, ...],
        facts: Facts,
        chain: Sequence[x509.Certificate],
    ) -> tuple[Anchor, Path] | None:
        """Return the anchor and the path to it, leaf first, every signature verified."""
        key = tenant, facts.sha256
        kept = self._paths.get(key)
        if kept is not None and kept[0] in anchors:
            return kept
        for anchor in anchors:
            path = anchor.path_of(facts.certificate, chain[1:])
            if path is not None:
                self._paths[key] = anchor, path
                if len(self._paths) > _KEPT:
                    self._paths.popitem(last=False)
                return anchor, path
        return None

    async def _for_network(self, tenant: str) -> tuple[Anchor, ...]:
        found = await self._of(tenant)
        return tuple(anchor for anchor in found if "network" in anchor.document.uses)

    async def _of(self, tenant: str) -> tuple[Anchor, ...]:
        found = self._kept.get(tenant)
        if found is None:
            found = await self._kept.fill(tenant, self._database.read(self._load, tenant))
        return found

    def _load(self, connection: Connection, tenant: str) -> tuple[Anchor, ...]:
        """Read a tenant's anchors, and of their CRLs those that are not in memory."""
        heads = rows.find(connection, tenant)
        found = [self._read(connection, row, heads) for row in _all(connection, tenant)]
        return tuple([anchor for anchor in found if anchor is not None])

    def _read(
        self, connection: Connection, row: ObjectRow, heads: Sequence[AnchorCRL]
    ) -> Anchor | None:
        document = TrustAnchorDocument.model_validate_json(row.document)
        if not document.enabled:
            return None
        lists = {
            head.issuer: self._list(connection, head) for head in heads if head.anchor == row.name
        }
        return Anchor(row.name, document, document.authorities(), lists)

    def _list(self, connection: Connection, head: AnchorCRL) -> RevocationList:
        key = head.tenant, head.anchor, head.issuer
        kept = self._lists.get(key)
        if kept is not None and kept[0] == head:
            return kept[1]
        row = rows.by_issuer(connection, *key)
        if row is None:
            raise Fault(FaultCode.UNAVAILABLE, "a CRL was removed meanwhile")
        # Its signature was verified before it was stored.
        found = foreign.entries(foreign.load(row.crl_der))
        self._lists[key] = head, found
        return found

    def _forget(self, key: str) -> None:
        if key == "*":
            self._kept.forget_all()
        else:
            self._kept.forget(key.partition("/")[0])
        self._paths.clear()

    def _forget_object(self, key: str) -> None:
        if key == "*" or key.split("/")[1] == KIND:
            self._forget(key)

    # -- fetching -----------------------------------------------------------------------------

    @guarded("trust-anchor.write")
    async def refresh(
        self,
        actor: Actor,
        tenant: str,
        name: str,
        *,
        crl: bytes | None = None,
        dry_run: bool = False,
    ) -> tuple[Refreshed, ...]:
        """Fetch an anchor's CRLs now, or take the one given; raise the first failure."""
        document = await self._document(tenant, name)
        if crl is not None:
            return (await self._take(tenant, name, document, "", crl, actor.name, dry_run),)
        if not document.crl_urls:
            raise Fault(
                FaultCode.REJECTED,
                f"the trust anchor {name} has no crl_urls",
                rule="network.crl-urls",
                values={"trust-anchor": name},
            )
        return tuple(
            [
                await self._take(
                    tenant,
                    name,
                    document,
                    url,
                    await self._fetch(url, foreign.LARGEST),
                    actor.name,
                    dry_run,
                )
                for url in document.crl_urls
            ]
        )

    @guarded("trust-anchor.read")
    async def lists(self, actor: Actor, tenant: str, name: str) -> tuple[AnchorCRL, ...]:
        """Return the CRLs that an anchor has, without their octets."""
        await self._document(tenant, name)
        found = await self._database.read(rows.find, tenant)
        return tuple(row for row in found if row.anchor == name)

    async def refresh_due(self) -> int:
        """Fetch the CRLs of every anchor whose time has come; return how many are new.

        One process of all calls this. A failure is journaled once, until it succeeds again.
        """
        new = 0
        for tenant, name, document, fetched in await self._database.read(_due):
            due = self._next.get((tenant, name)) or _next(document, fetched)
            if due is not None and self._now() < due:
                continue
            try:
                for url in document.crl_urls:
                    data = await self._fetch(url, foreign.LARGEST)
                    taken = await self._take(tenant, name, document, url, data, "system", False)
                    new += taken.is_new
            except Fault as fault:
                self._next[tenant, name] = self._now() + _RETRY
                await self._tell_failure(tenant, name, fault)
            else:
                self._next.pop((tenant, name), None)
                self._failing.discard((tenant, name))
        return new

    async def _take(
        self,
        tenant: str,
        name: str,
        document: TrustAnchorDocument,
        url: str,
        data: bytes,
        actor: str,
        dry_run: bool,
    ) -> Refreshed:
        crl = foreign.load(data)
        authority = foreign.signer(crl, document.authorities(), self._now())
        # Everything in it is read before it is believed: in a thread, for it may be long.
        await self._database.read(_read_entries, crl)
        row = AnchorCRL(
            tenant=tenant,
            anchor=name,
            issuer=foreign.authority_key(authority),
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            fetched_at=self._now(),
            crl_der=foreign.encoded(crl),
        )
        is_new = await self._database.write(self._put, row, url, len(crl), actor, dry_run=dry_run)
        return Refreshed(url, crl.issuer.rfc4514_string(), row.this_update, row.next_update, is_new)

    def _put(
        self, connection: Connection, row: AnchorCRL, url: str, count: int, actor: str
    ) -> bool:
        if objects.by_name(connection, row.tenant, KIND, row.anchor) is None:
            raise _absent(row.anchor)
        if not rows.put(connection, row):
            return False
        end = None if row.next_update is None else row.next_update.isoformat()
        self.journal.append(
            connection,
            Event(
                kind="trust-anchor.crl-updated",
                tenant=row.tenant,
                actor=actor,
                object=row.anchor,
                data={
                    "url": url,
                    "issuer": row.issuer.hex(),
                    "this_update": row.this_update.isoformat(),
                    "next_update": end,
                    "entries": count,
                },
            ),
        )
        return True

    async def _tell_failure(self, tenant: str, name: str, fault: Fault) -> None:
        log.warn(
            "the CRLs of trust anchor {tenant}/{name} could not be renewed: {fault}",
            tenant=tenant,
            name=name,
            fault=str(fault),
        )
        if (tenant, name) in self._failing:
            return
        self._failing.add((tenant, name))
        await self.journal.write(
            Event(
                kind="trust-anchor.refresh-failed",
                tenant=tenant,
                actor="system",
                object=name,
                data={"detail": fault.detail, "rule": fault.rule, "values": dict(fault.values)},
            )
        )

    async def _document(self, tenant: str, name: str) -> TrustAnchorDocument:
        row = await self._database.read(objects.by_name, tenant, KIND, name)
        if row is None:
            raise _absent(name)
        return TrustAnchorDocument.model_validate_json(row.document)


def _read_entries(connection: Connection, crl: x509.CertificateRevocationList) -> None:
    foreign.entries(crl)


def _due(
    connection: Connection,
) -> list[tuple[str, str, TrustAnchorDocument, datetime | None]]:
    """Return every anchor with URLs, and when the oldest of its CRLs was fetched."""
    found = []
    for tenant in _tenants(connection):
        fetched: dict[str, datetime] = {}
        for head in rows.find(connection, tenant):
            fetched[head.anchor] = min(head.fetched_at, fetched.get(head.anchor, head.fetched_at))
        for row in _all(connection, tenant):
            document = TrustAnchorDocument.model_validate_json(row.document)
            if document.enabled and document.crl_urls:
                found.append((tenant, row.name, document, fetched.get(row.name)))
    return found


def _next(document: TrustAnchorDocument, fetched: datetime | None) -> datetime | None:
    return None if fetched is None else fetched + timedelta(minutes=document.refresh_minutes)


def _tenants(connection: Connection) -> Iterator[str]:
    after = ""
    while page := objects.find(connection, "*", "tenant", after, _PAGE):
        yield from (row.name for row in page)
        after = page[-1].name


def _all(connection: Connection, tenant: str) -> Iterator[ObjectRow]:
    after = ""
    while page := objects.find(connection, tenant, KIND, after, _PAGE):
        yield from page
        after = page[-1].name


def _absent(name: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        f"there is no trust anchor {name}",
        rule="network.anchor-absent",
        values={"trust-anchor": name},
    )
