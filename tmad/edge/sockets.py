"""Listening sockets: made here, so that several processes can share an address."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from tmad.config import Address
from tmad.errors import Fault, FaultCode

_BACKLOG = 1_024


def listen(reactor: Any, address: Address, factory: Factory, *, shared: bool) -> IListeningPort:
    """Listen on a TCP address; ``shared`` lets other processes of ours listen there too.

    Raise Fault(UNAVAILABLE) that names the address when it cannot be had.
    """
    made = _bound(address, socket.SOCK_STREAM, shared)
    try:
        made.listen(_BACKLOG)
        # The reactor duplicates the descriptor; ours is closed.
        port: IListeningPort = reactor.adoptStreamPort(made.fileno(), made.family, factory)
        return port
    finally:
        made.close()


def _bound(address: Address, kind: socket.SocketKind, shared: bool) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=kind)[0]
        made = socket.socket(family, kind)
        try:
            made.setblocking(False)
            if kind is socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(where)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise Fault(
            FaultCode.UNAVAILABLE,
            f"cannot listen on {address}: {error.strerror}",
            rule="listen.address",
            values={"address": str(address)},
        ) from error
    return made
