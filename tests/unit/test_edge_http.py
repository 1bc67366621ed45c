"""The HTTP edge without sockets: grammar, order, limits, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher

from tmad.config import LimitsSection
from tmad.edge.fastlane import Channel
from tmad.edge.http import STATUS, Doors, Site
from tmad.errors import Fault, FaultCode
from tmad.observe import Metrics
from tmad.plugin import HTTPHandler, Limits
from tmad.wire.http import Request, Response

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


class Transport(StringTransport):
    """A transport that tells how it was ended."""

    aborted = False
    half_closed = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    @property
    def is_closing(self) -> bool:
        return bool(self.disconnecting or self.half_closed)


class Edge:
    """A site with doors of the test's own, and connections to it."""

    def __init__(self, limits: LimitsSection | None = None) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.doors = Doors(self.metrics, self.clock.seconds)
        self.limits = limits or LimitsSection(exempt=("192.168.1.1",))
        self.seen: list[Request] = []

    def mount(self, prefix: str, handler: HTTPHandler | None = None, **options: Any) -> None:
        def echo(request: Request) -> Response:
            self.seen.append(request)
            return Response(body=request.path + b" " + request.body)

        options.setdefault("plain", True)
        self.doors.mount("test", prefix, handler or echo, **options)

    def site(self, **options: Any) -> Site:
        site = Site(self.doors, self.limits, self.clock, **options)
        site.startFactory()
        return site

    def connect(self, site: Site | None = None) -> tuple[Channel, Transport]:
        channel = (site or self.site()).buildProtocol(None)
        transport = Transport()
        channel.makeConnection(transport)
        return channel, transport


@pytest.fixture(params=[True, False], ids=["hot", "general"])
def edge(request: pytest.FixtureRequest) -> Edge:
    edge = Edge()
    edge.mount("/x", hot=request.param)
    return edge


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """Collect what is logged."""
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def answers(octets: bytes) -> list[tuple[bytes, bytes]]:
    """Split a stream of answers by their Content-Length: status code and body of each."""
    found = []
    while octets:
        head, _, octets = octets.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        [length] = [
            int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")
        ]
        found.append((head[9:12], octets[:length]))
        octets = octets[length:]
    return found


def bodies(octets: bytes) -> list[bytes]:
    """Return the body of each answer."""
    return [body for _, body in answers(octets)]


def exchange(edge: Edge, octets: bytes) -> tuple[int, bytes, Transport]:
    channel, transport = edge.connect()
    channel.dataReceived(octets)
    answer = transport.value()
    return int(answer[9:12] or b"0"), answer, transport


def test_a_request_is_answered_whole_with_length_and_date(edge: Edge) -> None:
    status, answer, transport = exchange(edge, GET)

    assert status == 200
    assert b"\r\nContent-Length: 3\r\n" in answer
    assert b"\r\nDate: " in answer
    assert b"Connection" not in answer
    assert answer.endswith(b"\r\n\r\n/x ")
    assert not transport.is_closing


def test_the_access_log_shows_nothing_below_a_private_door() -> None:
    edge = Edge()
    for prefix, is_private in (("/enroll/", True), ("/open", False)):
        edge.mount(prefix, private=is_private)
    written: list[bytes] = []

    class Access:
        def add(self, *about: Any) -> None:
            written.append(about[2])

        def flush(self) -> None: ...

    site = edge.site(access=Access())
    for path in (b"/enroll/token/file", b"/enroll/token", b"/open/door"):
        channel, _ = edge.connect(site)
        channel.dataReceived(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert written == [b"/enroll", b"/enroll", b"/open/door"]


def test_any_cutting_of_the_octets_gives_the_same_answers(edge: Edge) -> None:
    stream = (
        GET
        + b"POST /x/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        + b"POST /x/2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"3\r\nabc\r\n00002\r\nde\r\n0\r\n\r\n"
        + GET
    )
    wanted = [b"/x ", b"/x/1 hello", b"/x/2 abcde", b"/x "]
    for size in (1, 2, 3, 7, 50, len(stream)):
        channel, transport = edge.connect()
        for start in range(0, len(stream), size):
            channel.dataReceived(stream[start : start + size])
        assert bodies(transport.value()) == wanted


def test_gen_03_path_and_query_stay_raw(edge: Edge) -> None:
    exchange(edge, b"GET /x/a%2Fb+c//d?m=a+b%3D?&=/ HTTP/1.1\r\nHost: a\r\n\r\n")

    [request] = edge.seen
    assert request.path == b"/x/a%2Fb+c//d"
    assert request.query == b"m=a+b%3D?&=/"
    assert request.tail == b"/a%2Fb+c//d"


def test_gen_06_http_1_0_is_kept_alive_when_it_asks(edge: Edge) -> None:
    asked = b"GET /x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    _, answer, transport = exchange(edge, asked + asked)
    assert answer.count(b"Connection: keep-alive\r\n") == 2
    assert not transport.is_closing

    _, answer, transport = exchange(edge, b"GET /x HTTP/1.0\r\n\r\n")
    assert b"Connection: close\r\n" in answer
    assert transport.is_closing


def test_connection_close_is_obeyed(edge: Edge) -> None:
    _, answer, transport = exchange(
        edge, b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )

    assert b"Connection: close\r\n" in answer
    assert transport.is_closing


def test_head_has_the_length_but_not_the_body(edge: Edge) -> None:
    _, answer, _ = exchange(edge, b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")

    assert b"Content-Length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")
    assert edge.seen[0].method == "GET"


def test_a_proxys_absolute_form_is_understood(edge: Edge) -> None:
    status, _, _ = exchange(edge, b"GET http://pki.example:80/x/y HTTP/1.1\r\nHost: a\r\n\r\n")

    assert status == 200
    assert edge.seen[0].path == b"/x/y"


SMUGGLING = {
    "length and coding": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Content-Length: 5\r\n\r\nabcde",
    "two equal lengths": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Content-Length: 4\r\n\r\nabcd",
    "list of lengths": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd",
    "plus": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nabcde",
    "minus": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nabcde",
    "hex": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nabcde",
    "underscore": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabcdefghij",
    "no length": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
    "other digits": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\nab",
    "bare LF": b"GET /x HTTP/1.1\nHost: a\n\n",
    "one bare LF": b"GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare CR": b"GET /x HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "obs-fold": b"GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
    "space before colon": b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
    "no name": b"GET /x HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n",
    "NUL": b"GET /x HTTP/1.1\r\nHost: a\r\nX: y\x00\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two spaces": b"GET  /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab": b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n",
    "not ASCII": b"GET /x\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /x\r\nHost: a\r\n\r\n",
    "coding in 1.0": b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunk extension": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1;a=b\r\nx\r\n0\r\n\r\n",
    "chunk 0x": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0x1\r\nx\r\n0\r\n\r\n",
    "chunk plus": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"+1\r\nx\r\n0\r\n\r\n",
    "chunk bare LF": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\nx\n0\n\n12345",
    "chunk longer than said": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\nxy\r\n0\r\n\r\n",
    "trailer": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\nX: y\r\n\r\n",
    "endless chunk size": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"0" * 100,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("octets", SMUGGLING.values(), ids=SMUGGLING)
def test_t_lib_02_what_can_be_read_in_two_ways_is_refused_and_closes(
    edge: Edge, octets: bytes
) -> None:
    status, answer, transport = exchange(edge, octets + GET)

    assert status == (505 if b"HTTP/2" in octets else 400)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in answer
    assert transport.is_closing
    assert edge.seen == []


def test_an_unknown_coding_is_501_and_an_unknown_version_505(edge: Edge) -> None:
    coded = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"
    assert exchange(edge, coded)[0] == 501
    assert exchange(edge, b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n")[0] == 505
    assert exchange(edge, b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n")[0] == 505


def test_gen_01_a_long_body_is_refused_before_it_is_read() -> None:
    edge = Edge()
    edge.mount("/x", limits=Limits(body=10))
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"

    assert exchange(edge, head % 11)[0] == 413
    assert exchange(edge, head % 10 + b"0123456789")[0] == 200
    chunked = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(edge, chunked + b"b\r\n")[0] == 413
    assert exchange(edge, chunked + b"6\r\n012345\r\n5\r\n")[0] == 413


def test_gen_02_a_long_address_is_414_and_a_long_head_431() -> None:
    edge = Edge()
    edge.mount("/x", limits=Limits(url=100))
    line = b"GET /x?%b HTTP/1.1\r\nHost: a\r\n\r\n"

    assert exchange(edge, line % (b"a" * 97))[0] == 200
    assert exchange(edge, line % (b"a" * 98))[0] == 414
    assert exchange(edge, b"GET /x?" + b"a" * 30_000)[0] == 414
    assert exchange(edge, b"GET /x HTTP/1.1\r\n" + b"A: b\r\n" * 5_000)[0] == 431


def test_expect_100_continue_is_answered_before_the_body(edge: Edge) -> None:
    channel, transport = edge.connect()
    channel.dataReceived(
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    channel.dataReceived(b"hi")
    assert transport.value().endswith(b"/x hi")
    assert exchange(edge, GET[:-2] + b"Expect: a-pony\r\n\r\n")[0] == 417


def test_methods_and_paths(edge: Edge) -> None:
    status, answer, transport = exchange(edge, b"PUT /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status == 405
    assert b"\r\nAllow: GET, HEAD, POST\r\n" in answer
    assert not transport.is_closing

    for path in (b"/", b"/xy", b"/y/x", b"/x%2f"):
        assert exchange(edge, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)[0] == 404


def test_the_longest_prefix_wins() -> None:
    edge = Edge()
    edge.mount("/a", lambda request: Response(body=b"short"))
    edge.mount("/a/b", lambda request: Response(body=b"long"))

    assert exchange(edge, b"GET /a/b/c HTTP/1.1\r\nHost: a\r\n\r\n")[1].endswith(b"long")
    assert exchange(edge, b"GET /a/bc HTTP/1.1\r\nHost: a\r\n\r\n")[1].endswith(b"short")
    with pytest.raises(Fault, match="mounted twice"):
        edge.mount("/a/b")


def test_a_door_that_is_not_plain_is_served_by_https_only() -> None:
    edge = Edge()
    edge.mount("/x", plain=False)

    assert exchange(edge, GET)[0] == 404
    channel, transport = edge.connect(edge.site(secure=True))
    channel.dataReceived(GET)
    assert transport.value().startswith(b"HTTP/1.1 200 ")
    assert edge.seen[0].secure


@pytest.mark.parametrize("code", FaultCode)
def test_a_fault_that_escapes_is_a_status_and_its_detail(edge: Edge, code: FaultCode) -> None:
    def refuse(request: Request) -> Response:
        fault = Fault(code, "the reason", private="canary", retry_after=1.2)
        fault.explain_id = "7F3K-22QX"
        raise fault

    edge.mount("/f", refuse)
    status, answer, transport = exchange(edge, b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n")

    assert status == STATUS[code]
    assert answer.endswith(b"\r\n\r\nthe reason [7F3K-22QX]\n")
    assert b"\r\nRetry-After: 2\r\n" in answer
    assert b"canary" not in answer
    assert not transport.is_closing


@pytest.mark.parametrize("hot", [True, False])
def test_an_unforeseen_exception_is_a_500_without_its_text(
    hot: bool, logged: list[dict[str, Any]]
) -> None:
    async def fail(request: Request) -> Response:
        raise RuntimeError("canary")

    edge = Edge()
    edge.mount("/x", fail, hot=hot)
    status, answer, _ = exchange(edge, GET)

    assert status == 500
    assert answer.endswith(b"internal error\n")
    assert b"canary" not in answer
    assert "canary" in str(logged[0]["log_failure"].value)


def test_an_answer_with_a_line_break_in_a_header_is_a_500(
    edge: Edge, logged: list[dict[str, Any]]
) -> None:
    edge.mount("/f", lambda request: Response(headers=(("X", "a\r\nSet-Cookie: b"),)))
    status, answer, _ = exchange(edge, b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n")

    assert status == 500
    assert b"Set-Cookie" not in answer


@pytest.mark.parametrize("hot", [True, False])
def test_t_lib_02_pipelined_answers_keep_their_order_and_their_users(hot: bool) -> None:
    slow: list[Deferred[None]] = []

    async def wait(request: Request) -> Response:
        gate: Deferred[None] = Deferred()
        slow.append(gate)
        await gate
        await gate
        return Response(body=request.tail)

    edge = Edge()
    edge.mount("/s", wait, hot=hot)
    edge.mount("/x")
    channel, transport = edge.connect()
    other, other_transport = edge.connect()
    line = b"GET /s/%d HTTP/1.1\r\nHost: a\r\n\r\n"

    channel.dataReceived(line % 1 + GET + line % 2)
    other.dataReceived(GET)
    assert transport.value() == b""
    assert bodies(other_transport.value()) == [b"/x "]
    slow[0].callback(None)
    assert bodies(transport.value()) == [b"/1", b"/x "]
    slow[1].callback(None)
    assert bodies(transport.value()) == [b"/1", b"/x ", b"/2"]


def test_a_hot_handler_sees_the_faults_that_it_awaits() -> None:
    gate: Deferred[None] = Deferred()

    async def careful(request: Request) -> Response:
        try:
            await gate
        except Fault:
            return Response(body=b"caught")
        return Response(body=b"missed")

    edge = Edge()
    edge.mount("/x", careful, hot=True)
    channel, transport = edge.connect()
    channel.dataReceived(GET)
    gate.errback(Fault(FaultCode.UNAVAILABLE, "later"))

    assert bodies(transport.value()) == [b"caught"]


def test_a_peer_that_pipelines_lets_others_have_their_turn(edge: Edge) -> None:
    channel, transport = edge.connect()
    channel.dataReceived(GET * 200)
    assert len(bodies(transport.value())) == 64
    edge.clock.pump([0, 0, 0])
    assert len(bodies(transport.value())) == 200


def test_reading_stops_while_a_peer_sends_more_than_it_is_answered() -> None:
    edge = Edge()
    gate: Deferred[None] = Deferred()

    async def wait(request: Request) -> Response:
        await gate
        return Response()

    edge.mount("/x", wait)
    channel, transport = edge.connect()
    channel.dataReceived(GET * 3_000)
    channel.dataReceived(GET)
    assert transport.producerState == "paused"
    gate.callback(None)
    while edge.clock.getDelayedCalls() and len(bodies(transport.value())) < 3_001:
        edge.clock.advance(0)
    assert transport.producerState == "producing"


class Limited:
    """How long each kind of slowness is tolerated."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.channel, self.transport = edge.connect()

    def silent(self, seconds: float) -> bool:
        """Let time pass; tell whether the connection is being closed."""
        for _ in range(int(seconds * 2)):
            self.edge.clock.advance(0.5)
        return self.transport.is_closing


def test_g_fault_7_a_silent_connection_is_closed_without_a_word(edge: Edge) -> None:
    peer = Limited(edge)

    assert not peer.silent(9)
    assert peer.silent(3)
    assert peer.transport.value() == b""


def test_g_fault_7_a_slow_head_is_cut_however_it_trickles(edge: Edge) -> None:
    peer = Limited(edge)
    for octet in GET[:11]:
        peer.channel.dataReceived(bytes([octet]))
        peer.silent(1)
    peer.silent(1)

    assert peer.transport.value().startswith(b"HTTP/1.1 408 ")
    assert peer.transport.is_closing


def test_g_fault_7_a_slow_body_is_cut_however_it_trickles(edge: Edge) -> None:
    peer = Limited(edge)
    peer.channel.dataReceived(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n")
    for _ in range(29):
        peer.channel.dataReceived(b"a")
        assert not peer.silent(1)
    assert peer.silent(3)
    assert peer.transport.value().startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_kept_for_a_while(edge: Edge) -> None:
    peer = Limited(edge)
    peer.channel.dataReceived(GET)

    assert not peer.silent(28)
    assert peer.silent(4)
    assert b"408" not in peer.transport.value()


def test_g_fault_7_a_peer_that_never_reads_is_cut_off() -> None:
    edge = Edge()
    edge.mount("/x", lambda request: Response(body=b"x" * 1_000_000))
    peer = Limited(edge)
    peer.channel.pauseProducing()
    peer.channel.dataReceived(GET)

    assert not peer.silent(28)
    assert peer.silent(4)
    assert peer.transport.aborted


def test_g_fault_7_a_large_answer_is_written_only_as_fast_as_it_is_read() -> None:
    edge = Edge()
    large = bytes(range(256)) * 4_000
    edge.mount("/x", lambda request: Response(body=large))
    channel, transport = edge.connect()
    write: Callable[[bytes], None] = transport.write

    def full(data: bytes) -> None:
        write(data)
        if len(data) > 1_000:
            channel.pauseProducing()

    transport.write = full  # type: ignore[method-assign]
    channel.dataReceived(GET + GET)
    assert len(transport.value()) < 70_000
    for _ in range(50):
        channel.resumeProducing()
    assert bodies(transport.value()) == [large, large]


def test_rates_are_for_each_source_and_door() -> None:
    edge = Edge(LimitsSection(exempt=()))
    edge.mount("/x", limits=Limits(rate=1, burst=2))
    edge.mount("/y", limits=Limits(rate=1, burst=2))
    channel, transport = edge.connect()
    channel.dataReceived(GET * 3)

    assert transport.value().count(b"HTTP/1.1 200 ") == 2
    assert transport.value().count(b"HTTP/1.1 429 ") == 1
    assert b"\r\nRetry-After: 1\r\n" in transport.value()
    channel.dataReceived(GET.replace(b"/x", b"/y"))
    assert transport.value().count(b"HTTP/1.1 200 ") == 3
    edge.clock.advance(1)
    channel.dataReceived(GET)
    assert transport.value().count(b"HTTP/1.1 200 ") == 4


def test_rate_scale_0_and_exempt_networks_know_no_rates() -> None:
    for limits in (LimitsSection(exempt=(), rate_scale=0), LimitsSection(exempt=("192.168.1.1",))):
        edge = Edge(limits)
        edge.mount("/x", limits=Limits(rate=1, burst=1))
        channel, transport = edge.connect()
        channel.dataReceived(GET * 5)
        assert transport.value().count(b"HTTP/1.1 200 ") == 5


def test_one_source_has_only_so_many_connections() -> None:
    edge = Edge(LimitsSection(exempt=(), connections_per_source=2))
    site = edge.site()
    first, _ = edge.connect(site)
    edge.connect(site)
    _, third = edge.connect(site)
    assert third.aborted

    first.connectionLost()
    _, fourth = edge.connect(site)
    assert not fourth.aborted


def test_when_all_connections_are_taken_the_longest_silence_ends() -> None:
    edge = Edge(LimitsSection(connections=2))
    gate: Deferred[Response] = Deferred()
    edge.mount("/x", lambda request: gate)
    site = edge.site()
    busy, busy_transport = edge.connect(site)
    busy.dataReceived(GET)
    _, silent = edge.connect(site)
    _, new = edge.connect(site)

    assert silent.aborted
    assert not new.aborted
    assert not busy_transport.aborted


def test_drain_answers_what_runs_and_closes_the_rest() -> None:
    edge = Edge()
    gate: Deferred[Response] = Deferred()
    edge.mount("/x", lambda request: gate)
    site = edge.site()
    busy, busy_transport = edge.connect(site)
    _, idle = edge.connect(site)
    busy.dataReceived(GET)
    site.drain()

    assert idle.is_closing
    assert not busy_transport.is_closing
    gate.callback(Response(body=b"done"))
    assert b"Connection: close\r\n" in busy_transport.value()
    assert busy_transport.is_closing


def test_a_peer_that_closes_its_side_still_gets_its_answers(edge: Edge) -> None:
    gate: Deferred[Response] = Deferred()
    edge.mount("/g", lambda request: gate)
    channel, transport = edge.connect()
    channel.dataReceived(b"GET /g HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    channel.readConnectionLost()
    assert not transport.is_closing
    gate.callback(Response(body=b"late"))

    assert bodies(transport.value()) == [b"late", b"/x "]
    assert transport.is_closing


def test_a_peer_that_closes_its_side_and_waits_for_nothing_is_closed(edge: Edge) -> None:
    channel, transport = edge.connect()
    channel.dataReceived(GET + GET[:10])
    channel.readConnectionLost()

    assert bodies(transport.value()) == [b"/x "]
    assert transport.is_closing


def test_a_peer_that_leaves_does_not_disturb_the_handler(edge: Edge) -> None:
    gate: Deferred[Response] = Deferred()
    edge.mount("/g", lambda request: gate)
    channel, transport = edge.connect()
    channel.dataReceived(b"GET /g HTTP/1.1\r\nHost: a\r\n\r\n")
    channel.connectionLost()
    gate.callback(Response())

    assert transport.value() == b""


def test_t_obs_01_random_paths_make_no_new_series(edge: Edge) -> None:
    exchange(edge, GET)
    exchange(edge, b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
    exchange(edge, b"\x00")
    before = edge.metrics.exposition().count(b"\n")
    for number in range(50):
        exchange(edge, b"GET /x/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        exchange(edge, b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        exchange(edge, b"A%d /x HTTP/1.0\r\n\x00\r\n\r\n" % number)

    assert edge.metrics.exposition().count(b"\n") == before
