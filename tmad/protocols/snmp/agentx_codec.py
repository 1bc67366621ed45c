"""AgentX PDUs: octets to values and back (RFC 2741, 5 and 6). Pure.

All that is sent is in network byte order; what is received may be in either (flag 0x10).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from tmad.protocols.snmp.values import (
    END_OF_MIB_VIEW,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    NULL,
    OID,
    Counter32,
    Counter64,
    Gauge32,
    Integer,
    IPAddress,
    ObjectID,
    Octets,
    Opaque,
    TimeTicks,
    Value,
    malformed,
)

HEADER: Final = 20  # octets
LONGEST: Final = 65_536  # octets of a PDU that we take from a master
_VERSION: Final = 1
_NETWORK_ORDER: Final = 0x10
_CONTEXT: Final = 0x08
_INTERNET: OID = (1, 3, 6, 1)
_MOST_ARCS: Final = 128


class Kind(IntEnum):
    """h.type (RFC 2741, 6.1)."""

    OPEN = 1
    CLOSE = 2
    REGISTER = 3
    UNREGISTER = 4
    GET = 5
    GETNEXT = 6
    GETBULK = 7
    TESTSET = 8
    COMMITSET = 9
    UNDOSET = 10
    CLEANUPSET = 11
    NOTIFY = 12
    PING = 13
    RESPONSE = 18


class Error(IntEnum):
    """res.error (RFC 2741, 6.2.16), and what of SNMP's own we answer."""

    NONE = 0
    GENERAL = 5
    NOT_WRITABLE = 17
    NOT_OPEN = 257
    UNSUPPORTED_CONTEXT = 262
    PARSE = 266


class Header(NamedTuple):
    """What stands before every PDU; ``length`` is of what follows."""

    kind: int
    flags: int
    session: int
    transaction: int
    packet: int
    length: int


class SearchRange(NamedTuple):
    """What is asked for: after ``start`` (or from it on, if included), before ``end``."""

    start: OID
    is_included: bool
    end: OID


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A Get, GetNext or GetBulk."""

    ranges: tuple[SearchRange, ...]
    has_context: bool
    non_repeaters: int = 0
    repetitions: int = 0


class Response(NamedTuple):
    """A Response, without its variables; ``uptime`` in hundredths of a second."""

    uptime: int
    error: int
    error_index: int


# -- reading -------------------------------------------------------------------------------------


class _Reader:
    __slots__ = ("data", "order", "position")

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.position = 0

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > len(self.data):
            raise malformed("an AgentX PDU ends too early")
        return self.data[start : self.position]

    def number(self, kind: str) -> int:
        layout = self.order + kind
        (found,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(found)

    def oid(self) -> tuple[OID, bool]:
        count, prefix, included, _ = self.take(4)
        if count + (5 if prefix else 0) > _MOST_ARCS:
            raise malformed("an AgentX object identifier is too long")
        arcs = struct.unpack(f"{self.order}{count}I", self.take(4 * count))
        return ((*_INTERNET, prefix, *arcs) if prefix else tuple(arcs)), bool(included)

    def octets(self) -> bytes:
        count = self.number("I")
        found = self.take(count)
        self.take(-count % 4)
        return found

    @property
    def is_over(self) -> bool:
        return self.position == len(self.data)


def decode_header(octets: bytes) -> Header:
    """Return the header of a PDU; Fault(MALFORMED) for one that is none of ours."""
    version, kind, flags, _ = octets[:4]
    order = ">" if flags & _NETWORK_ORDER else "<"
    found = Header(kind, flags, *struct.unpack(f"{order}4I", octets[4:HEADER]))
    if version != _VERSION:
        raise malformed("no known version of AgentX")
    if found.length > LONGEST or found.length % 4:
        raise malformed("an AgentX PDU of impossible length")
    return found


def decode_question(header: Header, payload: bytes) -> Question:
    """Return a Get, GetNext or GetBulk (RFC 2741, 6.2.5 to 6.2.7); Fault(MALFORMED)."""
    reader = _reader(header, payload)
    has_context = bool(header.flags & _CONTEXT)
    if has_context:
        reader.octets()
    non_repeaters = repetitions = 0
    if header.kind == Kind.GETBULK:
        non_repeaters, repetitions = reader.number("H"), reader.number("H")
    ranges = []
    while not reader.is_over:
        start, is_included = reader.oid()
        end, _ = reader.oid()
        ranges.append(SearchRange(start, is_included, end))
    return Question(
        ranges=tuple(ranges),
        has_context=has_context,
        non_repeaters=non_repeaters,
        repetitions=repetitions,
    )


def decode_response(header: Header, payload: bytes) -> Response:
    """Return a Response (RFC 2741, 6.2.16); its variables are of no interest to us."""
    reader = _reader(header, payload)
    return Response(reader.number("I"), reader.number("H"), reader.number("H"))


def _reader(header: Header, payload: bytes) -> _Reader:
    return _Reader(payload, ">" if header.flags & _NETWORK_ORDER else "<")


# -- writing -------------------------------------------------------------------------------------


def encode(
    kind: Kind, payload: bytes, *, session: int = 0, transaction: int = 0, packet: int = 0
) -> bytes:
    """Return a PDU."""
    header = struct.pack(
        ">4B4I", _VERSION, kind, _NETWORK_ORDER, 0, session, transaction, packet, len(payload)
    )
    return header + payload


def encode_oid(oid: OID, *, is_included: bool = False) -> bytes:
    """Return an object identifier, its beginning left out where that is possible (5.1)."""
    prefix, arcs = 0, oid
    if oid[:4] == _INTERNET and len(oid) > 4 and 0 < oid[4] <= 0xFF:
        prefix, arcs = oid[4], oid[5:]
    return struct.pack(f">4B{len(arcs)}I", len(arcs), prefix, is_included, 0, *arcs)


def encode_octets(octets: bytes) -> bytes:
    """Return an octet string, padded (5.3)."""
    return struct.pack(">I", len(octets)) + octets + bytes(-len(octets) % 4)


def encode_binding(oid: OID, value: Value) -> bytes:
    """Return a variable (5.4)."""
    return struct.pack(">HH", value.TAG, 0) + encode_oid(oid) + _content(value)


def _content(value: Value) -> bytes:
    if isinstance(value, Integer):
        return struct.pack(">i", value.value)
    if isinstance(value, Counter64):
        return struct.pack(">Q", value.value)
    if isinstance(value, Counter32 | Gauge32 | TimeTicks):
        return struct.pack(">I", value.value)
    if isinstance(value, ObjectID):
        return encode_oid(value.value)
    if isinstance(value, Octets | Opaque | IPAddress):
        return encode_octets(value.value)
    assert value in (NULL, NO_SUCH_OBJECT, NO_SUCH_INSTANCE, END_OF_MIB_VIEW)
    return b""


def encode_open(seconds: int, identity: OID, text: bytes) -> bytes:
    """Return the payload of an Open (6.2.1); ``seconds`` is how long the master waits for us."""
    return struct.pack(">4B", seconds, 0, 0, 0) + encode_oid(identity) + encode_octets(text)


def encode_close(reason: int) -> bytes:
    """Return the payload of a Close (6.2.2)."""
    return struct.pack(">4B", reason, 0, 0, 0)


def encode_register(subtree: OID, *, priority: int = 127) -> bytes:
    """Return the payload of a Register for a subtree (6.2.3), the default timeout."""
    return struct.pack(">4B", 0, priority, 0, 0) + encode_oid(subtree)


def encode_response(
    error: int = 0, index: int = 0, bindings: Sequence[tuple[OID, Value]] = ()
) -> bytes:
    """Return the payload of a Response (6.2.16)."""
    return struct.pack(">IHH", 0, error, index) + encode_bindings(bindings)


def encode_bindings(bindings: Sequence[tuple[OID, Value]]) -> bytes:
    """Return a list of variables: the payload of a Notify (6.2.10)."""
    return b"".join(encode_binding(oid, value) for oid, value in bindings)
