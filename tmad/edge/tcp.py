"""Plain TCP for doors that strangers open for one question: accepted, answered, closed.

Twisted's own port and connection cost 55 µs for each connection, most of it for joining and
leaving the reactor, for closing in a later turn, and for addresses that nobody reads. Here a
connection is read in the turn that accepts it; only one that has to wait joins the reactor.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import main, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger()

# So many connections in one turn, then others are served.
_IN_A_TURN = 32
READ = 32_768
# Stands where a protocol belongs until there is one.
_NOBODY: Any = Protocol()


class Connection(tcp.Connection):
    """One accepted connection; ``host`` is its peer's address.

    Into ``direct`` its protocol may write as long as nothing waits in Twisted's buffer; there is
    none where octets have to be encrypted first.
    """

    connected = 1
    reactor: Any
    direct: socket.socket | None
    _end: Exception = main.CONNECTION_DONE  # why it is over when the peer closes

    def __init__(self, accepted: socket.socket, address: Any, reactor: Any) -> None:
        # What the constructors of Twisted's three classes do, in one call.
        self.reactor = reactor
        self.socket = accepted
        self.fileno = accepted.fileno
        self.protocol = _NOBODY
        self._tempDataBuffer = []
        self._tempDataLen = 0
        accepted.setblocking(False)
        self.direct = accepted
        self._address = address
        self._has_joined = False
        self._is_paused = False
        self.host: str = address[0]

    def begin(self, protocol: Any) -> None:
        """Let ``protocol`` have what has come already; join the reactor if it goes on."""
        self.protocol = protocol
        protocol.makeConnection(self)
        if not self.connected or self._aborting:
            return
        why = self.doRead()
        self._has_joined = True
        if why is not None:
            self.reactor.callLater(0, self.reactor._disconnectSelectable, self, why, True)
        elif not self._is_paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """Read no more for now."""
        self._is_paused = True
        if self._has_joined:
            super().pauseProducing()  # type: ignore[no-untyped-call]  # untyped

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """Read again, or begin to."""
        self._is_paused = False
        if self._has_joined:
            super().resumeProducing()  # type: ignore[no-untyped-call]  # untyped

    def doRead(self) -> Any:  # noqa: N802  Twisted's name
        """Pass on what has come."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return self._end
        self._received(data)
        return None

    def _received(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Close: at once when everything is written, which it nearly always is."""
        if self.dataBuffer or self._tempDataLen or self.producer is not None:
            super().loseConnection()  # type: ignore[no-untyped-call]  # untyped
        elif self.connected and not self._aborting:
            if self._has_joined:
                self.stopReading()  # type: ignore[no-untyped-call]  # untyped
            if self._writeDisconnecting:
                # Closing our side waits in the reactor until we may write: a descriptor that is
                # still there is the next connection's, and fails it.
                self.stopWriting()  # type: ignore[no-untyped-call]  # untyped
            # No shutdown before the close: nobody else has this socket.
            self.connected, self.disconnected = 0, 1
            self.socket.close()
            protocol = self.protocol
            del self.protocol, self.socket, self.fileno
            protocol.connectionLost(connectionDone)

    def getPeer(self) -> IPv4Address | IPv6Address:  # noqa: N802  Twisted's name
        """Return the peer's address."""
        kind = IPv6Address if self.socket.family == socket.AF_INET6 else IPv4Address
        return kind("TCP", *self._address)

    def getHost(self) -> IPv4Address | IPv6Address:  # noqa: N802  Twisted's name
        """Return our own address."""
        kind = IPv6Address if self.socket.family == socket.AF_INET6 else IPv4Address
        return kind("TCP", *self.socket.getsockname())

    def logPrefix(self) -> str:  # noqa: N802  Twisted's name
        """Return what Twisted's log calls this connection."""
        return "tcp"


# A socket, its peer's address and the reactor.
Accepted = Callable[[socket.socket, Any, Any], Connection]


class Port(tcp.Port):
    """Listens, and begins each connection in the turn that accepts it."""

    connect: Accepted = Connection

    def doRead(self) -> None:  # noqa: N802  Twisted's name
        """Accept what waits."""
        factory: Any = self.factory
        accept, build, reactor = self.socket.accept, factory.buildProtocol, self.reactor
        connect = self.connect
        # First all are accepted, then all are served: the others' requests arrive meanwhile.
        waiting: list[Connection] = []
        for _ in range(_IN_A_TURN):
            try:
                accepted, address = accept()
            except BlockingIOError:
                break
            except OSError:
                # Out of descriptors, or the peer has gone: Twisted knows what to do.
                super().doRead()  # type: ignore[no-untyped-call]  # untyped
                break
            waiting.append(connect(accepted, address, reactor))
        for connection in waiting:
            try:
                connection.begin(build(None))
            except Exception as error:
                # As the reactor does with what has joined it; the others are served.
                failure = Failure(error)  # type: ignore[no-untyped-call]  # untyped
                log.failure("a connection failed as it began", failure)
                try:
                    connection.connectionLost(failure)
                except Exception:
                    # What leaves this method makes the reactor close the port.
                    log.failure("a connection failed as it ended")
                    with contextlib.suppress(AttributeError):  # it is closed, then
                        connection.socket.close()


def adopt(
    reactor: Any, descriptor: int, family: int, factory: Any, connect: Accepted = Connection
) -> Port:
    """Listen on a socket that is bound and listening already, as IReactorSocket does.

    ``connect`` makes a connection of what has been accepted.
    """
    port: Port = Port._fromListeningDescriptor(  # type: ignore[no-untyped-call]  # untyped
        reactor, descriptor, family, factory
    )
    port.connect = connect
    port.startListening()
    return port
