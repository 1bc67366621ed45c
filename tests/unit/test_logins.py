"""Logins of people: every mode, every refusal, locks, and what the journal hears of it."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any, Literal

import pytest
import sqlalchemy as sa

from tests.login_world import ADMIN, PUBLIC, SEED, LoginWorld, hotp
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.login import LoginRules, Prompt
from tmad.identity.login_rules import GroupMode, LockRules
from tmad.storage import login_failures
from tmad.storage.people import PersonRow
from tmad.storage.tables import login_failures as failures_table

PASSWORD = "correct horse battery"
OTHER_SEED = b"another seed, no RFC has it"


class SMS:
    """Codes that are sent: the small real thing of tmad/identity/codes.py in memory."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.live: dict[tuple[str, str], bytes] = {}
        self.fault: Fault | None = None

    async def send_login_code(self, person: PersonRow, kind: Literal["sms", "mail"]) -> str:
        if self.fault is not None:
            raise self.fault
        self.sent.append((person.name, kind))
        self.live[person.name, kind] = b"246802"
        return "id"

    def verify_in(
        self, connection: Any, tenant: str, person: str, kind: str, code: Secret, now: Any
    ) -> bool:
        if self.live.get((person, kind)) == code.reveal():
            del self.live[person, kind]
            return True
        return False


@pytest.fixture
def sms() -> SMS:
    return SMS()


@pytest.fixture
def world(sms: SMS) -> LoginWorld:
    world = LoginWorld(codes=sms)
    drive(world.person("bob", PASSWORD, groups=("staff",)))
    return world


@pytest.fixture
def token(world: LoginWorld) -> LoginWorld:
    drive(world.token())
    return world


def failures(world: LoginWorld) -> dict[str, int]:
    def read(connection: sa.Connection) -> dict[str, int]:
        rows = connection.execute(sa.select(failures_table.c.subject, failures_table.c.failures))
        return {row.subject: row.failures for row in rows}

    return drive(world.database.read(read))


# -- one factor --------------------------------------------------------------------------------


def test_a_password_lets_its_person_in(world: LoginWorld) -> None:
    accepted = world.allowed(world.login(PASSWORD, mode="password"))
    assert (accepted.person.name, accepted.person.groups) == ("bob", ("staff",))
    assert accepted.factors == ("password",)
    assert world.refused(world.login(PASSWORD + "x", mode="password")) == "login.password"
    assert world.refused(world.login(PASSWORD, "eve", mode="password")) == "login.unknown"


def test_t_otp_06_every_spelling_of_a_name_is_one_person(world: LoginWorld) -> None:
    for name in ("Bob", "bob ", " BOB", "\uff22\uff4f\uff42"):
        assert world.allowed(world.login(PASSWORD, name, mode="password")).person.name == "bob"
    realms = ("example.test", "CORP")
    for name in ("BOB@Example.Test", "corp\\Bob"):
        accepted = world.allowed(world.login(PASSWORD, name, mode="password", realms=realms))
        assert accepted.person.name == "bob"
    assert world.refused(world.login(PASSWORD, "bob@other", mode="password", realms=realms))


def test_t_otp_06_every_spelling_counts_on_one_counter(world: LoginWorld) -> None:
    spellings = ("Bob", "bob ", "BOB@realm", "\uff22\uff4f\uff42")
    for name in spellings:
        world.refused(world.login("wrong", name, mode="password", realms=("realm",)))
    assert failures(world)["person:bob"] == 4


def test_t_otp_06_two_people_never_merge(world: LoginWorld) -> None:
    drive(world.person("bob@realm", "another password"))
    rules = LoginRules(realms=("realm",))
    accepted = world.allowed(world.login("another password", "bob@realm", rules=rules))
    assert accepted.person.name == "bob@realm"
    assert world.refused(world.login(PASSWORD, "bob@realm", rules=rules)) == "login.password"


def test_an_address_names_its_person_if_it_is_nobody_elses(world: LoginWorld) -> None:
    drive(world.person("carol", "third password", mail="Carol@Example.test"))
    login = world.login("third password", "carol@example.TEST", mode="password")
    assert world.allowed(login).person.name == "carol"
    drive(world.person("carola", "third password", mail="carol@example.test"))
    login = world.login("third password", "carol@example.test", mode="password")
    assert world.refused(login) == "login.unknown"


def test_o_04_an_empty_password_proves_nothing(world: LoginWorld) -> None:
    drive(world.person("nopass"))
    for mode in ("password", "otp", "pin-otp", "password-otp", "password-then-otp"):
        assert world.refused(world.login("", mode=mode))
        assert world.refused(world.login("", "nopass", mode=mode))
        assert world.refused(world.login(b"\0\xff", mode=mode))


def test_a_code_lets_its_person_in_once(token: LoginWorld) -> None:
    assert token.allowed(token.login(hotp(0))).factors == ("otp",)
    assert token.refused(token.login(hotp(0))) == "otp.wrong"
    token.allowed(token.login(hotp(3)))
    assert token.refused(token.login(hotp(2))) == "otp.wrong"
    assert token.refused(token.login(hotp(4 + 11))) == "otp.wrong"
    token.allowed(token.login(hotp(4 + 10)))


@pytest.mark.parametrize(
    "spelling", ["{0} ", " {0}", "{0}{0}", "0{0}", "+{0}", "{0}\0", "{0}\u00a0", "-{0}", "{1} {2}"]
)
def test_t_otp_01_one_acceptance_whatever_the_spelling(token: LoginWorld, spelling: str) -> None:
    code = hotp(0)
    typed = spelling.format(code, code[:3], code[3:])
    accepted = 0
    for attempt in (code, typed, code, typed):
        with contextlib.suppress(Fault):
            drive(token.login(attempt))
            accepted += 1
    assert accepted == 1


def test_totp_is_refused_again_within_its_step_and_before_it(world: LoginWorld) -> None:
    drive(world.token(kind="totp"))
    world.allowed(world.login(world.totp()))
    assert world.refused(world.login(world.totp())) == "otp.replayed"
    assert world.refused(world.login(world.totp(steps=-1))) == "otp.replayed"
    world.allowed(world.login(world.totp(steps=1)))
    world.clock.advance(seconds=30)
    assert world.refused(world.login(world.totp())) == "otp.replayed"
    world.clock.advance(seconds=30)
    world.allowed(world.login(world.totp()))


def test_o_20_the_window_is_a_rule(world: LoginWorld) -> None:
    drive(world.token(kind="totp"))
    assert world.refused(world.login(world.totp(steps=2))) == "otp.wrong"
    world.allowed(world.login(world.totp(steps=2), steps=2))
    world.clock.advance(hours=1)
    # One step of it was learned: the token is a step ahead.
    assert world.refused(world.login(world.totp(), steps=0)) == "otp.wrong"
    world.allowed(world.login(world.totp(steps=1), steps=0))


def test_o_23_a_wrong_clock_refuses_totp_but_not_hotp(world: LoginWorld) -> None:
    drive(world.token(kind="totp", serial="C"))
    drive(world.token(kind="hotp", serial="H", seed=OTHER_SEED))
    world.clock_is_wrong = True
    assert world.refused(world.login(world.totp())) == "otp.clock"
    world.allowed(world.login(hotp(0, OTHER_SEED)))
    world.clock_is_wrong = False
    world.allowed(world.login(world.totp()))


def test_any_of_a_persons_tokens_will_do(world: LoginWorld) -> None:
    drive(world.token(serial="A"))
    drive(world.token(serial="B", kind="totp", seed=OTHER_SEED * 2, algorithm="sha512", digits=8))
    world.allowed(world.login(hotp(0)))
    world.allowed(world.login(world.totp(OTHER_SEED * 2, digits=8, algorithm="sha512")))
    drive(world.tokens.disable(ADMIN, "default", "A"))
    assert world.refused(world.login(hotp(1))) == "otp.wrong"


def test_a_new_token_becomes_active_by_its_first_code(world: LoginWorld) -> None:
    token, uri = drive(world.tokens.create(ADMIN, "default", "bob", kind="hotp"))
    assert token.state == "new"
    from base64 import b32decode
    from urllib.parse import parse_qs, urlsplit

    text = parse_qs(urlsplit(uri.reveal().decode()).query)["secret"][0]
    seed = b32decode(text + "=" * (-len(text) % 8))
    world.allowed(world.login(hotp(0, seed)))
    shown = drive(world.tokens.show(ADMIN, "default", token.serial)).of
    assert (shown.state, shown.counter, shown.activated_at) == ("active", 1, world.clock())


def test_without_a_token_no_code_is_right(world: LoginWorld) -> None:
    assert world.refused(world.login(hotp(0))) == "otp.none"


# -- two factors in one field ------------------------------------------------------------------


def test_password_and_code_in_one_field(token: LoginWorld) -> None:
    accepted = token.allowed(token.login(PASSWORD + hotp(0), mode="password-otp"))
    assert accepted.factors == ("password", "otp")
    for typed, reason in (
        (PASSWORD + hotp(0), "otp.wrong"),
        ("x" + PASSWORD + hotp(1), "login.password"),
        (PASSWORD + hotp(50), "otp.wrong"),
        (PASSWORD, "login.password"),
        (hotp(1), "login.password"),
        (hotp(1) + PASSWORD, "login.password"),
    ):
        assert token.refused(token.login(typed, mode="password-otp")) == reason, reason
    # what a wrong password stood before has not been used up
    token.allowed(token.login(PASSWORD + hotp(1), mode="password-otp"))


def test_the_code_is_as_long_as_the_token_that_shows_it(world: LoginWorld) -> None:
    drive(world.token(serial="A"))
    drive(world.token(serial="B", seed=OTHER_SEED, digits=8))
    code = hotp(0, OTHER_SEED, digits=8)
    world.allowed(world.login(PASSWORD + code, mode="password-otp"))
    world.allowed(world.login(PASSWORD + hotp(0), mode="password-otp"))
    assert world.refused(world.login(PASSWORD + code[2:], mode="password-otp"))


def test_pin_and_code_in_one_field(token: LoginWorld) -> None:
    typed = "4711" + hotp(0)
    assert token.refused(token.login(typed, mode="pin-otp")) == "otp.no-pin"
    assert token.refused(token.login(hotp(0), mode="pin-otp")) == "otp.no-pin"
    drive(token.tokens.set_pin(ADMIN, "default", "T1", Secret("4711")))
    assert token.refused(token.login("4712" + hotp(0), mode="pin-otp")) == "otp.pin"
    assert token.refused(token.login(hotp(0), mode="pin-otp")) == "otp.pin"
    accepted = token.allowed(token.login(typed, mode="pin-otp"))
    assert accepted.factors == ("pin", "otp")
    assert token.refused(token.login(typed, mode="pin-otp"))


# -- a challenge -------------------------------------------------------------------------------


def test_password_then_code(token: LoginWorld) -> None:
    prompt = drive(token.login(PASSWORD, mode="password-then-otp", prompt="Code?"))
    assert isinstance(prompt, Prompt)
    assert prompt.text == "Code?"
    assert "password_is_right" not in repr(prompt)
    assert token.allowed(token.answer(prompt, hotp(0))).factors == ("password", "otp")
    # RADIUS throws the state away; given once more, the code would still be used up
    assert token.refused(token.answer(prompt, hotp(0))) == "otp.wrong"


def test_a_wrong_password_is_asked_for_nothing(token: LoginWorld) -> None:
    assert token.refused(token.login("wrong", mode="password-then-otp")) == "login.password"
    assert token.refused(token.login(PASSWORD, "eve", mode="password-then-otp"))


def test_o_03_by_option_a_wrong_password_is_asked_for_the_code_as_well(
    token: LoginWorld, sms: SMS
) -> None:
    rules: dict[str, Any] = {"mode": "password-then-otp", "always_challenge": True, "tries": 2}
    prompts = [
        drive(token.login(typed, name, **rules))
        for typed, name in ((PASSWORD, "bob"), ("wrong", "bob"), (PASSWORD, "eve"))
    ]
    shown = {(p.text, p.stage, p.tries_left) for p in prompts if isinstance(p, Prompt)}
    assert len(shown) == 1
    assert failures(token) == {}
    right, wrong, nobody = prompts
    for prompt in (wrong, nobody):
        again = drive(token.answer(prompt, hotp(0)))
        assert isinstance(again, Prompt)
        assert token.refused(token.answer(again, hotp(0))) in ("login.password", "login.unknown")
    assert isinstance(drive(token.answer(right, "000000")), Prompt)
    token.allowed(token.answer(right, hotp(0)))


def test_o_03_nothing_is_sent_after_a_wrong_password(world: LoginWorld, sms: SMS) -> None:
    rules: dict[str, Any] = {"mode": "password-then-sms", "always_challenge": True}
    drive(world.login("wrong", **rules))
    drive(world.login(PASSWORD, "eve", **rules))
    world.do_later()
    assert sms.sent == []
    drive(world.login(PASSWORD, **rules))
    world.do_later()
    assert sms.sent == [("bob", "sms")]


@pytest.mark.parametrize("kind", ["sms", "mail"])
def test_password_then_a_code_that_is_sent(world: LoginWorld, sms: SMS, kind: str) -> None:
    prompt = drive(world.login(PASSWORD, mode=f"password-then-{kind}"))
    assert sms.sent == []  # O-05: the challenge waits for no gateway
    world.do_later()
    assert sms.sent == [("bob", kind)]
    assert world.refused(world.answer(prompt, "135791")) == "login.code"
    accepted = world.allowed(world.answer(prompt, "246802"))
    assert accepted.factors == ("password", kind)
    assert world.refused(world.answer(prompt, "246802")) == "login.code"


def test_what_cannot_be_sent_is_journaled_and_looks_the_same(world: LoginWorld, sms: SMS) -> None:
    sms.fault = Fault(FaultCode.RATE_LIMITED, "too many codes", rule="otp.sent-limit")
    prompt = drive(world.login(PASSWORD, mode="password-then-sms"))
    assert isinstance(prompt, Prompt)
    world.do_later()
    assert [fault.rule for fault in world.journal.refused] == ["otp.sent-limit"]


def test_nothing_is_sent_to_somebody_who_was_locked_or_disabled(
    world: LoginWorld, sms: SMS
) -> None:
    rules: dict[str, Any] = {"mode": "password-then-sms", "always_challenge": True}
    drive(world.people.disable(ADMIN, "default", "bob"))
    drive(world.login(PASSWORD, **rules))
    world.do_later()
    drive(world.people.enable(ADMIN, "default", "bob"))
    for _ in range(10):
        world.refused(world.login("wrong", mode="password"))
    drive(world.login(PASSWORD, **rules))
    world.do_later()
    assert sms.sent == []


def test_a_mistyped_code_may_be_typed_again_where_tries_are_left(token: LoginWorld) -> None:
    prompt = drive(token.login(PASSWORD, mode="password-then-otp", tries=3))
    prompt = drive(token.answer(prompt, "000000"))
    prompt = drive(token.answer(prompt, "000000"))
    assert isinstance(prompt, Prompt)
    assert prompt.tries_left == 1
    assert token.refused(token.answer(prompt, "000000")) == "otp.wrong"
    assert failures(token)["person:bob"] == 3


def test_a_challenge_does_not_live_for_ever(token: LoginWorld) -> None:
    prompt = drive(token.login(PASSWORD, mode="password-then-otp", tries=3))
    token.clock.advance(minutes=5)
    assert token.refused(token.answer(prompt, hotp(0))) == "login.prompt-expired"


def test_a_challenge_dies_with_the_password_it_was_made_by(token: LoginWorld) -> None:
    prompt = drive(token.login(PASSWORD, mode="password-then-otp"))
    token.clock.advance(seconds=1)
    drive(token.people.set_password(ADMIN, "default", "bob", Secret("a new password")))
    assert token.refused(token.answer(prompt, hotp(0))) == "login.password"


def test_an_emergency_code_where_the_rules_allow_it(token: LoginWorld, sms: SMS) -> None:
    sms.live["bob", "emergency"] = b"ABCDE12345"
    assert token.refused(token.login("ABCDE12345")) == "otp.wrong"
    accepted = token.allowed(token.login("ABCDE12345", emergency_codes=True))
    assert accepted.factors == ("emergency",)
    assert token.refused(token.login("ABCDE12345", emergency_codes=True)) == "login.code"
    sms.live["bob", "emergency"] = b"ABCDE12345"
    prompt = drive(token.login(PASSWORD, mode="password-then-sms", emergency_codes=True))
    token.do_later()
    assert token.allowed(token.answer(prompt, "ABCDE12345")).factors == ("password", "emergency")


def test_groups_may_have_to_present_something_else(token: LoginWorld, sms: SMS) -> None:
    drive(token.person("carol", PASSWORD, groups=("Guests",)))
    by_group = (
        GroupMode(groups=("admins", "STAFF"), mode="password-otp"),
        GroupMode(groups=("staff", "guests"), mode="password"),
    )
    rules = LoginRules(mode="otp", by_group=by_group)
    token.allowed(token.login(PASSWORD + hotp(0), rules=rules))
    assert token.refused(token.login(PASSWORD, rules=rules)) == "login.password"
    token.allowed(token.login(PASSWORD, "carol", rules=rules))
    drive(token.people.change_groups(ADMIN, "default", "carol", remove=["guests", "Guests"]))
    assert token.refused(token.login(PASSWORD, "carol", rules=rules)) == "otp.none"
    # MSCHAPv2 is one factor: not for those who need two
    secret = Secret("another password")
    drive(token.people.set_password(ADMIN, "default", "bob", secret, allow_mschap=True))
    one = LoginRules(by_group=by_group[:1])
    assert drive(token.logins.nt_hash("default", "bob", LoginRules())) is not None
    assert drive(token.logins.nt_hash("default", "bob", one)) is None
    nt_hash = drive(token.logins.nt_hash("default", "bob", LoginRules()))
    conclusion = token.logins.conclude_mschap(
        tenant="default", name="bob", nt_hash=nt_hash, rules=one, source="s", via="radius/test"
    )
    assert token.refused(conclusion) == "login.password"


# -- locks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["password", "otp", "password-otp", "password-then-otp"])
def test_o_24_ten_failures_lock_for_a_quarter_of_an_hour(token: LoginWorld, mode: str) -> None:
    right = {"password": PASSWORD, "otp": hotp(0), "password-otp": PASSWORD + hotp(0)}
    for _ in range(10):
        assert token.refused(token.login("wrong 000000", mode=mode)) not in ("login.locked", "")
    typed = right.get(mode, PASSWORD)
    assert token.refused(token.login(typed, mode=mode)) == "login.locked"
    token.clock.advance(minutes=14, seconds=59)
    assert token.refused(token.login(typed, mode=mode)) == "login.locked"
    token.clock.advance(seconds=1)
    drive(token.login(typed, mode=mode))
    locks = [event for event in token.journal.events if event.kind == "login.locked"]
    assert "person:bob" in [event.object for event in locks]


def test_a_lock_does_not_grow_while_it_lasts(world: LoginWorld) -> None:
    for _ in range(25):
        world.refused(world.login("wrong", mode="password"))
    world.clock.advance(minutes=15)
    world.allowed(world.login(PASSWORD, mode="password"))


def test_a_success_resets_the_count(token: LoginWorld) -> None:
    for _ in range(9):
        token.refused(token.login("000000"))
    token.allowed(token.login(hotp(0)))
    assert failures(token) == {"source:192.0.2.1": 9}
    for _ in range(9):
        token.refused(token.login("000000"))
    token.allowed(token.login(hotp(1)))


def test_a_right_password_alone_resets_nothing(token: LoginWorld) -> None:
    """Else whoever knows the password tries codes for ever."""
    for number in range(10):
        prompt = drive(token.login(PASSWORD, mode="password-then-otp"))
        assert token.refused(token.answer(prompt, f"{number:06}")) == "otp.wrong"
    assert token.refused(token.login(PASSWORD, mode="password-then-otp")) == "login.locked"


def test_an_administrator_ends_a_lock(token: LoginWorld) -> None:
    rules = LoginRules(mode="otp", lock=LockRules(failures=3, minutes=0))
    for _ in range(3):
        token.refused(token.login("000000", rules=rules))
    token.clock.advance(days=400)
    assert token.refused(token.login(hotp(0), rules=rules)) == "login.locked"
    standing = drive(token.people.show(ADMIN, "default", "bob"))
    assert standing.locked_until == login_failures.FOR_EVER
    assert drive(token.people.unlock(ADMIN, "default", "bob"))
    assert token.refused(token.login(hotp(0), rules=rules)) == "otp.locked"
    assert drive(token.tokens.unlock(ADMIN, "default", "T1"))
    token.allowed(token.login(hotp(0), rules=rules))
    assert not drive(token.people.unlock(ADMIN, "default", "bob"))
    assert {"person.unlocked", "token.unlocked"} <= set(token.journal.kinds())


def test_the_lock_of_a_token_goes_with_the_token(token: LoginWorld) -> None:
    for _ in range(10):
        token.refused(token.login("000000"))
    drive(token.tokens.unassign(ADMIN, "default", "T1"))
    drive(token.person("carol"))
    drive(token.tokens.assign(ADMIN, "default", "T1", "carol"))
    # handing it over is an administrator's reset
    token.allowed(token.login(hotp(0), "carol"))


def test_o_24_a_source_that_fails_too_often_must_wait(world: LoginWorld) -> None:
    lock = LockRules(source_failures=20, source_minutes=10)
    rules = LoginRules(lock=lock)
    for number in range(20):
        reason = world.refused(world.login("wrong", f"guess{number}", rules=rules))
        assert reason == "login.unknown"
    assert world.refused(world.login(PASSWORD, rules=rules)) == "login.source"
    world.allowed(world.login(PASSWORD, rules=rules, source="192.0.2.2"))
    world.clock.advance(minutes=10)
    world.allowed(world.login(PASSWORD, rules=rules))


def test_failures_of_a_source_are_forgotten_when_they_are_old(world: LoginWorld) -> None:
    rules = LoginRules(lock=LockRules(source_failures=3, source_minutes=10))
    for _ in range(5):
        world.refused(world.login("wrong", "eve", rules=rules))
        world.refused(world.login("wrong", "eve", rules=rules))
        world.clock.advance(minutes=11)
    world.allowed(world.login(PASSWORD, rules=rules))


def test_without_a_limit_a_source_never_waits(world: LoginWorld) -> None:
    rules = LoginRules(lock=LockRules(source_failures=0))
    for number in range(30):
        world.refused(world.login("wrong", f"guess{number}", rules=rules))
    world.allowed(world.login(PASSWORD, rules=rules))


def test_names_that_nobody_has_fill_no_table(world: LoginWorld) -> None:
    names = [f"guess{number}" for number in range(5_000)]
    for name in names:
        world.refused(world.login("000000", name))
    assert len(failures(world)) <= 2 * 4_096 + 1
    # and they are never locked, since nobody would see it
    assert not [event for event in world.journal.events if event.kind == "login.locked"
                and not event.object.startswith("source:")]  # fmt: skip


def test_nobody_escapes_the_lock_by_the_name_of_nobody(world: LoginWorld) -> None:
    drive(world.person("unknown:7", PASSWORD))
    for _ in range(10):
        world.refused(world.login("wrong", "unknown:7", mode="password"))
    assert world.refused(world.login(PASSWORD, "unknown:7", mode="password")) == "login.locked"


def test_what_was_counted_of_sources_and_nobodies_is_forgotten(world: LoginWorld) -> None:
    for name in ("bob", "eve", "mallory"):
        world.refused(world.login("000000", name))
    assert drive(world.logins.prune()) == 0
    world.clock.advance(days=3)
    assert drive(world.logins.prune()) == 6
    assert failures(world) == {"person:bob": 1}


def test_t_otp_05_of_ten_thousand_guesses_ten_are_judged(token: LoginWorld) -> None:
    """The right code among them, from the eleventh on, is of no use."""
    rules = LoginRules(mode="otp", lock=LockRules(source_failures=0))
    for number in range(10):
        assert token.refused(token.login(f"{number:06}", rules=rules)) == "otp.wrong"
    for _ in range(200):
        assert token.refused(token.login(hotp(0), rules=rules)) == "login.locked"


def test_t_otp_04_a_failure_counts_though_its_door_fails_afterwards(world: LoginWorld) -> None:
    async def door() -> None:
        try:
            await world.login("wrong", mode="password")
        except Fault:
            raise ConnectionError("the client has hung up") from None

    for _ in range(3):
        with pytest.raises(ConnectionError):
            drive(door())
    assert failures(world)["person:bob"] == 3


# -- accounts ----------------------------------------------------------------------------------


def test_a_disabled_or_ended_account_lets_nobody_in_by_any_mode(token: LoginWorld) -> None:
    drive(token.people.disable(ADMIN, "default", "bob"))
    assert token.refused(token.login(PASSWORD, mode="password")) == "login.disabled"
    assert token.refused(token.login(hotp(0))) == "login.disabled"
    assert token.refused(token.login(PASSWORD, mode="password-then-otp")) == "login.disabled"
    drive(token.people.enable(ADMIN, "default", "bob"))
    token.allowed(token.login(hotp(0)))
    end = token.clock() + timedelta(days=1)
    drive(token.people.set_end(ADMIN, "default", "bob", end))
    token.allowed(token.login(hotp(1)))
    token.clock.advance(days=1)
    assert token.refused(token.login(hotp(2))) == "login.expired"


def test_who_is_disabled_during_a_challenge_is_out(token: LoginWorld) -> None:
    prompt = drive(token.login(PASSWORD, mode="password-then-otp"))
    drive(token.people.disable(ADMIN, "default", "bob"))
    assert token.refused(token.answer(prompt, hotp(0))) == "login.disabled"


def test_what_changes_between_reading_and_deciding_counts(token: LoginWorld) -> None:
    """The password check takes its time; an administrator is faster."""
    inner = token.passwords.is_right

    async def slow(*arguments: Any) -> bool:
        answer = await inner(*arguments)
        await token.people.disable(ADMIN, "default", "bob")
        return answer

    token.passwords.is_right = slow  # type: ignore[method-assign]  # an administrator in between
    assert token.refused(token.login(PASSWORD, mode="password")) == "login.disabled"


def test_a_deleted_person_is_unknown_and_his_tokens_are_nobodys(token: LoginWorld) -> None:
    assert drive(token.people.delete(ADMIN, "default", "bob")) == 1
    assert token.refused(token.login(hotp(0))) == "login.unknown"
    drive(token.person("bob"))
    assert token.refused(token.login(hotp(0))) == "otp.none"


def test_people_of_another_tenant_do_not_exist(token: LoginWorld) -> None:
    drive(token.people.create(ADMIN, "acme", "dave"))
    drive(token.people.set_password(ADMIN, "acme", "dave", Secret("acme password")))
    assert token.refused(token.login("acme password", "dave", mode="password")) == "login.unknown"


# -- MSCHAPv2 ----------------------------------------------------------------------------------


def test_an_nt_hash_is_there_only_where_it_was_asked_for(world: LoginWorld) -> None:
    rules = LoginRules()
    assert drive(world.logins.nt_hash("default", "bob", rules)) is None
    drive(
        world.people.set_password(ADMIN, "default", "bob", Secret("clientPass"), allow_mschap=True)
    )
    # RFC 2759, 9.2: the NtPasswordHash of "clientPass"
    found = drive(world.logins.nt_hash("default", "BOB", rules))
    assert found is not None
    assert found.reveal().hex() == "44ebba8d5312b8d611474411f56989ae"
    assert drive(world.logins.nt_hash("default", "bob", LoginRules(mode="password-otp"))) is None
    assert drive(world.logins.nt_hash("default", "eve", rules)) is None
    drive(world.people.set_password(ADMIN, "default", "bob", Secret("without it again")))
    assert drive(world.logins.nt_hash("default", "bob", rules)) is None


def set_for_mschap(world: LoginWorld, password: str) -> None:
    secret = Secret(password)
    drive(world.people.set_password(ADMIN, "default", "bob", secret, allow_mschap=True))


def conclude_mschap(world: LoginWorld, nt_hash: Secret | None, name: str = "bob") -> Any:
    return world.logins.conclude_mschap(
        tenant="default",
        name=name,
        nt_hash=nt_hash,
        rules=LoginRules(),
        source="192.0.2.1",
        via="radius/test",
    )


def test_a_password_that_is_changed_before_the_last_word_of_mschap_is_not_enough(
    world: LoginWorld,
) -> None:
    set_for_mschap(world, "leaked password")
    shown = drive(world.logins.nt_hash("default", "bob", LoginRules()))
    set_for_mschap(world, "a new password")
    assert world.refused(conclude_mschap(world, shown)) == "login.password"
    renewed = drive(world.logins.nt_hash("default", "bob", LoginRules()))
    drive(world.people.set_password(ADMIN, "default", "bob", Secret("not for MSCHAPv2")))
    assert world.refused(conclude_mschap(world, renewed)) == "login.password"


def test_mschap_answers_are_judged_and_counted(world: LoginWorld) -> None:
    set_for_mschap(world, "clientPass")
    known = drive(world.logins.nt_hash("default", "bob", LoginRules()))

    def conclude(is_right: bool, name: str = "bob") -> Any:
        return conclude_mschap(world, known if is_right else None, name)

    assert world.allowed(conclude(True)).factors == ("mschap",)
    for _ in range(10):
        assert world.refused(conclude(False)) == "login.password"
    assert world.refused(conclude(True)) == "login.locked"
    assert world.refused(conclude(False, "eve")) == "login.unknown"


# -- what is written down ----------------------------------------------------------------------


def test_each_refusal_is_journaled_with_its_reason_and_no_secret(token: LoginWorld) -> None:
    with pytest.raises(Fault) as caught:
        drive(token.login(PASSWORD + "999999", mode="password-otp"))
    fault = caught.value
    assert fault.explain_id == "TEST-0001"
    assert fault.rule == "otp.wrong"
    shown = f"{fault} {fault.private} {fault.values} {token.journal.events}"
    assert PASSWORD not in shown
    assert "999999" not in shown


def test_a_source_that_goes_on_is_noted_once_a_minute(world: LoginWorld) -> None:
    """What is tried against a lock counts for its source, so that no flood is journaled."""
    rules = LoginRules(lock=LockRules(source_failures=20))
    for _ in range(100):
        world.refused(world.login("wrong", rules=rules))
    noted = [fault.rule for fault in world.journal.refused]
    counts = [noted.count(f"login.{rule}") for rule in ("password", "locked", "source")]
    assert counts == [10, 10, 1]
    world.clock.advance(minutes=1)
    world.refused(world.login("wrong", rules=rules))
    assert [fault.rule for fault in world.journal.refused].count("login.source") == 2


def test_t_otp_07_refusals_come_at_few_instants(world: LoginWorld) -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    world.logins._pause = pause
    world.refused(world.login("wrong", mode="password"))
    world.refused(world.login("wrong", "nobody", mode="otp"))
    world.allowed(world.login(PASSWORD, mode="password"))
    assert len(waited) == 2
    assert all(0 < seconds <= 0.05 for seconds in waited)


def test_the_public_answer_is_the_same_whatever_was_wrong(token: LoginWorld) -> None:
    drive(token.person("off", PASSWORD))
    drive(token.people.disable(ADMIN, "default", "off"))
    answers = set()
    for name, typed in (("bob", "x"), ("eve", "x"), ("off", PASSWORD), ("", ""), ("bob", SEED)):
        with pytest.raises(Fault) as caught:
            drive(token.login(typed, name, mode="password"))
        answers.add((caught.value.code, caught.value.detail, caught.value.retry_after))
    assert answers == {(FaultCode.UNAUTHENTICATED, PUBLIC, None)}


def test_a_password_is_hashed_anew_when_the_cost_has_changed(world: LoginWorld) -> None:
    from tmad.config import PasswordSection
    from tmad.identity.passwords import Passwords

    before = drive(world.people.show(ADMIN, "default", "bob")).of
    dearer = LoginWorld(
        world.database,
        clock=world.clock,
        settings=PasswordSection(memory_kib=8_192, iterations=3),
    )
    dearer.allowed(dearer.login(PASSWORD, mode="password"))
    dearer.do_later()
    after = drive(world.people.show(ADMIN, "default", "bob")).of
    assert after.password_hash != before.password_hash
    assert after.password_at == before.password_at
    assert after.password_hash is not None
    assert isinstance(dearer.passwords, Passwords)
    assert not dearer.passwords.is_outdated(after.password_hash)
    dearer.allowed(dearer.login(PASSWORD, mode="password"))
    assert dearer.later == []
