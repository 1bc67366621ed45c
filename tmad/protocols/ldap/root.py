"""The entries that are the server's own: the rootDSE, the subschema, and what is above all
directories (RFC 4512, 4.2, 5.1)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import codec, controls, names, schema
from tmad.protocols.ldap.binds import EXTERNAL
from tmad.protocols.ldap.evaluation import tester
from tmad.protocols.ldap.filters import Filter
from tmad.protocols.ldap.session import Session
from tmad.protocols.ldap.tree import Entry, Page, Tree

BASE, ONE, SUBTREE = 0, 1, 2
_ALL_OPERATIONAL: Final = "1.3.6.1.4.1.4203.1.5.1"  # RFC 3673: "+" is understood
_EMPTY_GROUPS: Final = "1.3.6.1.4.1.4203.1.5.3"  # RFC 4526: (&) and (|)
_EXTENSIONS: Final = (codec.CANCEL, codec.START_TLS, codec.WHO_AM_I)
_SUBSCHEMA_KEY: Final = names.key_of_text(schema.SUBSCHEMA)


class Root:
    """Everything that can be searched: the server's own entries, and the tree below."""

    def __init__(self, tree: Tree, *, names_vendor: bool = False) -> None:
        self._tree = tree
        self._vendor = (
            {"vendorName": (b"tmad",), "vendorVersion": (version("tmad").encode(),)}
            if names_vendor
            else {}
        )

    async def search(
        self,
        session: Session,
        base: str,
        scope: int,
        wanted: Filter,
        *,
        limit: int,
        after: bytes | None = None,
        attributes: frozenset[str] | None = None,
    ) -> Page:
        """Return at most ``limit`` entries, as ``Tree.search`` does."""
        if not BASE <= scope <= SUBTREE:
            raise Fault(
                FaultCode.MALFORMED, "scopes are base, one level and subtree", rule="ldap.scope"
            )
        if base[:2].lower() == "cn" and names.key_of_text(base) == _SUBSCHEMA_KEY:
            found = (schema.subschema(),) if scope != ONE else ()
            return _matching(found, wanted)
        if base.strip():
            return await self._tree.search(
                session.who,
                base,
                scope,
                wanted,
                limit=limit,
                after=after,
                attributes=attributes,
            )
        if scope == BASE:
            return _matching((await self._root_dse(session),), wanted)
        return await self._everywhere(session, scope, wanted, limit, after, attributes)

    async def _everywhere(
        self,
        session: Session,
        scope: int,
        wanted: Filter,
        limit: int,
        after: bytes | None,
        attributes: frozenset[str] | None,
    ) -> Page:
        """Search every directory that the client may see, one behind the other.

        Address books that leave the base empty mean that. The cursor is the directory's
        number and the cursor within it.
        """
        suffixes = await self._tree.naming_contexts(session.who)
        number, inner = 0, None
        if after is not None:
            number, inner = int.from_bytes(after[:2]), after[2:] or None
        if number >= len(suffixes):
            return Page((), None)
        page = await self._tree.search(
            session.who,
            suffixes[number],
            BASE if scope == ONE else SUBTREE,
            wanted,
            limit=limit,
            after=inner,
            attributes=attributes,
        )
        if page.cursor is not None:
            return Page(page.entries, number.to_bytes(2) + page.cursor)
        is_last = number + 1 >= len(suffixes)
        return Page(page.entries, None if is_last else (number + 1).to_bytes(2))

    async def _root_dse(self, session: Session) -> Entry:
        suffixes = await self._tree.naming_contexts(session.who)
        has_certificate = session.certificate() is not None
        values: dict[str, tuple[bytes, ...]] = {
            "objectClass": (b"top",),
            "namingContexts": _texts(suffixes),
            "subschemaSubentry": (schema.SUBSCHEMA.encode(),),
            "supportedControl": _texts(controls.SUPPORTED),
            "supportedExtension": _texts(_EXTENSIONS),
            "supportedFeatures": _texts((_ALL_OPERATIONAL, _EMPTY_GROUPS)),
            "supportedLDAPVersion": (b"3",),
            "supportedSASLMechanisms": (EXTERNAL.encode(),) if has_certificate else (),
            "entryDN": (b"",),
        }
        return Entry("", {**values, **self._vendor})


def _texts(values: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple([value.encode() for value in values])


def _matching(entries: tuple[Entry, ...], wanted: Filter) -> Page:
    test = tester(wanted, schema)
    return Page(tuple([entry for entry in entries if test(entry)]), None)
