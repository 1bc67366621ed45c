"""Step 5 of the pipeline: recorded, linted, signed, verified, stored, and only then handed out.

Two transactions around one signature. The first commits the serial number and exactly the
octets that are about to be signed; the second the certificate. A crash between them leaves an
intent, which ``recover`` voids and revokes (GEN-23, G-LOSS-1).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca import lint, names, record, signature
from tmad.ca.acme import control as acme
from tmad.ca.applicant import Applicant
from tmad.ca.keycheck import Key
from tmad.ca.shape import Profile
from tmad.ca.signers import Signer
from tmad.ca.x509 import Template, finish, new_serial, tbs_certificate
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.signer.keyring import Keyring
from tmad.storage import certificates, requests
from tmad.storage.certificates import CertificateRow, Intent, KeyHistory
from tmad.storage.database import Database
from tmad.storage.requests import RequestRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.hierarchy import Issuer

_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One certificate to be made: everything that was decided about it."""

    tenant: str
    via: str
    endpoint: str
    actor: str
    applicant: Applicant
    profile: Profile
    signer: Signer
    template: Template
    key: Key
    is_internal: bool  # for the appliance itself: its own keys are what it is about
    request: RequestRow | None
    was_pending: bool = False
    idempotency_window: timedelta = timedelta(0)
    proof: str = ""
    pending_limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of an order."""

    certificate_id: int
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    order: Order
    serial: int
    tbs_der: bytes


class Issuing:
    """Makes certificates out of orders."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        keyring: Keyring,
        secrets: EnrollSecrets,
        now: Clock,
    ) -> None:
        self._database = database
        self._journal = journal
        self._keyring = keyring
        self._secrets = secrets
        self._now = now

    async def make(self, order: Order, *, dry_run: bool = False) -> Made:
        """Issue one certificate; with ``dry_run`` everything but the signature, undone.

        The certificate of a dry run is unsigned and has the id 0.
        """
        draft = self._draft(order)
        unsigned = self._lint(draft)
        certificate_id = await self._database.write(self._intend, draft, dry_run=dry_run)
        if dry_run:
            return Made(certificate_id=0, certificate=unsigned)
        try:
            certificate = await self._sign(draft)
        except BaseException as error:
            await self._give_up(draft, certificate_id, error)
            raise
        await self._database.write(self._complete, draft, certificate_id, certificate)
        return Made(certificate_id=certificate_id, certificate=certificate)

    # -- before the signature -----------------------------------------------------------------

    def _draft(self, order: Order) -> _Draft:
        serial = new_serial()
        tbs_der = tbs_certificate(
            order.template,
            serial=serial,
            issuer_der=order.signer.issuer.subject_der,
            algorithm_der=order.signer.algorithm_der,
        )
        return _Draft(order=order, serial=serial, tbs_der=tbs_der)

    def _lint(self, draft: _Draft) -> x509.Certificate:
        signer = draft.order.signer
        unsigned = lint.preview(draft.tbs_der, signer.algorithm_der)
        lint.check(
            lint.Subject(
                certificate=unsigned,
                issuer_der=signer.issuer.subject_der,
                algorithm_der=signer.algorithm_der,
                spki_der=draft.order.template.spki_der,
                issuer_key_identifier=signer.facts.key_identifier,
                not_before=signer.facts.not_before,
                not_after=signer.facts.not_after,
                chain=signer.chain,
                critical=draft.order.profile.critical,
            )
        )
        return unsigned

    def _intend(self, connection: Connection, draft: _Draft) -> int:
        order = draft.order
        now = self._now()
        if order.signer.must_be_active:
            self._check_issuer(connection, order.signer.issuer)
        warning = self.check_history(connection, order)
        if order.request is not None:
            self._record(connection, order, order.request, now)
        template = order.template
        intent = Intent(
            tenant=order.tenant,
            issuer_id=order.signer.issuer.id,
            serial=draft.serial,
            via=order.via,
            endpoint=order.endpoint,
            profile=order.profile.name,
            profile_revision=order.profile.revision,
            request_id=order.request.id if order.request else None,
            replaces_id=order.applicant.renews.row.id if order.applicant.renews else None,
            owner=order.applicant.owner,
            subject=template.subject.rfc4514_string(),
            not_before=template.not_before,
            not_after=template.not_after,
            spki_sha256=order.key.spki_sha256,
            tbs_sha256=hashlib.sha256(draft.tbs_der).digest(),
            tbs_der=draft.tbs_der,
            created_at=now,
        )
        certificate_id = certificates.insert_intent(connection, intent)
        self._journal.append(
            connection,
            self._event(
                "certificate.intended",
                draft,
                certificate_id,
                tbs_sha256=intent.tbs_sha256.hex(),
                spki_sha256=intent.spki_sha256.hex(),
                subject=intent.subject,
                profile=f"{intent.profile}/{intent.profile_revision}",
                via=intent.via,
                endpoint=intent.endpoint,
                method=order.applicant.method,
                proof=order.proof,
                request=intent.request_id,
                request_sha256=order.request.fingerprint.hex() if order.request else None,
                transaction=order.request.transaction if order.request else None,
                warning=warning,
            ),
        )
        return certificate_id

    def check_history(self, connection: Connection, order: Order) -> str | None:
        """Look the key up in the transaction and refuse it, or return a warning."""
        history = certificates.key_history(
            connection, order.tenant, order.key.spki_sha256, self._now()
        )
        return check_key(history, order)

    def _check_issuer(self, connection: Connection, issuer: Issuer) -> None:
        # Inside the transaction: after a withdrawal has been committed nothing is issued.
        state = certificates.issuer_state(connection, issuer.id)
        if state is None or state[0] != "active" or state[1] is not None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the authority cannot issue",
                rule="issuer.state",
                values={"authority": issuer.authority, "state": str(state)},
            )

    def _record(
        self, connection: Connection, order: Order, request: RequestRow, now: datetime
    ) -> None:
        if order.was_pending:
            requests.update_state(connection, request, "issuing", now, decided_by=order.actor)
            self._journal.append(
                connection,
                Event(
                    kind="request.approved",
                    tenant=order.tenant,
                    actor=order.actor,
                    object=f"request/{request.id}",
                    data={"endpoint": request.endpoint, "subject": request.subject},
                ),
            )
            if order.applicant.control is not None:
                order.applicant.control.check_again(connection, now)
        else:
            if request.idempotency is not None:
                requests.forget_idempotency(
                    connection, request.idempotency, now - order.idempotency_window
                )
            requests.insert(connection, request)
            self.claim(connection, order, request.id, now)

    def claim(self, connection: Connection, order: Order, request_id: str, now: datetime) -> None:
        """Take what is good for one request only: a one-time secret, or an account's order."""
        if order.applicant.secret is not None:
            self._secrets.claim(connection, order.applicant.secret.id, request_id, now)
        if order.applicant.control is not None:
            order.applicant.control.claim(connection, request_id, now)

    # -- the signature ------------------------------------------------------------------------

    async def _sign(self, draft: _Draft) -> x509.Certificate:
        signer = draft.order.signer
        signed = await self._keyring.use(
            signer.issuer.key_id,
            lambda key: signature.sign(key, signer.scheme, draft.tbs_der),
        )
        return finish(
            draft.tbs_der,
            signer.algorithm_der,
            signed,
            public_key=signer.public_key,
            scheme=signer.scheme,
        )

    # -- after the signature ------------------------------------------------------------------

    def _complete(
        self,
        connection: Connection,
        draft: _Draft,
        certificate_id: int,
        certificate: x509.Certificate,
    ) -> None:
        order = draft.order
        certificate_der = certificate.public_bytes(Encoding.DER)
        digest = hashlib.sha256(certificate_der).digest()
        now = self._now()
        certificates.complete(
            connection, certificate_id, certificate_der=certificate_der, sha256=digest
        )
        certificates.insert_names(
            connection,
            certificate_id,
            order.tenant,
            names.search_terms(order.template.subject, order.template.names),
        )
        if order.request is not None:
            requests.update_issued(connection, order.request.id, certificate_id, now)
            if order.applicant.secret is not None:
                self._secrets.consume(connection, order.applicant.secret.id, order.request.id, now)
        # Step 6: whoever publishes or notifies starts from this row, in his own time.
        self._journal.append(
            connection,
            self._event("certificate.issued", draft, certificate_id, sha256=digest.hex()),
        )

    async def _give_up(self, draft: _Draft, certificate_id: int, error: BaseException) -> None:
        try:
            await self._database.write(self._void_one, draft, certificate_id, str(error))
        except Fault:
            # The database is away as well: recover() finds the intent later.
            return

    def _void_one(
        self, connection: Connection, draft: _Draft, certificate_id: int, why: str
    ) -> None:
        row = certificates.by_id(connection, draft.order.tenant, certificate_id)
        if row is not None:
            self._void(connection, row, why)

    # -- intents that nobody completes --------------------------------------------------------

    async def recover(self, patience: timedelta) -> int:
        """Void the intents that are older than ``patience``; return how many there were.

        Longer than any signature takes: the process that made them has died, or will find its
        intent void and discard what it signed.
        """
        total = 0
        while count := await self._database.write(self._recover_page, self._now() - patience):
            total += count
        return total

    def _recover_page(self, connection: Connection, before: datetime) -> int:
        stale = certificates.find_stale_intents(connection, before, limit=_PAGE)
        for row in stale:
            self._void(connection, row, "the process that wanted it has ended")
        return len(stale)

    def _void(self, connection: Connection, row: CertificateRow, why: str) -> None:
        now = self._now()
        if not certificates.void(connection, row, now):
            return
        if row.request_id is not None:
            request = requests.by_id(connection, row.tenant, row.request_id)
            if request is not None and request.state == "issuing" and request.decided_by:
                # Approved, but the signature failed: the person may try again.
                requests.update_state(connection, request, "pending", now)
            elif request is not None and request.state == "issuing":
                requests.update_state(connection, request, "failed", now, keep_idempotency=False)
                if secret_id := record.secret_of(request):
                    self._secrets.release(connection, secret_id, request.id)
                if request.via == "acme":
                    acme.release(connection, request.transaction, request.id)
        self._journal.append(
            connection,
            Event(
                kind="certificate.voided",
                tenant=row.tenant,
                actor="system",
                object=f"certificate/{row.id}",
                data={
                    "issuer": row.issuer_id,
                    "serial": f"{row.serial:x}",
                    "why": why[:300],
                    "request": row.request_id,
                },
            ),
        )

    def _event(self, kind: str, draft: _Draft, certificate_id: int, **data: JSON) -> Event:
        order = draft.order
        return Event(
            kind=kind,
            tenant=order.tenant,
            actor=order.actor,
            object=f"certificate/{certificate_id}",
            data={
                "issuer": order.signer.issuer.id,
                "serial": f"{draft.serial:x}",
                **{name: value for name, value in data.items() if value is not None},
            },
        )


def check_key(history: KeyHistory, order: Order) -> str | None:
    """Refuse a key for what is known of it; return a warning for the journal, or None (KEY-04)."""
    if history.is_compromised:
        raise Fault(
            FaultCode.REJECTED,
            "the key is known to be compromised",
            rule="key.compromised",
            values={"spki_sha256": order.key.spki_sha256.hex()},
        )
    if order.is_internal:
        return None
    if history.is_own:
        raise Fault(
            FaultCode.REJECTED,
            "the key belongs to this appliance",
            rule="key.own",
            values={"spki_sha256": order.key.spki_sha256.hex()},
        )
    policy = order.profile.document.duplicate_keys
    if policy == "none" or not history.uses:
        return None
    subject = order.template.subject.rfc4514_string()
    others = [use for use in history.uses if use.subject != subject]
    if policy == "refuse" or (policy == "same-subject" and others):
        raise Fault(
            FaultCode.REJECTED,
            "the key is certified already",
            rule=f"key.duplicate.{policy}",
            values={
                "certificates": ", ".join(str(use.id) for use in history.uses),
                "policy": policy,
            },
        )
    return f"the key is certified already: {len(history.uses)} times" if others else None
