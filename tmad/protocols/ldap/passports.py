"""Client certificates: whether one is ours and good now, and whose it is (RFC 4513, 5.2.3).

It is its owner's; one without an owner among people and devices is that person's whose address
it names, if it names one and nobody else has that address.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography import x509

from tmad.ca.applicant import PERSON
from tmad.ca.client_certificates import CertificateCheck
from tmad.ca.status import StatusSource
from tmad.ca.trust import Trust
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.storage import certificates, people
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database
from tmad.wire.parsing import NO_EXTENSION

_OWNERS: Final = (PERSON, "device:")


class Passport(NamedTuple):
    """A certificate that was found good; ``owner`` is whose it is ("person:alice")."""

    certificate: x509.Certificate
    issuer_id: int
    tenant: str
    owner: str


class Passports:
    """Judges certificates whose key the client has just used in a handshake."""

    def __init__(self, trust: Trust, status: StatusSource, database: Database, now: Clock) -> None:
        self._check = CertificateCheck(trust, status, now, _refusal)
        self._database = database

    async def check(self, certificate: x509.Certificate) -> Passport:
        """Return whose certificate it is; Fault(UNAUTHENTICATED) says in private why not."""
        issuer = await self._check.issuer_of(certificate, "not issued by an authority of this node")
        # None of ours has a negative number.
        serial = max(0, certificate.serial_number)
        row = await self._database.lookup(certificates.by_serial, issuer.id, serial)
        if row is None:
            raise _refusal("status", "unknown")
        owner = await self._owner(row, certificate)
        passport = Passport(certificate, issuer.id, row.tenant, owner)
        await self.recheck(passport)
        return passport

    async def _owner(self, row: CertificateRow, certificate: x509.Certificate) -> str:
        if row.owner.startswith(_OWNERS):
            return row.owner
        mails = _mails(certificate)
        if len(mails) != 1:
            return ""
        person = await self._database.lookup(people.by_mail, row.tenant, mails.pop())
        return "" if person is None else f"{PERSON}{person.name}"

    async def recheck(self, passport: Passport) -> None:
        """Raise Fault(UNAUTHENTICATED) unless the certificate is still good."""
        await self._check.check_standing(passport.certificate, passport.issuer_id)


def _mails(certificate: x509.Certificate) -> set[str]:
    """Return the addresses in subjectAltName, as people's are kept."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except NO_EXTENSION:
        return set()
    return {mail.lower() for mail in names.get_values_for_type(x509.RFC822Name)}


def _refusal(rule: str, why: str) -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the client certificate was not accepted",
        private=why,
        rule=f"ldap.certificate.{rule}",
        values={"why": why},
    )
