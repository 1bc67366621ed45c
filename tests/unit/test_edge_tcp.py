"""Connections that are answered in the turn that accepts them (edge/tcp.py), on real sockets."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tmad.config import LimitsSection
from tmad.edge import tcp
from tmad.edge.http import Doors, Site
from tmad.edge.reactor import Reactor
from tmad.observe import Metrics
from tmad.wire.http import Request, Response

LAST = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEPT = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = 8 << 20


class Listening:
    """A site on a loopback port, and the reactor turned by hand."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        doors = Doors(Metrics(), self.reactor.seconds)
        doors.mount("test", "/x", self.answer, plain=True, hot=True, limits=_unlimited())
        doors.mount("test", "/large", self.large, plain=True, limits=_unlimited())
        self.site = Site(doors, LimitsSection(), self.reactor)
        self.peers: list[str] = []
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        listening.setblocking(False)
        self.address = listening.getsockname()
        self.port = tcp.adopt(self.reactor, listening.fileno(), listening.family, self.site)
        listening.close()

    def answer(self, request: Request) -> Response:
        self.peers.append(request.peer)
        return Response(body=b"hello")

    def large(self, request: Request) -> Response:
        return Response(body=bytes(LARGE))

    def connect(self, data: bytes = b"") -> socket.socket:
        opened = socket.create_connection(self.address)
        opened.settimeout(5)
        if data:
            opened.sendall(data)
        return opened

    def turn(self, until: Callable[[], object], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "it never became so"
            self.reactor.iterate(0.01)

    @property
    def joined(self) -> int:
        """How many connections the reactor watches."""
        return sum(isinstance(each, tcp.Connection) for each in self.reactor.getReaders())


def _unlimited() -> Any:
    from tmad.plugin import Limits

    return Limits(rate=0)


@pytest.fixture(scope="session")
def epoll() -> Any:
    reactor: Any = Reactor()
    reactor.startRunning()
    return reactor


@pytest.fixture
def listening(epoll: Any) -> Iterator[Listening]:
    listening = Listening(epoll)
    yield listening
    closed: list[object] = []
    listening.port.stopListening().addBoth(closed.append)
    listening.turn(lambda: closed)
    listening.site.stopFactory()
    listening.site.abort()
    listening.turn(lambda: not listening.site.channels)


def read_all(opened: socket.socket) -> bytes:
    data = b""
    while piece := opened.recv(65_536):
        data += piece
    return data


def test_one_question_is_answered_and_closed_without_joining_the_reactor(
    listening: Listening,
) -> None:
    with listening.connect(LAST) as opened:
        listening.turn(lambda: listening.peers)
        assert not listening.site.channels
        assert not listening.joined
        assert read_all(opened).endswith(b"hello")
    assert listening.peers == ["127.0.0.1"]


def test_a_connection_that_goes_on_joins_and_is_served_again(listening: Listening) -> None:
    with listening.connect(KEPT) as opened:
        for number in range(1, 4):
            listening.turn(lambda number=number: len(listening.peers) == number)  # type: ignore[misc]
            assert opened.recv(1000).endswith(b"hello")
            assert listening.joined == 1
            opened.sendall(KEPT)
    listening.turn(lambda: not listening.site.channels)


def test_a_silent_peer_joins_and_its_question_comes_later(listening: Listening) -> None:
    with listening.connect() as opened:
        listening.turn(lambda: listening.joined)
        opened.sendall(LAST[:10])
        listening.reactor.iterate(0.01)
        opened.sendall(LAST[10:])
        listening.turn(lambda: listening.peers)
        assert read_all(opened).endswith(b"hello")


def test_peers_that_are_gone_before_they_are_accepted_leave_nothing(listening: Listening) -> None:
    listening.connect().close()
    listening.connect(LAST).close()
    reset = listening.connect(KEPT)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    for _ in range(5):
        listening.reactor.iterate(0.01)
    listening.turn(lambda: not listening.site.channels)
    assert not listening.joined


def test_a_large_answer_to_a_slow_reader_arrives_whole(listening: Listening) -> None:
    with listening.connect(
        b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ) as opened:
        opened.setblocking(False)
        data = b""

        def read() -> bool:
            nonlocal data
            try:
                piece = opened.recv(100_000)
            except BlockingIOError:
                return False
            data += piece
            return not piece

        listening.turn(read, 20)
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"200" in head
        assert len(body) == LARGE
    listening.turn(lambda: not listening.site.channels)


def test_a_peer_that_closes_its_side_still_gets_its_answer(listening: Listening) -> None:
    with listening.connect(KEPT) as opened:
        opened.shutdown(socket.SHUT_WR)
        listening.turn(lambda: listening.peers)
        listening.turn(lambda: not listening.site.channels)
        assert read_all(opened).endswith(b"hello")


def test_many_at_once_are_all_served(listening: Listening) -> None:
    opened = [listening.connect(LAST) for _ in range(200)]
    listening.turn(lambda: len(listening.peers) == 200)
    assert all(read_all(each).endswith(b"hello") for each in opened)
    assert not listening.joined
    for each in opened:
        each.close()


def test_an_event_that_fails_is_logged_and_the_reactor_goes_on(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.logger import globalLogPublisher

    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(listening.site, "buildProtocol", lambda address: 1 / 0)
            refused = listening.connect(LAST)
            listening.turn(lambda: any("ZeroDivision" in str(e.get("log_failure")) for e in seen))
        refused.close()
        with listening.connect(LAST) as opened:
            listening.turn(lambda: listening.peers)
            assert read_all(opened).endswith(b"hello")
    finally:
        globalLogPublisher.removeObserver(seen.append)


REFUSED = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"


def test_a_refused_peer_that_hangs_up_at_once_leaves_nothing_in_the_reactor(
    listening: Listening,
) -> None:
    # A stale entry is met by the next connection with that descriptor, and took the port along.
    with listening.connect() as opened:
        listening.turn(lambda: listening.joined == 1)
        # Question and hang-up come in one turn, before the reactor may write.
        opened.sendall(REFUSED)
        time.sleep(0.05)
        [connection] = [e for e in listening.reactor.getReaders() if isinstance(e, tcp.Connection)]
        assert connection.doRead() is None
        opened.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        listening.turn(lambda: not listening.site.channels)
    watched = [*listening.reactor.getReaders(), *listening.reactor.getWriters()]
    assert not [each for each in watched if isinstance(each, tcp.Connection)]
    with listening.connect(LAST) as opened:
        listening.turn(lambda: listening.peers)
        assert read_all(opened).endswith(b"hello")


def test_a_connection_that_fails_as_it_ends_does_not_take_the_port_along(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("as when the reactor's books are wrong")

    calls: list[object] = []

    def begin(*arguments: object) -> None:
        calls.append(arguments)
        broken()

    with monkeypatch.context() as patch:
        patch.setattr(tcp.Connection, "begin", begin)
        patch.setattr(tcp.Connection, "connectionLost", broken)
        with listening.connect(LAST):
            listening.turn(lambda: calls)
            listening.reactor.iterate(0.01)
    with listening.connect(LAST) as opened:
        listening.turn(lambda: listening.peers)
        assert read_all(opened).endswith(b"hello")
