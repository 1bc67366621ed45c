"""Tokens: made, taken over, handed out, activated, resynchronised, and never shown again."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from tests.login_world import ADMIN, SEED, LoginWorld, hotp
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor, Grant
from tmad.identity.tokenseed import token_seed
from tmad.storage import tables


@pytest.fixture
def world() -> LoginWorld:
    world = LoginWorld()
    drive(world.person())
    return world


def fault(coroutine: Any) -> tuple[FaultCode, str]:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value.code, caught.value.rule


def show(world: LoginWorld, serial: str = "T1") -> Any:
    return drive(world.tokens.show(ADMIN, "default", serial)).of


@pytest.mark.parametrize(("algorithm", "octets"), [("sha1", 20), ("sha256", 32), ("sha512", 64)])
def test_o_10_a_soft_tokens_seed_is_as_long_as_its_hash(
    world: LoginWorld, algorithm: Any, octets: int
) -> None:
    token, uri = drive(
        world.tokens.create(
            ADMIN, "default", "BOB", algorithm=algorithm, digits=8, period=60, issuer="Org"
        )
    )
    parts = urlsplit(uri.reveal().decode())
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/Org:bob")
    assert asked["algorithm"] == algorithm.upper()
    assert (asked["digits"], asked["period"]) == ("8", "60")
    assert len(asked["secret"]) == -(-octets * 8 // 5)
    assert (token.person, token.state, token.counter) == ("bob", "new", 0)


def test_o_34_a_seed_is_sealed_and_appears_nowhere(world: LoginWorld) -> None:
    token = drive(world.token())
    shown = f"{token} {world.journal.events}"
    assert SEED.decode() not in shown

    def stored(connection: sa.Connection) -> bytes:
        return bytes(connection.execute(sa.select(tables.otp_tokens.c.seed)).scalar_one())

    sealed = drive(world.database.read(stored))
    assert SEED not in sealed
    # moved to another token's row it cannot be opened
    drive(world.token(serial="T2", seed=b"x" * 20))

    def swap(connection: sa.Connection) -> None:
        t = tables.otp_tokens
        connection.execute(sa.update(t).where(t.c.serial == "T2").values(seed=sealed))

    drive(world.database.write(swap))
    assert fault(world.tokens.activate(ADMIN, "default", "T2", Secret(hotp(0)))) == (
        FaultCode.BAD_INTEGRITY,
        "seal.integrity",
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"digits": 5},
        {"digits": 9},
        {"period": 5},
        {"period": 301},
        {"serial": "a b"},
        {"serial": "\u00e4"},
        {"kind": "ocra"},
        {"description": "x" * 201},
    ],
)
def test_what_a_token_cannot_be(world: LoginWorld, wrong: dict[str, Any]) -> None:
    assert fault(world.tokens.create(ADMIN, "default", "bob", **wrong)) == (
        FaultCode.REJECTED,
        "otp.parameter",
    )


def test_a_token_needs_its_person_and_a_serial_number_of_its_own(world: LoginWorld) -> None:
    assert fault(world.tokens.create(ADMIN, "default", "eve")) == (
        FaultCode.NOT_FOUND,
        "person.absent",
    )
    drive(world.tokens.create(ADMIN, "default", "bob", serial="same"))
    assert fault(world.tokens.create(ADMIN, "default", "bob", serial="SAME")) == (
        FaultCode.CONFLICT,
        "otp.serial",
    )
    drive(world.people.create(ADMIN, "acme", "bob"))
    drive(world.tokens.create(ADMIN, "acme", "bob", serial="same"))
    drive(world.tokens.create(ADMIN, "default", "bob", serial="other", dry_run=True))
    assert fault(world.tokens.show(ADMIN, "default", "other")) == (
        FaultCode.NOT_FOUND,
        "otp.absent",
    )


def test_a_person_has_ten_tokens_at_most(world: LoginWorld) -> None:
    for _ in range(10):
        drive(world.tokens.create(ADMIN, "default", "bob"))
    assert fault(world.tokens.create(ADMIN, "default", "bob")) == (
        FaultCode.CONFLICT,
        "otp.too-many",
    )


def test_o_31_activation_needs_one_valid_code_and_uses_it_up(world: LoginWorld) -> None:
    drive(world.token(None, kind="totp"))
    drive(world.tokens.assign(ADMIN, "default", "t1", "bob", needs_code=True))
    assert show(world).state == "new"
    for wrong in ("000000", "12345", "abcdef", world.totp(steps=5)):
        refused = world.tokens.activate(ADMIN, "default", "T1", Secret(wrong))
        assert fault(refused) == (FaultCode.REJECTED, "otp.code")
    code = world.totp()
    drive(world.tokens.activate(ADMIN, "default", "T1", Secret(code)))
    assert show(world).state == "active"
    assert world.refused(world.login(code)) == "otp.replayed"
    assert fault(world.tokens.activate(ADMIN, "default", "T1", Secret(code)))[1] == "otp.code"


def test_o_11_a_token_that_has_run_away_is_found(world: LoginWorld) -> None:
    drive(world.token())
    assert world.refused(world.login(hotp(60))) == "otp.wrong"
    wrong = world.tokens.resync(ADMIN, "default", "T1", Secret(hotp(60)), Secret(hotp(62)))
    assert fault(wrong) == (FaultCode.REJECTED, "otp.code")
    drive(world.tokens.resync(ADMIN, "default", "T1", Secret(hotp(60)), Secret(hotp(61))))
    assert show(world).counter == 62
    assert world.refused(world.login(hotp(61))) == "otp.wrong"
    world.allowed(world.login(hotp(62)))


def test_a_clock_that_is_wrong_is_found(world: LoginWorld) -> None:
    drive(world.token(kind="totp"))
    first, second = (Secret(world.totp(steps=steps)) for steps in (40, 41))
    drive(world.tokens.resync(ADMIN, "default", "T1", first, second))
    assert show(world).drift == 41
    assert world.refused(world.login(world.totp(steps=41))) == "otp.replayed"
    world.clock.advance(seconds=30)
    world.allowed(world.login(world.totp(steps=41)))
    assert world.refused(world.login(world.totp()))


def test_from_stock_to_a_person_and_back(world: LoginWorld) -> None:
    drive(world.token(None))
    drive(world.person("carol"))
    assert [t.serial for t in drive(world.tokens.list(ADMIN, "default", in_stock=True))] == ["T1"]
    drive(world.tokens.assign(ADMIN, "default", "T1", "bob"))
    drive(world.tokens.set_pin(ADMIN, "default", "T1", Secret("4711")))
    assert fault(world.tokens.assign(ADMIN, "default", "T1", "carol")) == (
        FaultCode.CONFLICT,
        "otp.assigned",
    )
    world.allowed(world.login(hotp(0)))
    drive(world.tokens.unassign(ADMIN, "default", "T1"))
    assert world.refused(world.login(hotp(1))) == "otp.none"
    token = show(world)
    assert (token.person, token.pin_hash, token.state) == (None, None, "disabled")
    drive(world.tokens.assign(ADMIN, "default", "T1", "carol"))
    assert world.refused(world.login(hotp(0), "carol")) == "otp.wrong"
    world.allowed(world.login(hotp(1), "carol"))
    assert world.journal.kinds()[-4:] == [
        "token.assigned",
        "token.pin-set",
        "token.unassigned",
        "token.assigned",
    ]


def test_a_disabled_token_is_enabled_as_it_was(world: LoginWorld) -> None:
    drive(world.token())
    drive(world.tokens.disable(ADMIN, "default", "T1"))
    assert world.refused(world.login(hotp(0))) == "otp.none"
    drive(world.tokens.enable(ADMIN, "default", "T1"))
    world.allowed(world.login(hotp(0)))
    token, _ = drive(world.tokens.create(ADMIN, "default", "bob"))
    drive(world.tokens.disable(ADMIN, "default", token.serial))
    drive(world.tokens.enable(ADMIN, "default", token.serial))
    assert show(world, token.serial).state == "new"


def test_a_deleted_token_is_gone_with_its_seed(world: LoginWorld) -> None:
    drive(world.token())
    drive(world.tokens.delete(ADMIN, "default", "T1"))
    assert world.refused(world.login(hotp(0))) == "otp.none"
    for method in ("delete", "disable", "enable", "unlock", "unassign"):
        asked = getattr(world.tokens, method)(ADMIN, "default", "T1")
        assert fault(asked) == (FaultCode.NOT_FOUND, "otp.absent"), method


def test_tokens_are_imported_once_for_people_that_exist(world: LoginWorld) -> None:
    seeds = [
        token_seed(serial="A", kind="hotp", seed=SEED, person="Bob"),
        token_seed(serial="B", kind="hotp", seed=SEED),
        token_seed(serial="C", kind="totp", seed=SEED, person="nobody"),
    ]
    assert drive(world.tokens.import_(ADMIN, "default", seeds, dry_run=True)).added == ("A", "B")
    done = drive(world.tokens.import_(ADMIN, "default", seeds))
    assert done.added == ("A", "B")
    assert [serial for serial, _ in done.refused] == ["C"]
    again = drive(world.tokens.import_(ADMIN, "default", seeds[:2]))
    assert (again.added, again.present) == ((), ("A", "B"))
    world.allowed(world.login(hotp(0)))
    event = [e for e in world.journal.events if e.kind == "token.imported"][-1]
    assert event.data == {"count": 2, "serials": ["A", "B"]}


def test_another_tenants_tokens_are_not_there(world: LoginWorld) -> None:
    drive(world.token())
    elsewhere = Actor("local:x", (Grant("operator", "acme"),))
    assert fault(world.tokens.show(elsewhere, "acme", "T1")) == (
        FaultCode.NOT_FOUND,
        "otp.absent",
    )
    assert fault(world.tokens.disable(elsewhere, "default", "T1"))[0] is FaultCode.NOT_FOUND
    auditor = Actor("local:a", (Grant("auditor", "default"),))
    assert drive(world.tokens.list(auditor, "default"))
    assert fault(world.tokens.delete(auditor, "default", "T1"))[0] is FaultCode.FORBIDDEN


def test_pages_of_tokens(world: LoginWorld) -> None:
    drive(world.token("bob", serial="C"))
    drive(world.token(None, serial="A"))
    drive(world.token("bob", serial="B"))
    listed = drive(world.tokens.list(ADMIN, "default", limit=2))
    assert [token.serial for token in listed] == ["A", "B"]
    listed = drive(world.tokens.list(ADMIN, "default", person="BOB", after="B"))
    assert [token.serial for token in listed] == ["C"]
    assert drive(world.tokens.list(ADMIN, "default", state="disabled")) == ()
