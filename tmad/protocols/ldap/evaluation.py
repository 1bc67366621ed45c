"""Filters applied to entries, in three-valued logic (RFC 4511, 4.5.1.7).

A filter says TRUE, FALSE or Undefined of an entry; only TRUE selects it. Undefined is None here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

from tmad.errors import Fault
from tmad.protocols.ldap import matching, names
from tmad.protocols.ldap.filters import (
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
from tmad.protocols.ldap.matching import Rule
from tmad.protocols.ldap.tree import Entry

Test: TypeAlias = Callable[[Entry], bool | None]


class AttributeType(Protocol):
    """What a filter has to know of an attribute type; rules are names, or "" for none."""

    @property
    def name(self) -> str: ...
    @property
    def equality(self) -> str: ...
    @property
    def ordering(self) -> str: ...
    @property
    def substring(self) -> str: ...


class Schema(Protocol):
    """Which attribute types there are."""

    def find(self, description: str) -> AttributeType | None:
        """Return the type of a description: a name or OID in any case, with or without options."""

    def subtypes(self, type_: Any) -> Iterable[AttributeType]:
        """Return a type and all that are derived from it."""

    def identify(self, text: str) -> str | None:
        """Return the OID of an object class or attribute type that is named."""


def tester(wanted: Filter, schema: Schema) -> Test:
    """Return a function that says TRUE, FALSE or Undefined of an entry."""
    if isinstance(wanted, And | Or):
        return _group([tester(part, schema) for part in wanted.parts], isinstance(wanted, And))
    if isinstance(wanted, Not):
        inner = tester(wanted.part, schema)

        def negate(entry: Entry) -> bool | None:
            said = inner(entry)
            return None if said is None else not said

        return negate
    return _item(wanted, schema)


def _group(parts: list[Test], is_and: bool) -> Test:
    def group(entry: Entry) -> bool | None:
        result: bool | None = is_and
        for part in parts:
            said = part(entry)
            if said is None:
                result = None
            elif said is not is_and:
                return said
        return result

    return group


def _undefined(entry: Entry) -> None:
    return None


def _false(entry: Entry) -> bool:
    return False


def _item(item: Item, schema: Schema) -> Test:
    if isinstance(item, Unknown):
        return _undefined
    if isinstance(item, Extensible):
        return _extensible(item, schema)
    found = schema.find(item.attribute)
    if found is None:
        # RFC 4511, 4.5.1.7: only assertions about values are Undefined then.
        return _false if isinstance(item, Present) else _undefined
    keys = _keys(found, item.attribute, schema)
    if isinstance(item, Present):
        return lambda entry: any(key in entry.attributes for key in keys)
    if isinstance(item, Substrings):
        return _substrings(item, matching.rule_of(found.substring), keys)
    if isinstance(item, Equal | Approx):
        return _equal(item.value, matching.rule_of(found.equality), keys, schema)
    return _ordered(item, matching.rule_of(found.ordering), keys)


def _keys(found: AttributeType, description: str, schema: Schema) -> tuple[str, ...]:
    """Return the names under which an entry has values of a description."""
    options = {option.lower() for option in description.split(";")[1:]}
    if options - {"binary"}:
        return ()  # no attribute here has any other option (RFC 4512, 2.5)
    return tuple(each.name for each in schema.subtypes(found))


def _compared(keys: tuple[str, ...], rule: Rule, is_it: Callable[[Any], bool]) -> Test:
    read = rule.value

    def compare(entry: Entry) -> bool:
        attributes = entry.attributes
        for key in keys:
            for value in attributes.get(key, ()):
                known = read(value)
                if known is not None and is_it(known):
                    return True
        return False

    return compare


def _equal(value: bytes, rule: Rule | None, keys: tuple[str, ...], schema: Schema) -> Test:
    asserted = rule.assertion(value) if rule is not None else None
    if rule is None or asserted is None:
        return _undefined
    if rule.family == "oid":
        # "person" and "2.5.6.6" are the same class.
        oid = schema.identify(asserted) or (asserted if asserted[0].isdigit() else None)
        if oid is None:
            return _undefined
        return _compared(keys, rule, lambda known: (schema.identify(known) or known) == oid)
    return _compared(keys, rule, lambda known: bool(known == asserted))


def _ordered(item: AtLeast | AtMost, rule: Rule | None, keys: tuple[str, ...]) -> Test:
    asserted = rule.assertion(item.value) if rule is not None else None
    if rule is None or asserted is None:
        return _undefined
    if isinstance(item, AtLeast):
        return _compared(keys, rule, lambda known: bool(known >= asserted))
    return _compared(keys, rule, lambda known: bool(known <= asserted))


def _substrings(item: Substrings, rule: Rule | None, keys: tuple[str, ...]) -> Test:
    if rule is None:
        return _undefined
    read = rule.assertion
    initial = "" if item.initial is None else read(item.initial)
    middle = [read(piece) for piece in item.middle]
    final = "" if item.final is None else read(item.final)
    if initial is None or final is None or None in middle:
        return _undefined
    # The ends of a value have no spaces (RFC 4518, 2.6.1).
    initial, final = initial.lstrip(), final.rstrip()

    def contains(known: str) -> bool:
        if not known.startswith(initial):
            return False
        position = len(initial)
        for piece in middle:
            position = known.find(piece, position)
            if position < 0:
                return False
            position += len(piece)
        return len(known) - len(final) >= position and known.endswith(final)

    return _compared(keys, rule, contains)


def _extensible(item: Extensible, schema: Schema) -> Test:
    found = schema.find(item.attribute) if item.attribute else None
    rule = matching.rule_of(item.rule or (found.equality if found else ""))
    if rule is None or rule.kind == "substrings" or (item.attribute and found is None):
        return _undefined
    own = matching.rule_of(found.equality) if found else rule
    asserted = rule.assertion(item.value)
    if own is None or own.family != rule.family or asserted is None:
        return _undefined
    wanted = None if found is None else frozenset(_keys(found, item.attribute, schema))
    is_ordering = rule.kind == "ordering"

    def is_it(value: bytes) -> bool:
        known = rule.value(value)
        if known is None:
            return False
        # RFC 4517, 4.2: an ordering rule asks whether a value comes before the assertion.
        return bool(known < asserted) if is_ordering else bool(known == asserted)

    def test(entry: Entry) -> bool:
        for key, values in entry.attributes.items():
            applies = _applies(key, rule, schema) if wanted is None else key in wanted
            if applies and any(map(is_it, values)):
                return True
        return item.dn_attributes and any(
            is_it(value) for value in _named(entry.dn, wanted, rule, schema)
        )

    return test


def _applies(key: str, rule: Rule, schema: Schema) -> bool:
    """Tell whether a rule is about the values of an attribute."""
    found = schema.find(key)
    own = matching.rule_of(found.equality) if found else None
    return own is not None and own.family == rule.family


def _named(dn: str, wanted: frozenset[str] | None, rule: Rule, schema: Schema) -> Iterable[bytes]:
    """Yield the values within a name that an extensible match with ``:dn`` is about."""
    try:
        rdns = names.parse(dn)
    except Fault:
        return
    for rdn in rdns:
        for described, value in rdn:
            found = schema.find(described)
            if found is None:
                continue
            if found.name in wanted if wanted is not None else _applies(found.name, rule, schema):
                yield value if isinstance(value, bytes) else value.encode()
