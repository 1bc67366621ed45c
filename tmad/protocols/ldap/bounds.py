"""What one connection and one source may use up, and who counts (security 6.3)."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tmad.plugin import Meter

_REMEMBERED: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one connection may use up; times are in seconds, 0 operations a second: any."""

    message_octets: int = 262_144
    operations: int = 32
    first_seconds: float = 10.0
    message_seconds: float = 10.0
    write_seconds: float = 30.0
    anonymous_seconds: float = 5.0
    named_seconds: float = 10.0
    rate: float = 50.0
    burst: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """The counters of operations, by their kind."""

    search: Meter
    bind: Meter
    other: Meter


class Rates:
    """A token bucket for the anonymous operations of each source; this machine needs none."""

    def __init__(self, bounds: Bounds, seconds: Callable[[], float]) -> None:
        self._bounds = bounds
        self._seconds = seconds
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def is_unlimited(self, host: str) -> bool:
        """Whether nobody counts what comes from an address."""
        try:
            return not self._bounds.rate or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def admit(self, source: str) -> bool:
        """Take one token, if there is one."""
        bounds = self._bounds
        now = self._seconds()
        level, at = self._levels.pop(source, (float(bounds.burst), now))
        level = min(float(bounds.burst), level + (now - at) * bounds.rate)
        self._levels[source] = (level - 1 if level >= 1 else level, now)
        if len(self._levels) > _REMEMBERED:
            self._levels.popitem(last=False)
        return level >= 1
