"""Logins that take several packets, by the State attribute that names them (R-11, E-08).

State is one octet of version, two that name the worker, and thirteen random ones: nobody guesses
another's, and a packet that reaches the wrong worker can be handed over.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

_VERSION: Final = 1
STATE_OCTETS: Final = 16


def worker_of(state: bytes) -> int | None:
    """Return which worker made a State, None for one that is none of ours."""
    if len(state) != STATE_OCTETS or state[0] != _VERSION:
        return None
    return int.from_bytes(state[1:3], "big")


@dataclass(slots=True, eq=False)
class Held:
    """One login under way; ``content`` is what it is about.

    ``client`` says who may go on with it, ``last`` is the message that was answered last and
    its answer. ``is_busy`` while a message is being answered.
    """

    state: bytes
    client: Hashable
    station: str
    content: Any
    begun: float
    touched: float
    lifetime: float
    idle: float
    last: tuple[bytes, Any] | None = None
    is_busy: bool = False
    is_over: bool = False


class Conversations:
    """The logins under way in one worker, as many as memory is meant for.

    ``lifetime`` and ``idle`` are in seconds. When there are too many, or too many of one
    station, the oldest makes room: a flood of half-open ones must not lock everybody out.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        *,
        worker: int = 0,
        maximum: int = 4_096,
        of_one_station: int = 4,
        lifetime: float = 60.0,
        idle: float = 30.0,
        linger: float = 10.0,
    ) -> None:
        # Told of each that ends because its client fell silent, or had to make room.
        self.on_lost: Callable[[Held], None] = lambda held: None
        self._seconds = seconds
        self.worker = worker
        self._maximum = maximum
        self._of_one_station = of_one_station
        self._lifetime = lifetime
        self._idle = idle
        self._linger = linger
        self._held: OrderedDict[bytes, Held] = OrderedDict()
        self._stations: dict[tuple[Hashable, str], list[Held]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def open(
        self, client: Hashable, station: str, content: Any, *, patience: float | None = None
    ) -> Held:
        """Begin one; an empty ``station`` counts for nobody.

        ``patience`` is how many seconds a person has who must find and type something.
        """
        now = self._seconds()
        while len(self._held) >= self._maximum:
            self._lose(next(iter(self._held.values())))
        if station:
            own = self._stations.setdefault((client, station), [])
            while len(own) >= self._of_one_station:
                # Emptied, the list leaves the table: it is put back below.
                self._lose(own[0])
            self._stations[client, station] = own
        state = bytes((_VERSION,)) + self.worker.to_bytes(2, "big") + os.urandom(13)
        lifetime, idle = (self._lifetime, self._idle) if patience is None else (patience,) * 2
        held = Held(state, client, station, content, now, now, lifetime, idle)
        self._held[state] = held
        if station:
            own.append(held)
        return held

    def find(self, state: bytes, client: Hashable) -> Held | None:
        """Return the login of a State, if it is this client's and not too old."""
        held = self._held.get(state)
        if held is None or held.client != client:
            return None
        now = self._seconds()
        if self._is_dead(held, now):
            self._lose(held)
            return None
        held.touched = now
        return held

    def wait(self, held: Held, seconds: float) -> None:
        """Leave the client this long for its next message, where that is longer than usual."""
        if seconds > self._idle:
            held.idle = seconds
            held.lifetime = max(held.lifetime, self._seconds() - held.begun + seconds)
        else:
            held.idle = self._idle

    def finish(self, held: Held) -> None:
        """Keep it a little longer, only to repeat its last answer."""
        held.is_over = True
        held.content = None
        held.touched = self._seconds()

    def close(self, held: Held) -> None:
        """Forget one."""
        self._held.pop(held.state, None)
        key = (held.client, held.station)
        own = self._stations.get(key)
        if own is not None and held in own:
            own.remove(held)
            if not own:
                del self._stations[key]

    def _is_dead(self, held: Held, now: float) -> bool:
        if held.is_over:
            return now - held.touched > self._linger
        return now - held.begun > held.lifetime or now - held.touched > held.idle

    def _lose(self, held: Held) -> None:
        self.close(held)
        self.on_lost(held)

    async def expire(self) -> None:
        """Give up those whose clients have fallen silent."""
        now = self._seconds()
        for held in [each for each in self._held.values() if self._is_dead(each, now)]:
            self._lose(held)
