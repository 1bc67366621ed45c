"""Enrolment secrets: one use, in time, at one door, for the names they are bound to."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from datetime import timedelta
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import Event, Secret
from tmad.identity.actors import Actor, Grant
from tmad.identity.binding import UPN, Binding
from tmad.identity.credentials import ChallengePolicy, Door, EnrollSecrets, grouped, new_id
from tmad.signer.seal import Seal
from tmad.storage import enroll_secrets as rows
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")
ROUTERS = "scep/routers"
NEUTRAL = "the challenge was not accepted"


class Notes:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, connection: object, *events: Event) -> None:
        self.events += events

    async def write(self, *events: Event) -> None:
        self.events += events

    async def refuse(self, fault: Fault, **about: Any) -> str:
        return "TEST-0001"


class World:
    """Three doors of two tenants; only "scep/printers" allows static secrets."""

    doors: ClassVar = {
        ROUTERS: Door(tenant="default", policy=ChallengePolicy()),
        "scep/printers": Door(tenant="default", policy=ChallengePolicy(static=True)),
        "scep/acme": Door(tenant="acme", policy=ChallengePolicy()),
    }

    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)
        self.journal = Notes()
        self.secrets = EnrollSecrets(
            self.database, self.journal, Seal(b"k" * 32), self.clock, self.door
        )

    async def door(self, endpoint: str) -> Door:
        if endpoint not in self.doors:
            raise Fault(FaultCode.NOT_FOUND, "there is no such endpoint")
        return self.doors[endpoint]

    def create(self, endpoint: str = ROUTERS, **options: Any) -> tuple[Any, Secret]:
        return drive(self.secrets.create(ADMIN, self.doors[endpoint].tenant, endpoint, **options))

    def find(self, secret: Secret, endpoint: str = ROUTERS) -> Any:
        digest = self.secrets.digest(endpoint, secret)
        return drive(self.secrets.find(endpoint, digest))

    def claim(self, secret: Any, request: str) -> None:
        drive(self.database.write(self.secrets.claim, [(secret.id, request)], self.clock()))

    def consume(self, secret: Any, request: str) -> None:
        drive(self.database.write(self.secrets.consume, [(secret.id, request)], self.clock()))


@pytest.fixture
def world() -> World:
    return World()


def neutral(function: Any, *arguments: Any) -> str:
    """Return the private rule of a refusal that says nothing in public."""
    with pytest.raises(Fault) as caught:
        function(*arguments)
    assert (caught.value.code, caught.value.detail) == (FaultCode.UNAUTHENTICATED, NEUTRAL)
    return caught.value.rule


def rejected(coroutine: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


def test_a_secret_has_160_random_bits_and_is_typed_in_groups(world: World) -> None:
    _, secret = world.create()
    assert re.fullmatch(rb"[A-Z2-7]{32}", secret.reveal())
    shown = grouped(secret)
    assert re.fullmatch(r"([A-Z2-7]{4}-){7}[A-Z2-7]{4}", shown)
    assert world.find(Secret(shown)).id == world.find(Secret(shown.lower())).id
    assert world.create()[1].reveal() != secret.reveal()


def test_scep_02_a_one_time_secret_works_once(world: World) -> None:
    row, secret = world.create()
    assert world.find(secret).id == row.id
    world.claim(row, "request-1")
    world.consume(row, "request-1")
    assert neutral(world.find, secret) == "secret.used"
    assert neutral(world.claim, row, "request-2") == "secret.used"
    assert neutral(world.consume, row, "request-1") == "secret.used"


def test_scep_02_of_fifty_at_once_one_wins(world: World) -> None:
    row, secret = world.create()
    winners = []
    for _ in range(50):
        world.find(secret)  # all fifty find it usable before the first claims it
    for number in range(50):
        claimed = drive(
            world.database.write(rows.claim, [(row.id, f"request-{number}")], world.clock())
        )
        winners += [number] * claimed
    assert winners == [0]


def test_of_several_at_once_all_or_none_are_taken(world: World) -> None:
    one_time, _ = world.create()
    other, _ = world.create()
    static, _ = world.create("scep/printers", uses=None)

    def claim(*wanted: tuple[str, str]) -> bool:
        return drive(world.database.write(rows.claim, wanted, world.clock(), dry_run=True))

    assert claim((one_time.id, "r1"), (other.id, "r2"))
    assert claim((one_time.id, "r1"), (static.id, "r2"), (static.id, "r3"))
    assert not claim((one_time.id, "r1"), (one_time.id, "r2"))
    assert not claim((one_time.id, "r1"), (static.id, "r2"), ("nobody", "r3"))
    assert drive(world.secrets.revoke(ADMIN, "default", static.id))
    assert not claim((one_time.id, "r1"), (static.id, "r2"))


def test_a_claim_is_repeated_by_its_owner_and_given_back(world: World) -> None:
    row, _ = world.create()
    world.claim(row, "request-1")
    world.claim(row, "request-1")
    drive(world.database.write(world.secrets.release, row.id, "another"))
    assert neutral(world.claim, row, "request-2") == "secret.used"
    drive(world.database.write(world.secrets.release, row.id, "request-1"))
    world.claim(row, "request-2")
    assert neutral(world.consume, row, "request-1") == "secret.used"
    world.consume(row, "request-2")


def test_scep_02_an_expired_secret_is_refused(world: World) -> None:
    row, secret = world.create(lifetime=timedelta(hours=2))
    world.clock.advance(hours=2, seconds=-1)
    world.find(secret)
    world.clock.advance(seconds=1)
    assert neutral(world.find, secret) == "secret.expired"
    assert neutral(world.claim, row, "request-1") == "secret.used"


def test_a_request_that_waits_for_a_person_keeps_its_secret(world: World) -> None:
    row, _ = world.create(lifetime=timedelta(hours=1))
    world.claim(row, "request-1")
    world.clock.advance(days=3)
    world.consume(row, "request-1")


@pytest.mark.parametrize("endpoint", ["scep/printers", "scep/acme"])
def test_scep_02_a_secret_of_another_door_is_wrong(world: World, endpoint: str) -> None:
    _, secret = world.create()
    assert neutral(world.find, secret, endpoint) == "secret.wrong"


def test_a_wrong_secret_is_refused_in_the_same_words(world: World) -> None:
    world.create()
    assert neutral(world.find, Secret("A" * 32)) == "secret.wrong"
    assert neutral(world.find, Secret(b"\xff\x00")) == "secret.wrong"
    assert neutral(world.find, Secret(b"")) == "secret.wrong"


def test_a_revoked_secret_is_refused_at_once(world: World) -> None:
    row, secret = world.create()
    assert drive(world.secrets.revoke(ADMIN, "default", row.id)) is True
    assert drive(world.secrets.revoke(ADMIN, "default", row.id)) is False
    assert neutral(world.find, secret) == "secret.revoked"
    assert neutral(world.claim, row, "request-1") == "secret.used"
    assert [event.kind for event in world.journal.events] == ["secret.created", "secret.revoked"]


def test_another_tenants_secrets_and_doors_are_absent(world: World) -> None:
    row, _ = world.create("scep/acme")
    for attempt in (
        world.secrets.create(ADMIN, "default", "scep/acme"),
        world.secrets.create(ADMIN, "default", "scep/nothing"),
        world.secrets.revoke(ADMIN, "default", row.id),
    ):
        assert rejected(attempt).code is FaultCode.NOT_FOUND
    assert drive(world.secrets.list(ADMIN, "default")) == ()
    stranger = Actor("person:eve", (Grant("operator", "default"),))
    assert rejected(world.secrets.list(stranger, "acme")).code is FaultCode.NOT_FOUND


def test_scep_06_static_secrets_are_off_unless_the_door_says_so(world: World) -> None:
    fault = rejected(world.secrets.create(ADMIN, "default", ROUTERS, uses=None))
    assert (fault.code, fault.rule) == (FaultCode.REJECTED, "secret.static")
    row, secret = world.create("scep/printers", uses=None)
    assert row.expires_at is None
    assert [event.kind for event in world.journal.events] == ["secret.created", "warning.raised"]
    for number in range(3):
        world.find(secret, "scep/printers")
        world.claim(row, f"request-{number}")
        world.consume(row, f"request-{number}")
    drive(world.secrets.revoke(ADMIN, "default", row.id))
    assert neutral(world.find, secret, "scep/printers") == "secret.revoked"


def test_a_door_limits_how_long_a_secret_lives(world: World) -> None:
    row, _ = world.create()
    assert row.expires_at == world.clock() + timedelta(hours=24)
    for lifetime in (timedelta(hours=721), timedelta(0), timedelta(seconds=-1)):
        fault = rejected(world.secrets.create(ADMIN, "default", ROUTERS, lifetime=lifetime))
        assert fault.rule == "secret.lifetime"


def test_a_brought_secret_is_long_visible_and_new(world: World) -> None:
    good = Secret("correct-horse-battery")
    world.create(secret=good)
    assert world.find(good)
    for weak in ("short", "x" * 256, "sixteen chars  ä ", "tab\tin-the-middle"):
        fault = rejected(world.secrets.create(ADMIN, "default", ROUTERS, secret=Secret(weak)))
        assert fault.rule == "secret.weak"
    fault = rejected(world.secrets.create(ADMIN, "default", ROUTERS, secret=good))
    assert fault.code is FaultCode.CONFLICT


def test_dry_run_makes_no_secret(world: World) -> None:
    _, secret = world.create(dry_run=True)
    assert neutral(world.find, secret) == "secret.wrong"


def test_secret_1_no_secret_in_repr_log_journal_or_database(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "CANARY-7f3a9c51-do-not-show"
    with caplog.at_level(logging.DEBUG):
        row, secret = world.create(secret=Secret(canary))
        found = world.find(secret)
        listed = drive(world.secrets.list(ADMIN, "default"))
        wrong = neutral(world.find, Secret(canary + "x"))

    def dump(connection: sa.Connection) -> list[Any]:
        return [tuple(r) for r in connection.execute(sa.text("select * from enroll_secrets"))]

    seen = repr([row, secret, str(secret), found, listed, wrong, world.journal.events])
    seen += repr(drive(world.database.read(dump))) + caplog.text
    for form in (canary, canary.lower(), canary.encode().hex(), canary[:8]):
        assert form not in seen
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_peer_that_guesses_has_to_wait_and_that_is_journaled_once(world: World) -> None:
    policy = ChallengePolicy(failures_per_minute=3)
    for _ in range(3):
        world.secrets.admit(ROUTERS, "10.0.0.1", policy)
        drive(world.secrets.note_failure(ROUTERS, "default", "10.0.0.1", policy))
    with pytest.raises(Fault) as caught:
        world.secrets.admit(ROUTERS, "10.0.0.1", policy)
    assert caught.value.code is FaultCode.RATE_LIMITED
    assert caught.value.retry_after == 20
    drive(world.secrets.note_failure(ROUTERS, "default", "10.0.0.1", policy))
    assert [event.kind for event in world.journal.events] == ["secret.guessing-limited"]
    world.secrets.admit(ROUTERS, "10.0.0.2", policy)
    world.secrets.admit("scep/printers", "10.0.0.1", policy)
    world.clock.advance(seconds=20)
    world.secrets.admit(ROUTERS, "10.0.0.1", policy)


def test_one_host_is_one_guesser_with_all_its_ipv6_addresses(world: World) -> None:
    policy = ChallengePolicy(failures_per_minute=1)
    drive(world.secrets.note_failure(ROUTERS, "default", "2001:db8::1", policy))
    with pytest.raises(Fault):
        world.secrets.admit(ROUTERS, "2001:db8::ffff:2", policy)
    world.secrets.admit(ROUTERS, "2001:db8:0:1::1", policy)


def test_ids_sort_by_time(world: World) -> None:
    first = new_id(world.clock())
    world.clock.advance(seconds=1)
    assert len(first) == 26
    assert first < new_id(world.clock())


# -- what a secret is bound to ---------------------------------------------------------------


def subject(**values: str) -> x509.Name:
    oids = {"cn": NameOID.COMMON_NAME, "o": NameOID.ORGANIZATION_NAME, "sn": NameOID.SERIAL_NUMBER}
    return x509.Name([x509.NameAttribute(oids[key], value) for key, value in values.items()])


def upn(text: str) -> x509.OtherName:
    return x509.OtherName(UPN, b"\x0c" + bytes([len(text)]) + text.encode())


DNS = x509.DNSName
CN = {"subject": ["CN=r1.example.test"]}
NAMES = {
    "names": [
        "dns:*.example.test",
        "ip:10.0.0.0/8",
        "email:*@example.test",
        "uri:urn:device:*",
        "upn:alice@example.test",
    ]
}


@pytest.mark.parametrize(
    ("bound_to", "name", "alternatives", "rule"),
    [
        ({}, subject(cn="anything"), [DNS("vpn.example.test")], None),
        (CN, subject(cn="R1.example.TEST"), [], None),
        (CN, subject(cn="r1.example.test", o="Other"), [DNS("r1.example.test")], None),
        (CN, subject(cn="r2.example.test"), [], "subject"),
        (CN, subject(o="Example"), [], "subject"),
        (CN, subject(cn="r1.example.test"), [DNS("vpn.example.test")], "names"),
        (CN, x509.Name([*subject(cn="r1.example.test"), *subject(cn="vpn")]), [], "subject"),
        ({"subject": ["CN=r-*"]}, subject(cn="r-77"), [], None),
        ({"subject": ["CN=r-*"]}, subject(cn="s-77"), [], "subject"),
        ({"subject": ["CN=*"]}, subject(cn="r"), [x509.RFC822Name("a@b.test")], "names"),
        ({"subject": ["O=Example"]}, subject(o="Example"), [], None),
        ({"subject": ["O=Example"]}, subject(cn="vpn", o="Example"), [], "subject"),
        ({"subject": ["O=Example", "CN=*"]}, subject(cn="r1", o="Evil"), [], "subject"),
        ({"subject": ["SERIALNUMBER=77", "CN=*"]}, subject(cn="r1"), [], "subject"),
        (NAMES, subject(), [DNS("r1.example.test")], None),
        (NAMES, subject(cn="r1.example.test"), [], None),
        (NAMES, subject(cn="vpn"), [DNS("r1.example.test")], "subject"),
        (NAMES, subject(), [DNS("a.b.example.test")], "names"),
        (NAMES, subject(), [DNS("example.test")], "names"),
        (NAMES, subject(), [DNS("evil-example.test")], "names"),
        (NAMES, subject(), [DNS("r1.example.test"), DNS("vpn.test")], "names"),
        (NAMES, subject(), [x509.IPAddress(ipaddress.ip_address("10.9.8.7"))], None),
        (NAMES, subject(), [x509.IPAddress(ipaddress.ip_address("11.9.8.7"))], "names"),
        (NAMES, subject(), [x509.RFC822Name("bob@example.test")], None),
        (NAMES, subject(), [x509.RFC822Name("bob@other.test")], "names"),
        (NAMES, subject(), [x509.UniformResourceIdentifier("urn:device:1")], None),
        (NAMES, subject(), [x509.UniformResourceIdentifier("https://x.test")], "names"),
        (NAMES, subject(), [upn("alice@example.test")], None),
        (NAMES, subject(), [upn("admin@example.test")], "names"),
        (NAMES, subject(), [x509.OtherName(UPN, b"\x0c\x05ab")], "names"),
        (NAMES, subject(), [x509.DirectoryName(subject(cn="x"))], "names"),
        (NAMES, subject(), [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], "names"),
        ({"profile": "tls"}, subject(cn="anything"), [], None),
        ({"profile": "vpn"}, subject(cn="anything"), [], "profile"),
    ],
)
def test_scep_02_a_binding_covers_every_name(
    world: World,
    bound_to: dict[str, Any],
    name: x509.Name,
    alternatives: list[x509.GeneralName],
    rule: str | None,
) -> None:
    row, _ = world.create(bound_to=Binding.model_validate_json(json.dumps(bound_to)))
    if rule is None:
        world.secrets.check_binding(row, name, alternatives, "tls")
    else:
        found = neutral(world.secrets.check_binding, row, name, alternatives, "tls")
        assert found == f"secret.binding.{rule}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": ["r1"]},
        {"subject": ["XX=r1"]},
        {"names": ["r1.example.test"]},
        {"names": ["ip:10.0.0.0/99"]},
        {"names": ["host:r1"]},
    ],
)
def test_a_binding_that_could_never_match_is_refused(wrong: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError):
        Binding.model_validate_json(json.dumps(wrong))


def test_a_pattern_is_matched_in_bounded_time(world: World) -> None:
    row, _ = world.create(bound_to=Binding(subject=("CN=" + "*a" * 500 + "b",)))
    name = subject(cn="a" * 60)
    assert neutral(world.secrets.check_binding, row, name, [], "tls") == "secret.binding.subject"
