"""HTTPS connections that speak TLS themselves (edge/secure.py), on real sockets."""

from __future__ import annotations

import contextlib
import datetime
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from tests.unit.test_edge_tcp import KEPT, LARGE, LAST, Listening
from tmad.ca.service_tls import ask_for_certificate
from tmad.edge import tcp
from tmad.edge.reactor import Reactor
from tmad.edge.secure import SecureConnection
from tmad.plugin import Limits
from tmad.wire.http import Request, Response

CLOSED = object()  # what a peer reads that has been told goodbye
CUT = object()  # what one reads whose connection ends without


class Pair:
    """A key and its certificate."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )

    def use(self, context: SSL.Context) -> None:
        context.use_certificate(self.certificate)
        context.use_privatekey(self.key)


SERVER, DEVICE = Pair("server"), Pair("device")


class Handshakes:
    """Makes the server's side of handshakes, all with one context."""

    def __init__(self) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.set_options(SSL.OP_NO_RENEGOTIATION)
        SERVER.use(self.context)
        ask_for_certificate(self.context)
        self.context.set_session_id(b"test")

    def connection(self) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class SecureListening(Listening):
    """A site behind TLS on a loopback port."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.requests: list[Request] = []
        self.waiting: list[Deferred[Response]] = []
        doors = self.site.doors
        doors.mount("test", "/later", self.later, limits=Limits(rate=0))
        doors.mount("test", "/who", self.who, judges=True, limits=Limits(rate=0))
        self.site.secure = True
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        listening.setblocking(False)
        self.address = listening.getsockname()
        self.plain, self.port = (
            self.port,
            tcp.adopt(
                reactor,
                listening.fileno(),
                listening.family,
                self.site,
                partial(SecureConnection, handshakes=Handshakes()),
            ),
        )
        listening.close()

    def later(self, request: Request) -> Deferred[Response]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def who(self, request: Request) -> Response:
        assert request.tls is not None
        return Response(body=b"".join(request.tls.certificates))


class Peer:
    """A client that is turned by hand, together with the reactor."""

    def __init__(
        self, listening: SecureListening, *, version: int = SSL.TLS1_3_VERSION, who: Any = None
    ) -> None:
        self.listening = listening
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        if who is not None:
            who.use(context)
        self.socket = listening.connect()
        self.socket.setblocking(False)
        self.tls = SSL.Connection(context, self.socket)
        self.tls.set_connect_state()
        self.unread = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def do(self, action: Callable[[], Any]) -> Any:
        """Do it as soon as it can be done."""
        results: list[Any] = []

        def attempt() -> bool:
            try:
                results.append(action())
            except (SSL.WantReadError, SSL.WantWriteError):
                return False
            return True

        self.listening.turn(attempt)
        return results[0]

    def begin(self) -> Peer:
        self.do(self.tls.do_handshake)
        return self

    def send(self, data: bytes) -> None:
        while data:
            data = data[self.do(lambda data=data: self.tls.send(data)) :]  # type: ignore[misc]

    def piece(self) -> Any:
        """Return what comes next, or how it ends."""

        def receive() -> Any:
            try:
                return self.tls.recv(65_536)
            except SSL.ZeroReturnError:
                return CLOSED
            except SSL.SysCallError:
                return CUT

        return self.do(receive)

    def rest(self) -> tuple[bytes, object]:
        """Return everything that still comes, and how it ends."""
        data = b""
        while True:
            piece = self.piece()
            if not isinstance(piece, bytes):
                return data, piece
            data += piece

    def answer(self) -> bytes:
        """Return the body of one answer."""
        while b"\r\n\r\n" not in self.unread:
            self.unread += self.piece()
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        while len(self.unread) < length:
            self.unread += self.piece()
        body, self.unread = self.unread[:length], self.unread[length:]
        return body


@pytest.fixture(scope="module")
def epoll() -> Any:
    reactor: Any = Reactor()
    reactor.startRunning()
    return reactor


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


@pytest.fixture
def listening(epoll: Any, logged: list[dict[str, Any]]) -> Iterator[SecureListening]:
    listening = SecureListening(epoll)
    yield listening
    for port in (listening.port, listening.plain):
        closed: list[object] = []
        port.stopListening().addBoth(closed.append)
        listening.turn(lambda closed=closed: closed)  # type: ignore[misc]
    listening.site.stopFactory()
    listening.site.abort()
    listening.turn(lambda: not listening.site.channels)
    assert not listening.joined
    assert not [event for event in logged if event["log_level"].name in ("error", "critical")]


def gone(listening: SecureListening) -> None:
    """Wait until nothing is left of any connection."""
    listening.turn(lambda: not listening.site.channels and not listening.joined)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_requests_are_answered_in_order_on_one_connection(
    listening: SecureListening, version: int
) -> None:
    with Peer(listening, version=version) as peer:
        for _ in range(3):
            peer.send(KEPT)
            assert peer.answer() == b"hello"
        peer.send(KEPT + KEPT)
        assert [peer.answer(), peer.answer()] == [b"hello", b"hello"]
    gone(listening)
    assert listening.peers == ["127.0.0.1"] * 5


def test_octets_may_come_one_by_one(listening: SecureListening) -> None:
    tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    tls.set_connect_state()
    with listening.connect() as opened:
        opened.setblocking(False)

        def step() -> bool:
            with contextlib.suppress(BlockingIOError):
                tls.bio_write(opened.recv(65_536))
            with contextlib.suppress(SSL.WantReadError):
                tls.send(LAST)
            with contextlib.suppress(SSL.WantReadError):
                for octet in tls.bio_read(65_536):
                    opened.sendall(bytes([octet]))
                    listening.reactor.iterate(0)
            return bool(listening.peers)

        listening.turn(step)
    assert listening.peers == ["127.0.0.1"]


def test_an_answer_may_come_later(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.send(KEPT.replace(b"/x", b"/later"))
        listening.turn(lambda: listening.waiting)
        listening.waiting[0].callback(Response(body=b"now"))
        assert peer.answer() == b"now"
        peer.send(KEPT)
        assert peer.answer() == b"hello"


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_large_answer_waits_for_a_slow_reader(listening: SecureListening, version: int) -> None:
    with Peer(listening, version=version) as peer:
        peer.send(KEPT.replace(b"/x", b"/large"))
        peer.unread = peer.piece()
        for _ in range(20):
            listening.reactor.iterate(0)
        [channel] = listening.site.channels
        transport: Any = channel.transport
        # What is behind the kernel's buffers has not even been encrypted.
        assert len(transport.dataBuffer) + transport._tempDataLen < 1 << 19
        assert peer.answer() == bytes(LARGE)
        peer.send(KEPT)
        assert peer.answer() == b"hello"


def test_whoever_closes_takes_leave_and_waits_for_the_other(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.send(LAST)
        data, end = peer.rest()
        assert data.endswith(b"hello")
        assert end is CLOSED
        # The server waits until the client has closed, too: nothing that it sent is lost.
        for _ in range(5):
            listening.reactor.iterate(0)
        assert listening.joined == 1
        assert peer.tls.shutdown()
        gone(listening)


def test_a_peers_goodbye_is_answered(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.send(KEPT)
        assert peer.answer() == b"hello"
        assert not peer.tls.shutdown()
        assert peer.piece() is CLOSED
        gone(listening)
        assert peer.socket.recv(10) == b""


def test_a_peer_that_leaves_without_a_word_leaves_nothing(listening: SecureListening) -> None:
    for octets in (b"", KEPT, KEPT.replace(b"/x", b"/later"), KEPT[:10]):
        with Peer(listening) as peer:
            peer.begin().send(octets)
            listening.reactor.iterate(0.01)
        gone(listening)
    listening.waiting[0].callback(Response(body=b"to nobody"))


def test_a_goodbye_in_the_middle_of_an_answer(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.send(KEPT.replace(b"/x", b"/later"))
        listening.turn(lambda: listening.waiting)
        peer.tls.shutdown()
        gone(listening)
        listening.waiting[0].callback(Response(body=b"to nobody"))


def ended(opened: socket.socket) -> bool:
    """Whether the peer has closed."""
    try:
        while opened.recv(100):
            pass
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    "octets", [KEPT, b"\x16\x03\x01\x00\x04abcd", b"\x15\x03\x01\x00\x02\x02\x28"]
)
def test_what_is_no_tls_is_closed(listening: SecureListening, octets: bytes) -> None:
    with listening.connect(octets) as opened:
        opened.setblocking(False)
        listening.turn(lambda: ended(opened))
    gone(listening)
    assert not listening.peers


def test_damaged_records_end_the_connection(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.begin()
        peer.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        gone(listening)
        with pytest.raises(SSL.Error):
            peer.tls.recv(100)


@pytest.mark.parametrize("begins", [False, True])
def test_g_fault_7_a_silent_handshake_is_cut(listening: SecureListening, begins: bool) -> None:
    with listening.connect(b"\x16\x03\x01" if begins else b""):
        listening.turn(lambda: listening.joined)
        [channel] = listening.site.channels
        assert channel.deadline < listening.reactor.seconds() + 60
        channel.expire()
        gone(listening)


def test_g_fault_7_an_idle_connection_is_told_goodbye(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.send(KEPT)
        assert peer.answer() == b"hello"
        [channel] = listening.site.channels
        channel.expire()
        assert peer.rest() == (b"", CLOSED)
        # Whoever does not go then is cut off.
        channel.expire()
        gone(listening)


def test_what_is_refused_is_answered_while_it_still_comes(listening: SecureListening) -> None:
    with Peer(listening) as peer:
        peer.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        peer.send(bytes(200_000))
        data, end = peer.rest()
        assert data.startswith(b"HTTP/1.1 413 ")
        assert end is CLOSED
    gone(listening)


def test_when_the_site_is_drained_everybody_is_told(listening: SecureListening) -> None:
    with Peer(listening) as idle, Peer(listening) as busy:
        idle.begin()
        busy.send(KEPT.replace(b"/x", b"/later"))
        listening.turn(lambda: listening.waiting)
        listening.site.drain()
        assert idle.rest() == (b"", CLOSED)
        listening.waiting[0].callback(Response(body=b"the last"))
        data, end = busy.rest()
        assert data.endswith(b"the last")
        assert end is CLOSED


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("who", [None, DEVICE], ids=["nobody", "device"])
def test_the_door_sees_who_has_proved_a_key(
    listening: SecureListening, version: int, who: Pair | None
) -> None:
    shown = b"" if who is None else who.certificate.public_bytes(Encoding.DER)
    with Peer(listening, version=version, who=who) as peer:
        for _ in range(2):
            peer.send(KEPT.replace(b"/x", b"/who"))
            assert peer.answer() == shown


def test_nobody_may_negotiate_anew(listening: SecureListening) -> None:
    with Peer(listening, version=SSL.TLS1_2_VERSION) as peer:
        peer.send(KEPT)
        assert peer.answer() == b"hello"
        peer.tls.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            peer.do(peer.tls.do_handshake)


def test_keys_may_be_updated_and_a_flood_of_updates_keeps_nobody_out(
    listening: SecureListening,
) -> None:
    _, port = listening.address
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as client, Peer(listening) as other:  # fmt: skip
        assert client.stdin is not None
        listening.turn(lambda: listening.site.channels)
        for _ in range(50):
            # RFC 8446, 4.6.3: K asks for new keys of ours, too.
            client.stdin.write(b"K\n")
            client.stdin.flush()
            listening.reactor.iterate(0.001)
        other.send(KEPT)
        assert other.answer() == b"hello"
        client.stdin.write(KEPT)
        client.stdin.flush()
        listening.turn(lambda: len(listening.peers) == 2)
        client.kill()
    gone(listening)
