"""What is asked beside a search: pages (RFC 2696) and order (RFC 2891)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import ber, codec, matching, schema
from tmad.protocols.ldap.codec import Control, Message, Result, Search, SortKey
from tmad.protocols.ldap.tree import Entry, Who

SUPPORTED: Final = (codec.PAGED, codec.SORT, codec.MANAGE_DSA_IT)
_NONCE: Final = 12
_COMPOUND: Final = ("name", "certificate", "crl")


class Wishes(NamedTuple):
    """What the controls of one search say; None for a control that is not there."""

    page: tuple[int, bytes] | None = None  # how many, and the cookie
    sort: tuple[SortKey, ...] | None = None
    is_sort_critical: bool = False


NO_WISHES: Final = Wishes()


def read(message: Message) -> Wishes:
    """Return what the controls want.

    Raise Fault: UNSUPPORTED (ldap.control) for a critical one that we do not know, or not
    with this operation (RFC 4511, 4.1.11); MALFORMED.
    """
    if not message.controls:
        return NO_WISHES
    is_search = isinstance(message.operation, Search)
    found: dict[str, Control] = {}
    for control in message.controls:
        if control.oid in found:
            raise ber.malformed("a control is there twice")
        found[control.oid] = control
        is_known = control.oid in SUPPORTED and (is_search or control.oid == codec.MANAGE_DSA_IT)
        if control.critical and not is_known:
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"the critical control {control.oid[:100]} is not supported here",
                rule="ldap.control",
                values={"control": control.oid[:100]},
            )
    page, sort = found.get(codec.PAGED), found.get(codec.SORT)
    return Wishes(
        codec.decode_paged(page.value) if page is not None and is_search else None,
        codec.decode_sort(sort.value) if sort is not None and is_search else None,
        sort is not None and sort.critical,
    )


# -- pages ---------------------------------------------------------------------------------------


class Cookies:
    """Seals where a paged search goes on; nothing is kept for a page that nobody fetches.

    The key is the connection's own, and the question is sealed in: a cookie of another
    connection, another person or a changed filter is none (L-17).
    """

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(128))

    def seal(self, question: bytes, sent: int, cursor: bytes) -> bytes:
        """Return a cookie; ``sent`` is how many entries have been sent in all."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, sent.to_bytes(4) + cursor, question)

    def open(self, question: bytes, cookie: bytes) -> tuple[int, bytes]:
        """Return what was sealed; Fault(REJECTED, ldap.cookie) for another question's."""
        try:
            opened = self._cipher.decrypt(cookie[:_NONCE], cookie[_NONCE:], question)
        except (InvalidTag, ValueError):
            raise no_such_cookie() from None
        return int.from_bytes(opened[:4]), opened[4:]


def no_such_cookie() -> Fault:
    """Return the Fault for a cookie that is not of this search."""
    return Fault(
        FaultCode.REJECTED,
        "the cookie is not of this search on this connection: begin it anew",
        rule="ldap.cookie",
    )


def question_of(request: Search, who: Who, sort: tuple[SortKey, ...] | None) -> bytes:
    """Return what makes two searches the same one."""
    asked = (request.base, request.scope, request.filter, request.attributes, who, sort)
    return hashlib.sha256(repr(asked).encode()).digest()


# -- order ---------------------------------------------------------------------------------------

Order = Callable[[list[Entry]], None]


class Unsortable(Exception):  # noqa: N818  an answer, not an error of ours
    """Why entries cannot be sorted like that, as the control of the answer says it."""

    def __init__(self, result: Result, attribute: str = "") -> None:
        super().__init__(result.name)
        self.result = result
        self.attribute = attribute


def sort_names(keys: Sequence[SortKey]) -> frozenset[str]:
    """Return the attributes that sorting reads, as the tree wants them named."""
    kinds = [schema.find(key.attribute) for key in keys]
    return frozenset(
        each.name.lower() for kind in kinds if kind is not None for each in schema.subtypes(kind)
    )


def order_of(keys: Sequence[SortKey]) -> Order:
    """Return a function that sorts a list of entries in place; raise Unsortable."""
    passes = [(_reader(key), key.reverse) for key in keys]

    def order(entries: list[Entry]) -> None:
        # Sorting is stable: by the last key first, the first key decides.
        for value_of, reverse in reversed(passes):
            entries.sort(key=value_of, reverse=reverse)

    return order


def _reader(key: SortKey) -> Callable[[Entry], tuple[bool, Any]]:
    kind = schema.find(key.attribute)
    if kind is None:
        raise Unsortable(Result.NO_SUCH_ATTRIBUTE, key.attribute[:100])
    # Most types have no ordering rule: then what makes values equal brings them into an order.
    rule = matching.rule_of(key.rule or kind.ordering or kind.equality)
    own = matching.rule_of(kind.equality)
    if rule is None or own is None or rule.family != own.family or rule.kind == "substrings":
        raise Unsortable(Result.INAPPROPRIATE_MATCHING, kind.name)
    names = tuple(each.name for each in schema.subtypes(kind))
    # Names and certificates have an order, too, if none that means much.
    read = rule.value if rule.family not in _COMPOUND else lambda value: repr(rule.value(value))
    return partial(_least, names, read)


def _least(names: tuple[str, ...], read: Callable[[bytes], Any], entry: Entry) -> tuple[bool, Any]:
    """Return the least value of an entry; without any it counts as the largest (RFC 2891, 1.1)."""
    known = [read(value) for name in names for value in entry.attributes.get(name, ())]
    present = [value for value in known if value is not None]
    return (False, min(present)) if present else (True, None)
