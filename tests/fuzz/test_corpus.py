"""Every input that was ever a finding goes through every decoder, without a fuzzer."""

from __future__ import annotations

import tracemalloc
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz.coverage.targets import TARGETS, Run
from tests.fuzz.mutations import judge
from tests.fuzz.test_cost import Door

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
MOST_MEMORY = 8_000_000  # octets, security.md G-BAD-3


@cache
def prepared(target: str) -> Run:
    return TARGETS[target].prepare()


def test_every_folder_of_the_corpus_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= TARGETS.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_g_bad_1_every_finding_stays_mended(target: str) -> None:
    run = prepared(target)
    for path in FILES:
        data = path.read_bytes()
        try:
            judge(run, data)
        except Exception as error:
            raise AssertionError(f"{path.relative_to(CORPUS)} as {target}") from error


def test_g_bad_1_every_finding_is_answered_by_the_whole_pipeline() -> None:
    door = Door()
    for path in FILES:
        data = path.read_bytes()
        try:
            assert judge(door.post, data) in (200, 400)
        except Exception as error:
            raise AssertionError(str(path.relative_to(CORPUS))) from error


@pytest.mark.parametrize("target", TARGETS)
def test_g_bad_1_good_messages_are_cheap_and_never_a_finding(target: str) -> None:
    run = prepared(target)
    for seed in TARGETS[target].seeds():
        judge(run, seed)
        tracemalloc.start()
        try:
            judge(run, seed)
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        finally:
            tracemalloc.stop()
