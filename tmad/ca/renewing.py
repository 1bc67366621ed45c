"""When a certificate had better be renewed, the same for every client that may ask.

ACME Renewal Information (RFC 9773) and the answers to agents say it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.managed.objects import Objects
from tmad.storage.certificates import CertificateRow

_SECOND: Final = timedelta(seconds=1)


async def window(
    objects: Objects, row: CertificateRow, days: int | None
) -> tuple[datetime, datetime]:
    """Return when to renew: after two thirds of its life, or when its rules open renewal.

    ``days`` is how long before the end the endpoint lets it renew, None where it says nothing.
    The window is a quarter of what is left then, so that a fleet that was set up on one day
    does not stay together.
    """
    before = (row.not_after - row.not_before) / 3
    if days is not None:
        before = min(before, timedelta(days=days))
    opens = await _opens(objects, row)
    if opens:
        before = min(before, opens)
    start = row.not_after - before
    return start, start + max(before / 4, _SECOND)


async def _opens(objects: Objects, row: CertificateRow) -> timedelta:
    """Return how long before the end the profile opens renewal; nothing if it never says."""
    try:
        stored = await objects.load(row.tenant, "profile", row.profile)
    except Fault as fault:
        if fault.code is not FaultCode.NOT_FOUND:
            raise
        return timedelta(0)  # the profile has gone since
    opens: timedelta = stored.document.renewal.window
    return opens
