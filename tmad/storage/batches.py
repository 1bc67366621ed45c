"""Many small writes of one kind in one transaction, each for itself.

A commit, a hop to another thread and back, and the head of the journal cost as much CPU as the
rows of one login do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred

from tmad import coroutines
from tmad.errors import Fault, FaultCode
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

Entry = TypeVar("Entry")
Outcome = TypeVar("Outcome")

# While as many as these have come in the last 30 ms, more are waited for: nobody sees 10 ms of a
# login. Somebody who comes alone waits for nobody.
_CROWD: Final = 3
_CROWD_SECONDS: Final = 0.030
_LINGER_SECONDS: Final = 0.010
_ENOUGH: Final = 6  # of them make it worth while at once
# Where it is known who else is at it, waiting is never in vain.
_COMPANY_LINGER_SECONDS: Final = 0.005
_COMPANY_ENOUGH: Final = 16
_MOST: Final = 64  # entries of one transaction


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Entry, Outcome]):
    entry: Entry
    outcome: Deferred[Outcome] = field(default_factory=Deferred)


@dataclass(slots=True, eq=False)
class _Party(Generic[Entry, Outcome]):
    """Those who share a transaction."""

    members: list[_Waiting[Entry, Outcome]] = field(default_factory=list)
    is_closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Batches(Generic[Entry, Outcome]):
    """Collects entries until a transaction takes them.

    ``write`` serves them in their order and returns an outcome for each. When a transaction
    fails, each of its entries is tried alone, so that none fails for another's sake.

    ``company`` tells how many are under way who have come, or are about to; without it, that is
    judged by how many came of late. ``linger`` is how many seconds more are then waited for, and
    ``enough`` how many of them end that.
    """

    def __init__(
        self,
        database: Database,
        write: Callable[[Connection, Sequence[Entry]], list[Outcome]],
        *,
        company: Callable[[], int] | None = None,
        linger: float = _LINGER_SECONDS,
        enough: int = _ENOUGH,
    ) -> None:
        self._database = database
        self._write = write
        self._waiting: deque[_Waiting[Entry, Outcome]] = deque()
        self._is_asked = False
        self._timer: Any = None  # while more are waited for
        self._came = deque([float("-inf")] * _CROWD, _CROWD)
        self._company = company
        self._linger = linger
        self._enough = enough

    @property
    def waiting(self) -> int:
        """How many entries no transaction has taken yet."""
        return len(self._waiting)

    async def add(self, entry: Entry) -> Outcome:
        """Write an entry; return what ``write`` says of it once that is durable."""
        reactor = self._database.reactor
        if reactor is None:
            [outcome] = await self._database.write_briefly(self._write, [entry])
            return outcome
        waiting: _Waiting[Entry, Outcome] = _Waiting(entry)
        self._waiting.append(waiting)
        linger, enough = self._patience()
        if not self._is_asked:
            self._is_asked = True
            if linger and len(self._waiting) < enough:
                self._timer = reactor.callLater(linger, self._begin)
            else:
                self._begin()
        elif self._timer is not None and len(self._waiting) >= enough:
            self._timer.cancel()
            self._begin()
        return await waiting.outcome

    def _patience(self) -> tuple[float, int]:
        """Return how many seconds more are waited for, and how many are enough."""
        if self._company is not None:
            present = self._company()
            if present <= _CROWD:
                return 0, 1
            return _COMPANY_LINGER_SECONDS, min(present, _COMPANY_ENOUGH)
        now = time.monotonic()
        self._came.append(now)
        return (self._linger if self._came[0] > now - _CROWD_SECONDS else 0), self._enough

    def _begin(self) -> None:
        self._timer = None
        coroutines.run(self._flush())

    async def _flush(self) -> None:
        party = _Party[Entry, Outcome]()
        try:
            outcomes = await self._database.write_briefly(self._write_waiting, party)
        except Exception as error:
            # If it never ran until now it shall not take anybody later on.
            self._take(party)
            self._go_on()
            await self._one_by_one(party.members, error)
            return
        self._go_on()
        for waiting, outcome in zip(party.members, outcomes, strict=True):
            waiting.outcome.callback(outcome)

    def _go_on(self) -> None:
        if self._waiting and not self._is_asked:
            self._is_asked = True  # they were too many for one transaction
            self._begin()

    def _write_waiting(
        self, connection: Connection, party: _Party[Entry, Outcome]
    ) -> list[Outcome]:
        # As late as possible, maybe in the writer's thread: whoever comes until now is of it.
        if not self._take(party) or not party.members:
            return []
        return self._write(connection, [waiting.entry for waiting in party.members])

    def _take(self, party: _Party[Entry, Outcome]) -> bool:
        """Fill a party, once: in the writer's thread, or where it was given up before."""
        with party.lock:
            if party.is_closed:
                return False
            party.is_closed = True
            # Before the queue is emptied: whoever comes from here on asks again, in vain at worst.
            self._is_asked = False
            while self._waiting and len(party.members) < _MOST:
                party.members.append(self._waiting.popleft())
            return True

    async def _one_by_one(
        self, taken: Sequence[_Waiting[Entry, Outcome]], error: Exception
    ) -> None:
        is_away = isinstance(error, Fault) and error.code is FaultCode.UNAVAILABLE
        for waiting in taken:
            try:
                if len(taken) == 1 or is_away:
                    raise _again(error)
                [outcome] = await self._database.write_briefly(self._write, [waiting.entry])
            except Exception as own:
                waiting.outcome.errback(own)
            else:
                waiting.outcome.callback(outcome)


def _again(error: Exception) -> Exception:
    """Return an error of the same kind for one more caller: each adds its own explain id."""
    if not isinstance(error, Fault):
        return error
    return Fault(
        error.code,
        error.detail,
        private=error.private,
        rule=error.rule,
        values=error.values,
        retry_after=error.retry_after,
    )
