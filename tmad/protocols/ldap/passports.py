"""Client certificates: whether one is ours and good now, and whose it is (RFC 4513, 5.2.3).

It is its owner's; one without an owner among people and devices is that person's whose address
it names, if it names one and nobody else has that address.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tmad.ca.applicant import PERSON
from tmad.ca.status import StatusSource
from tmad.ca.trust import UNREADABLE, Trust, check_path
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.storage import certificates, people
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database

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
        self._trust = trust
        self._status = status
        self._database = database
        self._now = now

    async def check(self, certificate: x509.Certificate) -> Passport:
        """Return whose certificate it is; Fault(UNAUTHENTICATED) says in private why not."""
        try:
            issuer = await self._trust.issuer_of(certificate)
        except ValueError:
            issuer = None
        if issuer is None or not issuer.signs:
            raise _refusal("issuer", "not issued by an authority of this node")
        try:
            check_path(issuer.chain, self._now())
        except Fault as fault:
            raise _refusal("chain", f"its issuer: {fault.detail}") from fault
        if not _is_for_clients(certificate):
            raise _refusal("usage", "not meant for clients (extendedKeyUsage)")
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
        certificate = passport.certificate
        now = self._now()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _refusal("validity", "outside its validity")
        status = await self._status.of(passport.issuer_id, certificate.serial_number)
        if status.state != "good":
            raise _refusal("status", status.state)


def _mails(certificate: x509.Certificate) -> set[str]:
    """Return the addresses in subjectAltName, as people's are kept."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE:
        return set()
    return {mail.lower() for mail in names.get_values_for_type(x509.RFC822Name)}


def _is_for_clients(certificate: x509.Certificate) -> bool:
    """Tell whether extendedKeyUsage, where it is there, allows TLS clients (RFC 5280, 4.2.1.12)."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except UNREADABLE:
        return False
    return bool(
        {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages)
    )


def _refusal(rule: str, why: str) -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the client certificate was not accepted",
        private=why,
        rule=f"ldap.certificate.{rule}",
        values={"why": why},
    )
