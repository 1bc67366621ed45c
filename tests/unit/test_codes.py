"""One-time codes: sent within limits, good once, in time, for their person, in any spelling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock as Timer

from tests.login_world import LoginWorld
from tests.support import Clock, drive
from tmad.config import DeliverySection
from tmad.errors import Fault, FaultCode
from tmad.events import Event, Secret
from tmad.identity.actors import Actor, Grant
from tmad.identity.codes import Codes, grouped
from tmad.identity.delivery.outbox import Outbox, masked
from tmad.signer.seal import Seal
from tmad.storage import people
from tmad.storage.database import Database
from tmad.storage.people import PersonRow

ADMIN = Actor.administrator("local:test")


class Notes:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, connection: object, *events: Event) -> None:
        self.events += events

    async def write(self, *events: Event) -> None:
        self.events += events

    async def refuse(self, fault: Fault, **about: Any) -> str:
        return "TEST-0001"

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class Tray:
    """A way to a telephone that keeps what it is given; it fails or waits when told so."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.gate: Deferred[None] | None = None
        self.closed = False

    async def send(self, to: str, text: Secret) -> str:
        if self.gate is not None:
            await self.gate
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append((to, text.reveal().decode()))
        return "ref-1"

    async def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.timer = Timer()
        self.database = Database.in_memory(clock=self.clock)
        self.journal = Notes()
        self.tray = Tray()
        self.outbox = Outbox(
            self.timer, self.journal, self.clock, {"sms": self.tray, "mail": self.tray}
        )
        self.codes = Codes(
            self.database,
            self.journal,
            Seal(b"k" * 32),
            self.clock,
            self.outbox,
            DeliverySection(**({"text": "{{code}}"} | settings)),
        )
        self.bob = self.person("bob")

    def person(self, name: str, tenant: str = "default", **more: Any) -> PersonRow:
        now = self.clock()
        row = PersonRow(
            tenant=tenant,
            name=name,
            created_at=now,
            updated_at=now,
            **({"phone": "+491701234567", "mail": f"{name}@example.test"} | more),
        )
        drive(self.database.write(people.insert, row))
        return row

    def send(self, person: PersonRow | None = None, kind: Any = "sms") -> str:
        drive(self.codes.send_login_code(person or self.bob, kind))
        return self.tray.sent[-1][1]

    def verify(
        self, code: str | bytes, kind: Any = "sms", person: str = "bob", **where: Any
    ) -> bool:
        tenant = where.get("tenant", "default")
        return drive(
            self.database.write(
                self.codes.verify_in, tenant, person, kind, Secret(code), self.clock()
            )
        )


@pytest.fixture
def world() -> World:
    return World()


def rejected(coroutine: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


def other(code: str) -> str:
    """Return a code that is not this one."""
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}}"


def test_a_code_is_good_once(world: World) -> None:
    code = world.send()
    assert code.isdigit()
    assert len(code) == 6
    assert world.tray.sent[-1][0] == "+491701234567"
    assert world.verify(code)
    assert not world.verify(code)


def test_a_code_is_good_for_its_person_kind_and_tenant_only(world: World) -> None:
    world.person("eve")
    world.person("bob", tenant="acme")
    code = world.send()
    assert not world.verify(code, person="eve")
    assert not world.verify(code, kind="mail")
    assert not world.verify(code, tenant="acme")
    assert world.verify(code)


def test_a_code_ends(world: World) -> None:
    code = world.send()
    world.clock.advance(seconds=300)
    assert not world.verify(code)
    code = world.send()
    world.clock.advance(seconds=299)
    assert world.verify(code)


def test_otp_04_three_wrong_tries_make_it_void(world: World) -> None:
    code = world.send()
    for _ in range(3):
        assert not world.verify(other(code))
    assert not world.verify(code)


def test_otp_01_spellings_are_one_code_and_nothing_else_is(world: World) -> None:
    for spelling in ("{}", " {} ", "{}-", "\u00a0{}", "+{}", "0{}", "{}\0", "{}{}", ""):
        code = world.send()
        typed = spelling.format(code, code)
        right = typed.replace(" ", "").replace("-", "") == code
        assert world.verify(typed) is right, repr(typed)
        assert world.verify(code) is not right
        world.clock.advance(hours=1)
    wide = "".join(chr(0xFF10 + int(digit)) for digit in world.send())
    assert not world.verify(wide)


def test_of_two_codes_both_are_good_until_one_is_used(world: World) -> None:
    """A login that began later must not cut off the one that the person is answering."""
    first, second = world.send(), world.send()
    assert world.verify(first)
    assert not world.verify(second) or first == second


def test_a_person_gets_five_codes_an_hour(world: World) -> None:
    for _ in range(5):
        world.send()
    fault = rejected(world.codes.send_login_code(world.bob, "mail"))
    assert (fault.code, fault.rule) == (FaultCode.RATE_LIMITED, "otp.code.limit-person")
    world.send(world.person("eve"))
    world.clock.advance(minutes=61)
    world.send()
    assert len(world.tray.sent) == 7


def test_everybody_together_gets_so_many_an_hour() -> None:
    world = World(all_per_hour=2)
    world.send()
    world.send(world.person("eve"), "mail")
    fault = rejected(world.codes.send_login_code(world.person("joe", tenant="acme"), "sms"))
    assert fault.rule == "otp.code.limit-all"
    assert len(world.tray.sent) == 2


def test_who_has_no_address_or_no_gateway_gets_none(world: World) -> None:
    bare = replace(world.bob, phone="", mail="")
    for kind in ("sms", "mail"):
        fault = rejected(world.codes.send_login_code(bare, kind))  # type: ignore[arg-type]
        assert fault.rule == "otp.code.address"
    world.outbox._ways.pop("sms")
    assert not world.codes.can_send("sms")
    fault = rejected(world.codes.send_login_code(world.bob, "sms"))
    assert (fault.code, fault.rule) == (FaultCode.UNAVAILABLE, "otp.delivery.off")
    assert world.tray.sent == []


def test_o_05_nobody_waits_for_the_gateway(world: World) -> None:
    world.tray.gate = Deferred()
    drive(world.codes.send_login_code(world.bob, "sms"))
    assert world.journal.kinds == ["code.requested"]
    world.tray.gate.callback(None)
    assert world.journal.kinds == ["code.requested", "code.delivered"]


def away(rule: str = "otp.delivery.gateway", code: FaultCode = FaultCode.UNAVAILABLE) -> Fault:
    return Fault(code, "the gateway is away", rule=rule)


def test_what_may_get_better_is_tried_again(world: World) -> None:
    world.tray.faults = [away(), away()]
    drive(world.codes.send_login_code(world.bob, "sms"))
    world.timer.advance(2)
    assert world.tray.sent == []
    world.timer.advance(5)
    assert len(world.tray.sent) == 1
    assert world.journal.events[-1].kind == "code.delivered"
    assert world.journal.events[-1].data["tries"] == 3


def test_what_cannot_get_better_is_given_up(world: World) -> None:
    world.tray.faults = [away(code=FaultCode.REJECTED)]
    drive(world.codes.send_login_code(world.bob, "sms"))
    last = world.journal.events[-1]
    assert (last.kind, last.data["why"], last.data["to"]) == (
        "code.delivery-failed",
        "the gateway is away",
        "+49…567",
    )
    assert world.timer.getDelayedCalls() == []


def test_a_code_that_has_ended_is_not_sent(world: World) -> None:
    world.tray.faults = [away() for _ in range(50)]
    drive(world.codes.send_login_code(world.bob, "sms"))
    for _ in range(400):
        world.timer.advance(1)
        world.clock.advance(seconds=1)
    assert world.journal.kinds[-1] == "code.delivery-failed"
    assert world.timer.getDelayedCalls() == []
    assert world.tray.sent == []


def test_the_outbox_is_bounded_and_closes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmad.identity.delivery.outbox._MOST", 2)
    world.tray.gate = Deferred()
    for name in ("a1", "a2"):
        drive(world.codes.send_login_code(world.person(name), "sms"))
    fault = rejected(world.codes.send_login_code(world.bob, "sms"))
    assert (fault.rule, fault.retry_after) == ("otp.delivery.queue", 30)
    drive(world.codes.close())
    assert world.tray.closed
    assert rejected(world.codes.send_login_code(world.bob, "sms")).rule == "otp.delivery.queue"


def test_the_message_has_code_minutes_and_the_origin() -> None:
    world = World(text="{{code}} for {{ minutes }} minutes", origin="vpn.example.test")
    text = world.send()
    code = text[:6]
    assert text == f"{code} for 5 minutes\n\n@vpn.example.test #{code}"


def test_emergency_codes_are_ten_and_good_once_each(world: World) -> None:
    codes = drive(world.codes.make_emergency(ADMIN, "default", " BOB "))
    shown = [grouped(code) for code in codes]
    assert len(set(shown)) == 10
    assert drive(world.codes.count_emergency(ADMIN, "default", "bob")) == 10
    for number, code in enumerate(shown):
        typed = code if number % 2 else code.lower().replace("-", " ").replace("0", "o")
        assert world.verify(typed, "emergency")
        assert not world.verify(code, "emergency")
        assert drive(world.codes.count_emergency(ADMIN, "default", "bob")) == 9 - number
    used = [event for event in world.journal.events if event.kind == "code.emergency-used"]
    assert [event.data["left"] for event in used] == [*range(9, -1, -1)]


def test_new_emergency_codes_make_the_old_ones_void(world: World) -> None:
    [old, *_] = drive(world.codes.make_emergency(ADMIN, "default", "bob"))
    drive(world.codes.make_emergency(ADMIN, "default", "bob"))
    assert not world.verify(old.reveal(), "emergency")
    assert drive(world.codes.count_emergency(ADMIN, "default", "bob")) == 10
    assert drive(world.codes.revoke_emergency(ADMIN, "default", "bob")) == 10
    assert drive(world.codes.count_emergency(ADMIN, "default", "bob")) == 0


def test_wrong_emergency_codes_use_nothing_up(world: World) -> None:
    codes = drive(world.codes.make_emergency(ADMIN, "default", "bob"))
    for _ in range(20):
        assert not world.verify("0000000000", "emergency")
    assert world.verify(codes[3].reveal(), "emergency")


def test_a_dry_run_makes_no_emergency_codes(world: World) -> None:
    [code, *_] = drive(world.codes.make_emergency(ADMIN, "default", "bob", dry_run=True))
    assert not world.verify(code.reveal(), "emergency")


def test_codes_do_not_outlive_their_person(world: World) -> None:
    """Whoever gets the name next is not met by codes on somebody else's paper or telephone."""
    login = LoginWorld(world.database, clock=world.clock, journal=world.journal)
    sent = world.send()
    [printed, *_] = drive(world.codes.make_emergency(ADMIN, "default", "bob"))
    drive(login.people.delete(ADMIN, "default", "bob"))
    world.person("bob")
    assert not world.verify(sent)
    assert not world.verify(printed.reveal(), "emergency")
    assert drive(world.codes.count_emergency(ADMIN, "default", "bob")) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda codes, actor, name: codes.make_emergency(actor, "default", name),
        lambda codes, actor, name: codes.count_emergency(actor, "default", name),
        lambda codes, actor, name: codes.revoke_emergency(actor, "default", name),
    ],
)
def test_wrong_people_tenants_and_rights(world: World, call: Callable[..., Any]) -> None:
    assert rejected(call(world.codes, ADMIN, "nobody")).rule == "person.absent"
    stranger = Actor("person:eve", (Grant("operator", "acme"),))
    assert rejected(call(world.codes, stranger, "bob")).code is FaultCode.NOT_FOUND
    approver = Actor("person:eve", (Grant("approver", "default"),))
    assert rejected(call(world.codes, approver, "bob")).code is FaultCode.FORBIDDEN


def test_the_settings_can_be_tested(world: World) -> None:
    sent = world.codes.test_delivery(ADMIN, "default", "sms", "+49 170 1234567")
    assert drive(sent) == "ref-1"
    assert world.tray.sent == [("+491701234567", "This is a test of code delivery.")]
    assert world.journal.kinds == ["delivery.tested"]
    assert (
        rejected(world.codes.test_delivery(ADMIN, "default", "sms", "0170")).rule == "person.phone"
    )
    assert (
        rejected(world.codes.test_delivery(ADMIN, "default", "sms", "")).rule == "otp.code.address"
    )
    operator = Actor("person:op", (Grant("operator", "default"),))
    fault = rejected(world.codes.test_delivery(operator, "default", "sms", "+491701234567"))
    assert fault.code is FaultCode.FORBIDDEN


def test_secret_1_no_code_in_repr_log_journal_or_database(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        sent = world.send()
        emergency = drive(world.codes.make_emergency(ADMIN, "default", "bob"))

    def dump(connection: sa.Connection) -> list[Any]:
        return [tuple(r) for r in connection.execute(sa.text("select * from one_time_codes"))]

    seen = repr([emergency, world.journal.events, world.codes]) + caplog.text
    seen += repr(drive(world.database.read(dump)))
    for code in (sent, *(each.reveal().decode() for each in emergency)):
        assert code not in seen


def test_old_codes_are_pruned(world: World) -> None:
    code = world.send()
    assert world.verify(code)
    world.send()
    assert drive(world.codes.prune()) == 0
    world.clock.advance(days=2)
    assert drive(world.codes.prune()) == 2


def test_a_mistake_of_ours_is_journaled_without_the_text(world: World) -> None:
    world.tray.faults = [ZeroDivisionError("123456")]  # type: ignore[list-item]
    drive(world.codes.send_login_code(world.bob, "sms"))
    last = world.journal.events[-1]
    assert (last.kind, last.data["rule"], last.data["why"]) == (
        "code.delivery-failed",
        "otp.delivery.broken",
        "ZeroDivisionError",
    )


def test_a_broken_journal_is_logged_and_ends_there(world: World) -> None:
    async def broken(*events: Event) -> None:
        raise away("journal.unwritable")

    world.journal.write = broken  # type: ignore[method-assign]
    ensureDeferred(world.codes.send_login_code(world.bob, "sms"))
    assert len(world.tray.sent) == 1


@pytest.mark.parametrize(
    ("to", "shown"),
    [("+491701234567", "+49…567"), ("bob@example.test", "b…@example.test"), ("+4917", "…")],
)
def test_the_journal_shows_parts_of_an_address(to: str, shown: str) -> None:
    assert masked(to) == shown


def test_lifetime_of_the_setting_is_the_codes() -> None:
    world = World(lifetime_seconds=60, digits=8, tries=1)
    code = world.send()
    assert len(code) == 8
    world.clock.advance(seconds=timedelta(seconds=61).total_seconds())
    assert not world.verify(code)
    code = world.send()
    assert not world.verify(other(code))
    assert not world.verify(code)
