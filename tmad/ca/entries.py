"""The entries of one CRL, in encoded chunks that are made anew only when something changed.

RFC 5280, 5.1.2.6 and 5.3. A chunk covers a range of serial numbers. A status change touches one
chunk of a few thousand entries; all others are joined as they are (performance, section 5.3).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING

from tmad.ca import crlcodec
from tmad.storage import crls
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

# One chunk is read and encoded in a few milliseconds: the interpreter's lock is never held so
# long that the reactor would stall.
CHUNK = 4096

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOREVER = 1 << 62
_NOT_AFTER = itemgetter(4)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The encoded entries from behind the chunk before up to ``up_to`` (None: to the end)."""

    up_to: bytes | None
    der: bytes
    count: int
    leaves_at: int  # when the first of its certificates expires


class Entries:
    """What is known of one issuer's revoked certificates; ``change_id``: up to which change."""

    def __init__(self, issuer_id: int) -> None:
        self._issuer_id = issuer_id
        self.chunks: list[Chunk] = []
        self.change_id = 0
        self._compromised_at: datetime | None = None
        self._may_have_dropped = False

    @property
    def count(self) -> int:
        """How many entries there are."""
        return sum(chunk.count for chunk in self.chunks)

    async def refresh(
        self,
        database: Database,
        *,
        compromised_at: datetime | None,
        last_update: datetime | None,
    ) -> None:
        """Read what changed; every status change committed before the call is in it.

        ``last_update`` is the thisUpdate of the last CRL: an entry that was on it, although
        its certificate had expired, may go (RFC 5280, 3.3). None keeps everything.
        """
        changed = await database.read(crls.find_status_changes, self._issuer_id, self.change_id)
        serials = changed.serials
        if (
            not self.chunks
            or compromised_at != self._compromised_at
            or (last_update is None and self._may_have_dropped)
        ):
            serials = None
        if serials is None:
            old = [Chunk(None, b"", 0, _FOREVER)]
            stale = {0}
        else:
            old = self.chunks
            stale = self._stale(serials, last_update)
        chunks: list[Chunk] = []
        for number, chunk in enumerate(old):
            if number not in stale:
                chunks.append(chunk)
                continue
            after = (old[number - 1].up_to or b"") if number else b""
            while True:
                page = await database.read(
                    _read, self._issuer_id, after, chunk.up_to, compromised_at, last_update
                )
                chunks.append(page)
                if page.up_to == chunk.up_to:
                    break
                assert page.up_to is not None
                after = page.up_to
        self.chunks = chunks
        self.change_id = changed.latest
        self._compromised_at = compromised_at
        self._may_have_dropped = last_update is not None

    def _stale(self, serials: Iterable[bytes], last_update: datetime | None) -> set[int]:
        bounds = [chunk.up_to or b"" for chunk in self.chunks[:-1]]
        stale = {bisect_left(bounds, serial) for serial in serials}
        if last_update is not None:
            limit = (last_update - _EPOCH) // timedelta(microseconds=1)
            stale |= {n for n, chunk in enumerate(self.chunks) if chunk.leaves_at < limit}
        return stale


def _read(
    connection: Connection,
    issuer_id: int,
    after: bytes,
    up_to: bytes | None,
    compromised_at: datetime | None,
    last_update: datetime | None,
) -> Chunk:
    rows: Sequence[crls.RevokedRow]
    if compromised_at is not None:
        rows = crls.find_all_unexpired(connection, issuer_id, after, up_to, compromised_at, CHUNK)
    else:
        rows = crls.find_revoked(connection, issuer_id, after, up_to, last_update, CHUNK)
    leaves_at = min(map(_NOT_AFTER, rows), default=_FOREVER)
    end = up_to if len(rows) < CHUNK else bytes(rows[-1][0])
    return Chunk(end, crlcodec.encode_entries(rows), len(rows), leaves_at)
