"""Step 0 of the pipeline, looking back: what became of earlier requests (GEN-24, SCEP-45 to 47)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.ca import record
from tmad.ca.requests import EndpointID, EnrollmentRequest, Issued, Outcome, Pending
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.storage import certificates, requests
from tmad.storage.database import Database
from tmad.storage.requests import RequestRow

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint

_RETRIES = 5  # of one transaction id that are looked at


class History:
    """Answers a request that was made before."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    async def earlier(
        self, request: EnrollmentRequest, endpoint: Endpoint, same: bytes
    ) -> Outcome | None:
        """Return the answer to an earlier copy of this request, if there was one (GEN-24)."""
        rows = await self._rows(str(request.endpoint), request.transaction)
        since = self._now() - timedelta(minutes=endpoint.document.idempotency_minutes)
        for row in rows:
            if row.idempotency == same and row.updated_at >= since:
                return await self.answer(row)
            if row.state == "pending" and record.is_of(row, record.digest_of(request.key)):
                # SCEP-47: MikroTik and IOS poll by sending a new request.
                return await self.answer(row)
        return None

    async def answer(self, row: RequestRow) -> Outcome | None:
        """Return what a request got so far; None for one that must be made anew."""
        match row.state:
            case "issued":
                return await self._issued_before(row)
            case "pending" if row.expires_at > self._now():
                return Pending(request_id=row.id, since=row.created_at)
            case "issuing":
                # Another process is at it: its answer is ready at the next attempt.
                return Pending(request_id=row.id, retry_after=1.0, since=row.created_at)
            case "denied":
                raise Fault(
                    FaultCode.REJECTED,
                    f"the request was denied: {row.comment}"
                    if row.comment
                    else "the request was denied",
                    rule="request.denied",
                    values={"request": row.id},
                )
        return None

    async def _issued_before(self, row: RequestRow) -> Issued:
        found = await self._database.lookup(certificates.by_id, row.tenant, row.certificate_id or 0)
        if found is None or found.certificate_der is None:
            raise Fault(
                FaultCode.INTERNAL, "the certificate is missing", private=f"request {row.id}"
            )
        return Issued(
            request_id=row.id,
            certificate_id=found.id,
            certificate=x509.load_der_x509_certificate(found.certificate_der),
            issuer_id=found.issuer_id,
            replayed=True,
        )

    async def poll(
        self, door: EndpointID, transaction: str, public_key: CertificatePublicKeyTypes
    ) -> Outcome:
        """Return what became of the newest request that this key made; Fault(NOT_FOUND)."""
        digest = record.digest_of(public_key)
        for row in await self._rows(str(door), transaction):
            if record.is_of(row, digest):
                outcome = await self.answer(row)
                if outcome is not None:
                    return outcome
        raise Fault(
            FaultCode.NOT_FOUND,
            "there is no such request",
            rule="request.absent",
            values={"endpoint": str(door), "transaction": transaction[:255]},
        )

    async def of(self, endpoint: Endpoint, request_id: str, holder: str) -> Outcome:
        """Return what became of a request to whoever made it; Fault(NOT_FOUND)."""
        row = await self._database.lookup(requests.by_id, endpoint.tenant, request_id)
        outcome = None
        if row is not None and (row.endpoint, row.applicant) == (str(endpoint.id), holder):
            outcome = await self.answer(row)
        if outcome is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such request",
                rule="request.absent",
                values={"endpoint": str(endpoint.id), "request": request_id, "holder": holder},
            )
        return outcome

    async def _rows(self, door: str, transaction: str) -> tuple[RequestRow, ...]:
        return await self._database.lookup(
            requests.find_of_transaction, door, transaction, _RETRIES
        )
