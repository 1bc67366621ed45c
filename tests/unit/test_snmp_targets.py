"""Who is told what over SNMP, in which order, and what becomes of it while nobody listens."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from twisted.internet.defer import Deferred

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import Event
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.lifecycle import snmp_targets
from tmad.lifecycle.snmp_targets import (
    SNMP_TARGET,
    Notification,
    SNMPTargetDocument,
    SNMPTargets,
    Target,
    parse_address,
)
from tmad.managed.objects import TENANT, Objects
from tmad.protocols.snmp.notify import Notifier, bindings
from tmad.protocols.snmp.tmad_mib import TMAD
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.tables import journal_cursors

ADMIN = Actor.administrator("local:test")
V3 = {"address": "192.0.2.1", "user": "ops"}


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = 1_000.0
        self.database = Database.in_memory(clock=self.clock)
        self.changes = Changes(self.database)
        self.journal = Journal(self.database, "test", self.clock)
        self.objects = Objects(
            self.database, self.journal, self.changes, self.clock, (TENANT, SNMP_TARGET)
        )
        for tenant in ("default", "acme"):
            drive(self.objects.put(ADMIN, "*", "tenant", tenant, {}))
        self.targets = SNMPTargets(self.database, self.changes, self.journal, self.clock)
        self.sent: list[tuple[str, str]] = []
        self.away: set[str] = set()
        self.waits: list[Deferred[None]] = []
        self.notifier = self.new_notifier()

    def new_notifier(self) -> Notifier:
        """Return the notifier of another process, or of this one after a restart."""
        return Notifier(self.targets, self.send, lambda: self.seconds)

    async def send(self, target: Target, told: Notification) -> None:
        if target.name in self.away:
            raise Fault(FaultCode.UNAVAILABLE, "it did not acknowledge")
        if target.name == "slow":
            waiting: Deferred[None] = Deferred()
            self.waits.append(waiting)
            await waiting
        self.sent.append((target.name, told.text))

    def target(self, name: str = "noc", tenant: str = "default", **document: Any) -> None:
        drive(self.objects.put(ADMIN, tenant, "snmp-target", name, V3 | document))

    def alarm(self, text: str, *, tenant: str = "default", severity: str = "error") -> None:
        self.event("alarm.raised", tenant, alarm="crl-stale", severity=severity, text=text)

    def event(self, kind: str, tenant: str = "default", **data: str) -> None:
        self.clock.advance(seconds=1)
        event = Event(kind=kind, tenant=tenant, actor="system", object="authority/ca", data=data)
        drive(self.journal.write(event))

    def turn(self, seconds: float = 1.0) -> None:
        self.seconds += seconds
        drive(self.notifier.turn())

    def kinds(self) -> list[str]:
        return [record.kind for record in drive(self.journal.tail(None, limit=500))]


@pytest.fixture
def world() -> World:
    return World()


# -- documents ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.7", ("192.0.2.7", 162)),
        ("192.0.2.7:1162", ("192.0.2.7", 1162)),
        ("[2001:DB8::7]:9", ("2001:db8::7", 9)),
        ("[::1]", ("::1", 162)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert parse_address(text) == found


@pytest.mark.parametrize("text", ["noc.example.test", "192.0.2.7:0", "192.0.2.7:70000", "::1", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"address": "192.0.2.1"}, "needs a user"),
        ({"address": "192.0.2.1", "version": "2c"}, "needs a community"),
        ({**V3, "community": "x"}, "has no community"),
        ({**V3, "version": "2c", "community": "x"}, "has no user"),
        ({**V3, "alarms": ["crl-stail"]}, "there is no alarm 'crl-stail'"),
        ({**V3, "address": "noc.example.test"}, "ADDRESS"),
    ],
)
def test_mistakes_are_named(document: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SNMPTargetDocument(**document)


def test_who_hears_of_what() -> None:
    def target(tenant: str = "default", **document: Any) -> Target:
        found = SNMPTargetDocument(**(V3 | document))
        return Target(tenant=tenant, name="noc", revision=1, document=found)

    told = Notification(
        kind="alarm.raised", at=Clock()(), tenant="acme", alarm="crl-stale", severity="error"
    )
    assert target().wants(told)  # the operators hear of everything
    assert target("acme").wants(told)
    assert not target("other").wants(told)
    assert not target(severity="critical").wants(told)
    assert target(alarms=["crl-stale"]).wants(told)
    assert not target(alarms=["disk-low"]).wants(told)
    start = Notification(kind="snmp-engine.started", at=Clock()(), tenant="*")
    assert target(alarms=["disk-low"]).wants(start)
    assert not target("acme").wants(start)


# -- delivery -----------------------------------------------------------------------------------


def test_a_new_target_hears_of_what_happens_from_now_on(world: World) -> None:
    world.alarm("before")
    world.target()
    world.alarm("after")
    world.event("certificate.issued")
    world.turn()
    assert world.sent == [("noc", "after")]
    world.turn()
    assert len(world.sent) == 1


def test_one_that_is_away_gets_all_in_order_when_it_is_back(world: World) -> None:
    world.target()
    world.away.add("noc")
    world.alarm("one")
    world.alarm("two")
    world.turn()
    world.away.clear()
    world.turn(5)
    assert world.sent == []  # the pause is not over
    world.alarm("three")
    world.turn(6)
    assert [text for _, text in world.sent] == ["one", "two", "three"]
    assert world.kinds().count("snmp-target.unreachable") == 1
    assert world.kinds().count("snmp-target.reached") == 1


def test_a_quiet_journal_is_not_read_for_each_target(world: World) -> None:
    for name in ("a", "b", "c"):
        world.target(name)
    reads: list[str] = []
    real = world.targets.news

    async def news(key: str) -> Any:
        reads.append(key)
        return await real(key)

    world.targets.news = news  # type: ignore[method-assign, assignment]  # counts its calls
    world.alarm("one")
    world.turn()
    assert len(world.sent) == 3
    reads.clear()
    for _ in range(10):
        world.turn()
    assert reads == []
    world.alarm("two")
    world.turn()
    assert len(world.sent) == 6


def test_pauses_grow_and_have_an_end(world: World) -> None:
    world.target()
    world.away.add("noc")
    world.alarm("one")
    tries: list[float] = []
    real = world.targets.news

    async def news(key: str) -> Any:
        tries.append(world.seconds)
        return await real(key)

    world.targets.news = news  # type: ignore[method-assign, assignment]  # counts its calls
    for _ in range(2_000):
        world.turn()
    gaps = [round(b - a) for a, b in itertools.pairwise(tries)]
    assert gaps[:5] == [10, 20, 40, 80, 160]
    assert set(gaps[5:]) == {300}
    assert world.kinds().count("snmp-target.unreachable") == 1


def test_a_restart_loses_nothing_and_repeats_only_what_was_not_acknowledged(world: World) -> None:
    world.target()
    world.alarm("one")
    world.turn()
    world.alarm("two")
    world.notifier = world.new_notifier()
    world.turn()
    assert [text for _, text in world.sent] == ["one", "two"]


def test_what_was_acknowledged_before_a_failure_is_not_sent_again(world: World) -> None:
    world.target()
    world.alarm("one")
    world.alarm("two")
    real = world.send

    async def once(target: Target, told: Notification) -> None:
        if told.text == "two":
            raise Fault(FaultCode.UNAVAILABLE, "gone in between")
        await real(target, told)

    world.notifier = Notifier(world.targets, once, lambda: world.seconds)
    world.turn()
    world.notifier = world.new_notifier()
    world.turn()
    assert [text for _, text in world.sent] == ["one", "two"]


def test_nobody_waits_for_a_slow_one(world: World) -> None:
    world.target("slow")
    world.target("quick", address="192.0.2.2")
    world.alarm("one")
    world.turn()
    assert world.sent == [("quick", "one")]
    world.alarm("two")
    world.turn()
    assert world.sent == [("quick", "one"), ("quick", "two")]
    # It is not asked a second time while it is being served.
    assert len(world.waits) == 1
    world.waits[0].callback(None)
    world.waits[1].callback(None)
    assert world.sent[2:] == [("slow", "one"), ("slow", "two")]


def test_a_target_that_was_mended_is_tried_at_once(world: World) -> None:
    world.target()
    world.away.add("noc")
    world.alarm("one")
    for _ in range(60):
        world.turn()
    world.away.clear()
    world.target(address="192.0.2.9")
    world.turn()
    assert [text for _, text in world.sent] == ["one"]


def test_a_deleted_target_leaves_nothing_behind(world: World) -> None:
    world.target()
    world.alarm("one")
    world.turn()
    drive(world.objects.delete(ADMIN, "default", "snmp-target", "noc"))

    def cursors(connection: sa.Connection) -> list[Any]:
        return list(connection.execute(sa.select(journal_cursors)))

    assert drive(world.database.read(cursors)) == []
    world.alarm("two")
    world.turn()
    assert len(world.sent) == 1


def test_one_that_is_switched_off_hears_nothing_until_it_is_on_again(world: World) -> None:
    world.target(enabled=False)
    world.alarm("one")
    world.turn()
    assert world.sent == []
    world.target(enabled=True)
    world.turn()
    assert world.sent == [("noc", "one")]


def test_many_records_of_others_are_passed_over(world: World) -> None:
    world.target()
    event = Event(kind="certificate.issued", tenant="default", actor="system")
    for _ in range(11):
        drive(world.journal.write(*[event] * 1_000))
    world.alarm("one")
    world.turn()
    assert world.sent == [("noc", "one")]


def test_an_error_of_ours_does_not_stop_the_others(world: World) -> None:
    world.target("a")
    world.target("b")
    world.alarm("one")
    real = world.send

    async def broken(target: Target, told: Notification) -> None:
        if target.name == "a":
            raise RuntimeError("a mistake")
        await real(target, told)

    world.notifier = Notifier(world.targets, broken, lambda: world.seconds)
    world.turn()
    assert world.sent == [("b", "one")]


def test_testing_is_journaled_and_asks_for_a_target_that_is_there(world: World) -> None:
    world.target()
    found, told = drive(world.targets.testing(ADMIN, "default", "noc"))
    assert (found.name, told.kind, told.object) == ("noc", "snmp-target.tested", "snmp-target/noc")
    assert world.kinds()[-1] == "snmp-target.tested"
    with pytest.raises(Fault) as caught:
        drive(world.targets.testing(ADMIN, "default", "nac"))
    assert caught.value.rule == "snmp.target"


# -- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "alarm", "number"),
    [
        ("alarm.raised", "authority-expiring", 1),
        ("alarm.raised", "certificates-expiring", 2),
        ("alarm.raised", "crl-stale", 3),
        ("alarm.raised", "keys-lost", 4),
        ("alarm.cleared", "keys-lost", 5),
        ("alarm.raised", "disk-low", 6),
        ("alarm.raised", "workers-missing", 7),
        ("alarm.raised", "audit-broken", 8),
        ("alarm.cleared", "crl-stale", 9),
        ("snmp-target.tested", "", 10),
        ("alarm.raised", "of-a-newer-version", 11),
    ],
)
def test_each_has_its_own_number(kind: str, alarm: str, number: int) -> None:
    told = Notification(
        kind=kind, at=Clock()(), tenant="default", alarm=alarm, severity="error", text="x" * 2_000
    )
    found = bindings(told, 12.345)
    assert [oid for oid, _ in found[:2]] == [
        (1, 3, 6, 1, 2, 1, 1, 3, 0),
        (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0),
    ]
    assert found[0][1].value == 1_234
    assert found[1][1].value == (*TMAD, 0, number)
    assert [oid[len(TMAD) :] for oid, _ in found[2:]] == [(1, 11, n, 0) for n in range(1, 7)]
    assert found[2][1].value == (1 if kind == "alarm.cleared" else 3)
    # T-SNMP-03: it fits into one packet, whatever the texts.
    assert sum(len(value) + 40 for _, value in found) < 1_472


def test_a_start_is_a_cold_start() -> None:
    told = Notification(kind="snmp-engine.started", at=Clock()(), tenant="*")
    found = bindings(told, 0)
    assert [value.value for _, value in found] == [0, (1, 3, 6, 1, 6, 3, 1, 1, 5, 1)]


def test_every_alarm_has_a_notification() -> None:
    from tmad.lifecycle import alarms
    from tmad.protocols.snmp import notify

    assert set(notify._RAISED) == alarms.EVERYWHERE | alarms.NODE
    assert set(snmp_targets.KINDS) >= {"alarm.raised", "alarm.cleared"}
