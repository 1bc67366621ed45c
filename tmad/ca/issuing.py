"""Step 5 of the pipeline: recorded, linted, signed, verified, stored, and only then handed out.

Two transactions around one signature. The first commits the serial number and exactly the
octets that are about to be signed; the second the certificate. A crash between them leaves an
intent, which ``recover`` voids and revokes (GEN-23, G-LOSS-1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca import lint, record, signature
from tmad.ca.acme import control as acme
from tmad.ca.order import Draft, Order, Signed
from tmad.ca.recording import Recording
from tmad.ca.x509 import finish, new_serial, tbs_certificate
from tmad.errors import Fault
from tmad.events import Clock, Event
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.signer.keyring import Keyring
from tmad.storage import certificates, requests
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of an order."""

    certificate_id: int
    certificate: x509.Certificate


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
        self.recording = Recording(database=database, journal=journal, secrets=secrets, now=now)

    async def make(self, order: Order, *, dry_run: bool = False) -> Made:
        """Issue one certificate; with ``dry_run`` everything but the signature, undone.

        The certificate of a dry run is unsigned and has the id 0.
        """
        draft = self._draft(order)
        unsigned = self._lint(draft)
        if dry_run:
            await self.recording.intend(draft, dry_run=True)
            return Made(certificate_id=0, certificate=unsigned)
        with self.recording.present():
            return await self._make(draft)

    async def _make(self, draft: Draft) -> Made:
        certificate_id = await self.recording.intend(draft)
        try:
            certificate = await self._sign(draft)
        except BaseException as error:
            await self._give_up(draft, certificate_id, error)
            raise
        await self.recording.complete(
            Signed(
                draft=draft,
                id=certificate_id,
                certificate_der=certificate.public_bytes(Encoding.DER),
            )
        )
        return Made(certificate_id=certificate_id, certificate=certificate)

    # -- before the signature -----------------------------------------------------------------

    def _draft(self, order: Order) -> Draft:
        serial = new_serial()
        tbs_der = tbs_certificate(
            order.template,
            serial=serial,
            issuer_der=order.signer.issuer.subject_der,
            algorithm_der=order.signer.algorithm_der,
        )
        return Draft(order=order, serial=serial, tbs_der=tbs_der)

    def _lint(self, draft: Draft) -> x509.Certificate:
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

    # -- the signature ------------------------------------------------------------------------

    async def _sign(self, draft: Draft) -> x509.Certificate:
        signer = draft.order.signer
        signed = await self._keyring.use(
            signer.issuer.key_id,
            lambda key: signature.sign_as(signer.public_key, key, signer.scheme, draft.tbs_der),
        )
        return finish(draft.tbs_der, signer.algorithm_der, signed)

    async def _give_up(self, draft: Draft, certificate_id: int, error: BaseException) -> None:
        try:
            await self._database.write(self._void_one, draft, certificate_id, str(error))
        except Fault:
            # The database is away as well: recover() finds the intent later.
            return

    def _void_one(
        self, connection: Connection, draft: Draft, certificate_id: int, why: str
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
