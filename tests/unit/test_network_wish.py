"""A person's login and what the network says to it: one transaction, and no word too early."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.login_world import LoginWorld, hotp
from tests.network_world import NetworkWorld, a_visit
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.identity.login import Accepted
from tmad.identity.login_rules import LockRules, LoginRules
from tmad.network.logins import Admitted
from tmad.network.wish import Wish
from tmad.storage import journal
from tmad.storage.tables import otp_tokens, radius_sessions


class World:
    """A network and its people, on one database."""

    def __init__(self) -> None:
        self.network = network = NetworkWorld().prepare()
        self.people = LoginWorld(network.database, clock=network.clock, journal=network.journal)
        drive(self.people.person("bob"))
        drive(self.people.token())

    def login(self, code: str) -> Admitted:
        """Log in as the RADIUS server lets somebody do it."""
        wish = Wish(self.network.admission, a_visit(), "pap")
        rules = LoginRules(mode="otp", lock=LockRules(failures=1_000))
        outcome = drive(self.people.login(code, rules=rules, purpose=wish))
        assert isinstance(outcome, Accepted)
        return drive(wish.granted(outcome.person))

    def refused(self, code: str) -> Fault:
        with pytest.raises(Fault) as caught:
            self.login(code)
        return caught.value

    def sessions(self) -> list[str]:
        def find(connection: sa.Connection) -> list[str]:
            return list(connection.execute(sa.select(radius_sessions.c.id)).scalars())

        return drive(self.network.database.read(find))

    def records(self, prefix: str) -> list[Any]:
        def find(connection: sa.Connection) -> list[Any]:
            return journal.find(connection, "default", None, 1_000)

        return [each for each in drive(self.network.database.read(find)) if prefix in each.kind]

    def counter(self) -> int:
        def read(connection: sa.Connection) -> int:
            return int(connection.execute(sa.select(otp_tokens.c.counter)).scalar_one())

        return drive(self.network.database.read(read))


@pytest.fixture
def world() -> World:
    return World()


def test_session_and_record_stand_beside_the_code_that_is_used_up(world: World) -> None:
    world.network.policy()
    admitted = world.login(hotp(0))
    assert world.sessions() == [admitted.session]
    [record] = world.records("network.admitted")
    assert record.object == admitted.session
    assert world.counter() == 1
    # The same code opens nothing more.
    assert world.refused(hotp(0)).rule == "otp.wrong"
    assert world.sessions() == [admitted.session]


def test_whoever_shows_a_wrong_code_hears_nothing_of_the_rules(world: World) -> None:
    world.network.policy({"name": "none", "then": "reject"})
    fault = world.refused("000000")
    assert fault.rule == "otp.wrong"
    assert world.records("network.") == []


def test_a_refusal_by_the_rules_comes_after_the_login_and_is_journaled_once(world: World) -> None:
    world.network.policy({"name": "none", "then": "reject"})
    fault = world.refused(hotp(0))
    assert fault.rule == "network.rejected"
    [record] = world.records("network.refused")
    assert record.trace == fault.explain_id
    assert world.sessions() == []
    # The code was right, and is good no more.
    assert world.counter() == 1


def test_what_cannot_be_written_down_uses_no_code_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.network.policy()

    def fails(*_: object) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the journal is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.network.admission.journal, "append", fails)
        assert world.refused(hotp(0)).code is FaultCode.UNAVAILABLE
    assert (world.counter(), world.sessions()) == (0, [])
    assert world.login(hotp(0)).user_name == "bob"


def test_somebody_who_is_disabled_meanwhile_gets_no_session(world: World) -> None:
    world.network.policy()
    wish = Wish(world.network.admission, a_visit(), "pap")
    weigh = wish.weigh

    async def slowly(person: Any) -> Any:
        sequel = await weigh(person)
        world.network.change_person("bob", disabled_at=world.network.clock())
        return sequel

    wish.weigh = slowly  # type: ignore[method-assign]  # something happens in between
    with pytest.raises(Fault) as caught:
        drive(world.people.login(hotp(0), purpose=wish))
    assert caught.value.rule == "login.disabled"
    assert world.sessions() == []
    assert world.counter() == 0
