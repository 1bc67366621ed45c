"""What the agent answers: RFC 3416's rules, views, sizes, and SNMPv1's differences."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.snmp_world import MANAGER, SYSTEM, TABLE, World, make_community, question
from tmad.identity.snmp_managers import Subtree
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import V1, V2C, Kind, Status
from tmad.protocols.snmp.mib import EMPTY, Snapshot
from tmad.protocols.snmp.vacm import Window, covers
from tmad.protocols.snmp.values import (
    END_OF_MIB_VIEW,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    OID,
    Counter64,
    Integer,
    Octets,
    Value,
    decode_oid,
    encode_oid,
)

DESCRIPTION = (*SYSTEM, 1, 0)
LAST: OID = (1, 3, 6, 1, 4, 1, 9, 1, 0)


@pytest.fixture
def world() -> World:
    return World()


def found(pdu: codec.PDU) -> list[tuple[OID, Value]]:
    return [(decode_oid(binding.name), binding.value) for binding in pdu.bindings]


def test_get_tells_what_is_not_there_from_what_does_not_exist(world: World) -> None:
    answer = world.ask(
        question(Kind.GET, DESCRIPTION, (*TABLE, 1, 2), (*TABLE, 1, 3), (*SYSTEM, 1), (1, 3, 7, 0))
    )
    assert (answer.kind, answer.request_id, answer.status) == (Kind.RESPONSE, 12_345, 0)
    assert [value for _, value in found(answer)][1:] == [
        world.snapshot.get((*TABLE, 1, 2)),
        NO_SUCH_INSTANCE,
        NO_SUCH_INSTANCE,  # the object type itself has no instance of its name
        NO_SUCH_OBJECT,
    ]
    assert found(answer)[0] == (DESCRIPTION, Octets(b"a description"))


def test_getnext_walks_to_the_end(world: World) -> None:
    name: OID = (0, 0)
    walked = []
    while True:
        [(name, value)] = found(world.ask(question(Kind.GETNEXT, name)))
        if value == END_OF_MIB_VIEW:
            break
        walked.append((name, value))
    assert walked == list(zip(world.snapshot.keys, world.snapshot.values, strict=True))
    assert name == LAST


def test_getbulk_goes_row_by_row(world: World) -> None:
    answer = world.ask(
        question(Kind.GETBULK, (*SYSTEM, 1), (*TABLE, 1), (*TABLE, 2), first=1, second=2)
    )
    assert [name for name, _ in found(answer)] == [
        DESCRIPTION, (*TABLE, 1, 1), (*TABLE, 2, 1), (*TABLE, 1, 2), (*TABLE, 2, 2),
    ]  # fmt: skip


def test_getbulk_ends_with_the_view(world: World) -> None:
    answer = world.ask(question(Kind.GETBULK, (*TABLE, 2, 300), second=50))
    assert found(answer) == [(LAST, Octets(b"elsewhere")), (LAST, END_OF_MIB_VIEW)]
    answer = world.ask(question(Kind.GETBULK, LAST, (*TABLE, 2, 300), second=50))
    assert found(answer)[-2:] == [(LAST, END_OF_MIB_VIEW), (LAST, END_OF_MIB_VIEW)]
    assert len(answer.bindings) == 4


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [(0, 0, 0), (5, 9, 1), (-3, 2, 2), (0, -1, 0), (0, 2**31 - 1, 10), (2**31 - 1, 1, 1)],
)
def test_t_snmp_04_getbulk_takes_any_numbers(
    world: World, first: int, second: int, count: int
) -> None:
    answer = world.ask(question(Kind.GETBULK, (1, 3), first=first, second=second))
    assert (answer.status, len(answer.bindings)) == (0, count)


def big(count: int = 5_000) -> Snapshot:
    return Snapshot.of(((1, 3, 6, 1, 9), (number,), Integer(number)) for number in range(count))


def test_t_snmp_04_a_bulk_answer_is_bounded() -> None:
    world = World(snapshot=big())
    asked = question(Kind.GETBULK, (1, 3), (1, 3, 6), (1, 3, 6, 1), second=2**31 - 1)
    reply = world.answer(codec.encode_community(V2C, b"a-community", codec.pdu_octets(asked)))
    assert reply.octets is not None
    assert len(reply.octets) <= 1_472
    assert len(world.ask(asked).bindings) == 64
    assert len(world.ask_v3(question(Kind.GETBULK, (1, 3), second=60))[0].octets) <= 1_472
    wide = Snapshot.of(((1, 3, 6, 1, 9), (n,), Octets(b"x" * 400)) for n in range(50))
    world = World(snapshot=wide)
    for bulk in (question(Kind.GETBULK, (1, 3), second=50), asked):
        reply = world.answer(codec.encode_community(V2C, b"a-community", codec.pdu_octets(bulk)))
        assert reply.octets is not None
        assert 1_200 < len(reply.octets) <= 1_472
        # To a user it is not larger, either; what one names oneself may be.
        message, answer = world.ask_v3(bulk)
        assert len(answer.bindings) == 3
        assert 1_200 < len(message.octets) <= 1_472
    many = question(Kind.GET, *wide.keys[:20])
    assert len(world.ask_v3(many)[0].octets) > 8_000
    assert world.ask_v3(many, max_size=5_000)[1].status == Status.TOO_BIG


def test_what_does_not_fit_is_too_big() -> None:
    wide = Snapshot.of(((1, 3, 6, 1, 9), (n,), Octets(b"x" * 1_000)) for n in range(4))
    world = World(snapshot=wide)
    for kind in (Kind.GET, Kind.GETNEXT):
        asked = question(kind, *wide.keys[:2])
        answer = world.ask(asked)
        assert (answer.status, answer.error_index, answer.bindings) == (Status.TOO_BIG, 0, [])
        # RFC 1157, 4.1.2: SNMPv1 has its variables back.
        answer = world.ask(asked, version=V1)
        assert (answer.status, answer.bindings) == (Status.TOO_BIG, asked.bindings)
    world = World(snapshot=wide, longest=484)
    assert world.ask(question(Kind.GETBULK, (1, 3), second=1)).status == Status.TOO_BIG
    names = [(1, 3, 6, 1, 9, number) for number in range(60)]
    octets = codec.encode_community(
        V1, b"a-community", codec.pdu_octets(question(Kind.SET, *names))
    )
    assert world.answer(octets).outcome == "too-big"
    assert world.engine.counters["snmpSilentDrops"] == 1


def test_t_snmp_03_a_set_is_refused(world: World) -> None:
    asked = codec.PDU(
        Kind.SET, 1, 0, 0, [codec.VarBind(encode_oid(DESCRIPTION), Octets(b"another"))]
    )
    answer = world.ask(asked)
    assert (answer.status, answer.error_index) == (Status.NO_ACCESS, 1)
    assert answer.bindings == asked.bindings
    answer = world.ask(asked, version=V1)
    assert (answer.status, answer.error_index) == (Status.READ_ONLY, 1)
    assert world.ask_v3(asked)[1].status == Status.NO_ACCESS
    assert world.ask(question(Kind.SET)).error_index == 0
    assert world.snapshot.get(DESCRIPTION) == Octets(b"a description")


def test_snmpv1_has_neither_counter64_nor_exceptions(world: World) -> None:
    """RFC 3584, 4.2.2."""
    missing: tuple[OID, ...] = ((*TABLE, 2, 1), (1, 3, 7, 0))
    for name in missing:
        answer = world.ask(question(Kind.GET, DESCRIPTION, name), version=V1)
        assert (answer.status, answer.error_index) == (Status.NO_SUCH_NAME, 2)
        assert [binding.name for binding in answer.bindings] == [
            encode_oid(DESCRIPTION), encode_oid(name),
        ]  # fmt: skip
    [(name, _)] = found(world.ask(question(Kind.GETNEXT, (*TABLE, 1, 300)), version=V1))
    assert name == LAST
    answer = world.ask(question(Kind.GETNEXT, DESCRIPTION, LAST), version=V1)
    assert (answer.status, answer.error_index) == (Status.NO_SUCH_NAME, 2)


def test_an_agent_that_knows_nothing_yet_says_so() -> None:
    world = World()
    world.snapshot = EMPTY
    assert world.ask(question(Kind.GET, DESCRIPTION)).status == Status.RESOURCE_UNAVAILABLE
    assert world.ask(question(Kind.GET, DESCRIPTION), version=V1).status == Status.GEN_ERR


def test_a_view_hides_what_it_has_not() -> None:
    view = "1.3.6.1.2.1 -1.3.6.1.2.1.2.2.1.2 1.3.6.1.2.1.2.2.1.2.2"
    world = World(community=make_community(view))
    names: list[OID] = []
    name: OID = (0, 0)
    while True:
        [(name, value)] = found(world.ask(question(Kind.GETNEXT, name)))
        if value == END_OF_MIB_VIEW:
            break
        names.append(name)
    assert names == [
        DESCRIPTION, (*SYSTEM, 7, 0), (*TABLE, 1, 1), (*TABLE, 1, 2), (*TABLE, 1, 300),
        (*TABLE, 2, 2),
    ]  # fmt: skip
    bulk = world.ask(question(Kind.GETBULK, (0, 0), second=60))
    assert [name for name, _ in found(bulk)] == [*names, names[-1]]
    answer = world.ask(question(Kind.GET, LAST, (*TABLE, 2, 1), (*TABLE, 2, 2)))
    assert [value for _, value in found(answer)] == [
        NO_SUCH_OBJECT, NO_SUCH_OBJECT, Counter64(2 << 40),
    ]  # fmt: skip


def test_a_new_snapshot_is_seen_at_the_next_question(world: World) -> None:
    world.ask(question(Kind.GET, DESCRIPTION))
    world.snapshot = Snapshot.of([((*SYSTEM, 1), (0,), Octets(b"changed"))])
    [(_, value)] = found(world.ask(question(Kind.GET, DESCRIPTION)))
    assert value == Octets(b"changed")


def test_another_source_is_a_stranger(world: World) -> None:
    octets = codec.encode_community(
        V2C, b"a-community", codec.pdu_octets(question(Kind.GET, DESCRIPTION))
    )
    assert world.answer(octets, MANAGER).outcome == "answered"
    assert world.answer(octets, "198.51.100.1") == (None, "community")
    assert world.engine.counters["snmpInBadCommunityNames"] == 1


# -- against the rules written the slow way --------------------------------------------------------

ARCS = st.integers(0, 3)
OIDS = st.lists(ARCS, min_size=1, max_size=4).map(lambda arcs: (1, 3, *arcs))
VIEWS = st.lists(st.builds(Subtree, OIDS, st.booleans()), min_size=1, max_size=5).map(tuple)


@given(keys=st.sets(OIDS, max_size=25), view=VIEWS, start=OIDS)
def test_a_window_is_the_view_of_each_name(
    keys: set[OID], view: tuple[Subtree, ...], start: OID
) -> None:
    snapshot = Snapshot.of((key, (0,), Integer(1)) for key in keys)
    window = Window(snapshot, view)
    seen = [place for place, key in enumerate(snapshot.keys) if covers(view, key)]
    assert [place for place in range(len(snapshot.keys)) if window.has(place)] == seen
    place = bisect_right(snapshot.keys, start)
    expected = [each for each in seen if each >= place]
    begin, end = window.run(place)
    assert (begin < end) == bool(expected)
    if expected:
        assert begin == expected[0]
        assert list(range(begin, end)) == expected[: end - begin]
        assert end == len(snapshot.keys) or not covers(view, snapshot.keys[end])
