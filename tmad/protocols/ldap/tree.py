"""The tree of entries as the server asks for it: the contract between questions and content.

RFC 4511, 4.5; RFC 4512. ``server.py`` and its neighbours speak the protocol and apply the
client's selection of attributes and its limits; what there is, and who may see it, is decided
behind ``Tree`` (``entries.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from tmad.protocols.ldap.filters import Filter

LONGEST_CURSOR: Final = 512  # octets


class Who(NamedTuple):
    """Who asks. ``kind`` is "anonymous", "person" or "device".

    ``name`` is the person's or device's, ``dn`` its entry's; both are empty for nobody.
    ``password_at``: since when a person has the password that it has now.
    """

    kind: str
    tenant: str
    name: str
    dn: str
    is_secure: bool  # the connection is protected by TLS
    password_at: datetime | None = None


ANONYMOUS: Final = Who("anonymous", "", "", "", False)


class Entry(NamedTuple):
    """One entry; what the asker may not see is not in it.

    The keys are the attribute types' names as the schema spells them, without options;
    operational attributes are among them.
    """

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]


class Page(NamedTuple):
    """Some entries; ``cursor`` continues after them, None: there are no more."""

    entries: tuple[Entry, ...]
    cursor: bytes | None


class Login(NamedTuple):
    """Whom a name of a bind would mean, whether or not there is such a person."""

    tenant: str
    name: str


class Tree(Protocol):
    """Every entry of the directories that are published, but the rootDSE and the subschema."""

    async def naming_contexts(self, who: Who) -> tuple[str, ...]:
        """Return the suffixes of the directories that ``who`` may look into."""

    async def search(
        self,
        who: Who,
        base: str,
        scope: int,
        wanted: Filter,
        *,
        limit: int,
        after: bytes | None = None,
        attributes: frozenset[str] | None = None,
    ) -> Page:
        """Return at most ``limit`` of the entries that match, in an order that stays.

        ``base`` is the name as it was sent, neither "" nor the subschema's; ``scope`` is 0
        (base), 1 (one level) or 2 (subtree). ``after`` is the cursor of an earlier page of the
        same question, with whatever limit. ``attributes`` are the lower-case names that the
        answer needs ("*" and "+" as the client has them); None: all. Others may be missing.

        Raise Fault: MALFORMED (ldap.dn), NOT_FOUND (ldap.no-such-object; ``values`` names in
        "matched" the nearest entry there is), FORBIDDEN (ldap.forbidden), REJECTED
        (ldap.unindexed: no index answers it, and it would look through too much).
        """

    async def login_of(self, dn: str) -> Login | None:
        """Return whom a bind with this name means, without looking whether it exists.

        None: it is no name of a person in any directory. Fault(MALFORMED, ldap.dn).
        """

    async def who_is(self, tenant: str, owner: str, *, is_secure: bool) -> Who | None:
        """Return who an owner of certificates is ("person:alice", "device:printer-1").

        None: nobody whom a directory of the tenant publishes.
        """
