"""TLS for connections of our own: OpenSSL between the socket and the channel (RFC 8446, 5246).

Twisted's TLS is a protocol around a protocol that works on any transport: two objects more, the
interfaces of the transport declared anew, a timer and a turn of the reactor for each answer. Here
the transport itself speaks TLS. OpenSSL works on memory and not on the socket, where one call
would go on as long as a peer sends what is no data (key updates): a turn ends with what one
``recv`` has brought.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet import main

from tmad.edge.tcp import READ, Connection


class Handshakes(Protocol):
    """Where the connections get their certificate and their rules from."""

    def connection(self) -> SSL.Connection:
        """Return the server's side of one handshake."""


class SecureConnection(Connection):
    """One accepted connection; what is written to it goes out encrypted."""

    _tls: SSL.Connection
    _has_said_goodbye = False
    # Without a goodbye, anybody could have cut it off here: nobody waits for an answer.
    _end = main.CONNECTION_LOST

    def __init__(
        self, accepted: socket.socket, address: Any, reactor: Any, handshakes: Handshakes
    ) -> None:
        super().__init__(accepted, address, reactor)
        self.direct = None
        self._handshakes = handshakes

    def begin(self, protocol: Any) -> None:
        """Let ``protocol`` have what has come already; join the reactor if it goes on."""
        self._tls = self._handshakes.connection()
        self._tls.set_accept_state()
        super().begin(protocol)

    def getHandle(self) -> SSL.Connection:  # type: ignore[override]  # noqa: N802  as Twisted's TLS
        """Return OpenSSL's side of the connection."""
        return self._tls

    # -- from the peer ----------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        """Go on with the handshake, or pass on what has come."""
        self._tls.bio_write(data)
        try:
            while self.connected and not self._aborting:
                self.protocol.dataReceived(self._tls.recv(READ))
        except SSL.WantReadError:
            self._pass_on()
        except SSL.ZeroReturnError:
            self._say_goodbye()
            self._close()
        except SSL.Error:
            # The peer is told why: OpenSSL has written an alert.
            self._pass_on()
            self._close()

    # -- to the peer ------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Encrypt and send; what the socket does not take waits in Twisted's buffer."""
        if self._has_said_goodbye or not self.connected or self._aborting:
            return
        try:
            sent = self._tls.send(data)  # one record of it
            while sent < len(data):
                sent += self._tls.send(memoryview(data)[sent:])
        except SSL.Error:
            self.abortConnection()  # type: ignore[no-untyped-call]  # untyped
        else:
            self._pass_on()

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        """Say goodbye, and close when the peer has done so, too.

        Whoever has opened the connection sets a limit to that: what a peer still sends is read
        meanwhile, since the kernel's reset would destroy the last answer.
        """
        if self._has_said_goodbye or not self.connected or self._aborting:
            return
        if self._say_goodbye():
            self._close()

    def _say_goodbye(self) -> bool:
        """Send close_notify; tell whether the peer has sent its own before."""
        self._has_said_goodbye = True
        try:
            is_both = self._tls.shutdown()
        except SSL.Error:
            # In the middle of the handshake there is nobody to take leave of.
            self.abortConnection()  # type: ignore[no-untyped-call]  # untyped
            return False
        self._pass_on()
        return is_both

    def _pass_on(self) -> None:
        """Send what OpenSSL has written."""
        try:
            while True:
                data = self._tls.bio_read(READ)
                self._send(data)
                if len(data) < READ:
                    return
        except SSL.WantReadError:
            return

    def _send(self, data: bytes) -> None:
        if not (self.dataBuffer or self._tempDataLen):
            try:
                sent = self.socket.send(data)
            except OSError:
                # Full, or lost, which Twisted finds out when it writes the same.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)  # type: ignore[no-untyped-call]  # untyped

    def _close(self) -> None:
        """Close as soon as everything is sent."""
        self.unregisterProducer()  # type: ignore[no-untyped-call]  # untyped
        super().loseConnection()
