"""Search filters: what they are made of (RFC 4511, 4.5.1.7); evaluation.py judges by them."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

DEPTH = 32  # how deeply filters may be nested
NODES = 256  # how many items, and pieces of substrings, a filter may have (L-11)


class And(NamedTuple):
    """TRUE if all are; an empty one is TRUE (RFC 4526)."""

    parts: tuple[Filter, ...]


class Or(NamedTuple):
    """TRUE if any is; an empty one is FALSE (RFC 4526)."""

    parts: tuple[Filter, ...]


class Not(NamedTuple):
    """TRUE if its part is FALSE."""

    part: Filter


class Present(NamedTuple):
    """The entry has the attribute."""

    attribute: str


class Equal(NamedTuple):
    """A value of the attribute equals ``value`` by the attribute's equality rule."""

    attribute: str
    value: bytes


class Approx(NamedTuple):
    """As Equal: no attribute here has a looser rule."""

    attribute: str
    value: bytes


class AtLeast(NamedTuple):
    """A value of the attribute is not below ``value``."""

    attribute: str
    value: bytes


class AtMost(NamedTuple):
    """A value of the attribute is not above ``value``."""

    attribute: str
    value: bytes


class Substrings(NamedTuple):
    """A value begins, goes on and ends with these; None leaves an end open."""

    attribute: str
    initial: bytes | None
    middle: tuple[bytes, ...]
    final: bytes | None


class Extensible(NamedTuple):
    """A value matches by a rule that the client names; "" stands for a rule or name not sent."""

    rule: str
    attribute: str
    value: bytes
    dn_attributes: bool


class Unknown(NamedTuple):
    """A kind of filter that nobody has defined: Undefined for every entry."""

    tag: int


Item: TypeAlias = Present | Equal | Approx | AtLeast | AtMost | Substrings | Extensible | Unknown
Filter: TypeAlias = And | Or | Not | Item


def items(wanted: Filter) -> list[Item]:
    """Return every item of a filter."""
    found: list[Item] = []
    waiting = [wanted]
    while waiting:
        each = waiting.pop()
        if isinstance(each, And | Or):
            waiting.extend(each.parts)
        elif isinstance(each, Not):
            waiting.append(each.part)
        else:
            found.append(each)
    return found


# Of a filter, all but the values that it asks for.
Shape: TypeAlias = tuple[object, ...]


def shape(wanted: Filter) -> Shape:
    """Return what a filter has in common with those that ask the same of other values."""
    kind = wanted.__class__
    if isinstance(wanted, And | Or):
        return (kind, *[shape(part) for part in wanted.parts])
    if isinstance(wanted, Not):
        return (kind, shape(wanted.part))
    return (kind, getattr(wanted, "attribute", ""))
