"""Coroutines begun by hand: most of ours wait for nothing, and a Deferred costs 5 µs."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def run(coroutine: Coroutine[Deferred[Any], Any, object]) -> None:
    """Run a coroutine whose outcome nobody asks for; it must keep its exceptions to itself."""
    try:
        waiting = coroutine.send(None)
    except StopIteration:
        return
    # Nobody needs a Deferred of the whole: that would take another 15 µs.
    waiting.addBoth(_go_on, coroutine, copy_context())


def _go_on(
    outcome: object, coroutine: Coroutine[Deferred[Any], Any, object], context: Context
) -> None:
    try:
        if isinstance(outcome, Failure):
            waiting = context.run(outcome.throwExceptionIntoGenerator, coroutine)
        else:
            waiting = context.run(coroutine.send, None)
    except StopIteration:
        return
    waiting.addBoth(_go_on, coroutine, context)


async def rest(coroutine: Coroutine[Any, Any, T], waiting: Awaitable[object]) -> T:
    """Go on with a coroutine that was started by hand and waits for a Deferred."""
    while True:
        try:
            try:
                result = await waiting
            except Exception as error:
                waiting = coroutine.throw(error)
            else:
                waiting = coroutine.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
