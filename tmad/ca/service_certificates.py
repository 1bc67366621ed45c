"""The certificates that tmad holds for its own doors: OCSP, SCEP, CMP, TSA, TLS, EAP.

They are issued by the pipeline like any other, renewed at two thirds of their life, and made
once, whoever asks first in whatever process. OCSP: RFC 6960, 4.2.2.2. SCEP: RFC 8894, 2.1.2.
EAP: RFC 5216, 5.3; RFC 9190, 2.2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from secrets import token_hex
from typing import cast

import sqlalchemy as sa

from tmad.ca import generation
from tmad.ca.authority import load_key
from tmad.ca.endpoint import Endpoints
from tmad.ca.hierarchy import Hierarchy
from tmad.ca.pipeline import Authority
from tmad.ca.requests import Proof
from tmad.ca.service_records import ServiceCertificate, ServiceRecords
from tmad.ca.service_wishes import Purpose, Wish, Wishes
from tmad.ca.turns import Turns
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.algorithms import of
from tmad.signer.keyring import Keyring
from tmad.storage import leases, status
from tmad.storage import service_certificates as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey
from tmad.storage.leases import Lease
from tmad.storage.service_certificates import ServiceCertificateRow

# How long a key outlives its use. SCEP clients cache the RA certificate and encrypt to it
# (SCEP-21); the others are needed by nobody once their successor is in use.
_KEPT = {
    "ocsp": timedelta(days=1),
    "scep-ra": timedelta(days=30),
    "cmp": timedelta(days=1),
    "cmc": timedelta(days=1),
    "tsa": timedelta(days=1),
    "tls": timedelta(days=1),
    "tls-client": timedelta(days=1),
    "eap": timedelta(days=1),
    "profile": timedelta(days=1),
}
_LEASE_SECONDS = 60.0
_WAITS = 150  # times _PAUSE: longer than a slow HSM needs
_PAUSE = 0.2  # seconds
_PAGE = 100


class ServiceCertificates:
    """Keeps a valid certificate for each purpose and scope."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        journal: Journal,
        keyring: Keyring,
        hierarchy: Hierarchy,
        endpoints: Endpoints,
        authority: Authority,
        now: Clock,
        *,
        holder: str,
        pause: Callable[[float], Awaitable[object]] | None = None,
        tls_tenant: str = "default",
        tls_authority: str | None = None,
    ) -> None:
        """``holder`` names this process in leases.

        ``pause`` waits so many seconds; without it, a process that finds another one making
        the same certificate raises UNAVAILABLE at once. ``tls_tenant`` and ``tls_authority``:
        see Wishes.
        """
        self._database = database
        self._changes = changes
        self._keyring = keyring
        self._hierarchy = hierarchy
        self._authority = authority
        self._now = now
        self._holder = holder
        self._pause = pause
        self._wishes = Wishes(
            hierarchy, endpoints, keyring, tls_tenant=tls_tenant, tls_authority=tls_authority
        )
        self._records = ServiceRecords(database, hierarchy, journal, now)
        self._kept: KeptByKey[tuple[str, str], tuple[ServiceCertificate, ...]] = KeptByKey()
        self._flights: dict[tuple[str, str], Turns] = {}
        self._staples: Callable[[ServiceCertificate], Awaitable[bytes]] | None = None
        self._listeners: list[Callable[[], object]] = []
        for topic in (rows.TOPIC, "issuers", "objects"):
            changes.listen(topic, self._forget)
        changes.listen(status.TOPIC, self._on_status)

    async def current(self, purpose: Purpose, scope: str) -> ServiceCertificate:
        """Return the certificate in use; make one when there is none that fits.

        ``scope`` is an issuer's id for "ocsp", an endpoint's id for "scep-ra", "cmp", "cmc", "tsa"
        and "profile", a host name or address for "tls" and "tls-client", ``eap_scope`` for "eap".
        Faults: NOT_FOUND for a scope that does not exist, UNAVAILABLE when the authority cannot
        sign now.
        """
        return (await self.valid(purpose, scope))[0]

    async def valid(self, purpose: Purpose, scope: str) -> tuple[ServiceCertificate, ...]:
        """Return the one in use and the earlier ones whose keys still serve, newest first."""
        await self._changes.catch_up()
        now = self._now()
        found = self._kept.get((purpose, scope))
        if found is None or not _in_use(found, now):
            ensured = self._ensure(purpose, scope, due=False)
            found = await self._kept.fill((purpose, scope), ensured)
        kept = _KEPT[purpose]
        return (
            found[0],
            *(c for c in found[1:] if c.superseded_at and now < c.superseded_at + kept),
        )

    def listen(self, callback: Callable[[], object]) -> None:
        """Call back when another certificate may have become the current one.

        That is while changes are delivered: ask what it is in a later turn of the reactor.
        """
        self._listeners.append(callback)

    async def replace(self, present: ServiceCertificate) -> ServiceCertificate:
        """Return the successor of one that is revoked; make it if nobody has done so yet."""
        found = await self._ensure(present.purpose, present.scope, due=False, instead_of=present.id)
        return found[0]

    def staple_by(self, provider: Callable[[ServiceCertificate], Awaitable[bytes]]) -> None:
        """Let ``provider`` say by OCSP that our certificates are good.

        The OCSP responder does it; protocols do not know one another.
        """
        self._staples = provider

    async def staple(self, found: ServiceCertificate) -> bytes | None:
        """Return a fresh OCSP response about a certificate of ours (RFC 6066, 8), in DER.

        None while there is no responder in this process.
        """
        return None if self._staples is None else await self._staples(found)

    async def renew_due(self) -> int:
        """Renew what is due or no longer fits, destroy keys nobody needs; return how many.

        One that cannot be renewed does not keep the others from it: its Fault is raised
        when all are done.
        """
        done = after = 0
        first: Fault | None = None
        while page := await self._database.read(_page, after):
            after = page[-1].id
            for row in page:
                try:
                    done += await self._attend(row)
                except Fault as fault:
                    first = first or fault
        if first is not None:
            raise first
        return done

    # -- steps --------------------------------------------------------------------------------

    async def _attend(self, row: ServiceCertificateRow) -> int:
        if row.superseded_at is not None:
            if self._now() < row.superseded_at + _KEPT[row.purpose]:
                return 0
            await generation.destroy_key(self._keyring, row.key_id)
            await self._database.write(self._records.bury, row)
            return 1
        purpose = cast("Purpose", row.purpose)
        try:
            found = await self._ensure(purpose, row.scope, due=True)
        except Fault as fault:
            if fault.code is not FaultCode.NOT_FOUND:
                raise
            # Its endpoint or authority is gone or switched off. The key stays a while: clients
            # may still hold the certificate, and the door may be opened again.
            if row.not_after < self._now():
                await self._database.write(rows.supersede, purpose, row.scope, self._now())
            return 0
        return int(found[0].id != row.id)

    async def _ensure(
        self, purpose: Purpose, scope: str, *, due: bool, instead_of: int = 0
    ) -> tuple[ServiceCertificate, ...]:
        """Return what there is, newest first, after making a new one if need be.

        ``due``: also when the one in use is due for renewal or has another kind of key than
        it should. ``instead_of``: also when it is the one with this id.
        """
        async with self._flights.setdefault((purpose, scope), Turns()):
            found = await self._records.find(purpose, scope)
            try:
                wish = await self._wishes.find(purpose, scope)
            except Fault as fault:
                # A withdrawn authority issues no more, yet what it certified still serves.
                usable = found and _in_use(found, self._now()) and found[0].id != instead_of
                if fault.code is FaultCode.UNAVAILABLE and usable and not found[0].is_revoked:
                    return found
                raise
            if self._fits(found, wish, purpose, due=due, instead_of=instead_of):
                return found
            lease = await self._wait_for_lease(purpose, scope)
            if lease is not None:
                try:
                    # Another process may have made it before we got the lease.
                    found = await self._records.find(purpose, scope)
                    if self._fits(found, wish, purpose, due=due, instead_of=instead_of):
                        return found
                    await self._make(purpose, scope, wish, lease)
                finally:
                    await self._database.write(leases.release, lease, self._now())
            return await self._records.find(purpose, scope)

    async def _wait_for_lease(self, purpose: str, scope: str) -> Lease | None:
        name = f"service:{purpose}/{scope}"
        holder = f"{self._holder}:{token_hex(8)}"
        for _ in range(_WAITS):
            lease = await self._database.write(
                leases.acquire, name, holder, _LEASE_SECONDS, self._now()
            )
            if lease is not None or self._pause is None:
                break
            await self._pause(_PAUSE)
        if lease is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "another process is making this certificate",
                private=name,
                retry_after=1,
                rule="service.lease",
            )
        return lease

    def _fits(
        self,
        found: tuple[ServiceCertificate, ...],
        wish: Wish,
        purpose: Purpose,
        *,
        due: bool,
        instead_of: int,
    ) -> bool:
        now = self._now()
        if not found or not _in_use(found, now) or found[0].id == instead_of:
            return False
        present = found[0]
        if present.is_revoked:
            return False
        # An OCSP responder is certified by the very key that it answers for (OCSP-23), a SCEP
        # RA by the CA that clients are about to get certificates from. TLS does not care.
        if (
            purpose in ("ocsp", "scep-ra", "cmp", "cmc", "tsa", "profile")
            and present.issuer_id != wish.issuer.id
        ):
            return False
        if not due:
            return True
        return now < present.renew_at and of(present.certificate.public_key()) is wish.algorithm

    async def _make(self, purpose: Purpose, scope: str, wish: Wish, lease: Lease) -> None:
        issuer = wish.issuer
        label = f"{purpose} {scope}"
        handle = await self._keyring.generate(
            wish.algorithm, tenant=issuer.tenant, label=label, store=wish.store, save=False
        )
        try:
            assert issuer.not_after is not None
            issued = await self._authority.issue(
                Actor.system(),
                issuer.tenant,
                authority=issuer.authority,
                # Answers about a retired key's certificates need a responder of that key.
                issuer_id=issuer.id if purpose == "ocsp" else None,
                profile=wish.profile,
                subject=wish.subject,
                names=wish.names,
                public_key=load_key(handle.public_key_der),
                proof=Proof.GENERATED_HERE,
                validity=None
                if wish.lifetime is None
                else min(wish.lifetime, issuer.not_after - self._now()),
            )
            issuer = await self._hierarchy.by_id(issued.issuer_id)
            chain = (issued.certificate, *issuer.chain)
            await self._database.write(
                self._records.put, lease, purpose, scope, issuer, handle, chain
            )
        except BaseException:
            await self._keyring.discard(handle)
            raise

    def _forget(self, key: str) -> None:
        self._kept.forget_all()
        for callback in self._listeners:
            callback()

    def _on_status(self, key: str) -> None:
        if key == "*" or self._records.is_watched(key):
            self._forget(key)

    # -- transactions -------------------------------------------------------------------------


def _in_use(found: tuple[ServiceCertificate, ...], now: datetime) -> bool:
    return found[0].superseded_at is None and now < found[0].not_after


def _page(connection: sa.Connection, after: int) -> list[ServiceCertificateRow]:
    return rows.find(connection, after=after, limit=_PAGE)
