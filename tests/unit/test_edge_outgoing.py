"""Sockets that ask: one of each process's own, even where workers share the doors."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.selectreactor import SelectReactor

from tmad.config import LimitsSection
from tmad.edge.limits import Connections
from tmad.edge.mounting import Listeners, ProtocolEdge
from tmad.edge.sockets import Sockets
from tmad.errors import Fault


class Asker(DatagramProtocol):
    """Keeps what comes back."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, Any]] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.answers.append((datagram, addr))


@contextlib.contextmanager
def opened(
    address: str, protocol: DatagramProtocol, *, shared: bool = False
) -> Iterator[tuple[Any, Any]]:
    reactor: Any = SelectReactor()
    reactor.startRunning()
    listeners = Listeners(
        reactor, Sockets(shared=shared), LimitsSection(), Connections(), directory=Path()
    )
    edge = ProtocolEdge("radius", None, None, listeners)  # type: ignore[arg-type]  # not used here
    edge.outgoing(address, protocol)
    assert protocol.transport is None  # not before everything that may answer is there
    [port] = listeners.open()
    yield reactor, port
    port.stopListening()
    reactor.iterate(0)


def test_an_answer_comes_back_to_who_asked() -> None:
    asker = Asker()
    with (
        opened("127.0.0.1:0", asker, shared=True) as (reactor, _),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        assert asker.transport is not None
        asker.transport.write(b"question", peer.getsockname())
        question, source = peer.recvfrom(100)
        assert question == b"question"
        peer.sendto(b"answer", source)
        for _ in range(50):
            reactor.iterate(0.05)
            if asker.answers:
                break
        assert asker.answers == [(b"answer", peer.getsockname())]


def test_no_other_process_can_have_the_same_port() -> None:
    with (
        opened("127.0.0.1:0", Asker(), shared=True) as (_, port),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port.getHost().port))


def test_a_port_that_is_taken_is_a_fault() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Fault) as raised, opened(taken, Asker()):
            pass
    assert raised.value.rule == "edge.listen"
