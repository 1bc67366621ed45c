"""What one protocol gets as its Edge: doors, streams, datagrams and timers in its own name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IListeningPort

from tmad.config import LimitsSection
from tmad.edge.datagram import Metered
from tmad.edge.http import Doors
from tmad.edge.limits import Connections
from tmad.edge.relay import Answer, Relay
from tmad.edge.sockets import Sockets
from tmad.edge.stream import Stream
from tmad.edge.timers import Timers
from tmad.observe import DoorMeter
from tmad.plugin import HTTPHandler, Limits, Provision

_DEFAULT_LIMITS = Limits()


class Listeners:
    """Everything of this process that listens, besides HTTP; it is number ``index``."""

    def __init__(
        self,
        reactor: Any,
        sockets: Sockets,
        limits: LimitsSection,
        connections: Connections,
        *,
        directory: Path,
        index: int = 0,
        count: int = 1,
    ) -> None:
        self.directory = directory
        self.index = index
        self.count = count
        self.reactor = reactor
        self.sockets = sockets
        self.limits = limits
        self.connections = connections
        self.waiting: list[Callable[[], IListeningPort]] = []
        # What protocols offer each other, by name.
        self.provisions: dict[str, Provision] = {}
        # What /readyz says of a database that can be read, and of one that can be changed.
        self.reading: list[str] = []
        self.changing: list[str] = []

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

    @property
    def reactor(self) -> Any:
        """The reactor, for timers and for what goes out."""
        return self._listeners.reactor

    @property
    def worker(self) -> int:
        """Which of the node's workers this is."""
        return self._listeners.index

    @property
    def workers(self) -> int:
        """How many workers the node has."""
        return self._listeners.count

    def meter(self, door: str) -> DoorMeter:
        """Return the counters of a door."""
        return self._doors.meter(self._name, door)

    def relay(self, name: str, answer: Answer) -> Relay:
        """Reach the other workers of this node."""
        own = self._listeners
        found = Relay(
            f"{self._name}-{name}",
            answer,
            own.directory,
            own.reactor,
            index=own.index,
            count=own.count,
        )
        if own.count > 1:
            own.waiting.append(found.open)
        return found

    def http(
        self,
        prefix: str,
        handler: HTTPHandler,
        *,
        plain: bool = False,
        hot: bool = False,
        limits: Limits = _DEFAULT_LIMITS,
        judges: bool = False,
        private: bool = False,
        methods: tuple[str, ...] = ("GET", "HEAD", "POST"),
    ) -> None:
        """Serve every path below ``prefix``."""
        self._doors.mount(
            self._name,
            prefix,
            handler,
            plain=plain,
            hot=hot,
            limits=limits,
            judges=judges,
            private=private,
            methods=methods,
        )

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        name: str,
        lease: bool = False,
    ) -> Callable[[], None]:
        """Call ``function`` again and again."""
        return self._timers.every(seconds, function, name=f"{self._name}.{name}", lease=lease)

    def provide(self, name: str, provision: Provision) -> None:
        """Offer other protocols what they may not import."""
        self._listeners.provisions[name] = provision

    def provided(self, name: str) -> Provision | None:
        """Return what another protocol offers."""
        return self._listeners.provisions.get(name)

    def works(self, *, reading: str = "", changing: str = "") -> None:
        """Name what goes on while the database can be read, and what while it takes changes."""
        own = self._listeners
        own.reading += [reading] if reading else []
        own.changing += [changing] if changing else []

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

    def outgoing(self, address: str, protocol: Any) -> None:
        """Open a UDP socket that asks and gets the answers."""
        own = self._listeners
        own.waiting.append(
            lambda: own.sockets.datagram(own.reactor, address, protocol, is_own=True)
        )
