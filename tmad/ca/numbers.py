"""Small numbers for requests that wait: what MS-WSTEP's clients ask again with."""

from __future__ import annotations

from secrets import randbelow
from typing import TYPE_CHECKING, Final

from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.storage import request_numbers as rows
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

LARGEST: Final = 0x7FFFFFFF
_ATTEMPTS: Final = 8


class RequestNumbers:
    """The numbers of one database.

    They are drawn by lot: nobody can tell from his own what others have.
    """

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    async def of(self, endpoint: str, request_id: str) -> int:
        """Return the number of a request, the same each time."""
        found = await self._database.lookup(rows.of_request, endpoint, request_id)
        if found is None:
            found = await self._database.write(self._give, endpoint, request_id)
        return found

    async def find(self, endpoint: str, number: int) -> str:
        """Return the id of the request with a number; Fault(NOT_FOUND)."""
        found = await self._database.lookup(rows.by_number, endpoint, number)
        if found is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such request",
                rule="request.absent",
                values={"endpoint": endpoint, "number": str(number)},
            )
        return found

    def _give(self, connection: Connection, endpoint: str, request_id: str) -> int:
        now = self._now()
        rows.forget(connection, now)
        for _ in range(_ATTEMPTS):
            number = 1 + randbelow(LARGEST)
            if rows.insert(connection, endpoint, request_id, number, now):
                return number
            # Another process may have given it one, or the number is taken.
            found = rows.of_request(connection, endpoint, request_id)
            if found is not None:
                return found
        raise Fault(FaultCode.UNAVAILABLE, "no number is free", retry_after=60)
