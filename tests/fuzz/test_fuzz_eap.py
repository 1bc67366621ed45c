"""EAP from strangers: a value or Fault, in bounded time; conversations end and never break."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests import eap_peer
from tests.eap_peer import PEAP, TTLS, Inner, Peer, write_avps
from tests.eap_world import EAPWorld
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.protocols.radius.eap import codec, framing
from tmad.protocols.radius.eap.hello import offered

_LIMIT = 0.05  # seconds
_octets = st.binary(max_size=300)
_mschapv2 = st.builds(
    lambda op, identifier, length, size, rest: (
        bytes((op, identifier)) + length.to_bytes(2) + bytes((size,)) + rest
    ),
    st.integers(0, 8),
    st.integers(0, 255),
    st.sampled_from([0, 4, 53, 54, 60, 300, 0xFFFF]),
    st.sampled_from([0, 16, 49, 255]),
    st.binary(max_size=120),
)
_avp = st.builds(
    lambda vendor, code, flags, length, data: (
        code.to_bytes(4)
        + bytes((flags,))
        + (length if length >= 0 else 8 + len(data)).to_bytes(3)
        + (vendor.to_bytes(4) if flags & 0x80 else b"")
        + data
    ),
    st.sampled_from([0, 311, 2**32 - 1]),
    st.sampled_from([1, 2, 3, 11, 25, 79, 80, 2**32 - 1]),
    st.sampled_from([0, 0x40, 0x80, 0xC0, 0xFF]),
    st.sampled_from([-1, -1, -1, 0, 7, 8, 11, 12, 2**24 - 1]),
    st.binary(max_size=80),
)
_tlvs = st.lists(
    st.builds(
        lambda kind, length, data: (
            kind.to_bytes(2) + (length if length >= 0 else len(data)).to_bytes(2) + data
        ),
        st.sampled_from([3, 4, 12, 0x8003, 0x800C, 0x8007, 7, 0xFFFF]),
        st.sampled_from([-1, -1, -1, 0, 2, 56, 0xFFFF]),
        st.one_of(
            st.just(b"\x00\x01"), st.binary(max_size=60), st.binary(min_size=56, max_size=56)
        ),
    ),
    max_size=6,
).map(b"".join)


def read(decode: Any, *given_: Any) -> Any:
    """Decode; None for a Fault that is as it should be."""
    begin = time.thread_time()
    try:
        found = decode(*given_)
    except Fault as fault:
        if fault.code is not FaultCode.MALFORMED:
            raise
        found = None
    assert time.thread_time() - begin < _LIMIT
    return found


@given(_octets)
@example(b"")
@example(b"\x02\x00\xff\xff\x01")
def test_eap_any_octets(data: bytes) -> None:
    response = read(codec.decode, data)
    if response is not None:
        again = Peer.respond(response.identifier, response.type, response.data)
        assert data.startswith(again)
    read(codec.identity, data)
    read(codec.fragment, data)
    read(codec.avps, data)
    read(codec.extensions, data)
    read(codec.mschapv2, data)
    read(codec.mschap2_response, data, data)


@given(st.lists(_avp, max_size=8).map(b"".join), st.integers(0, 400))
def test_eap_avps(data: bytes, cut: int) -> None:
    for octets in (data, data[:cut]):
        found = read(codec.avps, octets)
        if found is not None:
            assert sum(len(avp.data) for avp in found) <= len(octets)


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 311]), st.integers(0, 2**32 - 1), st.binary(max_size=60)),
        max_size=8,
    )
)
def test_eap_avps_that_another_wrote(found: list[tuple[int, int, bytes]]) -> None:
    octets = write_avps(*found)
    assert [(avp.vendor, avp.code, avp.data) for avp in codec.avps(octets)] == found
    assert codec.encode_avps([((vendor, code), data) for vendor, code, data in found]) == octets


@given(_tlvs)
def test_eap_tlvs(data: bytes) -> None:
    read(codec.extensions, data)


@given(_mschapv2)
def test_eap_mschapv2(data: bytes) -> None:
    read(codec.mschapv2, data)


@given(
    st.binary(min_size=1, max_size=5000),
    st.integers(200, 1400),
    st.integers(0, 7),
)
def test_eap_what_is_cut_is_put_together_again(message: bytes, size: int, version: int) -> None:
    outgoing, incoming = framing.Outgoing(size, version), framing.Incoming()
    piece = outgoing.send(message)
    while True:
        assert len(piece) + 5 <= size
        whole = incoming.add(codec.fragment(piece))
        if whole is not None:
            break
        assert outgoing.is_waiting
        piece = outgoing.next()
    assert whole == message
    assert not outgoing.is_waiting


@given(st.lists(st.binary(max_size=400), max_size=20))
def test_eap_fragments_of_strangers(pieces: list[bytes]) -> None:
    incoming = framing.Incoming()
    for piece in pieces:
        try:
            fragment = codec.fragment(piece)
            whole = incoming.add(fragment)
        except Fault as fault:
            if fault.code not in (FaultCode.MALFORMED, FaultCode.REJECTED):
                raise
            return
        if whole is not None:
            assert len(whole) <= framing.LONGEST_MESSAGE


# -- Conversations -----------------------------------------------------------------------------

_ALL = ("eap-tls", "eap-ttls", "peap", "eap-gtc")


_WORLD: list[EAPWorld] = []


def the_world() -> EAPWorld:
    """Return the one that all examples share: Hypothesis and fixtures do not go together."""
    if not _WORLD:
        _WORLD.append(EAPWorld())
    _WORLD[0].core.__init__()  # type: ignore[misc]
    return _WORLD[0]


def talk(conversation: Any, eap: bytes) -> Any:
    """Give it a packet; None if it is ignored."""
    begin = time.thread_time()
    try:
        step = drive(conversation.receive(eap))
    except Fault as fault:
        if fault.code is not FaultCode.MALFORMED:
            raise
        step = None
    assert time.thread_time() - begin < _LIMIT * 4  # a TLS flight, perhaps a new context
    if step is not None:
        assert (step.outcome == "failure") == (step.fault is not None)
        assert step.outcome != "success", "nobody has proved anything"
    return step


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 0, 1, -1]),
            st.sampled_from([1, 3, 6, 13, 21, 25, 26, 33, 254]),
            st.binary(max_size=200),
        ),
        max_size=8,
    )
)
def test_eap_a_conversation_with_a_stranger(packets: list[tuple[int, int, bytes]]) -> None:
    conversation = the_world().converse(_ALL, nas_port_type=15)
    step = talk(conversation, Peer.respond(1, 1, b"someone"))
    for offset, type_, data in packets:
        identifier = (step.eap[1] if step is not None else 0) + offset & 0xFF
        step = talk(conversation, Peer.respond(identifier, type_, data)) or step
        if conversation.is_over:
            break


@given(st.integers(0, 3000), st.integers(0, 255), st.integers(0, 2), st.integers(0, 6))
def test_eap_one_octet_wrong_in_a_login(at: int, value: int, kind: int, when: int) -> None:
    world = the_world()
    peer = world.peer(_client(world), context=_context(world))
    conversation = world.converse()
    step = drive(conversation.receive(b""))
    changed = False
    for turn in range(100):
        reply = peer.answer(step.eap)
        if reply is None:
            break
        if turn == when and len(reply) > 6:
            place = at % len(reply)
            wrong = (
                reply[:place] + bytes((value,)) + reply[place + 1 :],
                reply[:place] + bytes((value,)) + reply[place:],
                reply[:place],
            )[kind]
            changed = wrong != reply
            reply = wrong
        try:
            step = drive(conversation.receive(reply))
        except Fault as fault:
            if fault.code is not FaultCode.MALFORMED:
                raise
            return
        if conversation.is_over:
            break
    if step.outcome == "success":
        # What the handshake does not cover: the identity, flags, padding behind the end.
        assert not changed or step.admitted is not None
        assert len(world.core.logins) == 1


@given(
    st.sampled_from([PEAP, TTLS]),
    st.lists(st.one_of(_octets, _tlvs, st.lists(_avp, max_size=4).map(b"".join)), max_size=5),
)
def test_eap_inside_a_tunnel(method: int, found: list[bytes]) -> None:
    world = the_world()
    peer = world.peer(method=method, inner=Inner("gtc", password="wrong"), context=_plain(world))
    said = iter(found)

    def say(*given_: Any) -> None:
        octets = next(said, b"")
        if octets:
            peer.tunnel().sendall(octets)

    peer._say_first = say  # type: ignore[method-assign]
    peer._inside = say  # type: ignore[method-assign]
    conversation = world.converse(_ALL[1:], nas_port_type=15)
    step = drive(conversation.receive(b""))
    for _ in range(40):
        reply = peer.answer(step.eap)
        if reply is None or conversation.is_over:
            break
        step = talk(conversation, reply)
        if step is None:
            break


_CACHE: dict[str, Any] = {}


def _client(world: EAPWorld) -> Any:
    if "client" not in _CACHE:
        _CACHE["client"] = world.client()
    return _CACHE["client"]


def _context(world: EAPWorld) -> Any:
    if "context" not in _CACHE:
        client = _client(world)
        _CACHE["context"] = eap_peer.client_context(
            anchors=(world.root,), chain=client.chain, key=client.key
        )
    return _CACHE["context"]


def _plain(world: EAPWorld) -> Any:
    if "plain" not in _CACHE:
        _CACHE["plain"] = eap_peer.client_context(anchors=(world.root,))
    return _CACHE["plain"]


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (codec.avps, b"\x00\x00\x00\x01\x40\x00\x00\x08" * 8000),
        (codec.extensions, b"\x00\x07\x00\x00" * 16_000),
        (codec.identity, b"\xff" * 60_000),
        (codec.decode, bytes(60_000)),
        (codec.mschapv2, b"\x02" + b"\xff" * 60_000),
    ],
)
def test_eap_the_worst_are_cheap(decode: Any, data: bytes) -> None:
    begin = time.thread_time()
    read(decode, data)
    assert time.thread_time() - begin < 0.02


_field = st.builds(
    lambda size, data, more: (len(data) + more).to_bytes(size) + data,
    st.sampled_from([1, 2]),
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 1, 200]),
)


@given(st.lists(_field, max_size=6), _octets, st.booleans())
def test_any_greeting_offers_sessions_or_nothing(
    fields: list[bytes], noise: bytes, speaks_13: bool
) -> None:
    body = bytes(34) + b"".join(fields)
    length = len(body).to_bytes(3)
    for octets in (b"\x16\x03\x01\0\0\x01" + length + body + noise, noise):
        began = time.thread_time()
        found = offered(octets, speaks_13=speaks_13)
        assert time.thread_time() - began < _LIMIT
        assert all(each in octets for each in found)
