"""Search filters, read from BER (RFC 4511, 4.5.1.7): iteratively, so deep and so many (L-11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tmad.protocols.ldap import ber
from tmad.protocols.ldap.filters import (
    DEPTH,
    NODES,
    And,
    Approx,
    AtLeast,
    AtMost,
    Equal,
    Extensible,
    Filter,
    Item,
    Not,
    Or,
    Present,
    Substrings,
    Unknown,
)

_AND, _OR, _NOT, _SUBSTRINGS, _PRESENT, _EXTENSIBLE = 0xA0, 0xA1, 0xA2, 0xA4, 0x87, 0xA9
_ASSERTIONS: Final[Mapping[int, Callable[[str, bytes], Item]]] = {
    0xA3: Equal,
    0xA5: AtLeast,
    0xA6: AtMost,
    0xA8: Approx,
}


class _Group(NamedTuple):
    """An and, or or not that is being read."""

    tag: int
    end: int
    parts: list[Filter]

    def close(self) -> Filter:
        if self.tag == _AND:
            return And(tuple(self.parts))
        if self.tag == _OR:
            return Or(tuple(self.parts))
        if len(self.parts) != 1:
            raise ber.malformed("a not has one filter")
        return Not(self.parts[0])


def read(data: bytes, position: int, end: int) -> tuple[Filter, int]:
    """Return the filter that begins here, and where it ends."""
    groups: list[_Group] = []
    nodes = 0
    limit = end
    while True:
        tag, start, stop = ber.element(data, position, limit)
        nodes += 1
        if nodes > NODES:
            raise ber.malformed("the filter has too many items")
        done: Filter
        if tag in (_AND, _OR, _NOT):
            if len(groups) == DEPTH:
                raise ber.malformed("the filter is nested too deeply")
            group = _Group(tag, stop, [])
            if start != stop:
                groups.append(group)
                position, limit = start, stop
                continue
            done = group.close()
        elif tag == _SUBSTRINGS:
            done = _substrings(data, start, stop)
            nodes += len(done.middle) + 1
        else:
            done = _item(data, tag, start, stop)
        position = stop
        # What is complete may have been the last part of those around it.
        while groups:
            groups[-1].parts.append(done)
            if groups[-1].end != position:
                limit = groups[-1].end
                break
            done = groups.pop().close()
        else:
            return done, position


def _item(data: bytes, tag: int, start: int, stop: int) -> Item:
    kind = _ASSERTIONS.get(tag)
    if kind is not None:
        return kind(*assertion(data, start, stop))
    if tag == _PRESENT:
        return Present(ber.text(data, start, stop))
    if tag == _EXTENSIBLE:
        return _extensible(data, start, stop)
    if tag & 0xC0 != 0x80:
        raise ber.malformed("a filter has a context tag")
    return Unknown(tag)


def assertion(data: bytes, position: int, end: int) -> tuple[str, bytes]:
    start, position = ber.expect(data, position, end, ber.OCTETS)
    attribute = ber.text(data, start, position)
    start, position = ber.expect(data, position, end, ber.OCTETS)
    if position != end:
        raise ber.malformed("an assertion is an attribute and a value")
    return attribute, data[start:position]


def _substrings(data: bytes, position: int, end: int) -> Substrings:
    start, position = ber.expect(data, position, end, ber.OCTETS)
    attribute = ber.text(data, start, position)
    position, stop = ber.expect(data, position, end, ber.SEQUENCE)
    if stop != end or position == end:
        raise ber.malformed("substrings have at least one piece")
    initial = final = None
    middle: list[bytes] = []
    first = position
    while position != end:
        here = position
        tag, start, position = ber.element(data, position, end)
        piece = data[start:position]
        if tag == 0x80 and here == first:
            initial = piece
        elif tag == 0x81:
            middle.append(piece)
        elif tag == 0x82 and position == end:
            final = piece
        else:
            raise ber.malformed("the pieces of a substring are out of order")
        if len(middle) > NODES:
            raise ber.malformed("the filter has too many items")
    return Substrings(attribute, initial, tuple(middle), final)


def _extensible(data: bytes, position: int, end: int) -> Extensible:
    found: dict[int, tuple[int, int]] = {}
    last = 0x80
    while position != end:
        tag, start, position = ber.element(data, position, end)
        if not last < tag <= 0x84:
            raise ber.malformed("an extensible match is out of order")
        found[tag] = start, position
        last = tag
    if 0x83 not in found or not found.keys() & {0x81, 0x82}:
        raise ber.malformed("an extensible match has a value, and a rule or an attribute")
    value, stop = found[0x83]
    return Extensible(
        ber.text(data, *found[0x81]) if 0x81 in found else "",
        ber.text(data, *found[0x82]) if 0x82 in found else "",
        data[value:stop],
        ber.boolean(data, *found[0x84]) if 0x84 in found else False,
    )
