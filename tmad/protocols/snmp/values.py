"""SNMP's values and object names, each held as it stands in a message (RFC 2578, 7; RFC 3416, 3).

A value is the octets of its tag, length and content, so that an answer is joined from values
and never encoded anew; ``value`` turns it back into an integer, octets or arcs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeAlias

from tmad.errors import Fault, FaultCode

OID: TypeAlias = tuple[int, ...]

MOST_ARCS: Final = 128  # RFC 2578, 3.5
_MOST_ARC: Final = 0xFFFF_FFFF
_REMEMBERED: Final = 16_384

# Each subidentifier is minimal and has at most 32 bits (X.690, 8.19.2; RFC 2578, 7.1.3).
_ARCS: Final = re.compile(
    rb"(?:[\x00-\x7f]|[\x81-\xff][\x80-\xff]{0,2}[\x00-\x7f]|[\x81-\x8f][\x80-\xff]{3}[\x00-\x7f])"
    rb"{1,127}",
    re.DOTALL,
)


def malformed(what: str, rule: str = "snmp.malformed") -> Fault:
    """Return the Fault for octets that are no SNMP message."""
    return Fault(FaultCode.MALFORMED, what, rule=rule)


# -- BER -------------------------------------------------------------------------------------------


def read(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at ``position``.

    Lengths are definite; padded ones are taken, since some managers always write three octets.
    """
    start = position + 2
    if start > end:
        raise malformed("an element is missing")
    length = data[position + 1]
    if length >= 0x80:
        octets = length - 0x80
        if not 1 <= octets <= 4:
            raise malformed("an element of impossible length")
        length = int.from_bytes(data[start : start + octets])
        start += octets
    stop = start + length
    if stop > end:
        raise malformed("an element reaches beyond its end")
    return data[position], start, stop


def tlv(tag: int, content: bytes) -> bytes:
    """Return one element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + length.to_bytes(octets) + content


def _signed(tag: int, number: int) -> bytes:
    size = (number + (number < 0)).bit_length() // 8 + 1
    return bytes((tag, size)) + number.to_bytes(size, signed=True)


# -- object names ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=_REMEMBERED)
def encode_oid(oid: OID) -> bytes:
    """Return an OBJECT IDENTIFIER with its tag and length; ValueError for an impossible one."""
    if not (2 <= len(oid) <= MOST_ARCS and 0 <= oid[0] <= 2 and min(oid) >= 0):
        raise ValueError(f"no object identifier: {oid}")
    if max(oid) > _MOST_ARC or (oid[0] < 2 and oid[1] > 39) or oid[1] > _MOST_ARC - 80:
        raise ValueError(f"no object identifier: {oid}")
    body = bytearray()
    for arc in (40 * oid[0] + oid[1], *oid[2:]):
        if arc < 0x80:
            body.append(arc)
            continue
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        body += bytes(reversed(septets))
    return tlv(0x06, bytes(body))


def decode_oid(name: bytes) -> OID:
    """Return the arcs of an OBJECT IDENTIFIER that was encoded by us or checked by ``name_of``."""
    body = name[2:] if name[1] < 0x80 else name[2 + (name[1] & 0x7F) :]
    arcs: list[int] = []
    arc = 0
    for octet in body:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return (first, arcs[0] - 40 * first, *arcs[1:])


def name_of(content: bytes) -> bytes:
    """Return an OBJECT IDENTIFIER with this content; Fault(MALFORMED) if there is none."""
    if _ARCS.fullmatch(content) is None:
        raise malformed("not an object identifier")
    return tlv(0x06, content)


def dotted(oid: OID) -> str:
    """Return an object identifier as people write it."""
    return ".".join(map(str, oid))


# -- values ----------------------------------------------------------------------------------------


class Value(bytes):
    """One value with its tag and length; make one of the types below."""

    __slots__ = ()
    TAG: ClassVar[int]

    @property
    def content(self) -> bytes:
        """The octets after tag and length."""
        return self[2:] if self[1] < 0x80 else self[2 + (self[1] & 0x7F) :]

    @property
    def value(self) -> Any:
        """The value as an int, bytes or tuple of arcs; None for what has none."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

    __str__ = __repr__


class Integer(Value):
    """INTEGER, Integer32: signed 32 bits."""

    __slots__ = ()
    TAG = 0x02

    def __new__(cls, number: int) -> Integer:
        if not -0x8000_0000 <= number <= 0x7FFF_FFFF:
            raise ValueError(f"more than 32 bits: {number}")
        return super().__new__(cls, _signed(cls.TAG, number))

    @property
    def value(self) -> int:
        return int.from_bytes(self[2:], signed=True)

    @classmethod
    def of(cls, content: bytes) -> Integer:
        return cls(integer_of(content))


class _Octets(Value):
    __slots__ = ()
    MOST: ClassVar[int] = 65_535

    def __new__(cls, octets: bytes) -> _Octets:
        if len(octets) > cls.MOST:
            raise ValueError(f"longer than {cls.MOST} octets")
        return super().__new__(cls, tlv(cls.TAG, octets))

    @property
    def value(self) -> bytes:
        return self.content

    @classmethod
    def of(cls, content: bytes) -> _Octets:
        if len(content) > cls.MOST:
            raise malformed("a string is too long")
        return cls(content)


class Octets(_Octets):
    """OCTET STRING: text, addresses, bits."""

    __slots__ = ()
    TAG = 0x04


class Opaque(_Octets):
    """Opaque: what only old agents send (RFC 2578, 7.1.9)."""

    __slots__ = ()
    TAG = 0x44


class IPAddress(Value):
    """IpAddress: four octets."""

    __slots__ = ()
    TAG = 0x40

    def __new__(cls, octets: bytes) -> IPAddress:
        if len(octets) != 4:
            raise ValueError("an IpAddress has four octets")
        return super().__new__(cls, b"\x40\x04" + octets)

    @property
    def value(self) -> bytes:
        return self[2:]

    @classmethod
    def of(cls, content: bytes) -> IPAddress:
        if len(content) != 4:
            raise malformed("an IpAddress has four octets")
        return cls(content)


class ObjectID(Value):
    """OBJECT IDENTIFIER as a value."""

    __slots__ = ()
    TAG = 0x06

    def __new__(cls, oid: OID) -> ObjectID:
        return super().__new__(cls, encode_oid(oid))

    @property
    def value(self) -> OID:
        return decode_oid(self)

    @classmethod
    def of(cls, content: bytes) -> ObjectID:
        return Value.__new__(cls, name_of(content))


class _Unsigned(Value):
    __slots__ = ()
    MOST: ClassVar[int] = 0xFFFF_FFFF

    @property
    def value(self) -> int:
        return int.from_bytes(self[2:])

    @classmethod
    def of(cls, content: bytes) -> _Unsigned:
        octets = len(content)
        if not 1 <= octets <= 9 or (content[0] >= 0x80 and octets > 8):
            raise malformed("not an unsigned number")
        # Some agents leave out the octet 00 that keeps a big number from being negative.
        number = int.from_bytes(content)
        if number > cls.MOST:
            raise malformed("a number is too large")
        return Value.__new__(cls, _signed(cls.TAG, number))


class Counter32(_Unsigned):
    """Counter32: it wraps (RFC 2578, 7.1.6)."""

    __slots__ = ()
    TAG = 0x41

    def __new__(cls, number: int) -> Counter32:
        return super().__new__(cls, _signed(cls.TAG, number & 0xFFFF_FFFF))


class Gauge32(_Unsigned):
    """Gauge32, Unsigned32: it sticks at its ends (RFC 2578, 7.1.7)."""

    __slots__ = ()
    TAG = 0x42

    def __new__(cls, number: int) -> Gauge32:
        return super().__new__(cls, _signed(cls.TAG, min(max(number, 0), 0xFFFF_FFFF)))


class TimeTicks(_Unsigned):
    """TimeTicks: hundredths of a second; it wraps (RFC 2578, 7.1.8)."""

    __slots__ = ()
    TAG = 0x43

    def __new__(cls, number: int) -> TimeTicks:
        return super().__new__(cls, _signed(cls.TAG, number & 0xFFFF_FFFF))


class Counter64(_Unsigned):
    """Counter64: it wraps; SNMPv1 has no such thing."""

    __slots__ = ()
    TAG = 0x46
    MOST = 0xFFFF_FFFF_FFFF_FFFF

    def __new__(cls, number: int) -> Counter64:
        return super().__new__(cls, _signed(cls.TAG, number & cls.MOST))


class _Empty(Value):
    __slots__ = ()

    def __new__(cls) -> _Empty:
        return super().__new__(cls, bytes((cls.TAG, 0)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @classmethod
    def of(cls, content: bytes) -> _Empty:
        if content:
            raise malformed("something where nothing belongs")
        return cls()


class Null(_Empty):
    """What stands in a question."""

    __slots__ = ()
    TAG = 0x05


class NoSuchObject(_Empty):
    """The exception for an object that this agent does not have (RFC 3416, 4.2.1)."""

    __slots__ = ()
    TAG = 0x80


class NoSuchInstance(_Empty):
    """The exception for an instance that is not there."""

    __slots__ = ()
    TAG = 0x81


class EndOfMibView(_Empty):
    """The exception for the end of everything (RFC 3416, 4.2.2)."""

    __slots__ = ()
    TAG = 0x82


NULL: Final = Null()
NO_SUCH_OBJECT: Final = NoSuchObject()
NO_SUCH_INSTANCE: Final = NoSuchInstance()
END_OF_MIB_VIEW: Final = EndOfMibView()

_TYPES: Final[dict[int, Callable[[bytes], Value]]] = {
    each.TAG: each.of
    for each in (
        Integer, Octets, Null, ObjectID, IPAddress, Counter32, Gauge32, TimeTicks, Opaque,
        Counter64, NoSuchObject, NoSuchInstance, EndOfMibView,
    )
}  # fmt: skip


def integer_of(content: bytes) -> int:
    """Return a signed number of at most 32 bits."""
    # pyasn1 pads the least number of each size by one octet.
    if not 1 <= len(content) <= 5:
        raise malformed("not a number of 32 bits")
    number = int.from_bytes(content, signed=True)
    if not -0x8000_0000 <= number <= 0x7FFF_FFFF:
        raise malformed("not a number of 32 bits")
    return number


def value_of(tag: int, content: bytes) -> Value:
    """Return the value of a received element; Fault(MALFORMED)."""
    found = _TYPES.get(tag)
    if found is None:
        raise malformed(f"a value of unknown type {tag:02x}")
    return found(content)
