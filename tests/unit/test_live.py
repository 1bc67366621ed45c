"""Nothing that is kept in memory is ever older than the question that it answers.

Each cache is asked at random moments between random changes, and every answer of the database
takes its time: it is as old as the question, and comes when the test lets it.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from twisted.internet.defer import Deferred, ensureDeferred

from tests.directory_world import STAFF, SUBTREE, DirectoryWorld, eq
from tests.hierarchy_world import ADMIN, NoOptions, pem
from tests.hierarchy_world import World as HierarchyWorld
from tests.network_world import a_visit
from tests.support import drive
from tmad.ca.authority import AUTHORITY
from tmad.ca.endpoint import kind as endpoint_kind
from tmad.ca.profile import PROFILE
from tmad.errors import Fault
from tmad.identity.login import Logins
from tmad.identity.snmp_access import SNMPAccess
from tmad.lifecycle import notification
from tmad.lifecycle.log_collectors import LOG_COLLECTOR, LogCollectors
from tmad.lifecycle.notify import Notifications
from tmad.lifecycle.snmp_targets import SNMP_TARGET, SNMPTargets
from tmad.managed.objects import TENANT, Objects
from tmad.network.clients import RadiusClients
from tmad.network.issuers import Standings
from tmad.protocols.ldap.filters import Equal
from tmad.protocols.ocsp.responder import OCSPResponder
from tmad.signer.seal import Seal

_S_MIME = Path(__file__).parents[2] / "conf" / "profiles" / "smime-encrypt.toml"
_OTHERS = ("endpoint", "log-collector", "snmp-target", "notification")


class Slow:
    """A database whose answers are there at once, and come late."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.pending: list[Deferred[None]] = []
        self.is_slow = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, function: Any, *arguments: Any) -> Any:
        found = await self._database.read(function, *arguments)
        await self.held()
        return found

    async def lookup(self, function: Any, *arguments: Any) -> Any:
        found = await self._database.lookup(function, *arguments)
        await self.held()
        return found

    async def held(self) -> None:
        if self.is_slow:
            answer: Deferred[None] = Deferred()
            self.pending.append(answer)
            await answer


class SlowKeys:
    """The keyring, while a token takes its time for each signature."""

    def __init__(self, keyring: Any, slow: Slow) -> None:
        self._keyring = keyring
        self._slow = slow

    async def use(self, key_id: str, operation: Any) -> Any:
        signed = await self._keyring.use(key_id, operation)
        await self._slow.held()
        return signed


@dataclass
class Subject:
    """A cache: how to give it another value, and how to ask for the one in force."""

    slow: Slow
    change: Callable[[int], object]
    ask: Callable[[], Coroutine[Deferred[Any], Any, Any]]
    value: Callable[[int], Any] = field(default=lambda number: number)


class World(DirectoryWorld):
    """One process whose every cache reads from a slow database."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare()
        self.slow = Slow(self.database)
        self.standings = Standings(self.database, self.changes, self.hierarchy)
        self.directories._stands = self.standings.check
        self.others = Objects(
            self.database,
            self.journal,
            self.changes,
            self.clock,
            (
                *(TENANT, AUTHORITY, PROFILE, LOG_COLLECTOR, SNMP_TARGET, notification.kind()),
                endpoint_kind({"scep": NoOptions}),
            ),
        )

    def slowly(self, *holders: Any) -> Slow:
        """Let these read slowly."""
        for holder in holders:
            holder._database = self.slow
        return self.slow

    def put(self, kind: str, name: str, document: dict[str, Any]) -> None:
        objects = self.others if kind in _OTHERS else self.objects
        drive(objects.put(ADMIN, "default", kind, name, document))


def an_object(world: World) -> Subject:
    async def ask() -> int:
        stored = await world.objects.load("default", "radius-client", "ap-1")
        return int(stored.document.tags[0])

    return Subject(world.slowly(world.objects), _client(world), ask)


def an_endpoint(world: World) -> Subject:
    async def ask() -> int:
        stored = await world.others.load_by_handle("endpoint", "scep/door")
        assert stored is not None
        return int(stored.document.idempotency_minutes)

    def change(number: int) -> None:
        document = {
            "protocol": "scep",
            "label": "door",
            "authority": "root",
            "profile": "device",
            "idempotency_minutes": number + 1,
        }
        world.put("endpoint", "scep-door", document)

    return Subject(world.slowly(world.others), change, ask, lambda number: number + 1)


def an_authority(world: World) -> Subject:
    async def ask() -> int:
        return (await world.hierarchy.active("default", "root")).document.crl.period_hours

    def change(number: int) -> None:
        world.put("authority", "root", {"crl": {"period_hours": number + 1}})

    return Subject(world.slowly(world.hierarchy), change, ask, lambda number: number + 1)


def a_login(world: World) -> Subject:
    """The rules of a tenant and what is known of its people, as one login sees them."""
    certificate = world.issue("ada", owner="person:ada")
    world.person("ada")

    async def ask() -> tuple[str, str]:
        now = world.clock()
        case, rules = await world.admission._findings.by_certificate(
            a_visit(), [certificate], "eap-tls", now
        )
        return case.question.groups[0], rules.rules[0].rule.name

    def change(number: int) -> None:
        world.change_person("ada", groups=(f"g{(number + 1) // 2}",))
        world.policy({"name": f"r{number // 2}"})

    found = world.admission._findings
    slow = world.slowly(found, found._rules, found._holders, found._standings)
    return Subject(slow, change, ask, lambda number: (f"g{(number + 1) // 2}", f"r{number // 2}"))


def a_login_by_name(world: World) -> Subject:
    """The same of a person who shows no certificate, from a device that is known."""
    world.person("ada")
    world.device("box", mac="020000000002", owner="ada")

    async def ask() -> tuple[str, bool]:
        visit = a_visit(calling_station="020000000002")
        case, _ = await world.admission._findings.by_name(visit, "ada", "pap", world.clock())
        return case.question.groups[0], any("blocked" in each.rule for each in case.doubts)

    def change(number: int) -> None:
        world.change_person("ada", groups=(f"g{(number + 1) // 2}",))
        blocked_at = world.clock() if number % 2 == 0 else None
        world.change_device("box", blocked_at=blocked_at)

    found = world.admission._findings
    slow = world.slowly(found, found._rules, found._holders)
    return Subject(slow, change, ask, lambda number: (f"g{(number + 1) // 2}", number % 2 == 0))


def somebody_who_logs_in(world: World) -> Subject:
    unused = cast("Any", None)
    logins = Logins(
        world.database, unused, unused, unused, unused, world.clock,
        changes=world.changes, later=unused,
    )  # fmt: skip
    world.person("ada")

    async def ask() -> str:
        person = await logins._named("default", ("ada",))
        assert person is not None
        return person.groups[0]

    def change(number: int) -> None:
        world.change_person("ada", groups=(f"g{number}",))

    return Subject(world.slowly(logins), change, ask, lambda number: f"g{number}")


def an_authority_above(world: World) -> Subject:
    """Whether the certificate of an issuing CA is on hold."""
    issuer = drive(world.hierarchy.active("default", "issuing"))
    assert issuer.certificate is not None
    certificate = issuer.certificate

    async def ask() -> bool:
        await world.changes.catch_up()
        try:
            await world.standings.check(issuer.id, world.clock())
        except Fault:
            return False
        return True

    slow = world.slowly(world.standings, world.hierarchy)
    return Subject(slow, _held_in_turns(world, certificate), ask, lambda number: number % 2 == 0)


def a_trust_anchor(world: World) -> Subject:
    root = HierarchyWorld(clock=world.clock).create("partner").certificate
    assert root is not None

    async def ask() -> int:
        await world.changes.catch_up()
        return len(await world.anchors.certificates("default"))

    def change(number: int) -> None:
        document = {"certificates": pem(root).decode(), "enabled": number % 2 == 0}
        world.put("trust-anchor", "partner", document)

    return Subject(world.slowly(world.anchors), change, ask, lambda number: 1 - number % 2)


def a_directory(world: World) -> Subject:
    async def ask() -> int:
        [found] = await world.directories.published()
        return int(found.document.scan)

    def change(number: int) -> None:
        world.put("directory", "main", {"suffix": "o=acme", "scan": 10_000 + number})

    return Subject(world.slowly(world.directories), change, ask, lambda number: 10_000 + number)


def an_entry_of_an_authority(world: World) -> Subject:
    """What LDAP publishes of an authority that gets one certificate after the other."""
    return _published(world, "ou=CAs,o=acme", eq("cn", "issuing"), "cACertificate")


def a_chain_in_an_entry(world: World) -> Subject:
    """The same in the chain that LDAP sends with a certificate for mail."""
    world.person("ada", mail="ada@example.test")
    world.put("profile", "smime-encrypt", tomllib.loads(_S_MIME.read_text()))
    world.mail_certificate("ada@example.test", owner="person:ada")
    return _published(world, "ou=people,o=acme", eq("uid", "ada"), "userSMIMECertificate")


def _published(world: World, base: str, wanted: Equal, attribute: str) -> Subject:
    world.publish()
    certificates: list[bytes] = []

    async def ask() -> int:
        page = await world.tree.search(STAFF, base, SUBTREE, wanted, limit=10)
        [entry] = page.entries
        [value] = entry.attributes[attribute]
        [number] = [number for number, each in enumerate(certificates) if each in value]
        return number

    def change(number: int) -> None:
        renewed = drive(world.ceremony.renew(ADMIN, "default", "issuing"))
        assert renewed.certificate is not None
        certificates.append(renewed.certificate.public_bytes(Encoding.DER))

    slow = world.slowly(world.directories, world.hierarchy, world.standings)
    return Subject(slow, change, ask)


def an_ocsp_answer(world: World) -> Subject:
    """Of a certificate that is held and released in turns; signatures take their time, too."""
    certificate = world.issue("ada")
    issuer = drive(world.hierarchy.active("default", "issuing"))
    assert issuer.certificate is not None
    question = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(certificate, issuer.certificate, hashes.SHA256())
        .build()
        .public_bytes(Encoding.DER)
    )
    slow = world.slowly(world.status, world.hierarchy, world.service_certificates)
    services: Any = SimpleNamespace(
        changes=world.changes,
        now=world.clock,
        hierarchy=world.hierarchy,
        status=world.status,
        service_certificates=world.service_certificates,
        keyring=SlowKeys(world.keyring, slow),
    )
    responder = OCSPResponder(services, cache_octets=1 << 20)

    async def ask() -> bool:
        answer, _ = await responder.answer(question, None)
        status = ocsp.load_der_ocsp_response(answer.body).certificate_status
        return status is ocsp.OCSPCertStatus.REVOKED

    return Subject(slow, _held_in_turns(world, certificate), ask, lambda number: number % 2 == 1)


def a_crl(world: World) -> Subject:
    """The same on a CRL."""
    certificate = world.issue("ada")
    issuer = drive(world.hierarchy.active("default", "issuing"))
    slow = world.slowly(world.crls, world.hierarchy)
    world.crls._keyring = SlowKeys(world.keyring, slow)  # type: ignore[assignment]

    async def ask() -> bool:
        crl = x509.load_der_x509_crl((await world.crls.current(issuer.id)).der)
        found = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        return found is not None

    return Subject(slow, _held_in_turns(world, certificate), ask, lambda number: number % 2 == 1)


def _held_in_turns(world: World, certificate: x509.Certificate) -> Callable[[int], None]:
    def change(number: int) -> None:
        if number % 2:
            world.hold(certificate)
        elif number:
            world.release(certificate)

    return change


def collectors(world: World) -> Subject:
    service = LogCollectors(world.database, world.changes, world.journal, world.clock)

    async def ask() -> str:
        [found] = await service.all()
        return str(found.document.address)

    def change(number: int) -> None:
        world.put("log-collector", "siem", {"transport": "tcp", "address": f"192.0.2.{number}:601"})

    return Subject(world.slowly(service), change, ask, lambda number: f"192.0.2.{number}:601")


def targets(world: World) -> Subject:
    service = SNMPTargets(world.database, world.changes, world.journal, world.clock)

    async def ask() -> str:
        [found] = await service.all()
        return str(found.document.address)

    def change(number: int) -> None:
        world.put("snmp-target", "noc", {"address": f"192.0.2.{number}", "user": "ops"})

    return Subject(world.slowly(service), change, ask, lambda number: f"192.0.2.{number}")


def notifications(world: World) -> Subject:
    service = Notifications(
        world.database,
        world.journal,
        world.changes,
        world.clock,
        node="one",
        mail=None,
        webhooks=None,  # type: ignore[arg-type]  # nothing is sent
    )

    async def ask() -> bool:
        return "ops-1@example.test" in str(await service._load())

    def change(number: int) -> None:
        document = {"when": {"events": ["*"]}, "mail": {"to": [f"ops-{number % 2}@example.test"]}}
        world.put("notification", "security", document)

    return Subject(world.slowly(service), change, ask, lambda number: number % 2 == 1)


def snmp_users(world: World) -> Subject:
    service = SNMPAccess(
        world.database, world.journal, world.changes, Seal(bytes(32)), world.clock, node="one"
    )

    async def ask() -> int:
        return len((await service.current()).users)

    def change(number: int) -> None:
        drive(service.add_user(ADMIN, "*", f"noc-{number}"))

    return Subject(world.slowly(service), change, ask, lambda number: number + 1)


def a_radius_client(world: World) -> Subject:
    service = RadiusClients(
        world.database, world.journal, world.changes, Seal(bytes(32)), world.clock
    )

    async def ask() -> str:
        found = await service.find("192.0.2.9")
        assert found is not None
        return str(found.document.tags[0])

    return Subject(world.slowly(service), _client(world), ask, str)


def _client(world: World) -> Callable[[int], None]:
    def change(number: int) -> None:
        world.client("ap-1", prefixes=["192.0.2.0/24"], tags=[str(number)])

    return change


SUBJECTS = (
    an_object,
    an_endpoint,
    an_authority,
    a_login,
    a_login_by_name,
    somebody_who_logs_in,
    an_authority_above,
    a_trust_anchor,
    a_directory,
    an_entry_of_an_authority,
    a_chain_in_an_entry,
    an_ocsp_answer,
    a_crl,
    collectors,
    targets,
    notifications,
    snmp_users,
    a_radius_client,
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", SUBJECTS, ids=lambda make: make.__name__)
def test_no_answer_is_older_than_its_question(make: Callable[[World], Subject], seed: int) -> None:
    dice = random.Random(seed)
    world = World()
    subject = make(world)
    subject.change(0)
    history = [subject.value(0)]
    subject.slow.is_slow = True
    answered = 0

    def question() -> None:
        since = len(history) - 1

        def judge(answer: Any) -> None:
            nonlocal answered
            answered += 1
            allowed = map(_parts, history[since:])
            for part, choices in zip(_parts(answer), zip(*allowed, strict=True), strict=True):
                assert part in choices, f"{part} was no more, it was one of {choices}"

        failures.append(ensureDeferred(subject.ask()).addCallback(judge))

    failures: list[Deferred[None]] = []
    for _ in range(150):
        what = dice.random()
        if what < 0.15:
            subject.slow.is_slow = False  # what an administrator does is done before he hears
            number = len(history)
            subject.change(number)
            history.append(subject.value(number))
            subject.slow.is_slow = True
        elif what < 0.5:
            question()
        elif subject.slow.pending:
            chosen = dice.randrange(len(subject.slow.pending))
            subject.slow.pending.pop(chosen).callback(None)
    while subject.slow.pending:
        subject.slow.pending.pop(0).callback(None)
    for failure in failures:
        drive(_outcome(failure))
    assert answered == len(failures)


async def _outcome(deferred: Deferred[None]) -> None:
    await deferred


def _parts(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)
