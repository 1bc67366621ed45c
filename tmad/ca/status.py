"""Whether a certificate is good, revoked or unknown: one answer for OCSP, CRL and every login.

RFC 6960, 2.2; RFC 5280, 5.3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Literal

from tmad.storage import status
from tmad.storage.database import Database


class Reason(IntEnum):
    """RFC 5280, 5.3.1: CRLReason; 7 is not used."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    REMOVE_FROM_CRL = 8  # of a delta CRL only: never the status of a certificate
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10


@dataclass(frozen=True, slots=True)
class Status:
    """What is true of one serial number; time and reason only when it is revoked."""

    state: Literal["good", "revoked", "unknown"]
    revoked_at: datetime | None = None
    reason: Reason | None = None


GOOD = Status("good")
UNKNOWN = Status("unknown")

_REASONS = {reason.value: reason for reason in Reason}


class StatusSource:
    """Answers from the database at each question; there is nothing to become stale.

    A map of revoked serials in memory was considered: a point read takes 10 µs without leaving
    the thread, a signature 25 µs, and the responder caches whole answers, so the map would
    save little, cost 100 octets an entry and process, and add a second truth.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, issuer_id: int, serial: int) -> Status:
        """Return the status now: every change committed by any process is seen.

        A certificate that was never issued is ``unknown``, one that was signed but never
        delivered (state "void") is revoked, and when the issuer's key is known to be
        compromised so is every serial number (RFC 6960, 2.7). Raise Fault(UNAVAILABLE) when
        the database cannot be asked.
        """
        # No certificate has a negative number here, yet its issuer may be compromised.
        octets = status.serial_octets(serial) if serial >= 0 else b""
        row = await self._database.lookup(status.by_serial, issuer_id, octets)
        return UNKNOWN if row is None else judge(row)


def judge(row: status.StatusRow) -> Status:
    """Return what the rows of a certificate and its issuer mean."""
    revoked_at, compromised_at = row.revoked_at, row.compromised_at
    if compromised_at is not None and (revoked_at is None or compromised_at < revoked_at):
        return Status("revoked", compromised_at, Reason.CA_COMPROMISE)
    if revoked_at is not None:
        return Status("revoked", revoked_at, _REASONS[row.reason or 0])
    if row.state in ("issued", "imported"):
        return GOOD
    if row.state == "void":
        # Signed, perhaps, and nobody has it: whoever shows it must not be believed.
        return Status("revoked", row.created_at, Reason.UNSPECIFIED)
    return UNKNOWN  # never issued, or an intent that is not signed yet
