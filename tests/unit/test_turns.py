"""One at a time: in order, and however many wait."""

from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred

from tests.support import drive
from tmad.ca.turns import Turns


def test_a_thousand_waiters_with_nothing_to_wait_for_all_get_their_turn() -> None:
    # Twisted's DeferredLock nests them until Python refuses; the lock then stayed taken.
    turns, gate, order = Turns(), Deferred[None](), []

    async def first() -> None:
        async with turns:
            await gate

    async def other(number: int) -> None:
        async with turns:
            order.append(number)

    ensureDeferred(first())
    for number in range(5_000):
        ensureDeferred(other(number))
    assert order == []
    gate.callback(None)
    assert order == list(range(5_000))
    assert not turns.is_taken


def test_only_one_has_the_turn_and_an_error_gives_it_back() -> None:
    turns, inside, gates = Turns(), [], [Deferred[None]() for _ in range(3)]

    async def visit(number: int) -> None:
        async with turns:
            inside.append(number)
            await gates[number]
            inside.remove(number)

    visits = [ensureDeferred(visit(number)) for number in range(3)]
    assert inside == [0]
    gates[0].errback(ValueError("the visit fails"))
    visits[0].addErrback(lambda failure: failure.trap(ValueError))
    assert inside == [0, 1]  # 0 failed before it could leave its name out
    gates[1].callback(None)
    gates[2].callback(None)
    assert inside == [0]
    assert not turns.is_taken

    async def free() -> bool:
        async with turns:
            return turns.is_taken

    assert drive(free())
