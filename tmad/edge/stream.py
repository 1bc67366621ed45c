"""TCP doors other than HTTP: a protocol's own factory behind the edge's limits."""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

from tmad.config import LimitsSection
from tmad.edge.limits import Connections, Exempt, source_of


class Bounded(ProtocolWrapper):
    """One connection: counted, ended when it is silent or does not read."""

    source = ""

    def makeConnection(self, transport: Any) -> None:  # noqa: N802  Twisted's name
        super().makeConnection(transport)  # type: ignore[no-untyped-call]  # untyped
        self._wait()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._wait()
        super().dataReceived(data)  # type: ignore[no-untyped-call]  # untyped

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes; the rest waits in the transport.

        Twisted's own way leaves it all to the next turn of the reactor, at the price of two
        calls of epoll_ctl and one more turn for each answer (20 of 130 µs for an LDAP search).
        """
        transport: Any = self.transport
        # A transport that is closing, or has something waiting, knows better.
        if (
            type(transport) is tcp.Server
            and transport.connected
            and not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting)
        ):
            sent = transport.writeSomeData(data)
            # Not a number: the connection is lost, which the transport finds out for itself.
            if type(sent) is int:
                if sent == len(data):
                    return
                data = data[sent:]
        transport.write(data)

    def _wait(self) -> None:
        factory: Stream = self.factory
        self.deadline = factory.reactor.seconds() + factory.idle_seconds

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self.factory.closed(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]  # untyped


class Stream(WrappingFactory[Bounded]):
    """Wraps a protocol factory: limits on connections, and an end for silent ones."""

    noisy = False
    protocol = Bounded

    def __init__(
        self,
        factory: Any,
        limits: LimitsSection,
        reactor: Any,
        connections: Connections,
        *,
        idle_seconds: float = 300.0,
    ) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]  # untyped
        self.reactor = reactor
        self.idle_seconds = idle_seconds
        self._limits = limits
        self._exempt = Exempt(limits.exempt)
        self._connections = connections
        self._open: set[Bounded] = set()
        self._sweeping: Any = None

    def startFactory(self) -> None:  # noqa: N802  Twisted's name
        super().startFactory()  # type: ignore[no-untyped-call]  # untyped
        self._sweep()

    def stopFactory(self) -> None:  # noqa: N802  Twisted's name
        super().stopFactory()  # type: ignore[no-untyped-call]  # untyped
        if self._sweeping.active():
            self._sweeping.cancel()

    def buildProtocol(self, addr: IAddress | None) -> Bounded | None:  # type: ignore[override]  # noqa: N802  Factory's allows None
        source = source_of(getattr(addr, "host", ""))
        limit = self._limits.connections_per_source
        is_full = self._connections.total >= self._limits.connections
        is_greedy = self._connections.count(source) >= limit and not self._exempt.covers(source)
        if is_full or is_greedy:
            return None
        inner = self.wrappedFactory.buildProtocol(addr)
        if inner is None:
            return None
        channel = Bounded(self, inner)
        channel.source = source
        self._connections.opened(source)
        self._open.add(channel)
        return channel

    def closed(self, channel: Bounded) -> None:
        """Forget a connection."""
        if channel in self._open:
            self._open.discard(channel)
            self._connections.closed(channel.source)

    def _sweep(self) -> None:
        now = self.reactor.seconds()
        for channel in [each for each in self._open if each.deadline <= now]:
            channel.abortConnection()
        self._sweeping = self.reactor.callLater(1.0, self._sweep)
