"""Which attributes of an entry an answer has, and under which names (RFC 4511, 4.5.1.8)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tmad.protocols.ldap import codec, schema
from tmad.protocols.ldap.schema import AttributeType
from tmad.protocols.ldap.tree import Entry

USER: Final = "*"
OPERATIONAL: Final = "+"  # RFC 3673
NONE: Final = "1.1"
_KEPT: Final = 512  # characters of a list that is worth remembering


class Selection:
    """A client's list of attributes, made ready.

    ``wanted`` is what the tree has to read: lower-case names, "*" and "+". ``types_only``
    leaves values out.
    """

    def __init__(self, names: tuple[str, ...], *, types_only: bool, bare_names: bool) -> None:
        self._types_only = types_only
        self._has_user = not names or USER in names
        self._has_operational = OPERATIONAL in names
        self._is_open = self._has_user or self._has_operational
        self._bare_names = bare_names
        # Attribute types by their names in entries, with the encoded names of answers.
        self._named: dict[str, bytes] = {}
        for name in names:
            self._add(name)
        self._usual: dict[str, bytes | None] = {}
        marks = {USER: self._has_user, OPERATIONAL: self._has_operational}
        self.wanted = frozenset(
            {name.lower() for name in self._named} | {mark for mark, on in marks.items() if on}
        )

    def _add(self, name: str) -> None:
        kind = schema.find(name)
        options = {option.lower() for option in name.split(";")[1:]}
        if kind is None or options - {"binary"}:
            return  # not recognised, or nothing that is here: left out, no error
        for each in schema.subtypes(kind):
            self._named[each.name] = codec.described(self._spelt(each, bool(options)))

    def _spelt(self, kind: AttributeType, is_binary: bool) -> str:
        """Return a type's name in answers: with ";binary" where RFC 4523 wants it (L-03)."""
        if kind.is_binary and not (self._bare_names and not is_binary):
            return f"{kind.name};binary"
        # userSMIMECertificate is octets either way: it comes as it was asked for.
        return f"{kind.name};binary" if is_binary and not kind.equality else kind.name

    def encode(self, entry: Entry) -> bytes:
        """Return the SearchResultEntry."""
        attributes = entry.attributes
        chosen: Iterable[tuple[bytes, tuple[bytes, ...]]]
        if self._is_open:
            chosen = [
                (name, values)
                for key, values in attributes.items()
                if (name := self._name(key)) is not None and values
            ]
        else:
            chosen = [
                (name, attributes[key]) for key, name in self._named.items() if attributes.get(key)
            ]
        if self._types_only:
            return codec.entry(entry.dn, [codec.attribute(name, ()) for name, _ in chosen])
        return codec.entry(entry.dn, [codec.attribute(name, values) for name, values in chosen])

    def _name(self, key: str) -> bytes | None:
        """Return the encoded name of an entry's attribute, None if it stays out."""
        found = self._named.get(key)
        if found is not None:
            return found
        if key not in self._usual:
            kind = schema.find(key)
            name = None
            if kind is not None and (
                self._has_operational if kind.is_operational else self._has_user
            ):
                name = codec.described(f"{key};binary" if kind.is_binary else key)
            self._usual[key] = name
        return self._usual[key]


def select(names: tuple[str, ...], *, types_only: bool, bare_names: bool) -> Selection:
    """Return the selection that a list of attributes is."""
    if len(names) <= 16 and sum(map(len, names)) <= _KEPT:
        return _remembered(names, types_only, bare_names)
    return Selection(names, types_only=types_only, bare_names=bare_names)


@lru_cache(maxsize=1024)
def _remembered(names: tuple[str, ...], types_only: bool, bare_names: bool) -> Selection:
    return Selection(names, types_only=types_only, bare_names=bare_names)
