"""A small directory in memory, and a connection to it without a socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as Reactor
from twisted.internet.testing import StringTransport

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.login_rules import LoginRules
from tmad.protocols.ldap import codec, names, schema
from tmad.protocols.ldap.binds import Binds
from tmad.protocols.ldap.bounds import Bounds, Meters
from tmad.protocols.ldap.connection import LDAPConnection
from tmad.protocols.ldap.evaluation import tester
from tmad.protocols.ldap.filters import Filter
from tmad.protocols.ldap.passports import Passport
from tmad.protocols.ldap.responder import Responder
from tmad.protocols.ldap.root import Root
from tmad.protocols.ldap.searches import SearchLimits
from tmad.protocols.ldap.server import LDAPFactory
from tmad.protocols.ldap.tree import Entry, Login, Page, Who

SUFFIX = "o=acme"
PEOPLE = f"ou=people,{SUFFIX}"
UUID = b"6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def person(number: int, **more: str) -> Entry:
    """Return a person's entry; keyword arguments add or replace one value."""
    uid = f"p{number:04d}"
    attributes = {
        "objectClass": (b"top", b"person", b"organizationalPerson", b"inetOrgPerson", b"pkiUser"),
        "uid": (uid.encode(),),
        "cn": (f"Person {number}".encode(),),
        "sn": (f"Name{number % 7}".encode(),),
        "mail": (f"{uid}@acme.example".encode(),),
        "userCertificate": (b"\x30\x03\x02\x01\x05",),
        "userSMIMECertificate": (b"\x30\x00",),
        "entryUUID": (UUID,),
        "createTimestamp": (b"20261123120000Z",),
    }
    attributes |= {key: (value.encode(),) for key, value in more.items()}
    return Entry(f"uid={uid},{PEOPLE}", attributes)


TOP = (
    Entry(SUFFIX, {"objectClass": (b"top", b"organization"), "o": (b"acme",)}),
    Entry(PEOPLE, {"objectClass": (b"top", b"organizationalUnit"), "ou": (b"people",)}),
)


class MemoryTree:
    """Answers from a list. ``wait`` holds searches up; ``closed`` are owners who are gone."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self.asked: list[tuple[Any, ...]] = []
        self.wait: Callable[[], Deferred[None]] | None = None
        self.closed: set[str] = set()
        self.passwords: dict[str, datetime] = {}  # since when

    async def naming_contexts(self, who: Who) -> tuple[str, ...]:
        return (SUFFIX,)

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
        self.asked.append((base, scope, wanted, limit, attributes))
        if self.wait is not None:
            await self.wait()
        top = names.key_of_text(base)
        found = [(entry, names.key_of_text(entry.dn)) for entry in self.entries]
        if not any(key == top for _, key in found):
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such entry",
                rule="ldap.no-such-object",
                values={"matched": SUFFIX},
            )
        test = tester(wanted, schema)
        position = int.from_bytes(after or b"")
        hits: list[Entry] = []
        for number, (entry, key) in enumerate(found):
            if number < position or not _is_within(key, top, scope) or not test(entry):
                continue
            if len(hits) == limit:
                return Page(tuple(hits), number.to_bytes(4))
            hits.append(entry)
        return Page(tuple(hits), None)

    async def login_of(self, dn: str) -> Login | None:
        rdns = names.parse(dn)
        return Login("default", str(rdns[0][0][1])) if rdns[0][0][0] == "uid" else None

    async def who_is(self, tenant: str, owner: str, *, is_secure: bool) -> Who | None:
        name = owner.removeprefix("person:")
        if owner in self.closed or not owner.startswith("person:"):
            return None
        dn = f"uid={name},{PEOPLE}"
        return Who("person", tenant, name, dn, is_secure, self.passwords.get(name))


def _is_within(key: Any, top: Any, scope: int) -> bool:
    if scope == 0:
        return bool(key == top)
    depth = len(key) - len(top)
    is_below = depth >= 0 and key[depth:] == top
    return is_below and (depth == 1 if scope == 1 else True)


@dataclass
class _Accepted:
    person: Any


class Doorkeeper:
    """Lets people in whose password is their name backwards."""

    def __init__(self) -> None:
        self.password_at: datetime | None = None  # of the password that is judged
        self.asked: list[dict[str, Any]] = []

    async def begin(self, *, password: Secret, **about: Any) -> Any:
        from tmad.identity.login import Accepted

        self.asked.append(about)
        if password.reveal() != about["name"][::-1].encode():
            raise Fault(FaultCode.UNAUTHENTICATED, "login refused", private="wrong")
        return Accepted(person=_Person(about["name"], self.password_at), factors=("password",))  # type: ignore[arg-type]


@dataclass
class _Person:
    name: str
    password_at: datetime | None


class Inspector:
    """Finds every certificate good until ``is_revoked``."""

    def __init__(self) -> None:
        self.is_revoked = False

    async def check(self, certificate: Any) -> Passport:
        return Passport(certificate, 1, "default", "person:p0001")

    async def recheck(self, passport: Passport) -> None:
        if self.is_revoked:
            raise Fault(FaultCode.UNAUTHENTICATED, "not accepted", private="revoked")


class Meter:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, outcome: int | str) -> None:
        self.counts[str(outcome)] += 1

    def time(self, seconds: float) -> None:
        assert seconds >= 0


class NoTLS:
    """A node whose certificate is not there yet."""

    is_ready = False


class Transport(StringTransport):
    """What a connection writes to; it says when it was ended."""

    aborted = False
    certificate: Any = None

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def getPeerCertificate(self) -> Any:
        return self.certificate


class World:
    """A server without sockets, and what a test needs of it."""

    def __init__(self, people: int = 3, **options: Any) -> None:
        self.tree = MemoryTree([*TOP, *[person(number) for number in range(people)]])
        self.reactor = Reactor()
        self.doorkeeper = Doorkeeper()
        self.inspector = Inspector()
        rules = LoginRules(mode="password")
        binds = Binds(self.tree, self.doorkeeper, self.inspector, rules)  # type: ignore[arg-type]
        limits = SearchLimits(**options.pop("limits", {}))
        root = Root(self.tree)
        self.responder = Responder(root, binds, limits, bare_names=options.pop("bare_names", False))
        self.meters = Meters(search=Meter(), bind=Meter(), other=Meter())
        self.factory = LDAPFactory(
            self.responder,
            Bounds(**options),
            self.meters,
            self.reactor,
            NoTLS(),  # type: ignore[arg-type]
        )

    def connect(self, *, is_secure: bool = False, host: str = "192.0.2.7") -> Client:
        """Return a new connection."""
        return Client(self, LDAPConnection(self.factory, host, is_secure=is_secure))


class Client:
    """The other end of a connection."""

    def __init__(self, world: World, connection: LDAPConnection) -> None:
        self.world = world
        self.connection = connection
        self.transport = Transport()
        self.connection.makeConnection(self.transport)

    @property
    def is_closed(self) -> bool:
        return bool(self.transport.disconnecting)

    def send(self, octets: bytes) -> None:
        self.connection.dataReceived(octets)

    def answers(self) -> list[Any]:
        """Return what has arrived since the last call, as ldaptor reads it."""
        from tests.unit.test_ldap_codec import read

        data, found = self.transport.value(), []
        self.transport.clear()
        while data:
            length = codec.length_of(data)
            found.append(read(data[:length]))
            data = data[length:]
        return found

    def ask(self, operation: Any, number: int = 1, controls: Any = None) -> list[Any]:
        """Send one operation, as ldaptor writes it; return the answers, after a few turns."""
        from ldaptor.protocols import pureldap

        self.send(pureldap.LDAPMessage(operation, id=number, controls=controls).toWire())
        for _ in range(200):
            self.world.reactor.advance(0)
        return self.answers()
