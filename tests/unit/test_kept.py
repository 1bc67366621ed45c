"""What is kept of the database is never older than the last news (tmad/storage/kept.py)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tmad.errors import Fault, FaultCode
from tmad.storage.kept import Kept, KeptByKey

_FORGET = {
    "the same": lambda kept: kept.forget("a"),
    "another": lambda kept: kept.forget("b"),
    "some": lambda kept: kept.forget_where(lambda key: key == "b"),
    "all": lambda kept: kept.forget_all(),
}


def _fill(coroutine: Any) -> tuple[list[Any], Deferred[None]]:
    answers: list[Any] = []
    return answers, ensureDeferred(coroutine).addCallback(answers.append)


def test_a_value_is_kept() -> None:
    kept: Kept[str] = Kept()
    answer: Deferred[str] = Deferred()
    answers, _ = _fill(kept.fill(answer))
    assert kept.value is None

    answer.callback("new")

    assert (answers, kept.value) == (["new"], "new")


def test_what_was_read_before_the_news_is_returned_and_not_kept() -> None:
    kept: Kept[str] = Kept()
    answer: Deferred[str] = Deferred()
    answers, _ = _fill(kept.fill(answer))

    kept.forget()
    answer.callback("old")

    assert (answers, kept.value) == (["old"], None)


def test_an_older_answer_does_not_follow_a_newer_one() -> None:
    kept: Kept[str] = Kept()
    older: Deferred[str] = Deferred()
    newer: Deferred[str] = Deferred()
    _fill(kept.fill(older))
    kept.forget()
    _fill(kept.fill(newer))

    newer.callback("new")
    older.callback("old")

    assert kept.value == "new"


@pytest.mark.parametrize("how", _FORGET)
def test_no_news_of_any_key_lets_an_answer_be_kept(how: str) -> None:
    kept: KeptByKey[str, str] = KeptByKey()
    answer: Deferred[str] = Deferred()
    answers, _ = _fill(kept.fill("a", answer))

    _FORGET[how](kept)
    answer.callback("old")

    assert (answers, kept.get("a")) == (["old"], None)


@pytest.mark.parametrize(
    ("how", "left"),
    [("the same", {"b"}), ("another", {"a"}), ("some", {"a"}), ("all", set())],
)
def test_only_what_is_concerned_is_dropped(how: str, left: set[str]) -> None:
    kept: KeptByKey[str, str] = KeptByKey()
    for key in ("a", "b"):
        answer: Deferred[str] = Deferred()
        _fill(kept.fill(key, answer))
        answer.callback(key.upper())

    _FORGET[how](kept)

    assert {key for key in ("a", "b") if kept.get(key) == key.upper()} == left


def test_what_does_not_exist_takes_no_room() -> None:
    kept: KeptByKey[str, str | None] = KeptByKey()
    answer: Deferred[str | None] = Deferred()
    _fill(kept.fill("a", answer))

    answer.callback(None)

    assert not kept._values


def test_what_may_not_be_kept_is_not() -> None:
    kept: KeptByKey[str, int] = KeptByKey(keeps=lambda value: value > 1)
    for key, value in (("a", 1), ("b", 2)):
        answer: Deferred[int] = Deferred()
        _fill(kept.fill(key, answer))
        answer.callback(value)

    assert [kept.get(key) for key in ("a", "b")] == [None, 2]


def test_the_oldest_makes_room() -> None:
    kept: KeptByKey[int, int] = KeptByKey(largest=2)
    for number in (1, 2, 3):
        answer: Deferred[int] = Deferred()
        _fill(kept.fill(number, answer))
        answer.callback(number)

    assert [kept.get(number) for number in (1, 2, 3)] == [None, 2, 3]


def test_a_read_that_fails_leaves_what_was_kept() -> None:
    kept: KeptByKey[str, str] = KeptByKey()
    first: Deferred[str] = Deferred()
    _fill(kept.fill("a", first))
    first.callback("A")
    second: Deferred[str] = Deferred()
    _, failing = _fill(kept.fill("a", second))

    second.errback(Fault(FaultCode.UNAVAILABLE, "no database"))

    failing.addErrback(lambda failure: failure.trap(Fault))
    assert kept.get("a") == "A"
