"""Sources, buckets, streams, datagrams and sockets."""

from __future__ import annotations

import socket

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tmad.config import Address, LimitsSection
from tmad.edge.datagram import Metered
from tmad.edge.limits import Buckets, Connections, Exempt, source_of
from tmad.edge.sockets import Sockets, open_tcp
from tmad.edge.stream import Bounded, Stream
from tmad.errors import Fault
from tmad.plugin import Limits


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_one_source_is_an_ipv4_address_or_an_ipv6_network(host: str, source: str) -> None:
    assert source_of(host) == source


def test_exempt_networks() -> None:
    exempt = Exempt(("127.0.0.0/8", "::1/128", "2001:db8::/32"))

    assert exempt.covers("127.1.2.3")
    assert exempt.covers("2001:db8:1::")
    assert not exempt.covers("192.0.2.1")
    assert not exempt.covers("")


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    buckets = Buckets(Limits(rate=2, burst=3), clock.seconds)

    assert [buckets.wait("a", 1.0) for _ in range(4)] == [0, 0, 0, 0.5]
    clock.advance(0.5)
    assert buckets.wait("a", 1.0) == 0
    assert buckets.wait("b", 1.0) == 0


def test_a_refused_request_takes_no_token_and_scale_multiplies_the_rate() -> None:
    clock = Clock()
    buckets = Buckets(Limits(rate=1, burst=1), clock.seconds)
    buckets.wait("a", 10.0)
    for _ in range(100):
        assert buckets.wait("a", 10.0) == pytest.approx(0.1)
    clock.advance(0.11)
    assert buckets.wait("a", 10.0) == 0


def test_t_obs_01_buckets_forget_who_was_quiet_longest() -> None:
    buckets = Buckets(Limits(), Clock().seconds)
    for number in range(70_000):
        buckets.wait(str(number), 1.0)

    assert len(buckets._levels) == 65_536


def stream(limits: LimitsSection, clock: Clock) -> Stream:
    made = Stream(Factory.forProtocol(Protocol), limits, clock, Connections(), idle_seconds=10)
    made.startFactory()
    return made


def connect(factory: Stream, host: str = "192.0.2.1") -> Bounded | None:
    channel = factory.buildProtocol(IPv4Address("TCP", host, 1))
    if channel is not None:
        channel.makeConnection(StringTransport())
    return channel


def test_a_stream_limits_connections_of_each_source_and_in_all() -> None:
    factory = stream(LimitsSection(connections=3, connections_per_source=2), Clock())
    first, second, third = (connect(factory) for _ in range(3))

    assert first is not None
    assert second is not None
    assert third is None
    assert connect(factory, "192.0.2.2") is not None
    assert connect(factory, "192.0.2.3") is None
    first.connectionLost()
    assert connect(factory, "192.0.2.3") is not None


def test_g_fault_7_a_silent_stream_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    factory = stream(LimitsSection(), clock)
    silent, lively = connect(factory), connect(factory)
    assert silent is not None
    assert lively is not None
    for _ in range(12):
        clock.advance(1)
        lively.dataReceived(b"x")

    assert silent.transport.disconnecting  # type: ignore[union-attr]  # it is connected
    assert not lively.transport.disconnecting  # type: ignore[union-attr]
    factory.stopFactory()
    assert clock.getDelayedCalls() == []


def test_a_datagram_that_is_too_long_or_too_fast_is_dropped_in_silence() -> None:
    class Collect(DatagramProtocol):
        seen: list[bytes]

        def datagramReceived(self, datagram: bytes, addr: object) -> None:
            self.seen.append(datagram)

    inner = Collect()
    inner.seen = []
    door = Metered(inner, Limits(body=4, rate=1, burst=2), LimitsSection(exempt=()), Clock())
    for datagram in (b"one", b"longer", b"two", b"tre"):
        door.datagramReceived(datagram, ("192.0.2.1", 1))
    door.datagramReceived(b"oth", ("192.0.2.2", 1))

    assert inner.seen == [b"one", b"two", b"oth"]
    assert door.dropped == 2


def test_an_address_that_is_taken_is_a_fault_that_names_it() -> None:
    with open_tcp(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Fault, match=f"cannot listen on 127.0.0.1:{port}"):
            open_tcp(Address("127.0.0.1", port))


def test_a_shared_address_may_be_opened_again_and_answers_are_not_delayed() -> None:
    with open_tcp(Address("127.0.0.1", 0), shared=True) as first:
        port = first.getsockname()[1]
        with open_tcp(Address("127.0.0.1", port), shared=True) as second:
            assert second.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_inherited_sockets_are_used_instead_of_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = open_tcp(Address("127.0.0.1", 0))
    text = f"127.0.0.1:{inherited.getsockname()[1]}"
    monkeypatch.setenv("TMAD_SOCKETS", f'{{"http {text}": {inherited.detach()}}}')
    sockets = Sockets()
    sockets.open("http", (text,))
    sockets.close()
