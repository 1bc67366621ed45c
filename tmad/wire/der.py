"""DER: a check before anything is parsed, a reader and a writer (ITU-T X.690).

The reader is lazy: it touches what a structure asks for and hands out slices of the received
bytes, so that signatures are verified over exactly what arrived. Every function that reads
raises Fault(MALFORMED) and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from tmad.errors import Fault, FaultCode

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
SEQUENCE = 0x30
SET = 0x31
PRINTABLE_STRING = 0x13
T61_STRING = 0x14
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E

NULL_DER = b"\x05\x00"

# How many octets each kind of time has in DER, with its final Z.
_TIMES = {UTC_TIME: 13, GENERALIZED_TIME: 15}


def malformed(what: str, rule: str = "wire.der") -> Fault:
    """Return the Fault for bytes that break a rule of the encoding."""
    return Fault(FaultCode.MALFORMED, what, rule=rule)


def scan(data: bytes, *, elements: int, depth: int) -> None:
    """Refuse bytes that are not one DER element, or that hold too many or too deep ones.

    It does not look into primitive elements. One pass, no recursion, time linear in the
    number of elements seen, which ``elements`` bounds.
    """
    weigh(data, elements=elements, depth=depth)


def weigh(data: bytes, *, elements: int, depth: int) -> int:
    """Scan like :func:`scan`; return how many elements there are."""
    position, left = _walk(data, elements, depth)
    if position >= 0:
        raise malformed(f"not DER at octet {position}")
    return elements - left


def find_ber(data: bytes, *, elements: int, depth: int) -> int:
    """Scan like :func:`scan`, but return where the first BER-only form begins, or -1.

    BER-only forms are indefinite and padded lengths and constructed strings. What comes after
    the first one has not been looked at.
    """
    return _walk(data, elements, depth)[0]


def _walk(data: bytes, left: int, depth: int) -> tuple[int, int]:
    """Return where the first BER-only form begins, or -1, and how many elements are left."""
    position = 0
    end = len(data)
    ends: list[int] = []
    try:
        while True:
            left -= 1
            if left < 0:
                raise malformed("too many elements", "wire.der.elements")
            start = position
            tag = data[position]
            length = data[position + 1]
            position += 2
            if length >= 0x80:
                if length == 0x80:
                    return start, left
                if length > 0x84:
                    raise malformed(f"impossible length at octet {start}")
                octets = length - 0x80
                length = int.from_bytes(data[position : position + octets])
                position += octets
                if length < 0x80 or length >> (8 * (octets - 1)) == 0:
                    return start, left
            stop = position + length
            if stop > end:
                raise malformed(f"an element reaches beyond its end at octet {start}")
            if tag & 0x1F == 0x1F:
                raise malformed(f"tag number above 30 at octet {start}")
            if tag & 0x20:
                if tag < 0x40 and tag != SEQUENCE and tag != SET:
                    return start, left
                if len(ends) >= depth:
                    raise malformed("nested too deeply", "wire.der.depth")
                ends.append(end)
                end = stop
            else:
                if tag == 0 or tag == 0x10 or tag == 0x11:
                    raise malformed(f"impossible tag at octet {start}")
                position = stop
            while position == end:
                if not ends:
                    return -1, left
                end = ends.pop()
            if not ends:
                raise malformed("bytes follow the structure", "wire.der.trailing")
    except IndexError:
        raise malformed("the structure is cut off") from None


class Reader:
    """Reads the elements of one constructed value, one after the other.

    Lengths must be definite and lie inside the enclosing element; run :func:`scan` first where
    the bytes come from a stranger.
    """

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = position
        self._end = len(data) if end is None else end

    def peek(self) -> int:
        """Return the next element's tag octet, or -1 at the end."""
        return self._data[self._position] if self._position < self._end else -1

    def _next(self, tag: int | None) -> tuple[int, int, int]:
        """Move over one element; return where it, its content, and its successor begin."""
        data = self._data
        start = self._position
        body = start + 2
        if body > self._end:
            raise malformed("an element is missing")
        if tag is not None and data[start] != tag:
            raise malformed(f"tag {data[start]:02x} where {tag:02x} belongs")
        length = data[start + 1]
        if length >= 0x80:
            octets = length - 0x80
            if not 1 <= octets <= 4:
                raise malformed("impossible length")
            length = int.from_bytes(data[body : body + octets])
            body += octets
        after = body + length
        if after > self._end:
            raise malformed("an element reaches beyond its end")
        self._position = after
        return start, body, after

    def enter(self, tag: int) -> Reader:
        """Return a reader of the next element's content."""
        _, body, after = self._next(tag)
        return Reader(self._data, body, after)

    def raw(self, tag: int | None = None) -> bytes:
        """Return the next element with its tag and length, as received."""
        start, _, after = self._next(tag)
        return self._data[start:after]

    def content(self, tag: int) -> bytes:
        """Return the content octets of the next element."""
        _, body, after = self._next(tag)
        return self._data[body:after]

    def rest(self) -> bytes:
        """Return what is left, without moving."""
        return self._data[self._position : self._end]

    def integer(self) -> int:
        """Return the next INTEGER."""
        content = self.content(INTEGER)
        if not content:
            raise malformed("an INTEGER is empty")
        return int.from_bytes(content, signed=True)

    def each(self) -> Iterator[int]:
        """Yield the tag of each element that is left; the caller reads it before going on."""
        while self._position < self._end:
            before = self._position
            yield self._data[before]
            if self._position == before:
                raise AssertionError("the caller of each() must read the element")

    def finish(self) -> None:
        """Refuse elements that nobody asked for."""
        if self._position != self._end:
            raise malformed("unexpected element at the end")


def read(data: bytes, tag: int) -> Reader:
    """Return a reader of the content of ``data``, which is exactly one element."""
    reader = Reader(data)
    inside = reader.enter(tag)
    reader.finish()
    return inside


def content(data: bytes, tag: int) -> bytes:
    """Return the content octets of ``data``, which is exactly one element."""
    reader = Reader(data)
    inside = reader.content(tag)
    reader.finish()
    return inside


def elements(data: bytes, tag: int) -> list[bytes]:
    """Return the elements inside ``data``, which is exactly one element, as received."""
    reader = read(data, tag)
    found = []
    while reader.peek() >= 0:
        found.append(reader.raw())
    return found


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one element whose content is the parts in the order given."""
    body = b"".join(parts)
    length = len(body)
    if length < 0x80:
        return bytes((tag, length)) + body
    octets = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + length.to_bytes(octets) + body


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE of encoded parts."""
    return tlv(SEQUENCE, *parts)


def set_of(parts: Iterable[bytes]) -> bytes:
    """Return a SET OF encoded parts, sorted as DER wants (X.690, 11.6)."""
    return tlv(SET, *sorted(parts))


def explicit(number: int, *parts: bytes) -> bytes:
    """Return ``[number] EXPLICIT`` (or a constructed IMPLICIT) around encoded parts."""
    return tlv(0xA0 | number, *parts)


def integer(value: int) -> bytes:
    """Return an INTEGER."""
    return tlv(INTEGER, value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, signed=True))


def octets(value: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(OCTET_STRING, value)


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER, encoded; keep it in a constant."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    body = bytearray()
    for arc in (40 * first + second, *others):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        body += bytes(reversed(septets))
    return tlv(OBJECT_IDENTIFIER, bytes(body))


def dotted(oid_der: bytes) -> str:
    """Return an encoded OBJECT IDENTIFIER as text for people, hexadecimal if it is broken."""
    body = oid_der[2:]
    # 20 octets an arc are what pyasn1 allows, too; a longer one is an attack (CVE-2026-23490).
    if not body or len(body) > 64 or body[-1] & 0x80:
        return body[:64].hex()
    arcs: list[int] = []
    value = 0
    for octet in body:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


# The bytes of each string type that a directory string or a challenge may be written in.
_ENCODINGS = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    IA5_STRING: "ascii",
    # Everybody writes Latin-1 into a T61String; the real T.61 is dead.
    T61_STRING: "latin-1",
    BMP_STRING: "utf-16-be",
    UNIVERSAL_STRING: "utf-32-be",
}


def text(data: bytes) -> str:
    """Return the text of ``data``, exactly one element of any of the string types."""
    reader = Reader(data)
    tag = reader.peek()
    encoding = _ENCODINGS.get(tag)
    if encoding is None:
        raise malformed(f"tag {tag:02x} is not a string" if tag >= 0 else "a string is missing")
    body = reader.content(tag)
    reader.finish()
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        raise malformed("a string does not hold what its type says") from None


def instant(data: bytes) -> datetime:
    """Return the moment in ``data``, exactly one UTCTime or GeneralizedTime in UTC."""
    reader = Reader(data)
    tag = reader.peek()
    if tag not in _TIMES:
        raise malformed("a time is missing")
    body = reader.content(tag)
    reader.finish()
    if len(body) != _TIMES[tag] or not body[:-1].isdigit() or body[-1:] != b"Z":
        raise malformed("a time is not written as DER wants")
    digits = body[:-1].decode()
    if tag == UTC_TIME:
        # RFC 5280, 4.1.2.5.1: two digits mean 1950 to 2049.
        digits = ("19" if digits[0] >= "5" else "20") + digits
    try:
        return datetime(
            int(digits[:4]), int(digits[4:6]), int(digits[6:8]),
            int(digits[8:10]), int(digits[10:12]), int(digits[12:]), tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        raise malformed("there is no such time") from None
