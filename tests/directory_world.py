"""A tenant with people, devices, authorities and certificates, and the tree that shows them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cryptography import x509

from tests.hierarchy_world import ADMIN, World
from tests.network_world import NetworkWorld
from tests.support import drive
from tmad.ca.crl import CRLs
from tmad.ca.directory import Directories
from tmad.network.issuers import Standings
from tmad.protocols.ldap.content import Directory
from tmad.protocols.ldap.filters import Equal, Filter, Substrings
from tmad.protocols.ldap.tree import ANONYMOUS, Entry, Who

_SHIPPED = Path(__file__).parent.parent / "conf" / "profiles"
SUFFIX = "o=acme"
BASE, ONE, SUBTREE = 0, 1, 2
STAFF = Who("person", "default", "staff", "uid=staff,ou=people,o=acme", True)


class DirectoryWorld(NetworkWorld):
    """One process that answers questions about directories."""

    def __init__(self, beside: World | None = None, **options: Any) -> None:
        super().__init__(beside, **options)
        self.crls = CRLs(
            self.database,
            self.changes,
            self.hierarchy,
            self.keyring,
            self.journal,
            self.clock,
            holder=options.get("holder", "one"),
        )
        self.directories = Directories(
            self.database,
            self.changes,
            self.hierarchy,
            self.clock,
            Standings(self.database, self.changes, self.hierarchy).check,
        )
        self.tree = Directory(self.directories, self.crls)

    def publish(
        self, name: str = "main", suffix: str = SUFFIX, *, tenant: str = "default", **document: Any
    ) -> None:
        """Put a directory."""
        wanted = {"suffix": suffix, **document}
        drive(self.objects.put(ADMIN, tenant, "directory", name, wanted))

    def furnish(self) -> DirectoryWorld:
        """Make authorities and profiles, three people and a device, with a directory."""
        self.prepare()
        for name in ("smime-encrypt",):
            document = tomllib.loads((_SHIPPED / f"{name}.toml").read_text())
            drive(self.objects.put(ADMIN, "default", "profile", name, document))
        self.publish()
        self.person("alice", full_name="Alice Maria Example", mail="alice@example.test")
        self.person("bob", full_name="Bob Builder", mail="bob@example.test", phone="+431234567")
        self.person("carol", full_name="Carol Example")
        self.device("printer-1.example.test", serial_number="SN 17", owner="bob")
        return self

    def mail_certificate(self, mail: str, *, owner: str = "", **options: Any) -> x509.Certificate:
        """Issue a certificate to encrypt mail to."""
        return self.issue(
            mail.partition("@")[0],
            profile="smime-encrypt",
            names=(x509.RFC822Name(mail),),
            owner=owner,
            **options,
        )

    def search(
        self,
        wanted: Filter,
        base: str = SUFFIX,
        scope: int = SUBTREE,
        *,
        who: Who = STAFF,
        limit: int = 1000,
        attributes: frozenset[str] | None = None,
    ) -> list[Entry]:
        """Return all that matches, page by page."""
        found: list[Entry] = []
        after: bytes | None = None
        while True:
            page = drive(
                self.tree.search(
                    who, base, scope, wanted, limit=limit, after=after, attributes=attributes
                )
            )
            assert len(page.entries) <= limit
            found += page.entries
            if page.cursor is None:
                return found
            assert len(page.cursor) <= 512
            assert page.cursor != after
            after = page.cursor

    def names(
        self, wanted: Filter, base: str = SUFFIX, scope: int = SUBTREE, **more: Any
    ) -> list[str]:
        """Return the names of all that matches."""
        return [entry.dn for entry in self.search(wanted, base, scope, **more)]


def eq(attribute: str, value: str | bytes) -> Equal:
    return Equal(attribute, value.encode() if isinstance(value, str) else value)


def like(attribute: str, text: str) -> Substrings:
    """Return the filter (attribute=text), where * stands for anything."""
    initial, *middle, final = [piece.encode() for piece in text.split("*")]
    return Substrings(attribute, initial or None, tuple(filter(None, middle)), final or None)


def person(name: str) -> str:
    return f"uid={name},ou=people,{SUFFIX}"


__all__ = ["ANONYMOUS"]
