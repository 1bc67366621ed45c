"""Disconnect-Requests down connections that clients have made: who is asked, and who answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock as Reactor

from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.reverse import Line, Reverse
from tmad.protocols.radius.server import Dropped

CLIENT = ("default", "proxy")
SESSION: list[Attribute] = [(codec.ACCT_SESSION_ID, b"A1"), (codec.CALLING_STATION_ID, b"x")]


class Peer:
    """The other end of a connection; ``answers`` gets each request, None is silence."""

    def __init__(self, reactor: Reactor, address: str = "192.0.2.1", code: int | None = 41) -> None:
        self.asked: list[Packet] = []
        self.code = code
        self.line = Line(address, self._receive, reactor)

    def _receive(self, octets: bytes) -> None:
        packet = codec.decode(octets)
        assert codec.is_digested(packet, b"radsec")
        assert packet.octets[20] == codec.MESSAGE_AUTHENTICATOR
        self.asked.append(packet)
        if self.code is not None:
            self.line.received(self.answer(packet))

    def answer(self, packet: Packet, secret: bytes = b"radsec") -> Packet:
        return codec.decode(codec.encode_reply(packet, self.code or 41, [], secret))


class Workers:
    """The relay of several workers of one node."""

    def __init__(self, count: int) -> None:
        self.workers = [Reverse() for _ in range(count)]
        for index, worker in enumerate(self.workers):
            worker.relay = _Relay(self, index, count)


class _Relay:
    def __init__(self, node: Workers, index: int, count: int) -> None:
        self.index, self.count, self._node = index, count, node

    async def ask(self, worker: int, question: bytes) -> bytes:
        assert worker != self.index
        found = await self._node.workers[worker].answer_worker(question)
        return found or b""


def ask(reverse: Reverse, address: str = "192.0.2.1") -> Any:
    return ensureDeferred(reverse.ask(CLIENT, address, Code.DISCONNECT_REQUEST, SESSION))


def outcome(asked: Deferred[Packet | None]) -> int | None:
    """Return the code of an answer that has come, None for silence."""
    found: list[Packet | None] = []
    asked.addCallback(found.append)
    [packet] = found
    return None if packet is None else packet.code


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


def test_who_listens_hears_of_each_connection(reactor: Reactor) -> None:
    reverse, heard = Reverse(), []
    reverse.listen(lambda: heard.append(set(reverse.clients)))
    line = Peer(reactor).line
    reverse.add(CLIENT, line)
    assert heard == [{CLIENT}]
    reverse.remove(CLIENT, line)
    assert (set(reverse.clients), len(heard)) == (set(), 1)


def test_a_request_holds_what_names_the_session(reactor: Reactor) -> None:
    reverse, peer = Reverse(), Peer(reactor)
    reverse.add(CLIENT, peer.line)
    assert outcome(ask(reverse)) == 41
    [packet] = peer.asked
    assert packet.code == Code.DISCONNECT_REQUEST
    assert [each for each in packet.attributes if each[0] != 80] == SESSION
    assert reactor.getDelayedCalls() == []


def test_silence_is_told_once_and_a_late_answer_finds_nobody(reactor: Reactor) -> None:
    reverse, peer = Reverse(), Peer(reactor, code=None)
    reverse.add(CLIENT, peer.line)
    asked = ask(reverse)
    reactor.advance(4.1)
    assert outcome(asked) is None
    with pytest.raises(Dropped, match="unasked"):
        peer.line.received(peer.answer(peer.asked[0]))
    ask(reverse)
    assert peer.asked[0].identifier != peer.asked[1].identifier


def test_a_forged_answer_is_one_of_those_that_close_the_connection(reactor: Reactor) -> None:
    reverse, peer = Reverse(), Peer(reactor, code=None)
    reverse.add(CLIENT, peer.line)
    asked = ask(reverse)
    with pytest.raises(Dropped, match="forged"):
        peer.line.received(peer.answer(peer.asked[0], b"another"))
    other = codec.decode(codec.encode_reply(peer.asked[0], 44, [], b"radsec"))
    with pytest.raises(Dropped, match="unasked"):
        peer.line.received(other)
    assert not asked.called
    reverse.remove(CLIENT, peer.line)
    assert outcome(asked) is None


def test_of_several_connections_one_has_the_session(reactor: Reactor) -> None:
    """A refusal counts for more than silence, and an agreement for more than that."""
    reverse = Reverse()
    peers = [Peer(reactor, f"192.0.2.{n}", code) for n, code in enumerate((42, 41, None))]
    for peer in peers:
        reverse.add(CLIENT, peer.line)
    asked = ask(reverse)
    reactor.advance(4.1)
    assert outcome(asked) == 41
    peers[1].code = None
    asked = ask(reverse)
    reactor.advance(4.1)
    assert outcome(asked) == 42


def test_the_address_of_the_session_comes_first_of_many(reactor: Reactor) -> None:
    reverse = Reverse()
    peers = [Peer(reactor, f"192.0.2.{n}") for n in range(10)]
    for peer in peers:
        reverse.add(CLIENT, peer.line)
    ask(reverse, "192.0.2.9")
    assert [len(peer.asked) for peer in peers] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]


def test_other_workers_are_asked_and_other_clients_are_not(reactor: Reactor) -> None:
    node = Workers(3)
    stranger, refuses, agrees = Peer(reactor), Peer(reactor, code=42), Peer(reactor)
    node.workers[0].add(("other", "proxy"), stranger.line)
    node.workers[1].add(CLIENT, refuses.line)
    node.workers[2].add(CLIENT, agrees.line)
    assert outcome(ask(node.workers[0])) == 41
    assert [each for each in agrees.asked[0].attributes if each[0] != 80] == SESSION
    assert stranger.asked == []
    agrees.code = None
    asked = ask(node.workers[0])
    reactor.advance(4.1)
    assert outcome(asked) == 42


def test_a_worker_whose_client_is_silent_says_so(reactor: Reactor) -> None:
    node = Workers(2)
    node.workers[1].add(CLIENT, Peer(reactor, code=None).line)
    asked = ask(node.workers[0])
    reactor.advance(4.1)
    assert outcome(asked) is None


def test_without_a_connection_it_is_a_fault() -> None:
    for reverse in (Reverse(), Workers(2).workers[0]):
        with pytest.raises(Fault) as caught:
            drive(reverse.ask(CLIENT, "192.0.2.1", Code.DISCONNECT_REQUEST, SESSION))
        assert (caught.value.code, caught.value.rule) == (
            FaultCode.UNAVAILABLE,
            "radius.radsec.absent",
        )


def test_a_connection_that_is_lost_is_asked_no_more(reactor: Reactor) -> None:
    reverse, peer = Reverse(), Peer(reactor)
    reverse.add(CLIENT, peer.line)
    reverse.remove(CLIENT, peer.line)
    reverse.remove(CLIENT, peer.line)
    with pytest.raises(Fault):
        drive(reverse.ask(CLIENT, "192.0.2.1", Code.DISCONNECT_REQUEST, SESSION))
    assert reverse._lines == {}


def test_a_connection_has_no_more_questions_than_it_may(reactor: Reactor) -> None:
    reverse, peer = Reverse(), Peer(reactor, code=None)
    reverse.add(CLIENT, peer.line)
    asked = [ask(reverse) for _ in range(300)]
    assert len(peer.asked) == 1
    assert [each.called for each in asked] == [False] * 257 + [True] * 43
    # One answers nothing, and nobody else is kept waiting as long.
    reactor.advance(4.1)
    assert [outcome(each) for each in asked] == [None] * 300
    assert len(peer.asked) == 1


def test_questions_follow_one_another(reactor: Reactor) -> None:
    reverse, peer = Reverse(), Peer(reactor, code=None)
    reverse.add(CLIENT, peer.line)
    asked = [ask(reverse) for _ in range(3)]
    for number in range(3):
        assert len(peer.asked) == number + 1
        peer.line.received(peer.answer(peer.asked[-1]))
    assert [outcome(each) for each in asked] == [41, 41, 41]
    assert len({packet.identifier for packet in peer.asked}) == 3
    assert reactor.getDelayedCalls() == []


@given(st.binary(max_size=200))
def test_questions_of_a_worker_that_are_none_are_refused(octets: bytes) -> None:
    reverse = Reverse()
    reverse.add(CLIENT, Peer(Reactor()).line)
    with pytest.raises(Fault) as caught:
        drive(reverse.answer_worker(octets))
    assert caught.value.code is FaultCode.MALFORMED
