"""An Active Directory in memory: entries, and a session that answers filters like a server."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from tests.support import Clock
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.active_directory import ActiveDirectories
from tmad.identity.ldapclient import unavailable
from tmad.signer.seal import Seal
from tmad.wire import der, ldap
from tmad.wire.ldap import Entry

BASE = "DC=corp,DC=test"
DOMAIN = "S-1-5-21-1-2-3"
READER = "tmad@corp.test"
WORD = "a long word for the reader"
PERSON, MACHINE, DISABLED = 0x200, 0x1000, 0x2


class Session:
    """One connection to a MemoryDirectory."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory
        directory.open += 1

    def close(self) -> None:
        self._directory.open -= 1

    async def bind(self, name: str, password: Secret) -> bool:
        ldap.bind(1, name, password)  # refuses an empty password
        return self._directory.passwords.get(name) == password.reveal().decode()

    async def search(
        self, base: str, wanted: bytes, attributes: Iterable[str], *, limit: int
    ) -> tuple[Entry, ...]:
        self._directory.filters.append(wanted)
        found = [e for e in self._directory.entries.values() if _matches(e, wanted)]
        return tuple(found[:limit])


class MemoryDirectory:
    """A domain's entries, changed at will."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.passwords = {READER: WORD}
        self.filters: list[bytes] = []
        self.open = 0
        self.is_away = False
        self._next = 1101

    async def connect(self, server: Any) -> Session:
        if self.is_away:
            raise unavailable("connection refused")
        return Session(self)

    def add(self, login: str, *, control: int = PERSON, word: str = "", **attributes: str) -> Entry:
        """Add an account; ``attributes`` are further values in text."""
        name = f"CN={login},{BASE}"
        values: dict[str, tuple[bytes, ...]] = {
            "objectclass": (b"user",),
            "objectguid": (uuid.uuid4().bytes,),
            "objectsid": (ldap.sid_octets(f"{DOMAIN}-{self._next}"),),
            "samaccountname": (login.encode(),),
            "useraccountcontrol": (str(control).encode(),),
            "cn": (login.encode(),),
        }
        self._next += 1
        values |= {key.lower(): (value.encode(),) for key, value in attributes.items()}
        self.entries[login] = Entry(name, values)
        if word:
            self.passwords[name] = word
        return self.entries[login]

    def group(self, name: str, *members: str) -> None:
        names = tuple(self.entries[each].name.encode() for each in members)
        self.entries[name] = Entry(
            f"CN={name},{BASE}",
            {"objectclass": (b"group",), "samaccountname": (name.encode(),), "member": names},
        )

    def change(self, login: str, **attributes: str) -> None:
        old = self.entries[login]
        changed = {key.lower(): (value.encode(),) for key, value in attributes.items()}
        self.entries[login] = Entry(old.name, {**old.attributes, **changed})

    def sid(self, login: str) -> str:
        return ldap.sid_text(self.entries[login].octets("objectSid"))


def directories(memory: MemoryDirectory, clock: Clock) -> ActiveDirectories:
    """Return the service, asking this directory."""
    service = ActiveDirectories(None, Seal(bytes(32)), clock)
    service._client = memory  # type: ignore[assignment]  # the same verb, without a network
    return service


def _matches(entry: Entry, wanted: bytes) -> bool:
    tag = wanted[0]
    inside = der.Reader(der.content(wanted, tag))
    if tag in (0xA0, 0xA1):
        parts = [inside.raw() for _ in inside.each()]
        return (all if tag == 0xA0 else any)(_matches(entry, part) for part in parts)
    if tag == 0xA3:
        attribute, value = (inside.content(der.OCTET_STRING) for _ in range(2))
    elif tag == 0xA9:
        assert inside.content(0x81) == b"1.2.840.113556.1.4.1941"
        attribute, value = inside.content(0x82), inside.content(0x83)
    else:
        raise Fault(FaultCode.INTERNAL, f"a filter with the tag {tag:02x}")
    values = entry.attributes.get(attribute.decode().lower(), ())
    return value.lower() in [each.lower() for each in values]
