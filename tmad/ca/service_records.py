"""tmad's own certificates and their keys as the database keeps them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tmad.ca import generation
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.service_wishes import Purpose
from tmad.ca.status import Reason
from tmad.ca.trust import Trust, chain_der, chain_from_der
from tmad.events import Clock, Event
from tmad.journal import Journal
from tmad.signer.keyring import KeyHandle
from tmad.storage import leases, private_keys, status
from tmad.storage import service_certificates as rows
from tmad.storage.database import Database
from tmad.storage.leases import Lease
from tmad.storage.service_certificates import ServiceCertificateRow

# A time-stamp is checked for as long as its signer's certificate is good: so that is long, as the
# profile says, and the key serves for a part of it only (ETSI EN 319 421, 7.6.4).
_TSA_KEY_PERIOD = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCertificate:
    """One certificate of our own; ``chain`` is it first, root last.

    ``is_revoked`` is for good: one on hold may be good again.
    """

    id: int
    tenant: str
    purpose: Purpose
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


class ServiceRecords:
    """Reads and writes them; remembers whose status counts."""

    def __init__(
        self, database: Database, hierarchy: Hierarchy, journal: Journal, now: Clock
    ) -> None:
        self._database = database
        self._trust = Trust(hierarchy)
        self._journal = journal
        self._now = now
        self._watched: set[str] = set()  # certificates whose status counts

    async def find(self, purpose: Purpose, scope: str) -> tuple[ServiceCertificate, ...]:
        """Return those of one purpose and scope, newest first."""
        found = await self._database.read(rows.find_of_scope, purpose, scope)
        return tuple([await self._read(row) for row in found])

    def is_watched(self, key: str) -> bool:
        """Tell whether a change of this status concerns one that was read here."""
        return key in self._watched

    async def _read(self, row: ServiceCertificateRow) -> ServiceCertificate:
        chain = chain_from_der(row.chain_der)
        issuer = await self._trust.issuer_of(chain[0])
        found = ServiceCertificate(
            id=row.id,
            tenant=row.tenant,
            purpose=cast("Purpose", row.purpose),
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

    def put(
        self,
        connection: sa.Connection,
        lease: Lease,
        purpose: Purpose,
        scope: str,
        issuer: Issuer,
        handle: KeyHandle,
        chain: tuple[x509.Certificate, ...],
    ) -> None:
        """Keep a new one and its key, and let it be the one in use."""
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

    def bury(self, connection: sa.Connection, row: ServiceCertificateRow) -> None:
        """Remove one that serves no more, and its key."""
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
