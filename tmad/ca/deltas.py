"""What a delta CRL lists: every status that has changed since its base. RFC 5280, 5.2.4.

The base is the oldest complete CRL that is still good, so that whoever has any good one can
bring it up to date. A delta is published in the transaction of a complete CRL, under its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from tmad.ca import crlcodec
from tmad.ca.entries import CHUNK
from tmad.ca.status import Reason
from tmad.signer.workers import Workers
from tmad.storage import crls
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Changed:
    """The entries of a delta CRL, encoded."""

    encoded: tuple[bytes, ...]
    count: int


NOTHING = Changed((), 0)


async def find_base(
    database: Database, last: crls.CRLRow | None, keeps_expired: bool, now: datetime
) -> crls.DeltaBase | None:
    """Return where a delta CRL that is published now begins.

    None: at the complete CRL that is published with it, with nothing to add, when there was
    none before whose changes are known (``last`` is the newest one) or that anybody could use.
    """
    if last is None or last.base_number is None or last.keeps_expired is not keeps_expired:
        return None
    return await database.read(crls.delta_base, last.issuer_id, last.base_number, now)


async def collect(
    database: Database,
    workers: Workers,
    issuer_id: int,
    base: crls.DeltaBase,
    drop_before: datetime | None,
    now: datetime,
) -> Changed:
    """Read and encode the entries, a few thousand at a time.

    ``drop_before``: what expired, and was revoked, before that is not on the complete CRL that
    is made now; None keeps everything.
    """
    # By serial number: a status that changes while this reads comes up again, and is then right.
    found: dict[bytes, crls.RevokedRow] = {}
    if drop_before is not None:
        end: tuple[int, bytes] | None = None
        while True:
            rows, end = await database.read(_dropped, issuer_id, base, drop_before, end)
            found.update({row[0]: row for row in rows})
            if end is None:
                break
    after: int | None = base.change_id_before
    while after is not None:
        rows, after = await database.read(_changed, issuer_id, base, after, drop_before, now)
        found.update({row[0]: row for row in rows})
    every = list(found.values())
    encoded = []
    for start in range(0, len(every), CHUNK):
        part = every[start : start + CHUNK]
        encoded.append(await workers.run(partial(crlcodec.encode_entries, part)))
    return Changed(tuple(encoded), len(every))


def _changed(
    connection: Connection,
    issuer_id: int,
    base: crls.DeltaBase,
    after: int,
    drop_before: datetime | None,
    now: datetime,
) -> tuple[list[crls.RevokedRow], int | None]:
    rows = crls.find_changed(connection, issuer_id, after, CHUNK)
    limit = 0 if drop_before is None else _microseconds(drop_before)
    at = _microseconds(now)
    found: list[crls.RevokedRow] = []
    for changed_id, serial, revoked_at, reason, invalidity_date, not_after in rows:
        is_listed = revoked_at is not None and (not_after >= limit or revoked_at >= limit)
        if is_listed and changed_id > base.change_id:
            assert revoked_at is not None
            found.append((bytes(serial), revoked_at, reason, invalidity_date, not_after))
        elif not is_listed and (changed_id > base.change_id or revoked_at is not None):
            # Also when it was not on the base: it may be on a CRL in between.
            found.append(_removal(serial, revoked_at or at, not_after))
    return found, rows[-1][0] if len(rows) == CHUNK else None


def _dropped(
    connection: Connection,
    issuer_id: int,
    base: crls.DeltaBase,
    drop_before: datetime,
    after: tuple[int, bytes] | None,
) -> tuple[list[crls.RevokedRow], tuple[int, bytes] | None]:
    rows = crls.find_dropped(connection, issuer_id, base, drop_before, after, CHUNK)
    found = [_removal(serial, at, not_after) for serial, at, _, _, not_after in rows]
    end = (rows[-1][4], bytes(rows[-1][0])) if len(rows) == CHUNK else None
    return found, end


def _removal(serial: bytes, at: int, not_after: int) -> crls.RevokedRow:
    return bytes(serial), at, Reason.REMOVE_FROM_CRL.value, None, not_after


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
