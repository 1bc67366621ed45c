"""RADIUS packets from strangers: a value or Fault(MALFORMED), and never a word to the wrong ones.

The judge beside us is pyrad: whatever we read it must read, too, with the same attributes.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from pyrad.dictionary import Dictionary
from pyrad.packet import Packet as PyradPacket

from tests.support import drive
from tests.unit.test_radius_server import NAS, SECRET, World
from tmad.errors import Fault, FaultCode
from tmad.network import attributes
from tmad.protocols.radius import codec

_DICTIONARY = Dictionary()
_SECONDS = 0.05

_attribute = st.tuples(
    st.integers(0, 255) | st.sampled_from([1, 2, 24, 26, 33, 79, 80]), st.binary(max_size=253)
)
_attributes = st.lists(_attribute, max_size=14)


def _packed(
    code: int, identifier: int, authenticator: bytes, found: list[tuple[int, bytes]], wrong: int
) -> bytes:
    body = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in found)
    length = max(0, min(0xFFFF, 20 + len(body) + wrong))
    return struct.pack(">BBH16s", code, identifier, length, authenticator) + body


_packet = st.builds(
    _packed,
    st.integers(0, 255) | st.sampled_from([1, 4, 12]),
    st.integers(0, 255),
    st.binary(min_size=16, max_size=16),
    _attributes,
    st.just(0) | st.integers(-30, 30),
)
_octets = st.binary(max_size=200) | _packet


def _is_expected(fault: Fault) -> bool:
    return fault.code is FaultCode.MALFORMED and fault.rule.startswith("radius.malformed.")


def read(octets: bytes) -> codec.Packet | None:
    """Decode; None for a Fault that is as it should be."""
    began = time.thread_time()
    try:
        return codec.decode(octets)
    except Fault as fault:
        if not _is_expected(fault):
            raise
        return None
    finally:
        assert time.thread_time() - began < _SECONDS


@given(_octets)
def test_any_octets_are_a_packet_or_malformed(octets: bytes) -> None:
    found = read(octets)
    if found is None:
        return
    assert octets.startswith(found.octets)
    assert int.from_bytes(found.octets[2:4], "big") == len(found.octets)
    again = _packed(found.code, found.identifier, found.authenticator, [*found.attributes], 0)
    assert again == found.octets
    # Nothing that reads one further may fail.
    codec.is_authentic(found, SECRET)
    codec.is_digested(found, SECRET)
    codec.is_reply(found, bytes(20), SECRET)
    described = attributes.describe(found.attributes)
    assert len(described) >= len(found.attributes)
    for kind in range(256):
        found.text(kind)
        found.number(kind)
    for vendor in (9, 311):
        found.vendor(vendor, 1)
    assert found.eap is None or isinstance(found.eap, bytes)


@given(_packet)
def test_pyrad_reads_the_same_attributes(octets: bytes) -> None:
    found = read(octets)
    assume(found is not None)
    assert found is not None
    # pyrad takes vendor attributes apart; ours leaves them as they are.
    assume(all(kind != codec.VENDOR_SPECIFIC for kind, _ in found.attributes))
    theirs = PyradPacket(packet=found.octets, secret=SECRET, dict=_DICTIONARY)
    for kind, _ in found.attributes:
        assert [bytes(value) for value in theirs[kind]] == list(found.all(kind))


@given(_attributes, st.binary(min_size=16, max_size=16))
def test_what_is_written_is_read_again(found: list[Any], authenticator: bytes) -> None:
    own = [(kind, value) for kind, value in found if kind != codec.MESSAGE_AUTHENTICATOR]
    sent = codec.encode_access(1, 5, authenticator, own, SECRET)
    asked = codec.decode(sent)
    assert list(asked.attributes[1:]) == own
    assert codec.is_authentic(asked, SECRET)
    answer = codec.encode_reply(asked, 2, [], SECRET)
    assert codec.is_reply(codec.decode(answer), sent, SECRET)


@given(st.binary(max_size=260), st.binary(min_size=16, max_size=16))
def test_hidden_values_are_revealed_or_malformed(value: bytes, authenticator: bytes) -> None:
    for reveal in (codec.reveal_password, codec.reveal_mppe_key):
        try:
            assert len(reveal(value, authenticator, SECRET)) <= len(value)
        except Fault as fault:
            if not _is_expected(fault):
                raise


@given(st.text(max_size=40), st.text(max_size=300) | st.integers(-(2**40), 2**40))
def test_any_attribute_of_a_policy_is_encoded_or_a_mistake_in_words(
    name: str, value: str | int
) -> None:
    names = [name, "Filter-Id", "Tunnel-Type", "Framed-IP-Address", "Framed-IPv6-Prefix"]
    for each in (*names, "Attr-26.9.1", f"Tunnel-Private-Group-Id:{name}"):
        mistake = attributes.check(each, value)
        if mistake is None:
            number, octets = attributes.encode(each, value)
            assert 1 <= number <= 255
            assert len(octets) <= 253
        else:
            assert mistake


_WORLD = World()


@given(st.data())
def test_no_change_of_an_honest_packet_is_answered(data: st.DataObject) -> None:
    """A-R1: neither a mutation nor noise gets a word, or a traceback into the log."""
    world = _WORLD
    honest = codec.encode_access(
        1, 1, data.draw(st.binary(min_size=16, max_size=16)), [(1, b"bob"), (79, b"")], SECRET
    )
    at = data.draw(st.integers(0, len(honest) - 1))
    flipped = honest[:at] + bytes((honest[at] ^ 1 << data.draw(st.integers(0, 7)),))
    flipped += honest[at + 1 :]
    noise = data.draw(_octets)
    for octets in (flipped, honest[:at], noise):
        assert world.send(octets, NAS) == []
    assert world.meter.counts["dropped-failed"] == 0
    assert world.core.asked == []


@given(st.binary(max_size=400))
def test_questions_of_other_workers_are_answered_or_faults(question: bytes) -> None:
    try:
        drive(_WORLD.exchange.answer_worker(question))
    except Fault as fault:
        if not _is_expected(fault):
            raise
