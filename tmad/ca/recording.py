"""The two writes of each issue: the intent before the signature, the certificate after it.

Certificates that are made at the same time share their transactions; each has its own outcome
(docs/decisions/0029-enrolments-of-one-moment.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from tmad.ca import names, standing
from tmad.ca.acme import control
from tmad.ca.order import Draft, Order, Signed
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.storage import certificates, intents, key_history, requests
from tmad.storage.batches import Batches
from tmad.storage.database import Database
from tmad.storage.intents import Completed, Intent
from tmad.storage.key_history import KeyHistory
from tmad.storage.requests import RequestRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.hierarchy import Issuer

_IssuerState = tuple[str, datetime | None] | None


class _SameKeyError(Exception):
    """Nobody hears it: each of the party is served alone."""


class Recording:
    """Writes down what is about to be signed, and what was."""

    def __init__(
        self, *, database: Database, journal: Journal, secrets: EnrollSecrets, now: Clock
    ) -> None:
        self._database = database
        self._journal = journal
        self._secrets = secrets
        self._now = now
        self._present = 0  # issues that are between their beginning and their end
        self._intents = Batches(database, self._intend_in, company=lambda: self._present)
        self._results = Batches(
            database, self._complete_in, company=lambda: self._present - self._intents.waiting
        )

    @contextmanager
    def present(self) -> Iterator[None]:
        """Count an issue as long as it lasts: so many are worth waiting for."""
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    async def intend(self, draft: Draft, *, dry_run: bool = False) -> int:
        """Record what is about to be signed and return the certificate's id, or refuse.

        The request, the claim on its secret and the journal belong to it. With ``dry_run``
        nothing of it stays.
        """
        if dry_run:
            [outcome] = await self._database.write(self._intend_in, [draft], dry_run=True)
        else:
            outcome = await self._intents.add(draft)
        if isinstance(outcome, Fault):
            raise outcome
        return outcome

    async def complete(self, signed: Signed) -> None:
        """Record a certificate, and that the secret is used up; Fault(CONFLICT) if given up."""
        await self._results.add(signed)

    # -- intents ------------------------------------------------------------------------------

    def _intend_in(self, connection: Connection, drafts: Sequence[Draft]) -> list[int | Fault]:
        """Refuse, for each by itself, whatever can be refused; then write the others down.

        What fails from there on fails for all of them.
        """
        now = self._now()
        _check_different(drafts)
        histories = key_history.histories(
            connection, [(d.order.tenant, d.order.key.spki_sha256) for d in drafts], now
        )
        states: dict[int, _IssuerState] = {}
        outcomes: dict[int, int | Fault] = {}
        accepted: list[tuple[Draft, str | None]] = []
        for draft, history in zip(drafts, histories, strict=True):
            try:
                self._check_issuer(connection, draft.order, states)
                _check_applicant(connection, draft.order, now)
                warning = check_key(history, draft.order)
            except Fault as fault:
                outcomes[draft.serial] = fault
            else:
                accepted.append((draft, warning))
        if accepted:
            self._record(connection, [draft.order for draft, _ in accepted], now)
            rows = [_intent(draft, now) for draft, _ in accepted]
            ids = intents.insert(connection, rows)
            outcomes.update(zip((row.serial for row in rows), ids, strict=True))
            self._journal.append(
                connection,
                *(
                    _intended(draft, row, row_id, warning)
                    for (draft, warning), row, row_id in zip(accepted, rows, ids, strict=True)
                ),
            )
        return [outcomes[draft.serial] for draft in drafts]

    def check_history(self, connection: Connection, order: Order) -> str | None:
        """Look the key up in the transaction and refuse it, or return a warning."""
        history = key_history.history(connection, order.tenant, order.key.spki_sha256, self._now())
        return check_key(history, order)

    def _check_issuer(
        self, connection: Connection, order: Order, states: dict[int, _IssuerState]
    ) -> None:
        # Inside the transaction: after a withdrawal has been committed nothing is issued.
        if not order.signer.must_be_active:
            return
        issuer: Issuer = order.signer.issuer
        if issuer.id not in states:
            states[issuer.id] = certificates.issuer_state(connection, issuer.id)
        state = states[issuer.id]
        if state is None or state[0] != "active" or state[1] is not None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the authority cannot issue",
                rule="issuer.state",
                values={"authority": issuer.authority, "state": str(state)},
            )

    def _record(self, connection: Connection, orders: Sequence[Order], now: datetime) -> None:
        new: list[tuple[RequestRow, Order]] = []
        for order in orders:
            if order.request is not None and order.was_pending:
                self._approve(connection, order, order.request, now)
            elif order.request is not None:
                new.append((order.request, order))
        if not new:
            return
        # In one order wherever it is done: two transactions never wait for each other.
        new.sort(key=lambda each: each[0].idempotency or b"")
        requests.forget_idempotency(
            connection,
            [
                (row.idempotency, now - order.idempotency_window)
                for row, order in new
                if row.idempotency is not None
            ],
        )
        requests.insert(connection, [row for row, _ in new])
        self.claim(connection, [(order, row.id) for row, order in new], now)

    def claim(
        self, connection: Connection, wanted: Sequence[tuple[Order, str]], now: datetime
    ) -> None:
        """Take what is good for one request only: one-time secrets, or accounts' orders."""
        secrets = [
            (order.applicant.secret.id, request)
            for order, request in wanted
            if order.applicant.secret is not None
        ]
        if secrets:
            self._secrets.claim(connection, secrets, now)
        controls = [
            (order.applicant.control, request)
            for order, request in wanted
            if order.applicant.control is not None
        ]
        if controls:
            control.claim(connection, controls, now)

    def _approve(
        self, connection: Connection, order: Order, request: RequestRow, now: datetime
    ) -> None:
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

    # -- certificates -------------------------------------------------------------------------

    def _complete_in(self, connection: Connection, signed: Sequence[Signed]) -> list[None]:
        now = self._now()
        digests = [hashlib.sha256(one.certificate_der).digest() for one in signed]
        intents.complete(
            connection,
            [
                Completed(
                    id=one.id,
                    tenant=one.draft.order.tenant,
                    certificate_der=one.certificate_der,
                    sha256=digest,
                    names=names.search_terms(
                        one.draft.order.template.subject, one.draft.order.template.names
                    ),
                )
                for one, digest in zip(signed, digests, strict=True)
            ],
        )
        issued = []
        used = []
        for one in signed:
            order = one.draft.order
            if order.request is not None:
                issued.append((order.request.id, one.id))
                if order.applicant.secret is not None:
                    used.append((order.applicant.secret.id, order.request.id))
        if issued:
            requests.update_issued(connection, issued, now)
        if used:
            self._secrets.consume(connection, used, now)
        # Step 6: whoever publishes or notifies starts from these rows, in his own time.
        self._journal.append(
            connection,
            *(
                _event("certificate.issued", one.draft, one.id, sha256=digest.hex())
                for one, digest in zip(signed, digests, strict=True)
            ),
        )
        return [None] * len(signed)


def _check_applicant(connection: Connection, order: Order, now: datetime) -> None:
    # Inside the transaction, too: what has been revoked, disabled or blocked by now gets no
    # successor, however long the decision took.
    if order.request is None:
        return
    standing.check(connection, order.tenant, order.applicant, now)
    if order.was_pending:
        standing.check_waiting(connection, order.tenant, order.applicant)


def _check_different(drafts: Sequence[Draft]) -> None:
    """Let none share a transaction with another one for the same key: it has a history then."""
    if len({draft.order.key.spki_sha256 for draft in drafts}) < len(drafts):
        raise _SameKeyError


def _intent(draft: Draft, now: datetime) -> Intent:
    order = draft.order
    template = order.template
    return Intent(
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


def _intended(draft: Draft, intent: Intent, certificate_id: int, warning: str | None) -> Event:
    order = draft.order
    return _event(
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
    )


def _event(kind: str, draft: Draft, certificate_id: int, **data: JSON) -> Event:
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
