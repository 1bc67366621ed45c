"""Ways to a collector: UDP (RFC 5426), TCP (RFC 6587), TLS (RFC 5425), journald, standard output.

None of them is told whether a message has arrived. What can be known is that the other side's
kernel has acknowledged the octets (``pending``), and that a connection has been lost; the courier
draws its conclusions from both (tmad/protocols/syslog/collector.py).
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any, Final, Protocol

from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import MessageLengthError
from twisted.internet.protocol import DatagramProtocol, Factory, connectionDone
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from tmad.errors import Fault, FaultCode
from tmad.protocols.syslog.framing import Framing, frame

CONNECT_SECONDS: Final = 10.0
_USER_TIMEOUT: Final = 30_000  # milliseconds until octets that nobody acknowledges end it (Y-09)
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_FULL: Final = 65_536  # octets on their way inside this process
_POLL_SECONDS: Final = 0.02
_INTEGER: Final = struct.Struct("i")

Lost = Callable[[str], None]


class Link(Protocol):
    """An open way to one collector."""

    peer: str  # where it leads, for people

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be sent for now."""

    def pending(self) -> int:
        """Return how many octets are known not to have arrived at the other machine."""

    def send(self, message: bytes) -> None:
        """Send one message."""

    def close(self) -> None:
        """End it; what was sent still leaves, and ``lost`` is not called."""


def failure_text(failure: Failure) -> str:
    """Return in words why a way is closed, without anything that the other side wrote."""
    error = failure.value
    if isinstance(error, SSL.Error):
        # OpenSSL's list of (library, function, reason).
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else ()
        return str(reasons[0][-1]) if reasons else "the TLS connection broke"
    name = type(error).__name__
    return {
        "ConnectionDone": "the collector closed the connection",
        "VerificationError": "its certificate is for another name",
    }.get(name, f"{name}: {failure.getErrorMessage()}"[:300])


def unreachable(why: str) -> Fault:
    """Return the fault of a way that cannot be opened."""
    return Fault(
        FaultCode.UNAVAILABLE,
        f"the log collector cannot be reached: {why}",
        rule="syslog.unreachable",
        values={"failure": why},
    )


# -- TCP and TLS ------------------------------------------------------------------------------


@implementer(interfaces.IPushProducer, interfaces.IHandshakeListener)
class StreamLink(Connection):
    """One connection; messages framed one behind the other."""

    def __init__(
        self, framing: Framing, lost: Lost, *, is_tls: bool, fingerprint: str = ""
    ) -> None:
        self.peer = ""
        self.opened: Deferred[StreamLink] = Deferred(lambda _: self.abort())
        self._framing = framing
        self._lost = lost
        self._is_tls = is_tls
        self._fingerprint = fingerprint
        self._is_paused = False
        self._is_closing = False
        self._why = ""

    @property
    def is_full(self) -> bool:
        """Whether the transport has as much as it should hold."""
        return self._is_paused

    def send(self, message: bytes) -> None:
        """Write a frame."""
        self._transport.write(frame(message, self._framing))

    def pending(self) -> int:
        """Return the octets that the other side's kernel has not acknowledged."""
        raw = self._raw
        waiting: int = len(raw.dataBuffer) - raw.offset + raw._tempDataLen
        if not raw.connected or raw.disconnected:
            return max(1, waiting)
        unsent = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4))
        unacknowledged: int = _INTEGER.unpack(unsent)[0]
        return waiting + unacknowledged

    def close(self) -> None:
        """Close politely."""
        self._is_closing = True
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        self._is_closing = True
        if self.transport is not None:
            self._transport.abortConnection()

    # -- Twisted's side -----------------------------------------------------------------------

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        raw = self._raw
        raw.setTcpNoDelay(True)
        raw.setTcpKeepAlive(True)
        handle = raw.getHandle()
        for option, seconds in _KEEPALIVE:
            handle.setsockopt(socket.IPPROTO_TCP, option, seconds)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
        peer = self._transport.getPeer()
        self.peer = f"[{peer.host}]:{peer.port}" if ":" in peer.host else f"{peer.host}:{peer.port}"
        if not self._is_tls:
            self._open()

    def handshakeCompleted(self) -> None:  # noqa: N802  Twisted's name
        if self._fingerprint:
            shown = self._transport.getPeerCertificate()
            digest = shown.digest("sha256").decode().replace(":", "").lower()
            if digest != self._fingerprint:
                self._why = f"its certificate has another fingerprint: {digest}"
                self._transport.abortConnection()
                return
        self._open()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        # A collector has nothing to say; whatever it says is neither kept nor read.
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        why = self._why or failure_text(reason)
        if not self.opened.called:
            self.opened.errback(unreachable(why))
        elif not self._is_closing:
            self._lost(why)

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        self._is_paused = True

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        self._is_paused = False

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        self._is_paused = True

    def _open(self) -> None:
        if not self.opened.called:
            self._transport.registerProducer(self, True)
            self.opened.callback(self)

    @property
    def _transport(self) -> Any:
        return self.transport

    @property
    def _raw(self) -> Any:
        """The TCP transport, below TLS if there is TLS."""
        return self._transport.transport if self._is_tls else self._transport


async def open_stream(
    reactor: Any,
    host: str,
    port: int,
    *,
    framing: Framing,
    lost: Lost,
    tls: Any = None,
    fingerprint: str = "",
) -> StreamLink:
    """Connect; Fault(UNAVAILABLE) says why not. ``tls`` makes the connection objects."""
    link = StreamLink(framing, lost, is_tls=tls is not None, fingerprint=fingerprint)
    factory: Any = Factory()
    factory.buildProtocol = lambda _: link
    factory.noisy = False
    endpoint: Any = HostnameEndpoint(reactor, host, port, timeout=CONNECT_SECONDS)
    if tls is not None:
        endpoint = wrapClientTLS(tls, endpoint)
    try:
        await endpoint.connect(factory)
    except Exception as error:
        raise unreachable(failure_text(Failure(error))) from None  # type: ignore[no-untyped-call]  # untyped
    # The handshake needs its own patience: a silent peer has accepted the connection.
    return await link.opened.addTimeout(CONNECT_SECONDS, reactor, _out_of_time)


def _out_of_time(result: Any, seconds: float) -> Any:
    raise unreachable(f"no TLS handshake within {seconds:.0f} s")


# -- UDP --------------------------------------------------------------------------------------


class DatagramLink(DatagramProtocol):
    """One message a datagram; a port that nobody listens on is told by ICMP, if at all."""

    noisy = False

    def __init__(self, host: str, port: int, lost: Lost) -> None:
        self.peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._address = (host, port)
        self._lost = lost
        self._is_closing = False

    @property
    def is_full(self) -> bool:
        """Datagrams are sent or lost, never kept."""
        return False

    def pending(self) -> int:
        """Return nothing: nobody acknowledges datagrams."""
        return 0

    def send(self, message: bytes) -> None:
        """Send a datagram."""
        try:
            self._transport.write(message)
        except MessageLengthError:
            self._end("a message is longer than a datagram may be here: lower its limit")
        except OSError as error:
            self._end(str(error.strerror))

    def close(self) -> None:
        """Give the socket back."""
        self._is_closing = True
        if self.transport is not None:
            self._transport.stopListening()

    def startProtocol(self) -> None:  # noqa: N802  Twisted's name
        # Connected, so that the kernel tells us what ICMP says.
        self._transport.connect(*self._address)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802
        # Collectors do not answer.
        pass

    def connectionRefused(self) -> None:  # noqa: N802  Twisted's name
        self._end("nobody listens on its port")

    def _end(self, why: str) -> None:
        if not self._is_closing:
            self.close()
            self._lost(why)

    @property
    def _transport(self) -> Any:
        return self.transport


async def open_datagrams(reactor: Any, host: str, port: int, *, lost: Lost) -> DatagramLink:
    """Resolve a name and take a socket; Fault(UNAVAILABLE) says why not."""
    try:
        found = await deferToThread(
            socket.getaddrinfo, host, port, type=socket.SOCK_DGRAM, flags=socket.AI_ADDRCONFIG
        )
    except OSError as error:
        raise unreachable(f"{host}: {error.strerror}") from None
    address = found[0][4]
    link = DatagramLink(str(address[0]), int(address[1]), lost)
    reactor.listenUDP(0, link, interface="::" if ":" in link.peer.rpartition(":")[0] else "")
    return link


# -- this machine -----------------------------------------------------------------------------


class JournaldLink:
    """journald's native protocol: one datagram of fields on its socket.

    See systemd's page "Native Journal Protocol". A message is the octets of all fields.
    """

    def __init__(self, path: str, lost: Lost) -> None:
        self.peer = path
        self._lost = lost
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._is_full = False
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise unreachable(f"{path}: {error.strerror}") from None

    @property
    def is_full(self) -> bool:
        """Whether its queue was full at the last message."""
        was_full, self._is_full = self._is_full, False
        return was_full

    def pending(self) -> int:
        """Return nothing: what the kernel took is in journald's queue."""
        return 0

    def send(self, message: bytes) -> None:
        """Send the fields of one message."""
        try:
            self._socket.send(message)
        except BlockingIOError:
            self._is_full = True
            self._end("its queue is full")
        except OSError as error:
            self._end(str(error.strerror))

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _end(self, why: str) -> None:
        if self._socket.fileno() >= 0:
            self._socket.close()
            self._lost(why)


class OutputLink:
    """Lines on a descriptor; who does not read it stops nobody else."""

    def __init__(self, reactor: Any, descriptor: int, lost: Lost) -> None:
        self.peer = "standard output"
        self._reactor = reactor
        self._descriptor = descriptor
        self._lost = lost
        self._waiting = bytearray()
        self._again: Any = None
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    @property
    def is_full(self) -> bool:
        """Whether enough waits."""
        return len(self._waiting) > _FULL

    def pending(self) -> int:
        """Return the octets that have not been written."""
        return len(self._waiting)

    def send(self, message: bytes) -> None:
        """Write a line, soon."""
        self._waiting += message + b"\n"
        if self._again is None:
            self._write()

    def close(self) -> None:
        """Write nothing more; the descriptor is not ours to close."""
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._waiting.clear()

    def _write(self) -> None:
        self._again = None
        try:
            # So much never blocks on a pipe that can be written to (pipe(7)).
            while self._waiting and self._poll.poll(0):
                written = os.write(self._descriptor, self._waiting[: select.PIPE_BUF])
                del self._waiting[:written]
        except OSError as error:
            self.close()
            self._lost(str(error.strerror))
            return
        if self._waiting:
            self._again = self._reactor.callLater(_POLL_SECONDS, self._write)
