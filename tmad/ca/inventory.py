"""The certificates of a tenant, as people look for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from cryptography import x509

from tmad.ca.applicant import Renewed
from tmad.ca.hierarchy import Hierarchy
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.storage import certificates
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database

_LONGEST_REFERENCE = 200
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One certificate and the chain above it, its issuer first."""

    row: CertificateRow
    chain: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """Return the certificate; Fault(NOT_FOUND) while it has not been signed."""
        if self.row.certificate_der is None:
            raise Fault(
                FaultCode.NOT_FOUND, f"the certificate was never signed: it is {self.row.state}"
            )
        return x509.load_der_x509_certificate(self.row.certificate_der)

    @property
    def renewed(self) -> Renewed:
        """Return it as what a new certificate follows."""
        return Renewed(row=self.row, certificate=self.certificate)


class Inventory:
    """Finds certificates; every list is paged by id."""

    def __init__(
        self, database: Database, journal: Journal, hierarchy: Hierarchy, now: Clock
    ) -> None:
        self.journal = journal
        self._database = database
        self._hierarchy = hierarchy
        self._now = now

    @guarded("certificate.read")
    async def list(
        self,
        actor: Actor,
        tenant: str,
        *,
        name: str = "",
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> tuple[CertificateRow, ...]:
        """Return a page of certificates after the id ``after``, oldest first.

        ``name`` finds those that hold exactly this name: a common name, a host, an address.
        """
        if name:
            found = await self._database.read(
                partial(certificates.find_by_name, after=after, limit=limit), tenant, name
            )
            return tuple(row for row in found if state in (None, row.state))
        return await self._database.read(
            partial(certificates.find, after=after, limit=limit, state=state), tenant
        )

    @guarded("certificate.read")
    async def expiring(
        self,
        actor: Actor,
        tenant: str,
        *,
        within: timedelta,
        after: tuple[datetime, int] | None = None,
        limit: int = 100,
    ) -> tuple[CertificateRow, ...]:
        """Return a page of the certificates that end soon and are not revoked, soonest first.

        ``after`` is (not_after, id) of the last one that the caller has. A page may hold fewer
        than ``limit`` although there are more.
        """
        now = self._now()
        rows = await self._database.read(
            partial(
                certificates.find_expiring,
                until=now + within,
                after=after or (now, 0),
                limit=limit,
            ),
            tenant,
        )
        return tuple(row for row in rows if row.revoked_at is None and row.state != "void")

    @guarded("certificate.read")
    async def find(
        self, actor: Actor, tenant: str, reference: str, *, authority: str = ""
    ) -> Found:
        """Return the certificate that a serial number or a fingerprint names.

        Both are hexadecimal, with or without colons, spaces and 0x. Raise NOT_FOUND, or
        CONFLICT when several authorities used the serial number: ``authority`` tells which.
        """
        octets = _octets(reference)
        if len(octets) * 2 == _SHA256_DIGITS:
            row = await self._database.read(certificates.by_sha256, tenant, octets)
            rows: Sequence[CertificateRow] = () if row is None else (row,)
        else:
            rows = await self._by_serial(tenant, int.from_bytes(octets), authority)
        if len(rows) > 1:
            raise Fault(
                FaultCode.CONFLICT,
                "several authorities used this serial number; say which one",
                rule="certificate.ambiguous",
                values={"serial": octets.hex()},
            )
        if not rows:
            raise Fault(FaultCode.NOT_FOUND, f"there is no certificate {reference}")
        issuer = await self._hierarchy.by_id(rows[0].issuer_id)
        return Found(row=rows[0], chain=issuer.chain)

    async def _by_serial(
        self, tenant: str, serial: int, authority: str
    ) -> Sequence[CertificateRow]:
        found = []
        for issuer in await self._hierarchy.of_tenant(tenant):
            if authority in ("", issuer.authority):
                row = await self._database.lookup(certificates.by_serial, issuer.id, serial)
                # A CA may serve other tenants: its certificates for them are theirs.
                if row is not None and row.tenant == tenant:
                    found.append(row)
        return found


def _octets(reference: str) -> bytes:
    digits = re.sub(r"[\s:]", "", reference[:_LONGEST_REFERENCE].lower()).removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{1,64}", digits):
        raise Fault(
            FaultCode.MALFORMED,
            "not a serial number or SHA-256 fingerprint: both are hexadecimal",
            rule="certificate.reference",
        )
    return bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0"))
