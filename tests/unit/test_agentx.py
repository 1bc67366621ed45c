"""AgentX: what a master asks is answered from the snapshot; RFC 2741."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from twisted.internet.task import Clock as ReactorClock
from twisted.internet.testing import StringTransport

from tests.support import drive
from tmad.errors import Fault
from tmad.protocols.snmp import agentx_codec as codec
from tmad.protocols.snmp import values
from tmad.protocols.snmp.agentx import Session, Subagent, answer
from tmad.protocols.snmp.agentx_codec import HEADER, Kind, Question, SearchRange
from tmad.protocols.snmp.mib import Snapshot, scalar, table
from tmad.protocols.snmp.values import OID, Integer, Octets

ROOT: OID = (1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 2026)
SNAPSHOT = Snapshot.of(
    [
        scalar((*ROOT, 1, 1), Octets(b"tmad")),
        *table(
            (*ROOT, 1, 2, 1),
            [((n,), {2: Integer(n), 3: Octets(b"x" * n)}) for n in (1, 2, 5)],
        ),
    ]
)


def _ask(kind: Kind, *ranges: tuple[OID, bool, OID], **more: int) -> list[tuple[OID, Any]]:
    question = Question(ranges=tuple(SearchRange(*r) for r in ranges), has_context=False, **more)
    return [(oid[len(ROOT) :], value) for oid, value in answer(SNAPSHOT, kind, question)]


def test_get_tells_what_is_not_there_apart() -> None:
    found = _ask(
        Kind.GET,
        ((*ROOT, 1, 1, 0), False, ()),
        ((*ROOT, 1, 2, 1, 2, 3), False, ()),
        ((*ROOT, 1, 9, 0), False, ()),
    )
    assert [value for _, value in found] == [
        Octets(b"tmad"),
        values.NO_SUCH_INSTANCE,
        values.NO_SUCH_OBJECT,
    ]


def test_next_begins_after_or_at_and_ends_before() -> None:
    column = (*ROOT, 1, 2, 1, 2)
    assert _ask(Kind.GETNEXT, ((*column, 1), False, ())) == [((1, 2, 1, 2, 2), Integer(2))]
    assert _ask(Kind.GETNEXT, ((*column, 1), True, ())) == [((1, 2, 1, 2, 1), Integer(1))]
    end = [((1, 2, 1, 2, 1), values.END_OF_MIB_VIEW)]
    assert _ask(Kind.GETNEXT, ((*column, 1), False, (*column, 2))) == end
    last = ((*ROOT, 1, 2, 1, 3, 5), False, ())
    assert _ask(Kind.GETNEXT, last)[0][1] == values.END_OF_MIB_VIEW


def test_bulk_goes_on_until_the_end_and_no_further() -> None:
    start = ((*ROOT, 1, 1, 0), False, ())
    column = ((*ROOT, 1, 2, 1, 3), False, ())
    found = _ask(Kind.GETBULK, start, column, non_repeaters=1, repetitions=65_535)
    assert found[0] == ((1, 2, 1, 2, 1), Integer(1))
    assert [oid for oid, _ in found[1:4]] == [(1, 2, 1, 3, n) for n in (1, 2, 5)]
    assert found[4:] == [((1, 2, 1, 3, 5), values.END_OF_MIB_VIEW)]


def test_bulk_is_bounded() -> None:
    column = ((*ROOT, 1, 2, 1, 2), False, (*ROOT, 2))
    assert len(_ask(Kind.GETBULK, *[column] * 300, repetitions=65_535)) <= 512


@pytest.mark.parametrize(
    "oid", [(1, 3, 6, 1, 2, 1, 1), (1, 3, 6, 1), (1, 3, 6, 1, 300, 1), (2, 5), (), ROOT]
)
def test_object_identifiers_survive(oid: OID) -> None:
    octets = codec.encode_oid(oid, is_included=True) + codec.encode_oid(())
    header = codec.decode_header(codec.encode(Kind.GETNEXT, octets))
    (found,) = codec.decode_question(header, octets).ranges
    assert found == (oid, True, ())


def test_the_prefix_is_left_out_as_in_the_rfc() -> None:
    # RFC 2741, 5.1: sysDescr is 1.3.6.1.2.1.1.1, and the null object identifier.
    assert codec.encode_oid((1, 3, 6, 1, 2, 1, 1, 1)).hex() == "03020000" + "00000001" * 3
    assert codec.encode_oid(()).hex() == "00000000"
    # 5.3: an octet string is padded to four octets.
    assert codec.encode_octets(b"tmad5") == b"\0\0\0\5tmad5\0\0\0"


def test_both_byte_orders_are_read() -> None:
    payload = struct.pack("<HH", 1, 20) + struct.pack("<4B2I", 2, 2, 0, 0, 1, 1) + bytes(4)
    header = struct.pack("<4B4I", 1, 7, 0, 0, 1, 2, 3, len(payload))
    found = codec.decode_question(codec.decode_header(header), payload)
    assert (found.non_repeaters, found.repetitions) == (1, 20)
    assert found.ranges[0].start == (1, 3, 6, 1, 2, 1, 1)


@pytest.mark.parametrize(
    "octets",
    [
        struct.pack(">4B4I", 2, 5, 16, 0, 0, 0, 0, 0),
        struct.pack(">4B4I", 1, 5, 16, 0, 0, 0, 0, 3),
        struct.pack(">4B4I", 1, 5, 16, 0, 0, 0, 0, 1 << 30),
    ],
)
def test_a_header_that_is_none_is_refused(octets: bytes) -> None:
    with pytest.raises(Fault) as caught:
        codec.decode_header(octets)
    assert caught.value.rule == "snmp.malformed"


@pytest.mark.parametrize("payload", [b"\x80\0\0\0", b"\x01\0\0\0", b"\xff\x02\0\0" + bytes(2_000)])
def test_a_question_that_is_none_is_refused(payload: bytes) -> None:
    header = codec.decode_header(codec.encode(Kind.GET, payload))
    with pytest.raises(Fault):
        codec.decode_question(header, payload)


# -- the conversation ----------------------------------------------------------------------------


class Master:
    """The other end of a session, by hand."""

    def __init__(self) -> None:
        self.clock = ReactorClock()
        self.factory = Subagent(
            self.clock,
            "127.0.0.1:705",
            lambda: SNAPSHOT,
            subtree=ROOT,
            identity=(*ROOT, 3, 1),
            description="tmad",
        )
        self.session: Session = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.session.makeConnection(self.transport)

    def heard(self) -> list[tuple[codec.Header, bytes]]:
        data = self.transport.value()
        self.transport.clear()
        found = []
        while data:
            header = codec.decode_header(data)
            end = HEADER + header.length
            found.append((header, data[HEADER:end]))
            data = data[end:]
        return found

    def send(self, kind: Kind, payload: bytes, **place: int) -> None:
        self.session.dataReceived(codec.encode(kind, payload, **place))

    def join(self) -> None:
        for wanted in (Kind.OPEN, Kind.REGISTER):
            ((header, _),) = self.heard()
            assert header.kind == wanted
            self.send(Kind.RESPONSE, codec.encode_response(), session=77, packet=header.packet)
        assert self.session.is_open


def test_it_opens_registers_and_answers() -> None:
    master = Master()
    master.join()
    payload = codec.encode_oid((*ROOT, 1, 1, 0)) + codec.encode_oid(())
    master.send(Kind.GET, payload, session=77, transaction=5, packet=9)
    ((header, answered),) = master.heard()
    assert (header.kind, header.session, header.transaction, header.packet) == (18, 77, 5, 9)
    assert answered == codec.encode_response(bindings=[((*ROOT, 1, 1, 0), Octets(b"tmad"))])


def test_nothing_can_be_set_and_other_contexts_are_not_ours() -> None:
    master = Master()
    master.join()
    master.send(Kind.TESTSET, b"", session=77, packet=1)
    master.send(Kind.CLEANUPSET, b"", session=77, packet=2)
    master.send(Kind.PING, b"")
    answers = master.heard()
    assert [struct.unpack(">IHH", payload[:8])[1] for _, payload in answers] == [17, 266]
    context = struct.pack(">4B4I", 1, 5, 0x18, 0, 77, 1, 3, 8) + codec.encode_octets(b"vrf1")
    master.session.dataReceived(context)
    ((_, payload),) = master.heard()
    assert struct.unpack(">IHH", payload[:8])[1] == 262


def test_pieces_and_two_at_once_are_the_same() -> None:
    master = Master()
    master.join()
    payload = codec.encode_oid((*ROOT, 1, 1, 0)) + codec.encode_oid(())
    stream = codec.encode(Kind.GET, payload, packet=1) + codec.encode(Kind.GET, payload, packet=2)
    for octet in stream:
        master.session.dataReceived(bytes((octet,)))
    assert [header.packet for header, _ in master.heard()] == [1, 2]
    master.session.dataReceived(stream)
    assert len(master.heard()) == 2


def test_a_master_that_falls_silent_is_left() -> None:
    master = Master()
    master.join()
    master.clock.advance(30)
    ((ping, _),) = master.heard()
    assert ping.kind == Kind.PING
    master.send(Kind.RESPONSE, codec.encode_response(), packet=ping.packet)
    master.clock.advance(30)
    assert len(master.heard()) == 1
    assert not master.transport.disconnecting
    master.clock.advance(15)
    assert master.transport.disconnecting


def test_a_master_that_has_forgotten_us_is_joined_anew() -> None:
    master = Master()
    master.join()
    master.clock.advance(30)
    ((ping, _),) = master.heard()
    master.send(Kind.RESPONSE, codec.encode_response(257), packet=ping.packet)
    assert master.transport.disconnecting


def test_notifications_need_a_master_and_its_word() -> None:
    master = Master()
    with pytest.raises(Fault):
        drive(master.factory.notify([]))
    master.join()
    from twisted.internet.defer import ensureDeferred

    for error in (0, 5):
        outcome: list[Any] = []
        ensureDeferred(
            master.factory.notify([((1, 3, 6, 1, 2, 1, 1, 3, 0), values.TimeTicks(7))])
        ).addBoth(outcome.append)
        ((header, _),) = master.heard()
        assert header.kind == Kind.NOTIFY
        assert outcome == []
        master.send(Kind.RESPONSE, codec.encode_response(error), packet=header.packet)
        assert len(outcome) == 1
        assert (outcome[0] is None) == (error == 0)


def test_nonsense_ends_the_connection() -> None:
    master = Master()
    master.session.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert master.transport.disconnecting


def test_an_answer_that_is_none_leaves_nobody_waiting() -> None:
    from twisted.internet.defer import ensureDeferred

    master = Master()
    master.join()
    outcome: list[Any] = []
    ensureDeferred(master.factory.notify([])).addBoth(outcome.append)
    ((header, _),) = master.heard()
    master.send(Kind.RESPONSE, b"\0\0\0\0", packet=header.packet)
    assert master.transport.disconnecting
    master.session.connectionLost()
    assert len(outcome) == 1
    assert outcome[0].type is Fault
    assert not [call for call in master.clock.getDelayedCalls() if call.active()]
