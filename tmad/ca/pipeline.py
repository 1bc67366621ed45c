"""The one pipeline that every certificate goes through.

0 record, 1 authenticate, 2 authorise, 3 shape, 4 approve, 5 issue, 6 publish, 7 audit: see
docs/architecture.md, section 6. Steps 6 and 7 are rows that step 5 writes in its own
transactions.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from twisted.internet.defer import Deferred

from tmad.ca import keycheck, record
from tmad.ca.applicant import Applicant, Renewed
from tmad.ca.authentication import Authenticator, Proven
from tmad.ca.history import History
from tmad.ca.issuing import Issuing
from tmad.ca.keycheck import Blocklist
from tmad.ca.keymaking import KeyMaker, check_allowed
from tmad.ca.order import Order
from tmad.ca.ordering import Ordering, Permission, check_road, forbid
from tmad.ca.requests import (
    Credential,
    EndpointID,
    EnrollmentRequest,
    GeneratedKey,
    Issued,
    KeyWish,
    Outcome,
    Pending,
    Proof,
    SignedBy,
)
from tmad.ca.signers import Signers
from tmad.ca.writing import Constraints
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import EnrollSecrets, new_id
from tmad.identity.login import Logins
from tmad.identity.webhook import Webhooks
from tmad.journal import Journal
from tmad.managed.objects import Objects
from tmad.signer.keyring import Keyring
from tmad.signer.workers import Reactor, Workers
from tmad.storage import certificates, enroll_secrets, requests
from tmad.storage.database import Database
from tmad.storage.requests import RequestRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.accounts import Accounts
    from tmad.ca.endpoint import Endpoint, Endpoints
    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.manufacturers import Manufacturers
    from tmad.ca.shape import Profile

_DAY = timedelta(days=1)
# Longer than a signature and the write after it may take; a process that is slower still finds
# its intent void and discards what it signed. Half-done requests are settled within 30 s of a
# crash: this, and the time until another process has the lease (security, G-FAULT-1).
PATIENCE = timedelta(seconds=12)
# What shows possession of a key by itself, or will before anybody can use the certificate.
_SHOWN = frozenset(
    {Proof.CSR_SIGNATURE, Proof.POP_SIGNATURE, Proof.DECRYPTION, Proof.ENCRYPTED_CERTIFICATE}
)
# What a copy of a request, served in another process meanwhile, can be the reason for; besides
# the rule "request.duplicate".
_BY_A_COPY = frozenset({FaultCode.UNAUTHENTICATED, FaultCode.REJECTED, FaultCode.RATE_LIMITED})


class Authority:
    """Issues certificates: to whoever an endpoint lets in, and by hand."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        keyring: Keyring,
        objects: Objects,
        endpoints: Endpoints,
        hierarchy: Hierarchy,
        secrets: EnrollSecrets,
        now: Clock,
        webhooks: Webhooks | None = None,
        logins: Logins | None = None,
        manufacturers: Manufacturers | None = None,
        accounts: Accounts | None = None,
        blocklist: Blocklist | None = None,
        reactor: Reactor | None = None,
    ) -> None:
        self.journal = journal
        self._database = database
        self._endpoints = endpoints
        self._hierarchy = hierarchy
        self._secrets = secrets
        self._now = now
        self._authenticator = Authenticator(
            database=database,
            hierarchy=hierarchy,
            secrets=secrets,
            webhooks=webhooks,
            logins=logins,
            manufacturers=manufacturers,
            accounts=accounts,
            now=now,
        )
        self._history = History(database, now)
        self._signers = Signers(hierarchy)
        self._ordering = Ordering(
            objects=objects,
            hierarchy=hierarchy,
            signers=self._signers,
            secrets=secrets,
            now=now,
            blocklist=blocklist,
        )
        self._issuing = Issuing(
            database=database, journal=journal, keyring=keyring, secrets=secrets, now=now
        )
        self._key_maker = KeyMaker(journal, reactor)
        self._under_way: dict[bytes, list[Deferred[None]]] = {}
        self._workers = Workers("the key checks", threads=1, queue=256, reactor=reactor)

    async def enroll(self, request: EnrollmentRequest) -> Outcome:
        """Serve one request of one endpoint; every refusal is journaled and has an explain id.

        A repeated request, even while the first is under way, gets the first one's answer.
        """
        endpoint = await self._endpoints.by_id(request.endpoint)
        if isinstance(request.public_key, KeyWish):
            return await self._journaled(self._serve_wish(request, endpoint), request, endpoint)
        same = record.idempotency(request)
        while same in self._under_way:
            await self._turn(same)
        self._under_way[same] = []
        try:
            serving = self._serve(request, endpoint, same)
            return await self._journaled(serving, request, endpoint)
        finally:
            for waiting in self._under_way.pop(same):
                waiting.callback(None)

    async def _journaled(
        self, serving: Awaitable[Outcome], request: EnrollmentRequest, endpoint: Endpoint
    ) -> Outcome:
        try:
            return await serving
        except Fault as fault:
            await self._refuse(fault, request, endpoint)
            raise

    async def _serve(self, request: EnrollmentRequest, endpoint: Endpoint, same: bytes) -> Outcome:
        proven = await self._authenticator.prove(request, endpoint)
        if proven.identity:
            same = record.idempotency(request, proven.identity)
        earlier = await self._history.earlier(request, endpoint, same)
        if earlier is not None:
            return earlier
        try:
            return await self._decide(request, endpoint, proven, same)
        except Fault as fault:
            if fault.code not in _BY_A_COPY and fault.rule != "request.duplicate":
                raise
            # A copy may have been faster in another process: it has used up the challenge, or
            # certified the key, or it waits already. Its answer is this one's, too.
            earlier = await self._history.earlier(request, endpoint, same)
            if earlier is None:
                raise
            return earlier

    async def _serve_wish(self, request: EnrollmentRequest, endpoint: Endpoint) -> Outcome:
        """Serve who wants a key as well: no answer can be given twice, so there is no history."""
        check_allowed(endpoint)
        proven = await self._authenticator.prove(request, endpoint)
        return await self._decide(request, endpoint, proven, os.urandom(32))

    async def _decide(
        self, request: EnrollmentRequest, endpoint: Endpoint, proven: Proven, same: bytes
    ) -> Outcome:
        if request.doubt is not None:
            raise request.doubt
        applicant = await self._authenticator.authenticate(request, endpoint, proven)
        permission = await self._authorise(request, endpoint, applicant)
        made = None
        if isinstance(request.public_key, KeyWish):
            made = await self._make_key(request.public_key, request, permission)
            request = replace(request, public_key=made.public_key, proof=Proof.GENERATED_HERE)
        order = self._ordering.for_request(request, permission, same)
        if made is None and isinstance(request.key, rsa.RSAPublicKey):
            await self._workers.run(partial(keycheck.check_factors, request.key))
        if self._needs_approval(permission):
            return await self._pend(order)
        outcome = await self._issue(order)
        return outcome if made is None else replace(outcome, private_key=made)

    async def _make_key(
        self, wish: KeyWish, request: EnrollmentRequest, permission: Permission
    ) -> GeneratedKey:
        if self._needs_approval(permission):
            # The key would have to be kept until somebody has decided.
            raise forbid("keys.approval", "a key that waits for a person is not made")
        return await self._key_maker.make(
            wish, request, permission.endpoint, permission.profile, permission.applicant
        )

    # -- 0 record -----------------------------------------------------------------------------

    async def _turn(self, same: bytes) -> None:
        waiting: Deferred[None] = Deferred()
        self._under_way[same].append(waiting)
        await waiting

    # -- 2 authorise --------------------------------------------------------------------------

    async def _authorise(
        self, request: EnrollmentRequest, endpoint: Endpoint, applicant: Applicant
    ) -> Permission:
        if request.via != endpoint.id.protocol:
            raise forbid(
                "endpoint.protocol",
                "the endpoint belongs to another protocol",
                via=request.via,
                endpoint=str(endpoint.id),
            )
        check_proof(request, applicant)
        profile = await self._ordering.profile(endpoint.tenant, profile_of(applicant, endpoint))
        check_road(profile, request.via)
        permission = await self._permission(endpoint, applicant, profile)
        await self._check_limits(endpoint)
        return permission

    async def _permission(
        self, endpoint: Endpoint, applicant: Applicant, profile: Profile
    ) -> Permission:
        issuer = await self._hierarchy.active(endpoint.tenant, endpoint.document.authority)
        if not issuer.document.allows_profile(profile.name):
            raise forbid(
                "authority.profile",
                "the authority does not issue this profile",
                authority=issuer.authority,
                profile=profile.name,
            )
        return Permission(
            endpoint=endpoint,
            applicant=applicant,
            profile=profile,
            signer=self._signers.active(issuer, profile),
        )

    async def _check_limits(self, endpoint: Endpoint) -> None:
        limits = endpoint.document.limits
        if limits.per_day:
            # Ids begin with the time: the smallest one of a day ago bounds the count.
            since = new_id(self._now() - _DAY)[:10]
            used = await self._count(endpoint, ("issued", "issuing"), since, limits.per_day)
            if used >= limits.per_day:
                raise _limited("limits.per-day", used, limits.per_day, retry_after=3600)

    async def _count(
        self, endpoint: Endpoint, states: tuple[str, ...], since: str, most: int
    ) -> int:
        return await self._database.lookup(requests.count, str(endpoint.id), states, since, most)

    # -- 4 approve ----------------------------------------------------------------------------

    @staticmethod
    def _needs_approval(permission: Permission) -> bool:
        if not permission.applicant.is_proven:
            return True
        if permission.profile.document.approval == "manual":
            return True
        # An endpoint's manual approval is about first enrolments.
        return (
            permission.endpoint.document.approval == "manual"
            and permission.applicant.renews is None
        )

    async def _pend(self, order: Order) -> Outcome:
        assert order.request is not None
        row = order.request._replace(state="pending")
        await self._database.write(self._pend_in, order, row)
        return Pending(request_id=row.id, since=row.created_at)

    def _pend_in(self, connection: Connection, order: Order, row: RequestRow) -> None:
        self._issuing.recording.check_history(connection, order)
        assert row.idempotency is not None
        if order.pending_limit:
            waiting = requests.count(
                connection, row.endpoint, ("pending",), "", order.pending_limit
            )
            if waiting >= order.pending_limit:
                raise _limited("limits.pending", waiting, order.pending_limit, retry_after=3600)
        requests.forget_idempotency(
            connection, [(row.idempotency, row.created_at - order.idempotency_window)]
        )
        requests.insert(connection, [row])
        self._issuing.recording.claim(connection, [(order, row.id)], row.created_at)
        self.journal.append(
            connection,
            Event(
                kind="request.pending",
                tenant=row.tenant,
                actor=order.actor,
                object=f"request/{row.id}",
                data={
                    "subject": row.subject,
                    "applicant": row.applicant,
                    "peer": row.peer,
                    "profile": f"{order.profile.name}/{order.profile.revision}",
                    "spki_sha256": row.spki_sha256.hex(),
                    "request_sha256": row.fingerprint.hex(),
                    "transaction": row.transaction,
                },
            ),
        )

    # -- 5 issue ------------------------------------------------------------------------------

    async def _issue(self, order: Order, *, dry_run: bool = False) -> Issued:
        assert order.request is not None
        made = await self._issuing.make(order, dry_run=dry_run)
        return Issued(
            request_id=order.request.id,
            certificate_id=made.certificate_id,
            certificate=made.certificate,
            issuer_id=order.signer.issuer.id,
        )

    # -- 7 audit of refusals ------------------------------------------------------------------

    async def _refuse(self, fault: Fault, request: EnrollmentRequest, endpoint: Endpoint) -> None:
        data: dict[str, JSON] = {
            "via": request.via,
            "transaction": request.transaction[:255],
            "peer": request.peer,
            "intent": request.intent.value,
            "credential": type(request.credential).__name__,
            "subject": request.subject.rfc4514_string()[:500],
            "request_sha256": record.fingerprint(request).hex(),
            "profile": endpoint.document.profile,
        }
        try:
            await self.journal.refuse(
                fault,
                tenant=endpoint.tenant,
                actor=str(endpoint.id),
                object=f"endpoint/{endpoint.id}",
                data=data,
            )
        except Fault:
            # An outage is the answer already; that it cannot be journaled either changes
            # nothing. Any other refusal is only given when it is on record.
            if fault.code is not FaultCode.UNAVAILABLE:
                raise

    # -- who is asking, where no certificate is asked for -------------------------------------

    async def recognise(self, endpoint: Endpoint, shown: SignedBy) -> str:
        """Return who signed a message, for protocols with more than enrolment in them.

        Fault(UNAUTHENTICATED) for a certificate that is not good at this endpoint.
        """
        return await self._authenticator.holders.recognise(shown, endpoint)

    async def is_registration_authority(self, endpoint: Endpoint, shown: SignedBy) -> bool:
        """Tell whether somebody may ask for others at this endpoint."""
        return await self._authenticator.holders.is_registration_authority(shown, endpoint)

    async def identify(self, endpoint: Endpoint, credential: Credential, peer: str) -> str:
        """Return who shows a credential, "nobody" without one; Fault(UNAUTHENTICATED)."""
        return await self._authenticator.identify(credential, peer, endpoint)

    # -- polling ------------------------------------------------------------------------------

    async def poll(
        self, endpoint: EndpointID, transaction: str, public_key: CertificatePublicKeyTypes
    ) -> Outcome:
        """Return what became of a request, to whoever holds its key (SCEP-46).

        Fault(NOT_FOUND) for one that is unknown, REJECTED for one that was denied.
        """
        door = await self._endpoints.by_id(endpoint)
        return await self._history.poll(door.id, transaction, public_key)

    async def outcome(self, endpoint: Endpoint, request_id: str, holder: str) -> Outcome:
        """Return what became of a request, to whoever made it; Faults as of :meth:`poll`.

        ``holder`` is what :meth:`identify` has said.
        """
        return await self._history.of(endpoint, request_id, holder)

    # -- pending requests, decided ------------------------------------------------------------

    async def issue_pending(
        self, actor: Actor, row: RequestRow, *, dry_run: bool = False
    ) -> Outcome:
        """Issue what a person has approved, by the rules of today (tmad/ca/approval.py)."""
        request, standing = record.restore(row)
        endpoint = await self._endpoints.by_id(request.endpoint)
        applicant = await self._applicant(endpoint, standing)
        if standing.method == "acme":
            applicant = await self._authenticator.holder_of(row, endpoint)
        profile = await self._ordering.profile(endpoint.tenant, profile_of(applicant, endpoint))
        check_road(profile, request.via)
        permission = await self._permission(endpoint, applicant, profile)
        assert row.idempotency is not None, "a pending request keeps it"
        order = self._ordering.for_request(request, permission, row.idempotency)
        order = replace(order, actor=actor.name, request=row, was_pending=True)
        return await self._issue(order, dry_run=dry_run)

    async def _applicant(self, endpoint: Endpoint, standing: record.Standing) -> Applicant:
        if standing.path:
            return await self._authenticator.holders.waiting_device(standing.path, endpoint)
        renews = secret = None
        tenant = endpoint.tenant
        owner = standing.applicant
        if standing.renews_id:
            found = await self._database.lookup(certificates.by_id, tenant, standing.renews_id)
            if found is not None and found.certificate_der is not None:
                owner = found.owner
                renews = Renewed(
                    row=found,
                    certificate=x509.load_der_x509_certificate(found.certificate_der),
                )
        if standing.secret_id:
            secret = await self._database.lookup(enroll_secrets.by_id, tenant, standing.secret_id)
        # An account may have been disabled since, or renamed.
        listed = await self._authenticator.holders.listed(owner, endpoint)
        return Applicant(
            name=standing.applicant,
            method=standing.method,
            is_proven=True,
            secret=secret,
            renews=renews,
            sid="" if listed is None else listed.sid,
            listed=listed,
        )

    # -- by hand, and for the appliance itself ------------------------------------------------

    @guarded("certificate.issue")
    async def issue(
        self,
        actor: Actor,
        tenant: str,
        *,
        authority: str,
        profile: str,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        public_key: CertificatePublicKeyTypes,
        proof: Proof,
        wanted: Sequence[x509.Extension[x509.ExtensionType]] = (),
        evidence: bytes = b"",
        validity: timedelta | None = None,
        issuer_id: int | None = None,
        constraints: Constraints | None = None,
        replaces: Renewed | None = None,
        dry_run: bool = False,
    ) -> Issued:
        """Issue by hand, or for the appliance itself: the same steps without an endpoint.

        ``issuer_id`` and ``constraints`` are for the role "system": an issuer in any state,
        and what a CA certificate says beyond its profile. A dry run returns an unsigned
        certificate and leaves nothing behind.
        """
        is_internal = any(grant.role == "system" and grant.covers(tenant) for grant in actor.grants)
        try:
            order = await self._ordering.by_hand(
                actor,
                tenant,
                authority=authority,
                profile_name=profile,
                issuer_id=issuer_id,
                is_internal=is_internal,
                proof=proof,
                subject=subject,
                asked=names,
                wanted=wanted,
                public_key=public_key,
                evidence=evidence,
                validity=validity,
                constraints=constraints,
                replaces=replaces,
            )
            made = await self._issuing.make(order, dry_run=dry_run)
        except Fault as fault:
            if not dry_run:
                await self.journal.refuse(
                    fault,
                    tenant=tenant,
                    actor=actor.name,
                    object=f"authority/{authority}",
                    data={"profile": profile, "subject": subject.rfc4514_string()[:500]},
                )
            raise
        return Issued(
            request_id="",
            certificate_id=made.certificate_id,
            certificate=made.certificate,
            issuer_id=order.signer.issuer.id,
        )

    # -- housekeeping -------------------------------------------------------------------------

    async def recover(self, patience: timedelta = PATIENCE) -> int:
        """Void the intents of processes that have died; return how many there were."""
        return await self._issuing.recover(patience)


def profile_of(applicant: Applicant, endpoint: Endpoint) -> str:
    """Return the profile that an applicant gets: the endpoint's, unless an order names one."""
    if applicant.control is None:
        return endpoint.document.profile
    return applicant.control.profile(endpoint)


def check_proof(request: EnrollmentRequest, applicant: Applicant) -> None:
    """Raise Fault(BAD_PROOF) unless possession of the key was shown by somebody who may say so."""
    proof = request.proof
    is_shown = proof in _SHOWN
    if proof is Proof.RA_VERIFIED:
        # RFC 4211, 4: only whoever checks proofs for others.
        is_shown = applicant.method == "registration-authority"
    if proof is Proof.GENERATED_HERE:
        is_shown = isinstance(request.public_key, KeyWish)
    if not is_shown:
        raise Fault(
            FaultCode.BAD_PROOF,
            "possession of the key was not shown",
            rule="request.proof",
            values={"proof": proof.value, "applicant": applicant.method},
        )


def _limited(rule: str, used: int, limit: int, *, retry_after: float) -> Fault:
    return Fault(
        FaultCode.RATE_LIMITED,
        "the endpoint has given out as much as it may",
        retry_after=retry_after,
        rule=rule,
        values={"used": str(used), "limit": str(limit)},
    )
