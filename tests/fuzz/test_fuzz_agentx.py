"""AgentX from a master that is none of ours: an answer or the end, in bounded time."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from tests.fuzz.mutations import judge
from tests.unit.test_agentx import Master
from tmad.errors import Fault
from tmad.protocols.snmp import agentx_codec as codec
from tmad.protocols.snmp.agentx_codec import HEADER, Kind

ARCS = st.lists(st.integers(0, 0xFFFF_FFFF), max_size=40).map(tuple)
KINDS = st.integers(0, 255)


def _pdu(kind: int, flags: int, payload: bytes) -> bytes:
    padded = payload + bytes(-len(payload) % 4)
    return struct.pack(">4B4I", 1, kind, flags, 0, 77, 1, 1, len(padded)) + padded


PDUS = st.one_of(
    st.binary(max_size=300),
    st.builds(_pdu, KINDS, st.integers(0, 255), st.binary(max_size=300)),
    st.builds(
        lambda kind, oids, counts: _pdu(
            kind, 0x10, counts + b"".join(codec.encode_oid(oid) for oid in oids)
        ),
        st.sampled_from([Kind.GET, Kind.GETNEXT, Kind.GETBULK]),
        st.lists(ARCS, max_size=12),
        st.sampled_from([b"", b"\0\1\xff\xff", b"\0\0\xff\xff"]),
    ),
)


def _served(data: bytes) -> list[codec.Header]:
    master = Master()
    master.join()
    transport: Any = master.transport
    master.session.dataReceived(data)
    answered = transport.value()
    found = []
    while answered:
        header = codec.decode_header(answered)
        found.append(header)
        answered = answered[HEADER + header.length :]
    assert isinstance(transport, StringTransport)
    return found


@given(st.lists(PDUS, min_size=1, max_size=4))
def test_whatever_a_master_sends_is_answered_or_ends_the_connection(pdus: list[bytes]) -> None:
    for header in judge(_served, b"".join(pdus)):
        assert header.kind == Kind.RESPONSE
        assert header.length <= codec.LONGEST


@given(ARCS, st.booleans())
def test_an_object_identifier_survives_or_is_refused(arcs: tuple[int, ...], included: bool) -> None:
    payload = codec.encode_oid(arcs, is_included=included) + codec.encode_oid(())
    header = codec.decode_header(codec.encode(Kind.GETNEXT, payload))
    try:
        (found,) = codec.decode_question(header, payload).ranges
    except Fault:
        assert len(arcs) > 128
    else:
        assert found == (arcs, included, ())
