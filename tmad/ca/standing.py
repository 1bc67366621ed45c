"""Whether what somebody asked by still holds: looked at inside the transaction that issues.

Between the decision and the transaction lie a directory's or a web service's answer, the making
of a key, and in the case of a request that waits for a person, days.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from tmad.ca.applicant import PERSON, REGISTRATION_AUTHORITY, Applicant, refuse
from tmad.ca.status import judge
from tmad.identity.credentials import refusal
from tmad.identity.naming import device_key, person_key
from tmad.storage import certificates, devices, enroll_secrets, people
from tmad.storage.status import by_serial, serial_octets

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.storage.certificates import CertificateRow

_DEVICE: Final = "device:"


def check(connection: Connection, tenant: str, applicant: Applicant, now: datetime) -> None:
    """Raise Fault(UNAUTHENTICATED) for an applicant who would not be believed any more.

    One-time secrets and accounts' orders are not asked about: they are claimed.
    """
    if applicant.control is not None:
        return
    if applicant.renews is not None:
        _check_status(connection, applicant.renews.row)
    if applicant.vouching is not None:
        applicant.vouching.check(connection, now)
    if applicant.method == REGISTRATION_AUTHORITY:
        _check_status(connection, _of_authority(connection, tenant, applicant.name))
    if not is_usable(connection, tenant, applicant.owner, now):
        raise refuse(
            "renewal.owner" if applicant.renews is not None else "applicant.owner",
            "whoever the certificate is for is gone, disabled or blocked",
            owner=applicant.owner,
        )


def check_waiting(connection: Connection, tenant: str, applicant: Applicant) -> None:
    """Raise Fault(UNAUTHENTICATED) if the secret of a request that waited has been revoked.

    It may have expired since, and nobody else can have used it: the request has claimed it.
    """
    if applicant.secret is None:
        return
    found = enroll_secrets.by_id(connection, tenant, applicant.secret.id)
    if found is None or found.revoked_at is not None:
        raise refusal("secret.revoked", secret=applicant.secret.id)


def is_usable(connection: Connection, tenant: str, owner: str, now: datetime) -> bool:
    """Tell whether the person or the device that owns a certificate may still have it."""
    if owner.startswith(PERSON):
        person = people.by_name(connection, tenant, person_key(owner.removeprefix(PERSON)))
        return person is not None and person.is_usable(now)
    if owner.startswith(_DEVICE):
        device = devices.by_name(connection, tenant, device_key(owner.removeprefix(_DEVICE)))
        return device is not None and device.blocked_at is None
    return True


def _of_authority(connection: Connection, tenant: str, name: str) -> CertificateRow | None:
    return certificates.by_id(connection, tenant, int(name.rpartition(":")[2]))


def _check_status(connection: Connection, row: CertificateRow | None) -> None:
    found = None
    if row is not None:
        found = by_serial(connection, row.issuer_id, serial_octets(row.serial))
    status = None if found is None else judge(found)
    if status is None or status.state != "good":
        raise refuse(
            "renewal.revoked",
            "the certificate is not good",
            status="unknown" if status is None else status.state,
        )
