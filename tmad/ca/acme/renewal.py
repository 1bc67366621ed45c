"""When a certificate had better be renewed: ACME Renewal Information (RFC 9773)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from cryptography import x509

from tmad.ca import renewing
from tmad.ca.acme import certid
from tmad.ca.acme.faults import absent, deny
from tmad.ca.acme.options import ACMEOptions
from tmad.ca.status import StatusSource
from tmad.ca.validation.contract import Identifier
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.managed.objects import Objects
from tmad.storage import acme as rows
from tmad.storage import certificates
from tmad.storage.acme import Account
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy, Issuer

_SECOND: Final = timedelta(seconds=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalInfo:
    """The time in which a client should renew, and when to ask again (seconds)."""

    start: datetime
    end: datetime
    retry_after: int
    explanation: str


class Renewals:
    """Answers about the certificates of an endpoint's authority."""

    def __init__(
        self,
        database: Database,
        hierarchy: Hierarchy,
        status: StatusSource,
        objects: Objects,
        now: Clock,
    ) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._status = status
        self._objects = objects
        self._now = now

    async def info(self, endpoint: Endpoint, certificate_id: str) -> RenewalInfo:
        """Return when to renew a certificate; Fault(NOT_FOUND) for one that is not ours.

        One that is revoked, or whose issuer must not be trusted any more, is to be renewed now:
        its window is in the past (RFC 9773, 4.2).
        """
        row, issuer = await self._find(endpoint, certificate_id)
        status = await self._status.of(row.issuer_id, row.serial)
        options = cast("ACMEOptions", endpoint.options)
        if status.state != "good" or issuer.compromised_at is not None:
            ended = min(filter(None, (status.revoked_at, issuer.compromised_at, self._now())))
            start, end = ended - _DAY, ended - _SECOND
            retry = _HOUR
        else:
            days = endpoint.document.renewal.window_days
            start, end = await renewing.window(self._objects, row, days)
            retry = min(6 * _HOUR, max(_HOUR, (row.not_after - row.not_before) / 100))
        return RenewalInfo(
            start=start.replace(microsecond=0),
            end=end.replace(microsecond=0),
            retry_after=int(retry.total_seconds()),
            explanation=options.renewal_explanation,
        )

    async def check_replaces(
        self,
        endpoint: Endpoint,
        account: Account,
        certificate_id: str,
        wanted: Iterable[Identifier],
    ) -> None:
        """Raise a Fault unless an account's order may replace a certificate (RFC 9773, 5)."""
        try:
            row, _ = await self._find(endpoint, certificate_id)
        except Fault as fault:
            raise _not_replaceable("there is no such certificate", certificate_id) from fault
        before = await self._database.lookup(_order_of, row, account)
        if before is None:
            raise _not_replaceable("the certificate is another account's", certificate_id)
        if set(before).isdisjoint(wanted):
            raise _not_replaceable("the certificate has none of these names", certificate_id)

    async def _find(self, endpoint: Endpoint, certificate_id: str) -> tuple[CertificateRow, Issuer]:
        key_identifier, serial = certid.decode(certificate_id)
        found = await self._hierarchy.generations(endpoint.tenant, endpoint.document.authority)
        for issuer in found:
            if issuer.certificate is None or _key_identifier(issuer) != key_identifier:
                continue
            row = await self._database.lookup(certificates.by_serial, issuer.id, serial)
            if row is not None and row.certificate_der is not None:
                return row, issuer
        raise absent("certificate")


def _order_of(
    connection: Connection, row: CertificateRow, account: Account
) -> tuple[Identifier, ...] | None:
    """Return the identifiers of the account's order that a certificate was issued for."""
    order_id = rows.order_of_certificate(connection, row.request_id or "", account.id)
    if order_id is None:
        return None
    return tuple(Identifier(kind, value) for kind, value in order_id.identifiers)


def _key_identifier(issuer: Issuer) -> bytes:
    assert issuer.certificate is not None
    try:
        found = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(issuer.public_key).digest
    return found.value.digest


def _not_replaceable(detail: str, certificate_id: str) -> Fault:
    return deny(
        FaultCode.REJECTED,
        "malformed",
        detail,
        "acme.order.replaces",
        replaces=certificate_id,
    )
