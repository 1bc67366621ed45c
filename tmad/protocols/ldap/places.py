"""What a name means: a directory's suffix, the unit of a branch, or an entry that hangs on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tmad.ca.directory import Published
from tmad.errors import Fault, FaultCode
from tmad.identity.naming import device_key, person_key
from tmad.protocols.ldap import entries, names, rights, schema
from tmad.protocols.ldap.entries import Place
from tmad.protocols.ldap.names import Key
from tmad.protocols.ldap.rights import Branch, Rights
from tmad.protocols.ldap.tree import ANONYMOUS, Who

_KEPT: Final = 4096


class Base(NamedTuple):
    """Where a search begins; ``leaf`` is the name that one entry has within its branch."""

    directory: Published
    place: Place
    branch: Branch | None
    leaf: str | None
    members: Rights
    strangers: Rights

    def rights(self, who: Who) -> Rights:
        """Return what somebody may look at here; Fault(FORBIDDEN) where it is nothing."""
        is_member = who.kind != ANONYMOUS.kind and who.tenant == self.directory.tenant
        found = self.members if is_member else self.strangers
        if not found.branches or (self.branch is not None and self.branch not in found.branches):
            raise rights.forbidden(who)
        return found


class Places:
    """Finds what names mean, in the directories that it was made for."""

    def __init__(self, published: Iterable[Published] = ()) -> None:
        self._suffixes = {
            names.key_of_text(each.document.suffix): Base(
                each,
                Place(each.tenant, each.document.suffix),
                None,
                None,
                rights.of_member(each.document),
                rights.of_stranger(each.document),
            )
            for each in published
        }
        self._found: dict[str, Base] = {}

    def find(self, text: str) -> Base:
        """Return what a name means; Fault: MALFORMED, NOT_FOUND."""
        found = self._found.get(text)
        if found is None:
            found = self._find(text)
            if len(self._found) >= _KEPT:
                self._found.clear()
            self._found[text] = found
        return found

    def _find(self, text: str) -> Base:
        key = names.key_of_text(text)
        for length in range(len(key), 0, -1):
            suffix = self._suffixes.get(key[-length:])
            if suffix is not None:
                return _below(suffix, key[:-length])
        raise no_such_object("")


def no_such_object(matched: str) -> Fault:
    """Return the refusal of a name that nothing has; ``matched`` is the nearest one above."""
    return Fault(
        FaultCode.NOT_FOUND,
        "there is no such entry",
        rule="ldap.no-such-object",
        values={"matched": matched},
    )


def _below(suffix: Base, key: Key) -> Base:
    """Return what the part of a name below a suffix means."""
    if not key:
        return suffix
    place = suffix.place
    for branch in suffix.directory.document.publish:
        if names.key_of_text(f"ou={entries.UNITS[branch]}")[0] != key[-1]:
            continue
        if len(key) == 1:
            return suffix._replace(branch=branch)
        leaf = _leaf(branch, key[-2])
        if leaf is None or len(key) > 2:
            raise no_such_object(place.unit(branch))
        return suffix._replace(branch=branch, leaf=leaf)
    raise no_such_object(place.suffix)


def _leaf(branch: Branch, rdn: names.RDNKey) -> str | None:
    """Return the name that an entry's own RDN means; None: there is none such here."""
    kind = schema.find("uid" if branch == "people" else "cn")
    if len(rdn) != 1 or kind is None or rdn[0][0] != kind.oid or isinstance(rdn[0][1], bytes):
        return None
    if branch == "people":
        return person_key(rdn[0][1])
    return device_key(rdn[0][1])
