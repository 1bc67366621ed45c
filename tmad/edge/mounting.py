"""What one protocol gets as its Edge: doors, streams, datagrams and timers in its own name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.interfaces import IListeningPort

from tmad.config import LimitsSection
from tmad.edge.datagram import Metered
from tmad.edge.http import Doors
from tmad.edge.limits import Connections
from tmad.edge.sockets import Sockets
from tmad.edge.stream import Stream
from tmad.edge.timers import Timers
from tmad.plugin import HTTPHandler, Limits

_DEFAULT_LIMITS = Limits()


class Listeners:
    """Everything of this process that listens, besides HTTP."""

    def __init__(
        self, reactor: Any, sockets: Sockets, limits: LimitsSection, connections: Connections
    ) -> None:
        self.reactor = reactor
        self.sockets = sockets
        self.limits = limits
        self.connections = connections
        self.waiting: list[Callable[[], IListeningPort]] = []

    def open(self) -> list[IListeningPort]:
        """Begin to listen, once everything that may answer is there."""
        ports = [begin() for begin in self.waiting]
        self.waiting.clear()
        return ports


class ProtocolEdge:
    """The edge as the protocol ``name`` sees it."""

    def __init__(self, name: str, doors: Doors, timers: Timers, listeners: Listeners) -> None:
        self._name = name
        self._doors = doors
        self._timers = timers
        self._listeners = listeners

    def http(
        self,
        prefix: str,
        handler: HTTPHandler,
        *,
        plain: bool = False,
        hot: bool = False,
        limits: Limits = _DEFAULT_LIMITS,
        methods: tuple[str, ...] = ("GET", "HEAD", "POST"),
    ) -> None:
        """Serve every path below ``prefix``."""
        self._doors.mount(
            self._name, prefix, handler, plain=plain, hot=hot, limits=limits, methods=methods
        )

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        name: str,
        lease: bool = False,
    ) -> None:
        """Call ``function`` again and again."""
        self._timers.every(seconds, function, name=f"{self._name}.{name}", lease=lease)

    def stream(self, name: str, address: str, factory: Any) -> None:
        """Listen on a TCP address with a Twisted protocol factory."""
        own = self._listeners
        kind = f"{self._name}.{name}"
        own.sockets.open(kind, (address,))
        bounded = Stream(factory, own.limits, own.reactor, own.connections)
        own.waiting.append(lambda: own.sockets.listen(own.reactor, kind, (address,), bounded)[0])

    def datagram(
        self, name: str, address: str, protocol: Any, limits: Limits = _DEFAULT_LIMITS
    ) -> None:
        """Listen on a UDP address with a Twisted DatagramProtocol."""
        own = self._listeners
        metered = Metered(protocol, limits, own.limits, own.reactor)
        own.waiting.append(lambda: own.sockets.datagram(own.reactor, address, metered))
