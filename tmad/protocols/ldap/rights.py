"""Who may see what of a directory, and how anybody has to ask (L-19)."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from tmad.ca.directory import DirectoryDocument
from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import conditions, schema
from tmad.protocols.ldap.tree import ANONYMOUS, Entry, Who
from tmad.storage.conditions import Condition

Branch: TypeAlias = Literal["people", "devices", "authorities"]

# By which whole values, or beginnings of so many characters, strangers find anybody.
_KNOWN: Final = frozenset({"name", "mail", "cn_key", "sn_key"})
_BEGINNING: Final = 3
_BY_MAIL: Final = frozenset({"mail"})
_ALWAYS: Final = frozenset(
    {"objectClass", *[kind.name for kind in schema.ATTRIBUTES if kind.is_operational]}
)


class Rights(NamedTuple):
    """What somebody may look at in one directory; None: every attribute."""

    branches: tuple[Branch, ...]
    attributes: frozenset[str] | None
    bound: frozenset[str] | None  # what a search has to name people by; None: nothing
    prefix: int | None

    def show(self, name: str) -> bool:
        """Tell whether an attribute of people and devices may be seen."""
        return self.attributes is None or name in self.attributes

    def check(self, condition: Condition) -> None:
        """Refuse a search of somebody who has to know whom he looks for, and does not."""
        if self.bound is None or conditions.is_bound(condition, self.bound, self.prefix):
            return
        if self.prefix is None:
            how = "by their whole mail address"
        else:
            how = "by a whole mail, uid, cn or sn, or how it begins (three characters)"
        raise Fault(
            FaultCode.REJECTED,
            f"without logging in, people and devices are found {how}; or search below another base",
            rule="ldap.unindexed",
        )

    def cut(self, entry: Entry) -> Entry:
        """Leave out what may not be seen; what names an entry is seen in its name anyway."""
        visible = self.attributes
        if visible is None:
            return entry
        naming = entry.dn.partition("=")[0]
        kept = {
            name: values
            for name, values in entry.attributes.items()
            if name in visible or name in _ALWAYS or name == naming
        }
        return Entry(entry.dn, kept)


def of_member(document: DirectoryDocument) -> Rights:
    """Return what people and devices of the tenant may look at."""
    return Rights(document.publish, _shown(document.attributes), None, None)


def of_stranger(document: DirectoryDocument) -> Rights:
    """Return what anybody may look at."""
    shown = _shown(document.anonymous_attributes)
    match document.anonymous:
        case "nothing":
            return Rights((), frozenset(), None, None)
        case "authorities":
            branches: tuple[Branch, ...] = ("authorities",)
        case "by-mail":
            branches = ("authorities", "people")
        case "all":
            branches = document.publish
    branches = tuple([branch for branch in branches if branch in document.publish])
    if document.anonymous == "by-mail":
        return Rights(branches, shown, _BY_MAIL, None)
    return Rights(branches, shown, _KNOWN, _BEGINNING)


def forbidden(who: Who) -> Fault:
    """Return the refusal of a part that is not shown to somebody."""
    how = "without logging in" if who.kind == ANONYMOUS.kind else "with this login"
    return Fault(FaultCode.FORBIDDEN, f"this part is not shown {how}", rule="ldap.forbidden")


def _shown(attributes: tuple[str, ...]) -> frozenset[str] | None:
    if "*" in attributes:
        return None
    kinds = [schema.find(name) for name in attributes]
    return frozenset([kind.name for kind in kinds if kind is not None])
