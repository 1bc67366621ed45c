"""Numbers of requests that wait, on both databases, given by two workers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.support import Clock
from tmad.ca import numbers
from tmad.ca.numbers import RequestNumbers
from tmad.errors import Fault, FaultCode
from tmad.storage import request_numbers as rows
from tmad.storage.database import Database

DOOR = "wstep/users"


@pytest.fixture
def workers(
    open_database: Callable[..., Database], clock: Clock
) -> tuple[RequestNumbers, RequestNumbers, Database]:
    one, two = open_database(), open_database()
    return RequestNumbers(one, clock), RequestNumbers(two, clock), one


def at_once(loop: Loop, *coroutines: Any) -> list[Any]:
    begun = [ensureDeferred(coroutine) for coroutine in coroutines]
    return [value for _, value in loop.run(DeferredList(begun, consumeErrors=True), 60.0)]


def test_a_request_has_one_number_whoever_gives_it(loop: Loop, workers: Any) -> None:
    one, two, _ = workers
    given = at_once(loop, *[each.of(DOOR, "R1") for each in (one, two) * 5])
    assert len(set(given)) == 1
    assert loop.run(two.find(DOOR, given[0])) == "R1"
    assert loop.run(one.of(DOOR, "R2")) != given[0]


def test_a_number_belongs_to_its_endpoint(loop: Loop, workers: Any) -> None:
    one, two, _ = workers
    number = loop.run(one.of(DOOR, "R1"))
    for asked in (two.find("wstep/other", number), two.find(DOOR, number ^ 1)):
        with pytest.raises(Fault) as caught:
            loop.run(asked)
        assert caught.value.code is FaultCode.NOT_FOUND


def test_a_number_that_is_taken_is_drawn_again(
    loop: Loop, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = workers
    lots = iter([6, 6, 6, 7])
    monkeypatch.setattr(numbers, "randbelow", lambda most: next(lots))
    assert loop.run(one.of(DOOR, "R1")) == 7
    assert loop.run(two.of(DOOR, "R2")) == 8
    monkeypatch.setattr(numbers, "randbelow", lambda most: 6)
    with pytest.raises(Fault) as caught:
        loop.run(two.of(DOOR, "R3"))
    assert caught.value.code is FaultCode.UNAVAILABLE


def test_old_numbers_are_forgotten(loop: Loop, workers: Any, clock: Clock) -> None:
    one, _, database = workers
    loop.run(one.of(DOOR, "R1"))
    clock.advance(days=31)
    loop.run(one.of(DOOR, "R2"))
    assert loop.run(database.lookup(rows.of_request, DOOR, "R1")) is None
    assert loop.run(database.lookup(rows.of_request, DOOR, "R2"))
