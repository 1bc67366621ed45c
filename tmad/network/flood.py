"""Refusals that repeat: each client of the network may fill only so much of the journal."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tmad.events import Clock

_STATIONS: Final = 10_000
_BURST: Final = 20.0  # refusals of one station that are journaled at once
_RATE: Final = 0.2  # and then so many a second
_ALL_BURST: Final = 500.0
_ALL_RATE: Final = 50.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: datetime
    explain_id: str = ""
    left_out: int = 0

    def take(self, now: datetime, rate: float, burst: float) -> bool:
        passed = max(0.0, (now - self.at).total_seconds())
        self.tokens, self.at = min(burst, self.tokens + passed * rate), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Flood:
    """Counts refusals by station; what is too much shares the last explain id."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._stations: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()
        self._all = _Bucket(_ALL_BURST, now())

    def admit(self, key: tuple[str, ...]) -> int | None:
        """Return how many were left out since the last one, or None for one to leave out."""
        now = self._now()
        bucket = self._stations.get(key)
        if bucket is None:
            bucket = self._stations[key] = _Bucket(_BURST, now)
            if len(self._stations) > _STATIONS:
                self._stations.popitem(last=False)
        self._stations.move_to_end(key)
        if not (bucket.take(now, _RATE, _BURST) and self._all.take(now, _ALL_RATE, _ALL_BURST)):
            bucket.left_out += 1
            return None
        left_out, bucket.left_out = bucket.left_out, 0
        return left_out

    def note(self, key: tuple[str, ...], explain_id: str) -> None:
        """Remember the id of the refusal that was journaled last."""
        if key in self._stations:
            self._stations[key].explain_id = explain_id

    def last(self, key: tuple[str, ...]) -> str:
        """Return that id, or an empty text."""
        return self._stations[key].explain_id if key in self._stations else ""
