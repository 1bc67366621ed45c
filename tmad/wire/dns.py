"""DNS messages, as a client that asks one question needs them (RFC 1035, 6891, 8659).

Names are lower-case text without a final dot. Every function that reads raises
Fault(MALFORMED) and nothing else, in time linear in what arrived.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from tmad.errors import Fault, FaultCode

LARGEST: Final = 65_535  # octets, over TCP
UDP_SIZE: Final = 1_232  # octets that survive on every path (EDNS)
_RECORDS: Final = 200
_JUMPS: Final = 16
_HEADER: Final = struct.Struct(">HHHHHH")
_QUESTION: Final = struct.Struct(">HH")
_FIXED: Final = struct.Struct(">HHIH")
_IN: Final = 1


class Kind(IntEnum):
    """The record types that are asked for."""

    A = 1
    CNAME = 5
    TXT = 16
    AAAA = 28
    CAA = 257


class Code(IntEnum):
    """Response codes that are told apart."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class CAA:
    """One CAA record (RFC 8659, 4.1); ``tag`` is in lower case."""

    is_critical: bool
    tag: str
    value: bytes


Data: TypeAlias = IPv4Address | IPv6Address | str | bytes | CAA


@dataclass(frozen=True, slots=True)
class Record:
    """One answer: an address, a CNAME's target, TXT's strings joined, or a CAA."""

    name: str
    kind: Kind
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server answered to one question."""

    id: int
    code: int
    is_truncated: bool
    name: str
    kind: int
    records: tuple[Record, ...]


def malformed(what: str) -> Fault:
    """Return the Fault for octets that are no DNS message."""
    return Fault(FaultCode.MALFORMED, what, rule="wire.dns")


def query(message_id: int, name: str, kind: Kind, *, edns: bool = True) -> bytes:
    """Encode a question with recursion desired; ValueError for a name that DNS cannot hold."""
    header = _HEADER.pack(message_id, 0x0100, 1, 0, 0, int(edns))
    question = encode_name(name) + _QUESTION.pack(kind, _IN)
    # OPT: the root's name, type 41, and in the class's place how much is taken over UDP.
    option = b"\0" + _FIXED.pack(41, UDP_SIZE, 0, 0) if edns else b""
    return header + question + option


def encode_name(name: str) -> bytes:
    """Encode a name; ValueError for one that DNS cannot hold."""
    encoded = b""
    for label in name.split(".") if name else ():
        octets = label.encode("ascii")
        if not 1 <= len(octets) <= 63:
            raise ValueError(f"a label of {len(octets)} octets in {name!r}")
        encoded += bytes([len(octets)]) + octets
    if len(encoded) > 254:
        raise ValueError(f"{name[:60]!r}… is longer than 255 octets")
    return encoded + b"\0"


def decode(message: bytes) -> Reply:
    """Read an answer; records of other types and classes are left out."""
    if len(message) < _HEADER.size:
        raise malformed("a DNS message without a header")
    message_id, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if not flags & 0x8000 or flags & 0x7800:
        raise malformed("not an answer to a query")
    if questions != 1:
        raise malformed(f"an answer to {questions} questions")
    if answers > _RECORDS:
        raise malformed(f"{answers} records in an answer")
    name, at = _name(message, _HEADER.size)
    kind, class_ = _QUESTION.unpack(_piece(message, at, _QUESTION.size))
    if class_ != _IN:
        raise malformed(f"a question of class {class_}")
    is_truncated = bool(flags & 0x0200)
    records: list[Record] = []
    at += _QUESTION.size
    # What is cut off is asked for again: the records that there are mean nothing.
    for _ in range(0 if is_truncated else answers):
        record, at = _record(message, at)
        if record is not None:
            records.append(record)
    return Reply(
        id=message_id,
        code=flags & 0x000F,
        is_truncated=is_truncated,
        name=name,
        kind=kind,
        records=tuple(records),
    )


def _piece(message: bytes, at: int, length: int) -> bytes:
    if at + length > len(message):
        raise malformed("a DNS message that ends too early")
    return message[at : at + length]


def _name(message: bytes, at: int) -> tuple[str, int]:
    """Return the name at an offset, and the offset behind it (RFC 1035, 4.1.4)."""
    labels: list[str] = []
    size = jumps = 0
    after = -1
    while (length := _piece(message, at, 1)[0]) != 0:
        if length >= 0xC0:
            target = int.from_bytes(_piece(message, at, 2)) & 0x3FFF
            jumps += 1
            # A pointer leads to what stood before: so no chain of them comes back.
            if target >= at or target < _HEADER.size or jumps > _JUMPS:
                raise malformed("a name that points nowhere")
            after = at + 2 if after < 0 else after
            at = target
            continue
        if length > 63:
            raise malformed("a label of an unknown type")
        labels.append(_label(_piece(message, at + 1, length)))
        at += 1 + length
        size += 1 + length
        if size > 254:
            raise malformed("a name that is longer than 255 octets")
    return ".".join(labels), (at + 1 if after < 0 else after)


def _label(octets: bytes) -> str:
    """Return a label in lower case, with ? for what stands in no name that is asked for."""
    if octets.isascii():
        text = octets.decode().lower()
        if text.isprintable() and "." not in text:
            return text
    return "".join(chr(o) if 0x20 < o < 0x7F and o != 0x2E else "?" for o in octets)


def _record(message: bytes, at: int) -> tuple[Record | None, int]:
    name, at = _name(message, at)
    kind, class_, _, length = _FIXED.unpack(_piece(message, at, _FIXED.size))
    at += _FIXED.size
    data = _piece(message, at, length)
    end = at + length
    if class_ != _IN:
        return None, end
    if kind == Kind.CNAME:
        target, after = _name(message, at)
        if after != end:
            raise malformed("a CNAME of a wrong length")
        return Record(name, Kind.CNAME, target), end
    read = _READERS.get(kind)
    return None if read is None else Record(name, Kind(kind), read(data)), end


def _a(data: bytes) -> IPv4Address:
    if len(data) != 4:
        raise malformed("an A record of a wrong length")
    return IPv4Address(data)


def _aaaa(data: bytes) -> IPv6Address:
    if len(data) != 16:
        raise malformed("an AAAA record of a wrong length")
    return IPv6Address(data)


def _txt(data: bytes) -> bytes:
    joined = bytearray()
    at = 0
    while at < len(data):
        length = data[at]
        joined += _piece(data, at + 1, length)
        at += 1 + length
    return bytes(joined)


def _caa(data: bytes) -> CAA:
    flags, length = _piece(data, 0, 2)
    tag = _piece(data, 2, length)
    if not (1 <= length <= 255 and tag.isalnum() and tag.isascii()):
        raise malformed("a CAA record with a tag that is none")
    return CAA(bool(flags & 0x80), tag.decode().lower(), data[2 + length :])


_READERS: Final[Mapping[int, Callable[[bytes], Data]]] = {
    Kind.A: _a,
    Kind.AAAA: _aaaa,
    Kind.TXT: _txt,
    Kind.CAA: _caa,
}
