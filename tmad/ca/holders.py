"""What the holder of a certificate may ask for: by its own certificate, an RA's or a maker's.

A certificate shows who asks only with all of: an issuer that this endpoint takes it from, a
status that is good now, a period, and a profile or an anchor that the endpoint names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca import names
from tmad.ca.applicant import (
    ACCOUNT,
    PERSON,
    REGISTRATION_AUTHORITY,
    Applicant,
    Renewed,
    check_window,
    refuse,
)
from tmad.ca.belonging import serial_number_of
from tmad.ca.requests import Intent, SignedBy
from tmad.ca.standing import is_usable
from tmad.ca.status import judge
from tmad.events import Clock
from tmad.storage import certificates
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database
from tmad.storage.people import PersonRow
from tmad.storage.status import StatusRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.accounts import Accounts
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy, Issuer
    from tmad.ca.manufacturers import Manufacturers
    from tmad.identity.active_directory import Account

_DEVICE = "device:"
_PAGE = 200
_NO_GRACE = timedelta(0)


class Holders:
    """Judges certificates that somebody has shown to hold."""

    def __init__(
        self,
        *,
        database: Database,
        hierarchy: Hierarchy,
        now: Clock,
        manufacturers: Manufacturers | None,
        accounts: Accounts | None = None,
    ) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._now = now
        self._manufacturers = manufacturers
        self._accounts = accounts

    async def of(self, shown: SignedBy, intent: Intent, endpoint: Endpoint) -> Applicant:
        """Return who holds a certificate, as far as that helps here."""
        row = await self._row(shown, endpoint)
        document = endpoint.document
        if row is None:
            return await self._foreign(shown, intent, endpoint)
        if intent is Intent.ENROLL and document.is_registration_authority(row.profile, row.serial):
            issuer = await self._issuer(row, endpoint)
            self._check_good(row, issuer, _NO_GRACE)
            name = f"{REGISTRATION_AUTHORITY}:{row.id}"
            return Applicant(name=name, method=REGISTRATION_AUTHORITY, is_proven=True)
        return await self._renewal(row, shown.certificate, endpoint, intent)

    async def recognise(self, shown: SignedBy, endpoint: Endpoint) -> str:
        """Return who holds a certificate that is good here, whatever it is wanted for.

        Fault(UNAUTHENTICATED) for one that is not; what its holder may have is :meth:`of`'s
        question.
        """
        row = await self._row(shown, endpoint)
        if row is None:
            return (await self._foreign(shown, Intent.ENROLL, endpoint)).name
        issuer = await self._issuer(row, endpoint)
        self._check_good(row, issuer, timedelta(days=endpoint.document.renewal.grace_days))
        await self._check_owner(row)
        await self.listed(row.owner, endpoint)
        return f"certificate:{row.id}"

    async def waiting_device(self, path: Sequence[bytes], endpoint: Endpoint) -> Applicant:
        """Return the device that made a request which has waited, if it is still believed."""
        first, *above = [x509.load_der_x509_certificate(each) for each in path]
        return await self._foreign(SignedBy(first, chain=tuple(above)), Intent.ENROLL, endpoint)

    async def is_registration_authority(self, shown: SignedBy, endpoint: Endpoint) -> bool:
        """Tell whether a certificate is, in good state, one of the endpoint's RAs."""
        row = await self._row(shown, endpoint)
        if row is None or not endpoint.document.is_registration_authority(row.profile, row.serial):
            return False
        issuer = await self._issuer(row, endpoint)
        self._check_good(row, issuer, _NO_GRACE)
        return True

    async def _row(self, shown: SignedBy, endpoint: Endpoint) -> CertificateRow | None:
        digest = hashlib.sha256(shown.certificate.public_bytes(Encoding.DER)).digest()
        return await self._database.lookup(certificates.by_sha256, endpoint.tenant, digest)

    async def of_person(self, person: PersonRow, subject: x509.Name, endpoint: Endpoint) -> Renewed:
        """Return the newest certificate of a person with this subject, which is to be renewed."""
        now = self._now()
        grace = timedelta(days=endpoint.document.renewal.grace_days)
        found = await self._database.lookup(
            _newest_of_person, endpoint.tenant, f"{PERSON}{person.name}", subject, now - grace
        )
        if found is None or found.certificate_der is None:
            raise refuse(
                "renewal.absent",
                "this person has no certificate with this subject",
                person=person.name,
                subject=subject.rfc4514_string()[:255],
            )
        certificate = x509.load_der_x509_certificate(found.certificate_der)
        applicant = await self._renewal(found, certificate, endpoint, Intent.RENEW)
        assert applicant.renews is not None
        return applicant.renews

    async def _foreign(self, shown: SignedBy, intent: Intent, endpoint: Endpoint) -> Applicant:
        """Believe a certificate that a manufacturer has put into its device, or none."""
        certificate, document = shown.certificate, endpoint.document
        is_first = intent is Intent.ENROLL
        if self._manufacturers is None or not (is_first and document.manufacturers):
            raise refuse(
                "renewal.foreign",
                "the signer's certificate was not issued here",
                issuer=certificate.issuer.rfc4514_string(),
            )
        vouching = await self._manufacturers.vouch(
            endpoint.tenant, document.manufacturers, certificate, shown.chain, self._now()
        )
        device = serial_number_of(certificate.subject)
        known_by = device or f"serial-{certificate.serial_number:x}"
        return Applicant(
            name=f"manufacturer:{vouching.anchor}/{known_by}",
            method="manufacturer",
            is_proven=True,
            device=device,
            vouching=vouching,
        )

    async def _renewal(
        self,
        row: CertificateRow,
        certificate: x509.Certificate,
        endpoint: Endpoint,
        intent: Intent,
    ) -> Applicant:
        renewal = endpoint.document.renewal
        if not renewal.enabled or (intent is Intent.ENROLL and not renewal.via_enroll):
            raise refuse("renewal.disabled", "this endpoint does not renew so")
        issuer = await self._issuer(row, endpoint)
        profiles = renewal.profiles or (endpoint.document.profile,)
        if row.profile not in profiles:
            # Else any certificate of the CA would turn into one of this endpoint's.
            raise refuse(
                "renewal.profile",
                "certificates of this profile are not renewed here",
                profile=row.profile,
                accepted=", ".join(profiles),
            )
        self._check_good(row, issuer, timedelta(days=renewal.grace_days))
        await self._check_owner(row)
        renews = Renewed(row=row, certificate=certificate)
        check_window(renews, renewal.window_days, _NO_GRACE, self._now())
        listed = await self.listed(row.owner, endpoint)
        return Applicant(
            name=f"certificate:{row.id}",
            method="certificate",
            is_proven=True,
            renews=renews,
            sid="" if listed is None else listed.sid,
            listed=listed,
        )

    async def listed(self, owner: str, endpoint: Endpoint) -> Account | None:
        """Return what the directory says now of an owner, None for one that is in none.

        Fault(UNAUTHENTICATED) for an account that is gone or disabled, and where the endpoint
        has another directory than the owner, or none.
        """
        if not owner.startswith(ACCOUNT):
            return None
        if self._accounts is None or not endpoint.document.directory:
            raise refuse(
                "directory.none",
                "the certificate belongs to an account of a directory that is not known here",
                owner=owner,
            )
        return await self._accounts.by_owner(endpoint, owner)

    async def _issuer(self, row: CertificateRow, endpoint: Endpoint) -> Issuer:
        """Return who issued a certificate; Fault(UNAUTHENTICATED) unless the endpoint takes it."""
        document = endpoint.document
        issuer = await self._hierarchy.by_id(row.issuer_id)
        authorities = document.renewal.authorities or (document.authority,)
        if issuer.tenant != endpoint.tenant or issuer.authority not in authorities:
            raise refuse(
                "renewal.authority",
                "certificates of this authority are not renewed here",
                authority=issuer.authority,
                accepted=", ".join(authorities),
            )
        return issuer

    def _check_good(self, row: CertificateRow, issuer: Issuer, grace: timedelta) -> None:
        # The row was read for this very question.
        status = judge(
            StatusRow(row.state, row.revoked_at, row.reason, row.created_at, issuer.compromised_at)
        )
        if status.state != "good":
            raise refuse("renewal.revoked", "the certificate is not good", status=status.state)
        now = self._now()
        if not row.not_before <= now <= row.not_after + grace:
            raise refuse(
                "renewal.expired",
                "the certificate is not valid now",
                not_after=row.not_after.isoformat(),
                grace=str(grace),
                now=now.isoformat(),
            )

    async def _check_owner(self, row: CertificateRow) -> None:
        """Refuse what belongs to a person or a device that may not have it any more."""
        if row.owner.startswith((PERSON, _DEVICE)) and not await self._database.lookup(
            is_usable, row.tenant, row.owner, self._now()
        ):
            raise refuse(
                "renewal.owner",
                "whoever the certificate belongs to is gone, disabled or blocked",
                owner=row.owner,
            )


def _newest_of_person(
    connection: Connection, tenant: str, owner: str, subject: x509.Name, since: datetime
) -> CertificateRow | None:
    """Return the last one of an owner's unexpired certificates with exactly this subject."""
    newest = None
    wanted = subject.rfc4514_string()
    terms = sorted(value for _, value in names.search_terms(subject, ()))
    after = 0
    while terms:
        page = certificates.find_by_name(connection, tenant, terms[0], after=after, limit=_PAGE)
        for row in page:
            if row.owner == owner and row.subject == wanted and row.not_after >= since:
                newest = row
        if len(page) < _PAGE:
            break
        after = page[-1].id
    return newest
