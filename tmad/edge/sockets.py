"""Listening sockets: opened here, or inherited from the supervisor that opened them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import udp

from tmad.config import Address
from tmad.errors import Fault, FaultCode

INHERITED = "TMAD_SOCKETS"
_BACKLOG = 2_048
_LONGEST = 8_192  # octets of a datagram
_RECEIVE_BUFFER = 1 << 20  # octets of datagrams; the kernel may give less
# Listens on a descriptor (reactor, descriptor, family, factory), and returns the port.
Adopt = Callable[[Any, int, int, Any], Any]
# Descriptors that strangers never get: database, keys, logs, outgoing connections, and what a
# burst takes between being accepted and being cut off.
RESERVED_DESCRIPTORS = 192


def open_tcp(address: Address, *, shared: bool = False) -> socket.socket:
    """Bind and listen; ``shared`` lets several processes have the same address."""
    return _open(address, socket.SOCK_STREAM, shared)


def open_udp(address: Address, *, shared: bool = False) -> socket.socket:
    """Bind a datagram socket."""
    return _open(address, socket.SOCK_DGRAM, shared)


def _open(address: Address, kind: socket.SocketKind, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = address.host
    if not host:
        # One socket for both versions; a kernel without IPv6 gets one for IPv4.
        has_ipv6 = socket.has_ipv6 and socket.has_dualstack_ipv6()
        family, host = (socket.AF_INET6, "::") if has_ipv6 else (socket.AF_INET, "")
    opened = socket.socket(family, kind)
    try:
        opened.setblocking(False)
        if kind is socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it: an answer in two parts must not wait for an
            # acknowledgement (performance 5.2).
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            # A burst waits here instead of being lost.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address.host)))
        opened.bind((host, address.port))
        if kind is socket.SOCK_STREAM:
            opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise Fault(
            FaultCode.REJECTED,
            f"cannot listen on {address}: {error.strerror}",
            rule="edge.listen",
            values={"address": str(address)},
        ) from None
    return opened


class Port(udp.Port):
    """A datagram port that only sends to addresses that datagrams came from."""

    def write(self, datagram: bytes, addr: Any = None) -> Any:
        """Send a datagram; Twisted looks at each address first, and takes 6 µs for it."""
        try:
            return self.socket.sendto(datagram, addr)
        except OSError:
            return super().write(datagram, addr)


class Sockets:
    """The sockets of one process, by what they are for."""

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._open: dict[str, socket.socket] = {}
        for name, descriptor in json.loads(os.environ.get(INHERITED, "{}")).items():
            self._open[name] = socket.socket(fileno=descriptor)

    def open(self, kind: str, addresses: tuple[str, ...]) -> None:
        """Open what has not been inherited; Fault when an address is taken."""
        for text in addresses:
            name = f"{kind} {text}"
            if name not in self._open:
                self._open[name] = open_tcp(Address.parse(text), shared=self._shared)

    def listen(
        self,
        reactor: Any,
        kind: str,
        addresses: tuple[str, ...],
        factory: Any,
        *,
        adopt: Adopt | None = None,
    ) -> list[Any]:
        """Hand the sockets to the reactor, or to ``adopt``; return the ports."""
        ports = []
        for text in addresses:
            opened = self._open.pop(f"{kind} {text}")
            if adopt is None:
                ports.append(reactor.adoptStreamPort(opened.fileno(), opened.family, factory))
            else:
                ports.append(adopt(reactor, opened.fileno(), opened.family, factory))
            # The reactor has a duplicate.
            opened.close()
        return ports

    def datagram(self, reactor: Any, text: str, protocol: Any, *, is_own: bool = False) -> Any:
        """Open a datagram socket and hand it to the reactor; return its port.

        What is ``is_own`` no other worker shares: the answers come to whoever has asked.
        """
        opened = open_udp(Address.parse(text), shared=self._shared and not is_own)
        with contextlib.closing(opened):
            port = Port._fromListeningDescriptor(  # type: ignore[no-untyped-call]  # untyped
                reactor, opened.fileno(), opened.family, protocol, maxPacketSize=_LONGEST
            )
            port.startListening()
            return port

    def close(self) -> None:
        """Close what nobody took."""
        for opened in self._open.values():
            opened.close()
        self._open.clear()


def most_connections() -> int:
    """Return how many connections the descriptor limit leaves for strangers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(16, soft - RESERVED_DESCRIPTORS)
