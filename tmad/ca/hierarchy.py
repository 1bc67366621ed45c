"""The authorities as everybody sees them: their rules, their generations, their certificates.

An authority is a managed object with rules (AuthorityDocument) and has one issuer row for each
of its keys (RFC 5280, 5: one CRL a key). This module only reads; ca/ceremony.py changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

from tmad.ca.authority import AUTHORITY as AUTHORITY
from tmad.ca.authority import DELTA_SUFFIX, KIND, load_key, slug_of
from tmad.ca.authority import AuthorityDocument as AuthorityDocument
from tmad.ca.authority import CRLPolicy as CRLPolicy
from tmad.ca.authority import OCSPPolicy as OCSPPolicy
from tmad.ca.scheme import SignatureScheme, scheme_for
from tmad.ca.trust import chain_from_der, key_bits
from tmad.ca.turns import Turns
from tmad.errors import Fault, FaultCode
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.storage import issuers, objects, private_keys
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerRow, IssuerState

_PAGE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Issuer:
    """One authority with one of its keys.

    ``chain`` is this certificate first, root last; both are empty while the certificate is
    missing. ``slug`` is this generation's part of the CRL, OCSP and AIA addresses.
    """

    id: int
    tenant: str
    authority: str
    slug: str
    generation: int
    state: IssuerState
    key_id: str
    certificate: x509.Certificate | None
    chain: tuple[x509.Certificate, ...]
    subject_der: bytes
    public_key: CertificateIssuerPublicKeyTypes
    parent_issuer_id: int | None
    not_before: datetime | None
    not_after: datetime | None
    compromised_at: datetime | None
    document: AuthorityDocument
    revision: int  # of the document

    @classmethod
    def load(
        cls,
        connection: sa.Connection,
        row: IssuerRow,
        document: AuthorityDocument,
        revision: int,
    ) -> Issuer:
        """Return a row with its rules and, where it has no certificate yet, its key."""
        chain = chain_from_der(row.chain_der)
        if chain:
            # CA certificates have keys that sign; check_path and the pipeline have seen to it.
            public_key = cast("CertificateIssuerPublicKeyTypes", chain[0].public_key())
        else:
            key = private_keys.by_id(connection, row.key_id)
            if key is None:
                raise Fault(
                    FaultCode.INTERNAL, "an authority's key is missing", private=f"issuer {row.id}"
                )
            public_key = load_key(key.public_key_der)
        return cls(
            id=row.id,
            tenant=row.tenant,
            authority=row.authority,
            slug=slug_of(row.tenant, row.authority, row.generation),
            generation=row.generation,
            state=row.state,
            key_id=row.key_id,
            certificate=chain[0] if chain else None,
            chain=chain,
            subject_der=row.subject_der,
            public_key=public_key,
            parent_issuer_id=row.parent_issuer_id,
            not_before=row.not_before,
            not_after=row.not_after,
            compromised_at=row.compromised_at,
            document=document,
            revision=revision,
        )

    @property
    def is_self_signed(self) -> bool:
        """Tell whether this is a root."""
        return (
            len(self.chain) == 1
            and self.certificate is not None
            and (self.certificate.subject == self.certificate.issuer)
        )

    @property
    def signs(self) -> bool:
        """Tell whether its CRLs and OCSP answers are still made here."""
        return bool(self.key_id) and self.certificate is not None

    @property
    def makes_deltas(self) -> bool:
        """Tell whether delta CRLs are made; of a compromised key all that counts is complete."""
        return self.document.crl.delta_hours is not None and self.compromised_at is None

    @property
    def scheme(self) -> SignatureScheme:
        """Return how this key signs certificates, CRLs and OCSP answers."""
        return scheme_for(self.public_key, self.document.signature)

    @property
    def is_able(self) -> bool:
        """Tell whether it may issue certificates now, as far as its state goes."""
        return self.signs and self.state is IssuerState.ACTIVE and self.compromised_at is None


@dataclass(frozen=True, slots=True)
class IssuerURLs:
    """The addresses that a certificate names; an empty one is left out."""

    crl: str
    ocsp: str
    ca_issuers: str
    delta: str  # only CRLs name it


class Hierarchy:
    """Finds issuers; every answer is as new as the newest committed change."""

    def __init__(self, database: Database, changes: Changes, *, base_url: str = "") -> None:
        """``base_url`` is the node's public http address, without a slash at the end."""
        self._database = database
        self._changes = changes
        self._base_url = base_url
        self._turns = Turns()
        self._by_id: dict[int, Issuer] = {}
        self._by_slug: dict[str, Issuer] = {}
        self._by_subject: dict[bytes, tuple[Issuer, ...]] = {}
        self._of_authority: dict[tuple[str, str], tuple[Issuer, ...]] = {}
        self._stale: set[tuple[str, str]] = set()
        self._all_stale = True
        changes.listen(issuers.TOPIC, self._forget)
        changes.listen("objects", self._forget_object)

    async def by_id(self, issuer_id: int) -> Issuer:
        """Return one issuer; Fault(NOT_FOUND) when there is none."""
        await self._refresh()
        issuer = self._by_id.get(issuer_id)
        if issuer is None:
            raise Fault(FaultCode.NOT_FOUND, f"there is no issuer {issuer_id}")
        return issuer

    async def by_slug(self, slug: str) -> Issuer:
        """Return the issuer that a URL means; Fault(NOT_FOUND) when there is none."""
        await self._refresh()
        issuer = self._by_slug.get(slug)
        if issuer is None:
            raise Fault(FaultCode.NOT_FOUND, "there is no such authority")
        return issuer

    async def by_subject(self, subject_der: bytes) -> tuple[Issuer, ...]:
        """Return the issuers with exactly this name, newest first."""
        await self._refresh()
        return self._by_subject.get(subject_der, ())

    async def by_name_and_key(self, name_der: bytes, bits: bytes) -> Issuer | None:
        """Return the issuer with this name and this key (the BIT STRING's octets)."""
        for issuer in await self.by_subject(name_der):
            if issuer.signs and key_bits(issuer.public_key) == bits:
                return issuer
        return None

    async def generations(self, tenant: str, authority: str) -> tuple[Issuer, ...]:
        """Return every generation, oldest first; Fault(NOT_FOUND) when there is none."""
        await self._refresh()
        found = self._of_authority.get((tenant, authority), ())
        if not found:
            raise Fault(FaultCode.NOT_FOUND, f"there is no authority {authority!r}")
        return found

    async def active(self, tenant: str, authority: str) -> Issuer:
        """Return the generation that issues now.

        Raise NOT_FOUND for an unknown authority, UNAVAILABLE for one that cannot issue.
        """
        found = await self.generations(tenant, authority)
        for issuer in found:
            if issuer.state is IssuerState.ACTIVE:
                return issuer
        raise Fault(
            FaultCode.UNAVAILABLE,
            f"authority {authority} does not issue",
            private=f"its generations are {', '.join(i.state for i in found)}",
            rule="authority.state",
            values={str(issuer.generation): issuer.state.value for issuer in found},
        )

    async def next(self, tenant: str, authority: str) -> Issuer | None:
        """Return the generation that is staged to follow."""
        for issuer in await self.generations(tenant, authority):
            if issuer.state is IssuerState.NEXT:
                return issuer
        return None

    async def all_issuers(self) -> tuple[Issuer, ...]:
        """Return every issuer of every tenant, by id."""
        await self._refresh()
        return tuple(self._by_id.values())

    async def of_tenant(self, tenant: str) -> tuple[Issuer, ...]:
        """Return every issuer of one tenant, by id."""
        return tuple(issuer for issuer in await self.all_issuers() if issuer.tenant == tenant)

    def urls(self, issuer: Issuer) -> IssuerURLs:
        """Return what the certificates and CRLs of this issuer say about where to look."""
        rules = issuer.document.urls
        base = rules.base or self._base_url
        if not base:
            return IssuerURLs("", "", "", "")
        return IssuerURLs(
            crl=f"{base}/crl/{issuer.slug}.crl" if rules.crl else "",
            ocsp=f"{base}/ocsp/{issuer.slug}" if rules.ocsp else "",
            ca_issuers=f"{base}/aia/{issuer.slug}.cer" if rules.ca_issuers else "",
            delta=f"{base}/crl/{issuer.slug}{DELTA_SUFFIX}.crl"
            if rules.crl and issuer.makes_deltas
            else "",
        )

    @guarded("authority.read")
    async def list(self, actor: Actor, tenant: str) -> tuple[Issuer, ...]:
        """Return every issuer of one tenant, by id, for people."""
        return await self.of_tenant(tenant)

    @guarded("authority.read")
    async def show(self, actor: Actor, tenant: str, name: str) -> tuple[Issuer, ...]:
        """Return every generation of one authority, oldest first, for people."""
        return await self.generations(tenant, name)

    async def _refresh(self) -> None:
        await self._changes.catch_up()
        if not (self._all_stale or self._stale or self._turns.is_taken):
            return
        # One load at a time: an older one must not overwrite a newer one.
        async with self._turns:
            if self._all_stale:
                self._all_stale = False
                self._stale.clear()
                try:
                    self._index(await self._database.read(_load_all))
                except BaseException:
                    self._all_stale = True
                    raise
            elif self._stale:
                stale = frozenset(self._stale)
                self._stale.clear()
                try:
                    loaded = await self._database.read(_load_some, stale)
                except BaseException:
                    self._stale |= stale
                    raise
                kept = (i for i in self._by_id.values() if (i.tenant, i.authority) not in stale)
                self._index(sorted([*kept, *loaded], key=lambda issuer: issuer.id))

    def _index(self, found: Iterable[Issuer]) -> None:
        self._by_id = {issuer.id: issuer for issuer in found}
        self._by_slug = {issuer.slug: issuer for issuer in self._by_id.values()}
        of_authority: dict[tuple[str, str], tuple[Issuer, ...]] = {}
        by_subject: dict[bytes, tuple[Issuer, ...]] = {}
        for issuer in self._by_id.values():
            key = (issuer.tenant, issuer.authority)
            of_authority[key] = (*of_authority.get(key, ()), issuer)
            same_name = by_subject.get(issuer.subject_der, ())
            by_subject[issuer.subject_der] = (issuer, *same_name)
        self._of_authority = of_authority
        self._by_subject = by_subject

    def _forget(self, key: str) -> None:
        tenant, separator, authority = key.partition("/")
        if separator:
            self._stale.add((tenant, authority))
        else:
            self._all_stale = True

    def _forget_object(self, key: str) -> None:
        tenant, _, rest = key.partition("/")
        kind, _, name = rest.partition("/")
        if kind == KIND:
            self._stale.add((tenant, name))
        elif key == "*":
            self._all_stale = True


def _load_all(connection: sa.Connection) -> list[Issuer]:
    found: list[Issuer] = []
    rules: dict[tuple[str, str], tuple[AuthorityDocument, int]] = {}
    after = 0
    while page := issuers.find(connection, after=after, limit=_PAGE):
        for row in page:
            key = (row.tenant, row.authority)
            if key not in rules:
                rules[key] = _load_rules(connection, *key)
            found.append(Issuer.load(connection, row, *rules[key]))
        after = page[-1].id
    return found


def _load_some(connection: sa.Connection, keys: frozenset[tuple[str, str]]) -> list[Issuer]:
    found: list[Issuer] = []
    for tenant, authority in keys:
        rules = _load_rules(connection, tenant, authority)
        for row in issuers.find_of_authority(connection, tenant, authority):
            found.append(Issuer.load(connection, row, *rules))
    return found


def _load_rules(
    connection: sa.Connection, tenant: str, authority: str
) -> tuple[AuthorityDocument, int]:
    stored = objects.by_name(connection, tenant, KIND, authority)
    if stored is None:
        return AuthorityDocument(), 0
    return AuthorityDocument.model_validate_json(stored.document), stored.revision
