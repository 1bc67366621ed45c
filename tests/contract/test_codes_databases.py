"""One-time codes on both databases, asked for and answered by two workers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.test_codes import Tray, other
from tmad.config import DeliverySection
from tmad.errors import Fault
from tmad.events import Secret
from tmad.identity.actors import Actor
from tmad.identity.codes import Codes
from tmad.identity.delivery.outbox import Outbox
from tmad.journal import Journal
from tmad.signer.seal import Seal
from tmad.storage import people
from tmad.storage.database import Database
from tmad.storage.people import PersonRow

ADMIN = Actor.administrator("local:test")


class Worker:
    """One process: a database, a journal, a tray for what it sends."""

    def __init__(self, database: Database, loop: Loop, clock: Clock, name: str) -> None:
        self.loop = loop
        self.clock = clock
        self.database = database
        self.tray = Tray()
        journal = Journal(database, name, clock)
        outbox = Outbox(loop.reactor, journal, clock, {"sms": self.tray})
        settings = DeliverySection(text="{{code}}", all_per_hour=7)
        self.codes = Codes(database, journal, Seal(b"k" * 32), clock, outbox, settings)

    async def verify(self, code: str, kind: Any = "sms") -> bool:
        return await self.database.write(
            self.codes.verify_in, "default", "bob", kind, Secret(code), self.clock()
        )

    async def person(self, name: str) -> PersonRow:
        now = self.clock()
        row = PersonRow(
            tenant="default", name=name, phone="+491701234567", created_at=now, updated_at=now
        )
        await self.database.write(people.insert, row)
        return row


@pytest.fixture
def workers(
    open_database: Callable[..., Database], loop: Loop, clock: Clock
) -> tuple[Worker, Worker]:
    one, two = (Worker(open_database(), loop, clock, name) for name in ("n1", "n2"))
    return one, two


def at_once(loop: Loop, *coroutines: Any) -> list[Any]:
    """Run coroutines side by side; return results and exceptions."""
    begun = [ensureDeferred(coroutine) for coroutine in coroutines]
    done = loop.run(DeferredList(begun, consumeErrors=True), 60.0)
    return [result.value if isinstance(result, Failure) else result for _, result in done]


def send(worker: Worker, person: PersonRow) -> str:
    worker.loop.run(worker.codes.send_login_code(person, "sms"))
    worker.loop.turn(lambda: bool(worker.tray.sent))
    return worker.tray.sent[-1][1]


def test_of_twenty_identical_answers_one_is_right(
    loop: Loop, workers: tuple[Worker, Worker]
) -> None:
    bob = loop.run(workers[0].person("bob"))
    code = send(workers[0], bob)
    outcomes = at_once(loop, *(worker.verify(code) for worker in workers * 10))
    assert sorted(outcomes) == [False] * 19 + [True]


def test_of_ten_identical_emergency_codes_one_is_right(
    loop: Loop, workers: tuple[Worker, Worker]
) -> None:
    loop.run(workers[0].person("bob"))
    codes = loop.run(workers[0].codes.make_emergency(ADMIN, "default", "bob"))
    typed = codes[0].reveal().decode()
    outcomes = at_once(loop, *(worker.verify(typed, "emergency") for worker in workers * 5))
    assert sorted(outcomes) == [False] * 9 + [True]
    assert loop.run(workers[1].codes.count_emergency(ADMIN, "default", "bob")) == 9


def test_wrong_tries_of_two_workers_count_together(
    loop: Loop, workers: tuple[Worker, Worker]
) -> None:
    bob = loop.run(workers[0].person("bob"))
    code = send(workers[0], bob)
    at_once(loop, *(worker.verify(other(code)) for worker in (*workers, workers[0])))
    assert not loop.run(workers[1].verify(code))


def test_limits_hold_for_two_workers_at_once(loop: Loop, workers: tuple[Worker, Worker]) -> None:
    bob = loop.run(workers[0].person("bob"))
    asked = at_once(loop, *(w.codes.send_login_code(bob, "sms") for w in workers * 6))
    refused = [outcome for outcome in asked if isinstance(outcome, Fault)]
    assert (len(asked) - len(refused), {fault.rule for fault in refused}) == (
        5,
        {"otp.code.limit-person"},
    )
    others = [loop.run(workers[0].person(f"p{number}")) for number in range(4)]
    pairs = zip(others, workers * 2, strict=True)
    asked = at_once(loop, *(w.codes.send_login_code(person, "sms") for person, w in pairs))
    refused = [outcome for outcome in asked if isinstance(outcome, Fault)]
    assert [fault.rule for fault in refused] == ["otp.code.limit-all"] * 2


def test_pruning_takes_old_codes_only(
    loop: Loop, workers: tuple[Worker, Worker], clock: Clock
) -> None:
    bob = loop.run(workers[0].person("bob"))
    send(workers[0], bob)
    loop.run(workers[0].codes.make_emergency(ADMIN, "default", "bob"))
    clock.advance(days=2)
    assert loop.run(workers[1].codes.prune()) == 1
    assert loop.run(workers[1].codes.count_emergency(ADMIN, "default", "bob")) == 10
