"""Logins on both databases under a real reactor: races, workers, kills, and what is counted."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.login_world import ADMIN, PUBLIC, LoginWorld, hotp
from tests.support import Clock
from tmad.config import PasswordSection
from tmad.errors import Fault, FaultCode
from tmad.events import Event, Secret
from tmad.identity import otp
from tmad.identity.login import Accepted, LoginRules
from tmad.identity.login_rules import LockRules
from tmad.identity.passwords import Passwords
from tmad.identity.settlement import Sequel
from tmad.identity.tokenseed import token_seed
from tmad.journal import Journal
from tmad.storage import devices, login_failures, otp_tokens, people
from tmad.storage.database import Database
from tmad.storage.people import PersonRow
from tmad.storage.tables import changes as changes_table

PASSWORD = "correct horse battery"


def other_process(
    open_database: Callable[..., Database], loop: Loop, clock: Clock, node: str
) -> LoginWorld:
    """Return a world that shares nothing with another but the database."""
    database = open_database()
    return LoginWorld(
        database, clock=clock, journal=Journal(database, node, clock), reactor=loop.reactor
    )


@pytest.fixture
def worlds(
    open_database: Callable[..., Database], loop: Loop, clock: Clock
) -> tuple[LoginWorld, LoginWorld]:
    one, two = (other_process(open_database, loop, clock, node) for node in ("n1", "n2"))
    loop.run(one.person("bob", PASSWORD))
    loop.run(one.token())
    return one, two


def at_once(loop: Loop, *coroutines: Any) -> list[Any]:
    """Run coroutines side by side; return results and exceptions."""
    begun = [ensureDeferred(coroutine) for coroutine in coroutines]
    done = loop.run(DeferredList(begun, consumeErrors=True), 60.0)
    return [result.value if isinstance(result, Failure) else result for _, result in done]


def split(outcomes: list[Any]) -> tuple[list[Accepted], list[Fault]]:
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert len(accepted) + len(faults) == len(outcomes), outcomes
    assert {(f.code, f.detail) for f in faults} <= {(FaultCode.UNAUTHENTICATED, PUBLIC)}
    return accepted, faults


UNLOCKED = LoginRules(mode="otp", lock=LockRules(failures=1_000))


def test_t_otp_03_of_fifty_identical_codes_one_is_accepted(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    doors = worlds * 25
    outcomes = at_once(loop, *(door.login(hotp(0), rules=UNLOCKED) for door in doors))
    accepted, faults = split(outcomes)
    assert len(accepted) == 1
    assert {fault.rule for fault in faults} <= {"otp.replayed", "otp.wrong"}


class Notebook:
    """What somebody logs in for: a row beside each accepted login (identity/login.py: Purpose)."""

    async def weigh(self, person: PersonRow) -> Sequel:
        return Sequel(self._write, person.name)

    @staticmethod
    def _write(connection: sa.Connection, names: Sequence[str]) -> None:
        for name in names:
            connection.execute(
                sa.text(
                    "INSERT INTO login_failures (tenant, subject, failures, since)"
                    " VALUES ('noted', :subject, 1, 0)"
                ),
                {"subject": f"{name}/{uuid4()}"},
            )


def test_logins_of_many_at_once_are_each_their_own(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    """Whoever shares a transaction shares no outcome; what is for a login stands beside it."""
    one, other = worlds
    names = [f"p{number}" for number in range(8)]
    for name in names:
        loop.run(one.person(name))
        loop.run(one.token(name, serial=f"T-{name.upper()}", seed=name.encode() * 10))

    def code(name: str, counter: int) -> str:
        return otp.hotp(name.encode() * 10, counter)

    def attempt(world: LoginWorld, name: str, counter: int) -> Any:
        return world.login(code(name, counter), name=name, rules=UNLOCKED, purpose=Notebook())

    # They are known here before one of them is disabled elsewhere.
    accepted, _ = split(at_once(loop, *(attempt(one, name, 0) for name in names)))
    assert len(accepted) == len(names)
    loop.run(other.people.disable(ADMIN, "default", "p3"))
    attempts = [attempt(world, name, 1) for name in names for world in (one, other, one)]
    attempts += [one.login("000000", name="p5", rules=UNLOCKED, purpose=Notebook())]
    accepted, faults = split(at_once(loop, *attempts))
    assert sorted(each.person.name for each in accepted) == [n for n in names if n != "p3"]
    assert sum(fault.rule == "login.disabled" for fault in faults) == 3

    def noted(connection: sa.Connection) -> list[str]:
        query = sa.text("SELECT subject FROM login_failures WHERE tenant = 'noted'")
        return sorted(row[0].partition("/")[0] for row in connection.execute(query))

    assert loop.run(one.database.read(noted)) == sorted(names + [n for n in names if n != "p3"])


@pytest.mark.parametrize("mode", ["password-otp", "password-then-otp"])
def test_t_otp_02_one_code_at_every_door_is_accepted_once(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld], mode: str
) -> None:
    rules = LoginRules(mode="password-then-otp", lock=LockRules(failures=1_000))
    prompts = [loop.run(door.login(PASSWORD, rules=rules)) for door in worlds * 3]
    both = LoginRules(mode="password-otp", lock=LockRules(failures=1_000))
    attempts = [
        *(d.answer(p, hotp(0)) for d, p in zip(worlds * 3, prompts, strict=True)),
        *(door.login(PASSWORD + hotp(0), rules=both) for door in worlds * 3),
        *(door.login(hotp(0), rules=UNLOCKED) for door in worlds * 3),
    ]
    if mode == "password-otp":
        attempts.reverse()
    accepted, _ = split(at_once(loop, *attempts))
    assert len(accepted) == 1


def test_totp_of_one_step_is_accepted_once_by_two_processes(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    one, _ = worlds
    seed = b"a seed of our own, 20+"
    loop.run(one.token(serial="T2", kind="totp", seed=seed))
    code = one.totp(seed)
    accepted, _ = split(at_once(loop, *(w.login(code, rules=UNLOCKED) for w in worlds * 10)))
    assert len(accepted) == 1


def test_t_otp_05_of_guesses_at_the_same_instant_no_more_than_the_limit_count(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    rules = LoginRules(mode="otp", lock=LockRules(failures=10))
    guesses = [w.login(f"{number:06}", rules=rules) for number, w in enumerate(worlds * 30)]
    _, faults = split(at_once(loop, *guesses))
    reasons = [fault.rule for fault in faults]
    assert reasons.count("otp.wrong") == 10
    assert reasons.count("login.locked") == 50
    _, faults = split(at_once(loop, worlds[1].login(hotp(0), rules=rules)))
    assert [fault.rule for fault in faults] == ["login.locked"]


def test_t_otp_04_failures_survive_a_restart_and_are_shared(
    loop: Loop,
    worlds: tuple[LoginWorld, LoginWorld],
    open_database: Callable[..., Database],
    clock: Clock,
) -> None:
    one, two = worlds
    for world in (one, two) * 4:
        split(at_once(loop, world.login("wrong", mode="password")))
    again = other_process(open_database, loop, clock, "n3")
    for _ in range(2):
        split(at_once(loop, again.login("wrong", mode="password")))
    _, faults = split(at_once(loop, again.login(PASSWORD, mode="password")))
    assert [fault.rule for fault in faults] == ["login.locked"]
    clock.advance(minutes=15)
    accepted, _ = split(at_once(loop, one.login(PASSWORD, mode="password")))
    assert len(accepted) == 1


def test_t_otp_04_a_refusal_is_counted_though_the_journal_cannot_be_written(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    one, two = worlds

    class Full:
        async def refuse(self, fault: Fault, **about: Any) -> str:
            raise Fault(FaultCode.UNAVAILABLE, "the journal is full")

        async def write(self, *events: Event) -> None:
            raise Fault(FaultCode.UNAVAILABLE, "the journal is full")

    one.logins.journal = Full()  # type: ignore[assignment]  # as far as a refusal needs one
    for _ in range(10):
        [outcome] = at_once(loop, one.login("000000"))
        assert isinstance(outcome, Fault)
        assert outcome.code is FaultCode.UNAVAILABLE
    _, faults = split(at_once(loop, two.login(hotp(0))))
    assert [fault.rule for fault in faults] == ["login.locked"]


@pytest.mark.parametrize(
    "name", ["a\0b", "\ud800", "\ufffe", "x" * 5_000, "'; DROP TABLE people --", "%", ""]
)
def test_names_that_no_database_likes_are_names_that_nobody_has(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld], name: str
) -> None:
    for mode in ("password", "otp", "password-then-otp"):
        _, faults = split(at_once(loop, worlds[0].login("000000", name, mode=mode)))
        assert [fault.rule for fault in faults] == ["login.unknown"]
        assert faults[0].explain_id


KILLED = """
import os, sys
from tests.login_world import LoginWorld, hotp
from tests.support import drive
from tmad.journal import Journal
from tmad.events import utc_now
from tmad.storage.database import Database
database = Database(sys.argv[1])
world = LoginWorld(database, clock=utc_now, journal=Journal(database, "killed", utc_now))
drive(world.login(sys.argv[2]))
os.write(1, b"accepted")
os.kill(os.getpid(), 9)
"""


def test_t_otp_03_a_code_that_was_accepted_before_a_kill_is_used_up(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld], database_url: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, database_url, hotp(0)],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == b"accepted", done.stderr.decode()
    assert done.returncode == -signal.SIGKILL
    for world in worlds:
        _, faults = split(at_once(loop, world.login(hotp(0))))
        assert [fault.rule for fault in faults] == ["otp.wrong"]
    accepted, _ = split(at_once(loop, worlds[0].login(hotp(1))))
    assert len(accepted) == 1


def test_o_24_the_password_check_never_holds_up_the_reactor(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    one, _ = worlds
    dear = Passwords(one.seal, PasswordSection(memory_kib=65_536, iterations=8), loop.reactor)
    ticks = [time.monotonic()]

    def tick() -> None:
        ticks.append(time.monotonic())
        call[0] = loop.reactor.callLater(0.005, tick)

    call = [loop.reactor.callLater(0, tick)]
    began = time.monotonic()
    loop.run(dear.hash("about", Secret(PASSWORD)))
    took = time.monotonic() - began
    call[0].cancel()
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    # Others use this machine as well: half of what it took would mean that nothing else ran.
    assert max(gaps) < took / 2
    dear.close()


def test_a_full_queue_of_passwords_answers_at_once(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    one, _ = worlds
    small = Passwords(one.seal, PasswordSection(memory_kib=8_192, threads=1, queue=2), loop.reactor)
    outcomes = at_once(loop, *(small.hash("about", Secret("x")) for _ in range(20)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert refused
    assert {fault.code for fault in refused} == {FaultCode.UNAVAILABLE}
    small.close()


# -- rows --------------------------------------------------------------------------------------


def test_every_change_of_a_person_or_device_is_announced(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    one, _ = worlds

    def news(connection: sa.Connection) -> list[tuple[str, str]]:
        rows = connection.execute(sa.select(changes_table).order_by(changes_table.c.id))
        return [(row.topic, row.key) for row in rows]

    before = len(loop.run(one.database.read(news)))
    loop.run(one.people.disable(ADMIN, "default", "bob"))
    loop.run(one.people.enable(ADMIN, "default", "bob"))
    loop.run(one.people.change_groups(ADMIN, "default", "bob", add=["staff"]))
    loop.run(one.devices.create(ADMIN, "default", "laptop-1"))
    loop.run(one.devices.block(ADMIN, "default", "laptop-1"))
    loop.run(one.devices.unblock(ADMIN, "default", "laptop-1"))
    loop.run(one.devices.delete(ADMIN, "default", "laptop-1"))
    loop.run(one.people.delete(ADMIN, "default", "bob"))
    found = loop.run(one.database.read(news))[before:]
    assert found == [
        *[(people.TOPIC, "default/bob")] * 3,
        *[(devices.TOPIC, "default/laptop-1")] * 4,
        (people.TOPIC, "default/bob"),
    ]


def test_two_changes_of_one_person_at_once_both_count(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    changes = [
        world.people.change_groups(ADMIN, "default", "bob", add=[f"group {number}"])
        for number, world in enumerate(worlds * 5)
    ]
    assert all(isinstance(outcome, PersonRow) for outcome in at_once(loop, *changes))
    person = loop.run(worlds[0].people.show(ADMIN, "default", "bob")).of
    assert person.groups == tuple(sorted(f"group {number}" for number in range(10)))


def test_no_more_than_ten_tokens_whoever_assigns_at_once(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    made = [world.tokens.create(ADMIN, "default", "bob") for world in worlds * 8]
    outcomes = at_once(loop, *made)
    faults = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert len(outcomes) - len(faults) == 9  # the tenth is the fixture's
    assert {fault.rule for fault in faults} == {"otp.too-many"}


def test_reads_and_counters_of_the_rows(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld], clock: Clock
) -> None:
    one, _ = worlds
    loop.run(one.person("carol", mail="carol@example.test"))
    lookups = {
        (people.by_mail, "carol@example.test"): "carol",
        (people.by_mail, "nobody@example.test"): None,
        (people.by_mail, ""): None,
        (people.by_upn, "carol@example.test"): "carol",
        (people.by_upn, "bob"): "bob",
        (people.by_name, "carol"): "carol",
        (people.by_name, "Carol"): None,
    }
    for (function, key), name in lookups.items():
        found = loop.run(one.database.lookup(function, "default", key))
        assert (found and found.name) == name, key
        assert loop.run(one.database.lookup(function, "acme", key)) is None

    def count(connection: sa.Connection) -> list[bool]:
        return [
            login_failures.count(
                connection,
                "default",
                "person:x",
                now=clock(),
                limit=3,
                locked_until=login_failures.FOR_EVER,
                oldest=clock(),
            )
            for _ in range(4)
        ]

    # Only the one that locks says so.
    assert loop.run(one.database.write(count)) == [False, False, True, False]
    clock.advance(days=2)
    assert loop.run(one.database.write(login_failures.prune, "person:", clock())) == 1

    def advance(connection: sa.Connection) -> list[int]:
        token = otp_tokens.by_serial(connection, "default", "T1")
        assert token is not None
        return [
            otp_tokens.advance_all(
                connection, [otp_tokens.Advance(token.id, person, n, 0, clock())]
            )
            for person, n in (("eve", 5), ("bob", 5), ("bob", 5), ("bob", 4), ("bob", 6))
        ]

    assert loop.run(one.database.write(advance)) == [0, 1, 0, 0, 1]


def test_a_token_of_thousands_is_imported_in_parts(
    loop: Loop, worlds: tuple[LoginWorld, LoginWorld]
) -> None:
    one, two = worlds
    seeds = [
        token_seed(serial=f"HW{number:05}", kind="hotp", seed=number.to_bytes(20, "big"))
        for number in range(1_200)
    ]
    done = loop.run(one.tokens.import_(ADMIN, "default", seeds), 60)
    assert len(done.added) == 1_200
    again = loop.run(two.tokens.import_(ADMIN, "default", seeds[:10]))
    assert (len(again.added), len(again.present)) == (0, 10)
    loop.run(one.tokens.assign(ADMIN, "default", "HW00007", "bob"))
    code = otp.hotp((7).to_bytes(20, "big"), 0)
    accepted, _ = split(at_once(loop, two.login(code)))
    assert len(accepted) == 1
