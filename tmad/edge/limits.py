"""What one source may use up: connections and requests a second (security 6.3)."""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from tmad.plugin import Limits

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

# Sources that are remembered for each door; the one that was quiet longest is forgotten first.
_REMEMBERED = 65_536


@functools.lru_cache(maxsize=16_384)
def source_of(host: str) -> str:
    """Return what counts as one source: an IPv4 address or an IPv6 /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        # One customer gets a whole /64; its addresses cost nothing.
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    return str(address)


class Exempt:
    """The networks that no limit holds for."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: Networks = tuple(ipaddress.ip_network(text) for text in networks)
        # One cache for each instance: a reload brings a new one.
        self.covers = functools.lru_cache(maxsize=16_384)(self._covers)

    def _covers(self, source: str) -> bool:
        try:
            address = ipaddress.ip_address(source)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class Buckets:
    """A token bucket for each source of one door."""

    def __init__(self, limits: Limits, seconds: Callable[[], float]) -> None:
        self._rate = limits.rate
        self._burst = float(limits.burst)
        self._seconds = seconds
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, source: str, scale: float) -> float:
        """Take one token; return 0, or after how many seconds there will be one."""
        rate = self._rate * scale
        if rate <= 0:
            return 0.0
        now = self._seconds()
        level, at = self._levels.pop(source, (self._burst, now))
        level = min(self._burst, level + (now - at) * rate)
        granted = level >= 1.0
        self._levels[source] = (level - 1.0 if granted else level, now)
        if len(self._levels) > _REMEMBERED:
            self._levels.popitem(last=False)
        return 0.0 if granted else (1.0 - level) / rate


class Connections:
    """Counts open connections, in all and from each source.

    ``waiting`` holds those between two requests, or before their first, longest wait first.
    """

    def __init__(self) -> None:
        self.total = 0
        self.waiting: dict[Any, None] = {}
        self._of: Counter[str] = Counter()

    def count(self, source: str) -> int:
        """Return how many are open from one source."""
        return self._of[source]

    def opened(self, source: str) -> None:
        """Count one more."""
        self.total += 1
        self._of[source] += 1

    def closed(self, source: str) -> None:
        """Count one less."""
        self.total -= 1
        self._of[source] -= 1
        if not self._of[source]:
            del self._of[source]
