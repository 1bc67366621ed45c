"""SNMP from strangers: an answer, a report or silence, in bounded time, and the next is served.

T-SNMP-01: the anomalies of PROTOS' groups (lengths, tags, integers, object identifiers) by
mutations that know TLV. pyasn1 is the judge of the octets that we take for a message.
"""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.ber import decoder
from pyasn1.error import PyAsn1Error
from pysnmp.proto import rfc1905

from tests.fuzz.mutations import judge, mutated
from tests.snmp_world import (
    AUTH_PRIV,
    COMMUNITY,
    ENGINE_ID,
    MANAGER,
    SYSTEM,
    TABLE,
    World,
    question,
)
from tmad.errors import Fault
from tmad.protocols.snmp import codec, values
from tmad.protocols.snmp.agent import respond
from tmad.protocols.snmp.codec import AUTHENTICATED, REPORTABLE, Kind
from tmad.protocols.snmp.engine import OUTCOMES
from tmad.protocols.snmp.notification import InformSession, Outcome
from tmad.protocols.snmp.usm import Salts

WORLD = World(rate=1e9, burst=10**9)
GET = question(Kind.GET, (*SYSTEM, 1, 0), (*TABLE, 2, 300), (1, 3, 7))
BULK = question(Kind.GETBULK, (*SYSTEM, 1, 0), (1, 3), first=1, second=20)
QUESTIONS = (GET, BULK, question(Kind.GETNEXT, (1, 3)), question(Kind.SET, (*SYSTEM, 6, 0)))

V1V2 = [
    codec.encode_community(version, COMMUNITY, codec.pdu_octets(pdu))
    for version in (0, 1)
    for pdu in QUESTIONS
]
V3 = [
    WORLD.seal(WORLD.message(codec.pdu_octets(pdu), flags=flags))
    for flags in (REPORTABLE, AUTHENTICATED | REPORTABLE, AUTH_PRIV | REPORTABLE, AUTH_PRIV)
    for pdu in QUESTIONS
]
V3.append(codec.encode_secure(WORLD.message(b"", flags=REPORTABLE, engine_id=b"", user=b"")))
SEEDS = st.sampled_from(V1V2 + V3)
GOOD = V1V2[0]


def answer(octets: bytes) -> Any:
    reply = judge(WORLD.answer, octets)
    assert reply.outcome in OUTCOMES
    assert reply.octets is None or len(reply.octets) <= 1_472
    return reply


@given(st.binary(max_size=300) | mutated(SEEDS))
def test_t_snmp_01_any_octets_get_an_answer_or_none(octets: bytes) -> None:
    answer(octets)
    assert answer(GOOD).outcome == "answered"


@given(mutated(st.sampled_from([codec.pdu_octets(pdu) for pdu in QUESTIONS])))
def test_t_snmp_01_behind_a_good_signature(pdu: bytes) -> None:
    """What a user may send whose manager is broken."""
    answer(WORLD.seal(WORLD.message(pdu)))
    answer(WORLD.seal(WORLD.message(b"", data=pdu)))
    answer(codec.encode_community(1, COMMUNITY, pdu))


@given(mutated(st.sampled_from(V1V2)))
def test_what_we_read_pyasn1_reads_too(octets: bytes) -> None:
    found = judge(codec.decode, octets)
    if isinstance(found, codec.CommunityMessage):
        message, found = found, judge(codec.decode_pdu, found.pdu)
    if not isinstance(found, codec.PDU):
        assert not isinstance(found, Fault) or found.rule in ("snmp.malformed", "snmp.version")
        return
    pdu = found
    try:
        theirs, rest = decoder.decode(message.pdu, asn1Spec=rfc1905.PDUs())
    except PyAsn1Error:
        # They hold numbers to narrower ranges (non-repeaters, error-status).
        assert min(pdu.status, pdu.error_index) < 0 or pdu.status > 18 or _is_odd(pdu)
        return
    assert not rest
    found = theirs.getComponent()
    assert int(found[0]) == pdu.request_id
    assert len(found[3]) == len(pdu.bindings)
    for mine, other in zip(pdu.bindings, found[3], strict=True):
        assert values.decode_oid(mine.name) == tuple(other[0])


def _is_odd(pdu: codec.PDU) -> bool:
    """Whether it has a value that pysnmp's types do not take."""
    return any(
        binding.value.TAG in (0x44, 0x80, 0x81, 0x82) or len(binding.value) > 2
        for binding in pdu.bindings
    )


@given(st.binary(max_size=40), st.integers(0, 255))
def test_any_value_is_one_or_malformed(content: bytes, tag: int) -> None:
    value = judge(values.value_of, tag, content)
    if isinstance(value, Fault):
        assert value.rule == "snmp.malformed"
        return
    number, start, stop = values.read(value, 0, len(value))
    assert number == tag
    again = values.value_of(tag, bytes(value[start:stop]))
    assert (again, again.value) == (value, value.value)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20).map(lambda rest: (1, 3, *rest)))
def test_every_name_comes_back(oid: tuple[int, ...]) -> None:
    name = values.encode_oid(oid)
    assert values.decode_oid(name) == oid
    assert values.name_of(values.Value(name).content) == name


@given(
    st.lists(st.sampled_from([*WORLD.snapshot.keys, (1, 3), (2, 5), (0, 0)]), max_size=12),
    st.integers(-(2**31), 2**31 - 1) | st.integers(0, 15),
    st.integers(-(2**31), 2**31 - 1) | st.integers(0, 200),
    st.sampled_from([Kind.GET, Kind.GETNEXT, Kind.GETBULK]),
    st.integers(60, 1_472),
)
def test_t_snmp_04_no_question_costs_more_than_its_room(
    names: list[tuple[int, ...]], first: int, second: int, kind: Kind, room: int
) -> None:
    pdu = question(kind, *names, first=first, second=second)
    window = WORLD.engine._window(WORLD.user.view)
    found = judge(lambda: respond(pdu, 1, window, room=room, bulk_room=room))
    assert found is None or len(found) <= room


@given(mutated(SEEDS) | st.binary(max_size=200))
def test_whatever_a_receiver_of_informs_sends_is_bounded(octets: bytes) -> None:
    session = InformSession(WORLD.user, Salts(0), WORLD.seconds)
    session.datagram(1, ())
    found = judge(session.receive, octets, 1)
    assert isinstance(found, Outcome | Fault)


def test_the_dearest_questions_are_cheap() -> None:
    """As many names as a datagram holds; names as long as they may be; a nest of sequences."""
    short = codec.encode_binding(values.encode_oid((1, 3)), values.NULL)
    long = codec.encode_binding(values.encode_oid((1, 3) + (2**32 - 1,) * 126), values.NULL)
    nest = b"\x05\0"
    for _ in range(2_000):
        nest = values.tlv(0x30, nest)
    for pieces in ([short] * 512, [long] * 12, [short] * 513):
        for kind in (Kind.GET, Kind.GETNEXT, Kind.GETBULK):
            pdu = codec.encode_pdu(kind, 1, 0, 2**31 - 1, pieces)
            octets = codec.encode_community(1, COMMUNITY, pdu)
            assert len(octets) <= codec.LONGEST_IN
            began = time.thread_time()
            WORLD.answer(octets, MANAGER)
            assert time.thread_time() - began < 0.05
    answer(codec.encode_community(1, COMMUNITY, nest))
    answer(nest)
    assert len(ENGINE_ID) == 13
