"""The certificates that tmad holds for its own doors: OCSP, SCEP, CMP, TSA, TLS, EAP.

They are issued by the pipeline like any other, renewed at two thirds of their life, and made
once, whoever asks first in whatever process. OCSP: RFC 6960, 4.2.2.2. SCEP: RFC 8894, 2.1.2.
EAP: RFC 5216, 5.3; RFC 9190, 2.2.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from tmad.ca import generation
from tmad.ca.authority import load_key
from tmad.ca.endpoint import Endpoint, Endpoints
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.pipeline import Authority
from tmad.ca.requests import EndpointID, Proof
from tmad.ca.scheme import STRENGTH, fitting_algorithm
from tmad.ca.status import Reason
from tmad.ca.trust import Trust, chain_der, chain_from_der
from tmad.ca.turns import Turns
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.algorithms import KeyAlgorithm, of
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.storage import leases, private_keys, status
from tmad.storage import service_certificates as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey
from tmad.storage.leases import Lease
from tmad.storage.service_certificates import ServiceCertificateRow

Purpose: TypeAlias = Literal[
    "ocsp", "scep-ra", "cmp", "cmc", "tsa", "tls", "tls-client", "eap", "profile"
]

LIFETIME = timedelta(days=30)
# Supplicants without a configured name ask their user whenever the EAP server's certificate
# changes; Apple's accept no more than 825 days.
_EAP_LIFETIME = timedelta(days=365)
# A time-stamp is checked for as long as its signer's certificate is good: so that is long, as the
# profile says, and the key serves for a part of it only (ETSI EN 319 421, 7.6.4).
_TSA_KEY_PERIOD = timedelta(days=365)
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
# Time-stamping authorities have the one that their endpoint names.
_PROFILES = {
    "ocsp": "ocsp-responder",
    "scep-ra": "scep-ra",
    "cmp": "cmp-signer",
    "cmc": "cmp-signer",
    "tls": "tls-self",
    "tls-client": "tls-client-self",
    "eap": "eap-self",
    "profile": "profile-signer",
}
_LEASE_SECONDS = 60.0
_WAITS = 150  # times _PAUSE: longer than a slow HSM needs
_PAUSE = 0.2  # seconds
_COMMON_NAME = 64  # RFC 5280, appendix A: ub-common-name
_PAGE = 100


# Keys that an EAP server's certificate may have, by the last part of its scope. RSA is for
# supplicants that know nothing else; P-256 costs half the time and a round trip less.
EAP_ALGORITHMS: Mapping[str, KeyAlgorithm] = {
    algorithm.value: algorithm
    for algorithm in (
        KeyAlgorithm.P256,
        KeyAlgorithm.P384,
        KeyAlgorithm.RSA_2048,
        KeyAlgorithm.RSA_3072,
        KeyAlgorithm.RSA_4096,
    )
}


def eap_scope(tenant: str, host: str, algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> str:
    """Return the scope of the certificate that an EAP server shows its clients."""
    scope = f"{tenant}/{host}"
    return scope if algorithm is KeyAlgorithm.P256 else f"{scope}/{algorithm.value}"


@runtime_checkable
class RAOptions(Protocol):
    """What a protocol's EndpointOptions may say about its RA's key."""

    @property
    def ra_algorithm(self) -> KeyAlgorithm | None:
        """Return the algorithm; None: as fits the authority."""

    ra_store: str | None


@runtime_checkable
class SignerOptions(Protocol):
    """What a protocol's EndpointOptions may say about the key that signs what it hands out."""

    @property
    def signer_algorithm(self) -> KeyAlgorithm | None:
        """Return the algorithm; None: as fits the authority."""

    signer_store: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCertificate:
    """One certificate of our own; ``chain`` is it first, root last.

    ``is_revoked`` is for good: one on hold may be good again.
    """

    id: int
    tenant: str
    purpose: str
    scope: str
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key_id: str
    issuer_id: int
    not_after: datetime
    renew_at: datetime
    superseded_at: datetime | None
    is_revoked: bool = False

    @property
    def status_key(self) -> str:
        """Return under which key a change of its status is announced."""
        return status.change_key(
            self.issuer_id, status.serial_octets(self.certificate.serial_number)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the certificate for one purpose and scope should be at present."""

    issuer: Issuer
    algorithm: KeyAlgorithm
    store: str | None  # None: the keyring's default
    subject: x509.Name
    names: tuple[x509.GeneralName, ...] = ()
    profile: str = ""  # instead of the purpose's own


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
        the same certificate raises UNAVAILABLE at once. ``tls_authority`` signs the TLS
        certificates; without it, the first one of ``tls_tenant`` that can, below a root if
        there is one.
        """
        self._database = database
        self._changes = changes
        self._journal = journal
        self._keyring = keyring
        self._hierarchy = hierarchy
        self._endpoints = endpoints
        self._authority = authority
        self._now = now
        self._holder = holder
        self._pause = pause
        self._tls_tenant = tls_tenant
        self._tls_authority = tls_authority
        self._trust = Trust(hierarchy)
        self._kept: KeptByKey[tuple[str, str], tuple[ServiceCertificate, ...]] = KeptByKey()
        self._flights: dict[tuple[str, str], Turns] = {}
        self._staples: Callable[[ServiceCertificate], Awaitable[bytes]] | None = None
        self._watched: set[str] = set()  # certificates whose status counts
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
        purpose = _purpose(present.purpose)
        found = await self._ensure(purpose, present.scope, due=False, instead_of=present.id)
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
            await self._database.write(self._bury, row)
            return 1
        purpose = _purpose(row.purpose)
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
            found = await self._load(purpose, scope)
            try:
                wish = await self._wish(purpose, scope)
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
                    found = await self._load(purpose, scope)
                    if self._fits(found, wish, purpose, due=due, instead_of=instead_of):
                        return found
                    await self._make(purpose, scope, wish, lease)
                finally:
                    await self._database.write(leases.release, lease, self._now())
            return await self._load(purpose, scope)

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
        wish: _Wish,
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

    async def _make(self, purpose: Purpose, scope: str, wish: _Wish, lease: Lease) -> None:
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
                profile=wish.profile or _PROFILES[purpose],
                subject=wish.subject,
                names=wish.names,
                public_key=load_key(handle.public_key_der),
                proof=Proof.GENERATED_HERE,
                # A time-stamping authority's is as long as its profile says.
                validity=None
                if purpose == "tsa"
                else min(
                    _EAP_LIFETIME if purpose == "eap" else LIFETIME,
                    issuer.not_after - self._now(),
                ),
            )
            issuer = await self._hierarchy.by_id(issued.issuer_id)
            chain = (issued.certificate, *issuer.chain)
            await self._database.write(self._put, lease, purpose, scope, issuer, handle, chain)
        except BaseException:
            await self._keyring.discard(handle)
            raise

    async def _load(self, purpose: str, scope: str) -> tuple[ServiceCertificate, ...]:
        found = await self._database.read(rows.find_of_scope, purpose, scope)
        return tuple([await self._read(row) for row in found])

    async def _read(self, row: ServiceCertificateRow) -> ServiceCertificate:
        chain = chain_from_der(row.chain_der)
        issuer = await self._trust.issuer_of(chain[0])
        found = ServiceCertificate(
            id=row.id,
            tenant=row.tenant,
            purpose=row.purpose,
            scope=row.scope,
            certificate=chain[0],
            # The authority may have been renewed since: its certificate of today is the one
            # that clients can check.
            chain=chain if issuer is None else (chain[0], *issuer.chain),
            key_id=row.key_id,
            issuer_id=0 if issuer is None else issuer.id,
            not_after=row.not_after,
            renew_at=row.renew_at,
            superseded_at=row.superseded_at,
        )
        return replace(found, is_revoked=True) if await self._is_revoked(found) else found

    async def _is_revoked(self, found: ServiceCertificate) -> bool:
        # Before it is asked: what changes from here on is heard of.
        self._watched.add(found.status_key)
        serial = status.serial_octets(found.certificate.serial_number)
        known = await self._database.lookup(status.by_serial, found.issuer_id, serial)
        # That its issuer's key is lost is no reason to have that key sign another one.
        return (
            known is not None
            and known.revoked_at is not None
            and known.reason != Reason.CERTIFICATE_HOLD
        )

    async def _wish(self, purpose: Purpose, scope: str) -> _Wish:
        if purpose == "ocsp":
            return await self._wish_ocsp(scope)
        if purpose in ("scep-ra", "cmp", "profile"):
            return await self._wish_ra(purpose, scope)
        if purpose == "tsa":
            return await self._wish_tsa(scope)
        if purpose == "cmc":
            return await self._wish_cmc(scope)
        if purpose == "eap":
            return await self._wish_eap(scope)
        return await self._wish_tls(scope)

    async def _wish_ocsp(self, scope: str) -> _Wish:
        issuer = await self._hierarchy.by_id(int(scope) if scope.isdecimal() else 0)
        if not issuer.signs:
            raise Fault(
                FaultCode.UNAVAILABLE, "the authority's key is not here", rule="authority.state"
            )
        rules = issuer.document.ocsp
        own = of(issuer.public_key)
        algorithm = rules.responder_algorithm or fitting_algorithm(own)
        if STRENGTH[algorithm] < STRENGTH[own]:
            raise Fault(
                FaultCode.REJECTED,
                "ocsp.responder_algorithm is weaker than the authority's key",
                rule="ocsp.responder-algorithm",
                values={"responder": algorithm.value, "authority": own.value},
            )
        store = rules.responder_store or (await self._keyring.handle(issuer.key_id)).store
        return _Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"OCSP responder of {issuer.slug}"),
        )

    async def _endpoint(self, scope: str) -> tuple[Endpoint, Issuer]:
        try:
            endpoint_id = EndpointID.parse(scope)
        except ValueError as error:
            raise Fault(FaultCode.NOT_FOUND, str(error), rule="service.scope") from None
        endpoint = await self._endpoints.by_id(endpoint_id)
        issuer = await self._hierarchy.active(endpoint.tenant, endpoint.document.authority)
        return endpoint, issuer

    async def _wish_tsa(self, scope: str) -> _Wish:
        endpoint, issuer = await self._endpoint(scope)
        algorithm, store = _cms_signer(endpoint, issuer)
        return _Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"Time-stamping authority {scope}"),
            profile=endpoint.document.profile,
        )

    async def _wish_cmc(self, scope: str) -> _Wish:
        endpoint, issuer = await self._endpoint(scope)
        algorithm, store = _cms_signer(endpoint, issuer)
        return _Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"CMC server {scope}"),
        )

    async def _wish_ra(self, purpose: str, scope: str) -> _Wish:
        endpoint, issuer = await self._endpoint(scope)
        options = endpoint.options
        algorithm, store = KeyAlgorithm.RSA_2048, None
        if purpose == "cmp":
            # Who can check what the authority issues can check what it says.
            algorithm = fitting_algorithm(of(issuer.public_key))
        if purpose != "profile" and isinstance(options, RAOptions):
            algorithm, store = options.ra_algorithm or algorithm, options.ra_store
        return _Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"{'Profiles' if purpose == 'profile' else 'RA'} of {scope}"),
        )

    async def _wish_tls(self, scope: str) -> _Wish:
        issuer = await self._tls_issuer()
        return _Wish(
            issuer=issuer,
            algorithm=KeyAlgorithm.P256,
            store="soft",  # OpenSSL in the wheel cannot reach a key in an HSM
            subject=_subject(issuer, scope),
            names=(_host(scope),),
        )

    async def _wish_eap(self, scope: str) -> _Wish:
        tenant, _, rest = scope.partition("/")
        host, _, algorithm = rest.partition("/")
        if not tenant or not host or (algorithm and algorithm not in EAP_ALGORITHMS):
            raise Fault(
                FaultCode.NOT_FOUND, f"{scope!r} is no EAP server's scope", rule="service.scope"
            )
        issuer = await self._tls_issuer_of(tenant)
        return _Wish(
            issuer=issuer,
            algorithm=EAP_ALGORITHMS[algorithm or "p256"],
            store="soft",  # as for TLS
            subject=_subject(issuer, host),
            names=(_host(host),),
        )

    async def _tls_issuer(self) -> Issuer:
        if self._tls_authority is not None:
            return await self._hierarchy.active(self._tls_tenant, self._tls_authority)
        return await self._tls_issuer_of(self._tls_tenant)

    async def _tls_issuer_of(self, tenant: str) -> Issuer:
        able = [i for i in await self._hierarchy.of_tenant(tenant) if i.is_able]
        if not able:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "there is no authority that could sign a TLS certificate",
                rule="service.tls-authority",
                values={"tenant": tenant},
            )
        # Whatever a root signs cannot be taken back by anybody above it.
        return min(able, key=lambda issuer: (issuer.is_self_signed, issuer.id))

    def _forget(self, key: str) -> None:
        self._kept.forget_all()
        for callback in self._listeners:
            callback()

    def _on_status(self, key: str) -> None:
        if key == "*" or key in self._watched:
            self._forget(key)

    # -- transactions -------------------------------------------------------------------------

    def _put(
        self,
        connection: sa.Connection,
        lease: Lease,
        purpose: Purpose,
        scope: str,
        issuer: Issuer,
        handle: KeyHandle,
        chain: tuple[x509.Certificate, ...],
    ) -> None:
        now = self._now()
        leases.assert_held(connection, lease, now)
        certificate = chain[0]
        not_after = certificate.not_valid_after_utc
        private_keys.insert(connection, generation.key_row(handle))
        rows.supersede(connection, purpose, scope, now)
        row_id = rows.insert(
            connection,
            ServiceCertificateRow(
                tenant=issuer.tenant,
                purpose=purpose,
                scope=scope,
                certificate_der=certificate.public_bytes(serialization.Encoding.DER),
                chain_der=chain_der(chain),
                key_id=handle.id,
                not_before=certificate.not_valid_before_utc,
                not_after=not_after,
                renew_at=now + _serving(purpose, not_after - now),
            ),
        )
        self._journal.append(
            connection,
            Event(
                kind="service-certificate.made",
                tenant=issuer.tenant,
                actor="system",
                object=f"service-certificate/{row_id}",
                data={
                    "purpose": purpose,
                    "scope": scope,
                    "issuer": issuer.id,
                    "algorithm": handle.algorithm.value,
                    "store": handle.store,
                    **generation.certificate_data(certificate),
                },
            ),
        )

    def _bury(self, connection: sa.Connection, row: ServiceCertificateRow) -> None:
        rows.delete(connection, row)
        private_keys.delete(connection, row.key_id)
        self._journal.append(
            connection,
            Event(
                kind="service-certificate.removed",
                tenant=row.tenant,
                actor="system",
                object=f"service-certificate/{row.id}",
                data={"purpose": row.purpose, "scope": row.scope},
            ),
        )


def _serving(purpose: Purpose, life: timedelta) -> timedelta:
    """Return how long after its making a certificate is renewed."""
    return min(_TSA_KEY_PERIOD, life / 3) if purpose == "tsa" else life * 2 / 3


def _cms_signer(endpoint: Endpoint, issuer: Issuer) -> tuple[KeyAlgorithm, str | None]:
    """Return the kind and the store of a key that signs CMS messages."""
    algorithm, store = fitting_algorithm(of(issuer.public_key)), None
    if algorithm is KeyAlgorithm.ED448:
        algorithm = KeyAlgorithm.P521  # CMS wants SHAKE256 beside Ed448 (RFC 8419, 2.3)
    if isinstance(endpoint.options, SignerOptions):
        algorithm = endpoint.options.signer_algorithm or algorithm
        store = endpoint.options.signer_store
    return algorithm, store


def _in_use(found: tuple[ServiceCertificate, ...], now: datetime) -> bool:
    return found[0].superseded_at is None and now < found[0].not_after


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _subject(issuer: Issuer, common_name: str) -> x509.Name:
    name = x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME])
    return x509.Name([*_directory(issuer), x509.RelativeDistinguishedName([name])])


def _directory(issuer: Issuer) -> list[x509.RelativeDistinguishedName]:
    """Return how subjects must begin that the issuer may certify (RFC 5280, 4.2.1.10)."""
    for certificate in issuer.chain:
        try:
            found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        except x509.ExtensionNotFound:
            continue
        for subtree in found.value.permitted_subtrees or ():
            if isinstance(subtree, x509.DirectoryName):
                return subtree.value.rdns
    return []


def _purpose(text: str) -> Purpose:
    if text == "ocsp":
        return "ocsp"
    if text == "tls-client":
        return "tls-client"
    if text == "eap":
        return "eap"
    if text == "cmp":
        return "cmp"
    if text == "cmc":
        return "cmc"
    if text == "tsa":
        return "tsa"
    if text == "profile":
        return "profile"
    return "scep-ra" if text == "scep-ra" else "tls"


def _page(connection: sa.Connection, after: int) -> list[ServiceCertificateRow]:
    return rows.find(connection, after=after, limit=_PAGE)
