"""Who is asking, as far as the pipeline has found that out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca.record import Standing
from tmad.errors import Fault, FaultCode
from tmad.identity.active_directory import Account
from tmad.storage.certificates import CertificateRow
from tmad.storage.enroll_secrets import EnrollSecret
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from tmad.ca.acme.control import Control
    from tmad.ca.manufacturers import Vouching

PERSON = "person:"  # begins the owner of a certificate that is a person's
ACCOUNT = "account:"  # the same, of a directory: "account:DIRECTORY/objectGUID"
REGISTRATION_AUTHORITY = "registration-authority"  # a method; the name adds its certificate's id
_OWNERS = (PERSON, "device:", ACCOUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The certificate that is to be followed by a new one."""

    row: CertificateRow
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Whoever asks, as far as it was shown; ``is_proven`` False leaves it to a person.

    ``person`` is the name of who logged in, and ``account`` what is known of them; ``device``
    the serialNumber in a manufacturer's certificate, "" where it has none, and ``vouching`` who
    vouches for that. ``control`` is the order of an ACME account. ``listed`` is what a directory
    says of the applicant, whose names it decides.
    """

    name: str
    # "challenge", "password", "webhook", "certificate", "manufacturer",
    # "registration-authority", "acme", "kerberos", "directory", "operator", "nobody"
    method: str
    is_proven: bool
    secret: EnrollSecret | None = None
    renews: Renewed | None = None
    sid: str = ""
    person: str = ""
    account: PersonRow | None = None
    device: str | None = None
    vouching: Vouching | None = None
    control: Control | None = None
    listed: Account | None = None

    @property
    def owner(self) -> str:
        """Return whose certificate it will be: a renewed one stays whose it was."""
        if self.renews is not None and self.renews.row.owner.startswith(_OWNERS):
            return self.renews.row.owner
        if self.control is not None and self.control.person:
            return f"{PERSON}{self.control.person}"
        return self.name

    @property
    def standing(self) -> Standing:
        """Return what a pending request keeps."""
        path = self.vouching.path if self.vouching else ()
        return Standing(
            applicant=self.name,
            method=self.method,
            secret_id=self.secret.id if self.secret else "",
            renews_id=self.renews.row.id if self.renews else 0,
            path=tuple([each.public_bytes(Encoding.DER) for each in path[:-1]]),
        )


def check_window(
    renews: Renewed, endpoint_days: int | None, profile_window: timedelta, now: datetime
) -> None:
    """Raise Fault(REJECTED) when it is too early to renew; the narrower window counts."""
    windows = [w for w in (profile_window,) if w]
    if endpoint_days is not None:
        windows.append(timedelta(days=endpoint_days))
    if not windows:
        return
    opens = renews.row.not_after - min(windows)
    if now < opens:
        raise Fault(
            FaultCode.REJECTED,
            "it is too early to renew this certificate",
            rule="renewal.window",
            values={"opens": opens.isoformat(), "now": now.isoformat()},
        )


def refuse(rule: str, detail: str, **values: str) -> Fault:
    """Return the Fault for somebody who was not believed."""
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)
