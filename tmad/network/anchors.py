"""Trust anchors: other people's authorities whose certificates may log in here, and their CRLs.

What somebody else has revoked is known only as well as the newest CRL says. Where that is
"required", a missing or stale one refuses (fail closed); "soft" lets in and writes it down.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, field_validator
from twisted.logger import Logger

from tmad.ca.trust import MAXIMUM_DEPTH, UNREADABLE, check_ca, check_path, is_signed_by
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.catalogue import Kind
from tmad.network import fetch, foreign
from tmad.network.facts import Facts
from tmad.network.foreign import RevocationList
from tmad.network.reasons import refusal
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
_MOST_CERTIFICATES: Final = 16
_MOST_OCTETS: Final = 262_144  # of one anchor's certificates
_MOST_URLS: Final = 8
_KEPT: Final = 4096  # paths that are remembered
_RETRY: Final = timedelta(minutes=5)
_HOLD: Final = 6  # RFC 5280, 5.3.1: certificateHold

Fetch = Callable[[str, int], Awaitable[bytes]]


class TrustAnchorDocument(BaseModel):
    """Somebody else's CA, as far as its certificates may log in here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", max_length=500)
    enabled: bool = True
    certificates: str = Field(
        max_length=_MOST_OCTETS,
        description="The CA's certificate and those of its sub-CAs, as PEM.",
    )
    uses: tuple[Literal["network", "enrollment"], ...] = Field(
        default=("network",),
        min_length=1,
        description="network: its certificates may log in over RADIUS, as far as policies let "
        "them. enrollment: endpoints that name it enrol its devices.",
    )
    revocation: Literal["required", "soft", "off"] = Field(
        default="required",
        description="Without a CRL that is good now: required refuses, soft lets in and notes it, "
        "off never asks.",
    )
    crl_urls: tuple[str, ...] = Field(
        default=(), max_length=_MOST_URLS, description="Where its CRLs are, http or https."
    )
    refresh_minutes: int = Field(
        default=60, ge=5, le=10_080, description="How often they are fetched."
    )
    names_people: bool = Field(
        default=False,
        description="Take the names in its certificates for our people and devices, with their "
        "groups: only for a CA that certifies our names and nobody else's.",
    )

    @field_validator("certificates")
    @classmethod
    def _certificates_are_authorities(cls, pem: str) -> str:
        try:
            found = x509.load_pem_x509_certificates(pem.encode())
        except (ValueError, x509.InvalidVersion) as error:
            raise ValueError(f"not PEM certificates: {error}") from None
        if len(found) > _MOST_CERTIFICATES:
            raise ValueError(f"more than {_MOST_CERTIFICATES} certificates")
        for certificate in found:
            if not _is_authority(certificate):
                raise ValueError(f"{certificate.subject.rfc4514_string()} is no CA")
        return pem

    @field_validator("crl_urls")
    @classmethod
    def _urls_can_be_fetched(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if (mistake := fetch.mistake(url)) is not None:
                raise ValueError(f"{url}: {mistake}")
        return urls

    def authorities(self) -> tuple[x509.Certificate, ...]:
        """Return the certificates."""
        return tuple(x509.load_pem_x509_certificates(self.certificates.encode()))


def kind() -> Kind:
    """Return the managed kind "trust-anchor"."""

    def forget(connection: Connection, tenant: str, name: str, document: Any) -> None:
        rows.delete(connection, tenant, name)

    return Kind(name=KIND, model=TrustAnchorDocument, check_delete=forget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """A certificate that an anchor vouches for.

    ``doubts`` are reasons to refuse it, ``notes`` what is only written down.
    """

    anchor: str
    issuer: bytes  # which CA signed it (foreign.authority_key)
    names_people: bool
    doubts: tuple[Fault, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What fetching one CRL led to."""

    url: str
    issuer: str
    this_update: datetime
    next_update: datetime | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Anchor:
    name: str
    document: TrustAnchorDocument
    certificates: tuple[x509.Certificate, ...]
    lists: Mapping[bytes, RevocationList]


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
        self._kept: KeptByKey[str, tuple[_Anchor, ...]] = KeptByKey()
        self._lists: dict[tuple[str, str, bytes], tuple[AnchorCRL, RevocationList]] = {}
        self._paths: OrderedDict[
            tuple[str, bytes], tuple[_Anchor, tuple[x509.Certificate, ...]]
        ] = OrderedDict()
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
        _check_path(path, at)
        doubts: list[Fault] = []
        notes: list[str] = []
        if anchor.document.revocation != "off":
            for place in range(len(path) - 1):
                doubts += _of_lists(anchor, path, place, at)
        if anchor.document.revocation == "soft":
            unknown = [d for d in doubts if d.rule in ("network.crl-missing", "network.crl-stale")]
            notes = [f"{doubt.rule}: {doubt.detail}" for doubt in unknown]
            doubts = [doubt for doubt in doubts if doubt not in unknown]
        return Vouched(
            anchor=anchor.name,
            issuer=foreign.authority_key(path[1]),
            names_people=anchor.document.names_people,
            doubts=tuple(doubts),
            notes=tuple(notes),
        )

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

    def _path(
        self,
        tenant: str,
        anchors: tuple[_Anchor, ...],
        facts: Facts,
        chain: Sequence[x509.Certificate],
    ) -> tuple[_Anchor, tuple[x509.Certificate, ...]] | None:
        """Return the anchor and the path to it, leaf first, every signature verified."""
        key = tenant, facts.sha256
        kept = self._paths.get(key)
        if kept is not None and kept[0] in anchors:
            return kept
        for anchor in anchors:
            path = _build(facts.certificate, anchor.certificates, chain[1:])
            if path is not None:
                self._paths[key] = anchor, path
                if len(self._paths) > _KEPT:
                    self._paths.popitem(last=False)
                return anchor, path
        return None

    async def _for_network(self, tenant: str) -> tuple[_Anchor, ...]:
        found = await self._of(tenant)
        return tuple(anchor for anchor in found if "network" in anchor.document.uses)

    async def _of(self, tenant: str) -> tuple[_Anchor, ...]:
        found = self._kept.get(tenant)
        if found is None:
            found = await self._kept.fill(tenant, self._database.read(self._load, tenant))
        return found

    def _load(self, connection: Connection, tenant: str) -> tuple[_Anchor, ...]:
        """Read a tenant's anchors, and of their CRLs those that are not in memory."""
        heads = rows.find(connection, tenant)
        found = []
        for row in _all(connection, tenant):
            document = TrustAnchorDocument.model_validate_json(row.document)
            if document.enabled:
                lists = {
                    head.issuer: self._list(connection, head)
                    for head in heads
                    if head.anchor == row.name
                }
                found.append(_Anchor(row.name, document, document.authorities(), lists))
        return tuple(found)

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


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except UNREADABLE:
        return False


def _build(
    leaf: x509.Certificate,
    anchors: Sequence[x509.Certificate],
    shown: Sequence[x509.Certificate],
) -> tuple[x509.Certificate, ...] | None:
    """Return the way from a certificate to one of the anchors, or None."""
    path = [leaf]
    left = list(shown[:MAXIMUM_DEPTH])
    while len(path) <= MAXIMUM_DEPTH:
        for anchor in anchors:
            if is_signed_by(path[-1], anchor):
                return (*path, anchor)
        above = next((each for each in left if is_signed_by(path[-1], each)), None)
        if above is None:
            return None
        path.append(above)
        left.remove(above)
    return None


def _check_path(path: tuple[x509.Certificate, ...], at: datetime) -> None:
    """Raise Fault(UNAUTHENTICATED) unless the CA certificates of a path hold now."""
    try:
        check_ca(path[-1], at)
        if len(path) > 2:  # the leaf, what is between, the anchor
            check_path(path[1:-1], at, anchors=(path[-1],))
    except Fault as fault:
        raise refusal("network.anchor-path", fault.detail, broken=fault.rule) from fault


def _of_lists(
    anchor: _Anchor, path: tuple[x509.Certificate, ...], place: int, at: datetime
) -> Iterator[Fault]:
    """Yield what the CRLs say against one certificate of a path."""
    certificate, issuer = path[place], path[place + 1]
    values = {
        "trust-anchor": anchor.name,
        "issuer": issuer.subject.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
    }
    found = anchor.lists.get(foreign.authority_key(issuer))
    if found is None or (place > 0 and not found.covers_authorities):
        yield refusal("network.crl-missing", "there is no CRL of the CA that issued it", **values)
        return
    entry = found.revoked.get(certificate.serial_number)
    if entry is not None:
        since, reason = entry
        values |= {"since": since.isoformat(), "reason": str(reason)}
        if place > 0:
            raise refusal(
                "network.issuer-revoked", "the certificate of the CA that issued it is revoked",
                **values,
            )  # fmt: skip
        if reason == _HOLD:
            yield refusal("network.held", "the certificate is on hold", **values)
        else:
            yield refusal("network.revoked", "the certificate is revoked", **values)
    if found.next_update <= at:
        values |= {"next_update": found.next_update.isoformat(), "now": at.isoformat()}
        yield refusal("network.crl-stale", "the CRL of the CA that issued it is stale", **values)


def _absent(name: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        f"there is no trust anchor {name}",
        rule="network.anchor-absent",
        values={"trust-anchor": name},
    )
