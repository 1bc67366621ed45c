"""Filters as conditions that the database can look for (tmad/storage/conditions.py).

A condition lets through all that a filter may be TRUE of, and perhaps more; what it lets
through is judged again (evaluation.py). To see what a Not lets through, each part is compiled
twice: for where it may be TRUE, and for where it may be FALSE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from tmad.identity.naming import device_key, person_key
from tmad.protocols.ldap import matching, schema
from tmad.protocols.ldap.filters import (
    And,
    Approx,
    Equal,
    Extensible,
    Filter,
    Item,
    Not,
    Or,
    Present,
    Substrings,
)
from tmad.protocols.ldap.schema import AttributeType
from tmad.storage.conditions import (
    EVERYTHING,
    NOTHING,
    Both,
    Condition,
    Either,
    Filled,
    Holds,
    Like,
    Same,
)
from tmad.storage.people import folded

CERTIFICATE: Final = "userCertificate"
_CERTIFICATE_RULE: Final = "certificateExactMatch"
# Of any more certificates in one filter nobody is looked up.
MOST_CERTIFICATES: Final = 16


def _mail(text: str) -> str:
    """Return an address as people's are stored (identity/naming.py)."""
    return " ".join(text.split()).lower()


class _Column(NamedTuple):
    """Where an attribute's values lie; ``is_filled``: every row has one."""

    name: str
    fold: Callable[[str], str]
    is_filled: bool = False


class Kind(NamedTuple):
    """How entries of one kind lie in the database."""

    name: str
    classes: tuple[str, ...]
    naming: str  # the attribute that names them
    columns: Mapping[str, _Column]
    attributes: frozenset[str]  # every one that is not operational
    loose: frozenset[str]  # those of which only the entry tells


PEOPLE: Final = Kind(
    "people",
    ("top", "person", "organizationalPerson", "inetOrgPerson", "pkiUser"),
    "uid",
    {
        "uid": _Column("name", person_key, is_filled=True),
        "cn": _Column("cn_key", folded, is_filled=True),
        "displayName": _Column("cn_key", folded, is_filled=True),
        "sn": _Column("sn_key", folded, is_filled=True),
        "mail": _Column("mail", _mail),
    },
    frozenset(
        {"objectClass", "uid", "cn", "sn", "givenName", "displayName", "mail", "telephoneNumber",
         CERTIFICATE, "userSMIMECertificate"}
    ),
    frozenset({"givenName", "telephoneNumber"}),
)  # fmt: skip
DEVICES: Final = Kind(
    "devices",
    ("top", "device", "pkiUser"),
    "cn",
    {"cn": _Column("name", device_key, is_filled=True)},
    frozenset({"objectClass", "cn", "serialNumber", "owner", "description", CERTIFICATE}),
    frozenset({"serialNumber", "owner", "description"}),
)

# The pieces of a condition for one item: where it may be TRUE, where it may be FALSE.
Pair: TypeAlias = tuple[Condition, Condition]
_ALWAYS: Final[Pair] = (EVERYTHING, NOTHING)
_NEVER: Final[Pair] = (NOTHING, EVERYTHING)
_UNDEFINED: Final[Pair] = (NOTHING, NOTHING)
_UNKNOWN: Final[Pair] = (EVERYTHING, EVERYTHING)

# Who has a certificate that a filter names, by kind and item.
Holders: TypeAlias = Mapping[tuple[str, Item], Condition]


def compiled(
    wanted: Filter, kind: Kind, visible: frozenset[str] | None, holders: Holders
) -> Condition:
    """Return where a filter may be TRUE of entries of which ``visible`` attributes are shown.

    None: all of them.
    """
    return _pair(wanted, kind, visible, holders)[0]


def _pair(wanted: Filter, kind: Kind, visible: frozenset[str] | None, holders: Holders) -> Pair:
    if isinstance(wanted, And | Or):
        pairs = [_pair(part, kind, visible, holders) for part in wanted.parts]
        trues, falses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if isinstance(wanted, And):
            return both(trues), either(falses)
        return either(trues), both(falses)
    if isinstance(wanted, Not):
        true, false = _pair(wanted.part, kind, visible, holders)
        return false, true
    return _item(wanted, kind, visible, holders)


def both(parts: Iterable[Condition]) -> Condition:
    """Return the condition that each of these is so, as short as it can be said."""
    kept = tuple(dict.fromkeys([part for part in parts if part != EVERYTHING]))
    if NOTHING in kept:
        return NOTHING
    return kept[0] if len(kept) == 1 else Both(kept)


def either(parts: Iterable[Condition]) -> Condition:
    """Return the condition that one of these is so, as short as it can be said."""
    kept = tuple(dict.fromkeys([part for part in parts if part != NOTHING]))
    if EVERYTHING in kept:
        return EVERYTHING
    return kept[0] if len(kept) == 1 else Either(kept)


def _item(item: Item, kind: Kind, visible: frozenset[str] | None, holders: Holders) -> Pair:
    description = getattr(item, "attribute", "")
    if not description:
        # An unknown kind of filter, or a rule that is asked of every attribute.
        return _UNKNOWN if isinstance(item, Extensible) else _UNDEFINED
    found = schema.find(description)
    if found is None:
        return _NEVER if isinstance(item, Present) else _UNDEFINED
    if isinstance(item, Extensible) and item.dn_attributes:
        return _UNKNOWN
    options = description.lower().split(";")[1:]
    if any(option != "binary" for option in options):
        return _NEVER
    pairs = [_of_type(item, each, kind, visible, holders) for each in schema.subtypes(found)]
    if len(pairs) == 1:
        return pairs[0]
    return either([pair[0] for pair in pairs]), both([pair[1] for pair in pairs])


def _of_type(
    item: Item,
    found: AttributeType,
    kind: Kind,
    visible: frozenset[str] | None,
    holders: Holders,
) -> Pair:
    name = found.name
    if found.is_operational:
        return _UNKNOWN
    if name == "objectClass":
        return _of_class(item, kind)
    if name not in kind.attributes or (
        visible is not None and name not in visible and name != kind.naming
    ):
        return _NEVER
    if name in (CERTIFICATE, "userSMIMECertificate"):
        if isinstance(item, Present):
            # What lies in the database may be hidden still: by its profile, by its authority.
            return Holds(), EVERYTHING
        return holders.get((kind.name, item), EVERYTHING), EVERYTHING
    column = kind.columns.get(name)
    if column is None:
        return _loose(item, name)
    if isinstance(item, Present):
        if column.is_filled:
            return _ALWAYS
        return Filled(column.name), Filled(column.name, is_empty=True)
    return _where(item, found, column), EVERYTHING


def _of_class(item: Item, kind: Kind) -> Pair:
    if isinstance(item, Present):
        return _ALWAYS
    if not isinstance(item, Equal | Approx):
        return _UNKNOWN
    try:
        wanted = schema.find_class(item.value.decode())
    except UnicodeDecodeError:
        wanted = None
    if wanted is None:
        # Undefined, or FALSE where it is the OID of something else: never TRUE.
        return NOTHING, EVERYTHING
    return _ALWAYS if wanted.names[0] in kind.classes else _NEVER


def _loose(item: Item, name: str) -> Pair:
    """Return the pair for an attribute without a column of its own."""
    if name != "givenName":
        return _UNKNOWN
    # It is how a whole name begins (entries.py).
    if isinstance(item, Equal | Approx):
        text = _text(item.value, substring=False)
        return (Like("cn_key", f"{folded(text)} ", (), "") if text else NOTHING), EVERYTHING
    if isinstance(item, Substrings):
        initial, *others = [
            folded(_text(piece or b"", substring=True))
            for piece in (item.initial, *item.middle, item.final)
        ]
        # Where it ends, the whole name goes on.
        within = tuple([piece for piece in others if piece])
        if initial or within:
            return Like("cn_key", initial, within, ""), EVERYTHING
    return _UNKNOWN


def _where(item: Item, found: AttributeType, column: _Column) -> Condition:
    if isinstance(item, Extensible):
        rule = matching.rule_of(item.rule or found.equality)
        own = matching.rule_of(found.equality)
        # Values that are the same by an exact rule are the same by ours, too.
        if rule is None or own is None or rule.kind != "equality" or rule.family != own.family:
            return EVERYTHING
    if isinstance(item, Equal | Approx | Extensible):
        text = _text(item.value, substring=False)
        return Same(column.name, column.fold(text)) if text else NOTHING
    if isinstance(item, Substrings):
        pieces = [
            column.fold(_text(piece or b"", substring=True))
            for piece in (item.initial, *item.middle, item.final)
        ]
        if not any(pieces):
            return EVERYTHING
        return Like(column.name, pieces[0], tuple(pieces[1:-1]), pieces[-1])
    return EVERYTHING  # >= and <=: no text here has an order (evaluation.py: Undefined)


def _text(value: bytes, *, substring: bool) -> str:
    """Return an assertion as text; "" for what matches nothing."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return ""
    return text if substring else text.strip()


# -- short cuts ----------------------------------------------------------------------------------


def simply(wanted: Filter, kind: Kind, visible: frozenset[str] | None) -> str | None:
    """Return the column in which an equality is one value that nothing else can match.

    That is so of the names and addresses that are stored as they are shown.
    """
    if not isinstance(wanted, Equal):
        return None
    found = schema.find(wanted.attribute)
    if found is None or ";" in wanted.attribute or len(schema.subtypes(found)) > 1:
        return None
    column = kind.columns.get(found.name)
    if column is None or column.name not in _AS_SHOWN:
        return None
    is_shown = visible is None or found.name in visible or found.name == kind.naming
    return column.name if is_shown else None


def same(column: str, value: bytes) -> Same | None:
    """Return what ``simply`` is about for one value; None: it is not that simple a value."""
    if not value.isascii():
        return None
    text = value.decode()
    name = " ".join(text.lower().split())
    # Nobody has an empty name, yet people without a mail address are stored with an empty one.
    return Same(column, name) if name and text.isprintable() else None


_AS_SHOWN: Final = frozenset({"name", "mail"})


def is_possible(wanted: Filter, attributes: frozenset[str]) -> bool:
    """Tell whether a filter may be TRUE of an entry with no other user attributes than these."""
    if isinstance(wanted, And):
        return all(is_possible(part, attributes) for part in wanted.parts)
    if isinstance(wanted, Or):
        return any(is_possible(part, attributes) for part in wanted.parts)
    description = getattr(wanted, "attribute", "")
    if not description or isinstance(wanted, Extensible):
        return True
    found = schema.find(description)
    if found is None:
        return False
    if found.is_operational or found.name in attributes:
        return True
    return any(each.name in attributes for each in schema.subtypes(found))


# -- who may ask ----------------------------------------------------------------------------------


def is_bound(condition: Condition, columns: frozenset[str], prefix: int | None) -> bool:
    """Tell whether all that is found is named by one of the columns' whole values.

    Or by how it begins, where that is ``prefix`` characters long. Whoever asks so knows
    already whom he looks for.
    """
    if isinstance(condition, Same):
        return condition.column in columns
    if isinstance(condition, Like):
        return (
            prefix is not None and condition.column in columns and len(condition.initial) >= prefix
        )
    if isinstance(condition, Either):
        return all(is_bound(part, columns, prefix) for part in condition.parts)
    if isinstance(condition, Both):
        return any(is_bound(part, columns, prefix) for part in condition.parts)
    return False


def certificates(items: Iterable[Item]) -> dict[Item, tuple[int, object]]:
    """Return which certificates, by serial number and issuer, the items of a filter name."""
    found: dict[Item, tuple[int, object]] = {}
    rule = matching.RULES[_CERTIFICATE_RULE]
    for item in items:
        if len(found) == MOST_CERTIFICATES:
            break
        if not isinstance(item, Equal | Approx | Extensible):
            continue
        named = schema.find(item.attribute) if item.attribute else None
        if named is None or named.name != CERTIFICATE:
            continue
        if isinstance(item, Extensible) and item.rule and matching.rule_of(item.rule) is not rule:
            continue
        asserted = rule.assertion(item.value)
        if asserted is not None:
            found[item] = asserted
    return found
