"""Coroutines begun by hand: they go on with what they waited for, in the context they began in."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
from twisted.internet.defer import Deferred

from tmad import coroutines

_NAME: ContextVar[str] = ContextVar("name", default="nobody")


@pytest.mark.parametrize("fails", [False, True])
def test_it_goes_on_with_the_result_or_the_failure(fails: bool) -> None:
    waits: list[Deferred[str]] = [Deferred(), Deferred()]
    seen: list[str] = []

    async def talk() -> None:
        _NAME.set("alice")
        for each in waits:
            try:
                seen.append(await each)
            except ValueError as error:
                seen.append(f"no {error}")
        seen.append(_NAME.get())

    coroutines.run(talk())
    assert seen == []
    for number, each in enumerate(waits):
        if fails:
            each.errback(ValueError(str(number)))
        else:
            each.callback(f"yes {number}")
    word = "no" if fails else "yes"
    assert seen == [f"{word} 0", f"{word} 1", "alice"]
