"""Conversations of several messages on both databases, continued by two workers at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.support import Clock
from tmad.ca.exchanges import ANSWER_KEPT, PATIENCE, REMEMBERED, Challenge, Exchanges
from tmad.ca.revocation import Revocation
from tmad.errors import Fault, FaultCode
from tmad.journal import Journal
from tmad.storage.database import Database
from tmad.storage.exchanges import Exchange

NEW: dict[str, Any] = {
    "endpoint": "cmp/iot",
    "tenant": "default",
    "transaction": b"t" * 16,
    "opening": 0,
    "number": 0,
    "holder": b"pbm\0" + b"h" * 32,
    "digest": b"d" * 32,
    "is_implicit": False,
}


class Worker:
    """One process."""

    def __init__(self, database: Database, clock: Clock, name: str) -> None:
        journal = Journal(database, name, clock)
        self.exchanges = Exchanges(database, journal, Revocation(database, journal, clock), clock)


@pytest.fixture
def workers(open_database: Callable[..., Database], clock: Clock) -> tuple[Exchanges, Exchanges]:
    one, two = (Worker(open_database(), clock, name).exchanges for name in ("n1", "n2"))
    return one, two


def at_once(loop: Loop, *coroutines: Any) -> list[Any]:
    """Run coroutines side by side; return results and exceptions."""
    begun = [ensureDeferred(coroutine) for coroutine in coroutines]
    done = loop.run(DeferredList(begun, consumeErrors=True), 60.0)
    return [result.value if isinstance(result, Failure) else result for _, result in done]


def test_of_two_beginnings_one_wins(workers: tuple[Exchanges, Exchanges], loop: Loop) -> None:
    one, two = workers
    found = at_once(loop, *[each.begin(**NEW) for each in (one, two, one, two)])
    faults = [each for each in found if isinstance(each, Fault)]
    assert len(faults) == 3
    assert {(f.code, f.rule) for f in faults} == {(FaultCode.CONFLICT, "exchange.exists")}
    (begun,) = (each for each in found if isinstance(each, Exchange))
    assert loop.run(two.find("cmp/iot", b"t" * 16)) == begun
    # Another endpoint has transactions of its own.
    assert loop.run(two.begin(**{**NEW, "endpoint": "cmp/other"})).endpoint == "cmp/other"


def test_a_challenge_is_answered_once(
    workers: tuple[Exchanges, Exchanges], loop: Loop, clock: Clock
) -> None:
    one, two = workers
    challenge = Challenge(b"popdecc", b"n", b"request", clock() + timedelta(minutes=1))
    challenged = loop.run(one.begin(**NEW, challenge=challenge))
    assert loop.run(two.find("cmp/iot", b"t" * 16)) == challenged
    assert (challenged.state, challenged.answer) == ("challenged", b"popdecc")
    found = at_once(
        loop, *[each.resume(challenged, digest=bytes((at,))) for at, each in enumerate(workers * 2)]
    )
    (resumed,) = (each for each in found if isinstance(each, Exchange))
    assert {f.rule for f in found if isinstance(f, Fault)} == {"exchange.changed"}
    assert loop.run(two.find("cmp/iot", b"t" * 16)) == resumed
    assert (resumed.state, resumed.answer, resumed.request) == ("begun", None, b"request")
    loop.run(one.close(resumed, digest=b"x", answer=b"ip", nonce=b"m"))
    closed = loop.run(two.find("cmp/iot", b"t" * 16))
    assert closed is not None
    assert (closed.state, closed.request) == ("closed", None)


def test_a_challenge_that_nobody_answers_is_forgotten(
    workers: tuple[Exchanges, Exchanges], loop: Loop, clock: Clock
) -> None:
    one, two = workers
    challenge = Challenge(b"popdecc", b"n", b"request", clock() + timedelta(minutes=1))
    loop.run(one.begin(**NEW, challenge=challenge))
    clock.advance(seconds=61)
    assert loop.run(two.attend()) == 1
    assert loop.run(one.find("cmp/iot", b"t" * 16)) is None


def test_of_two_answers_one_stays(workers: tuple[Exchanges, Exchanges], loop: Loop) -> None:
    one, two = workers
    begun = loop.run(one.begin(**NEW))
    found = at_once(
        loop,
        one.close(begun, digest=b"x", answer=b"first", nonce=b"1"),
        two.close(begun, digest=b"x", answer=b"second", nonce=b"2"),
    )
    assert sorted(type(each).__name__ for each in found) == ["Fault", "NoneType"]
    kept = loop.run(two.find("cmp/iot", b"t" * 16))
    assert kept is not None
    assert kept.answer in (b"first", b"second")
    assert kept.state == "closed"


def test_what_becomes_of_a_conversation(
    workers: tuple[Exchanges, Exchanges], loop: Loop, clock: Clock
) -> None:
    one, two = workers
    begun = loop.run(one.begin(**NEW))
    loop.run(one.wait(begun, digest=b"1", answer=b"wait", nonce=b"n", spki=b"key"))
    waiting = loop.run(two.find("cmp/iot", b"t" * 16))
    assert waiting is not None
    assert (waiting.state, waiting.answer, waiting.spki) == ("waiting", b"wait", b"key")
    loop.run(two.close(waiting, digest=b"2", answer=b"no", nonce=b"m"))
    assert loop.run(one.attend()) == 0
    clock.advance(seconds=ANSWER_KEPT.total_seconds() + 1)
    assert loop.run(one.attend()) == 1
    emptied = loop.run(two.find("cmp/iot", b"t" * 16))
    assert emptied is not None
    assert (emptied.state, emptied.answer) == ("closed", None)
    clock.advance(seconds=REMEMBERED.total_seconds())
    assert loop.run(two.attend()) == 1
    assert loop.run(one.find("cmp/iot", b"t" * 16)) is None


def test_what_a_dead_process_left_is_cleared_up(
    workers: tuple[Exchanges, Exchanges], loop: Loop, clock: Clock
) -> None:
    one, two = workers
    loop.run(one.begin(**NEW))
    clock.advance(seconds=PATIENCE.total_seconds() + 1)
    assert loop.run(two.attend()) == 1
    found = loop.run(two.find("cmp/iot", b"t" * 16))
    assert found is not None
    assert found.state == "closed"


def test_what_failed_may_begin_anew(workers: tuple[Exchanges, Exchanges], loop: Loop) -> None:
    one, two = workers
    loop.run(one.forget(loop.run(one.begin(**NEW))))
    assert loop.run(two.begin(**NEW)).state == "begun"


def test_one_that_cannot_be_attended_to_does_not_keep_the_others(
    workers: tuple[Exchanges, Exchanges], loop: Loop, clock: Clock
) -> None:
    one, two = workers
    lost = loop.run(one.begin(**NEW))
    # There is no such certificate: whatever the reason, it cannot be revoked.
    loop.run(
        one.expect(lost, digest=b"x", answer=b"ip", nonce=b"n", certificate_id=999, until=clock())
    )
    loop.run(one.begin(**{**NEW, "transaction": b"u" * 16}))
    clock.advance(seconds=PATIENCE.total_seconds() + 1)
    with pytest.raises(Fault) as caught:
        loop.run(two.attend())
    assert caught.value.code is FaultCode.NOT_FOUND
    other = loop.run(one.find("cmp/iot", b"u" * 16))
    assert other is not None
    assert other.state == "closed"
    # It comes again, a minute later.
    assert loop.run(two.attend()) == 0
    clock.advance(seconds=61)
    with pytest.raises(Fault):
        loop.run(two.attend())
