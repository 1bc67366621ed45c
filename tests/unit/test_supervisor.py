"""When a supervisor says of a worker that it hangs (edge/workers.py)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tmad.edge.workers import WATCHDOG_SECONDS, Supervisor

LONG = WATCHDOG_SECONDS + 1


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(["true"], [{}], said.append, stop_seconds=1)
    [worker] = made._workers
    worker.process = subprocess.Popen(["sleep", "60"])
    yield made
    made._kill()
    made._signals.close()
    made._bell.close()


def test_a_worker_of_which_nothing_is_heard_is_replaced(
    supervisor: Supervisor, said: list[str]
) -> None:
    supervisor._workers[0].heard = time.monotonic() - LONG
    supervisor._look_after()
    assert said == ["worker 0 hangs and is replaced"]


def test_whoever_was_stopped_himself_waits_for_the_others_first(
    supervisor: Supervisor, said: list[str]
) -> None:
    """A container that is frozen and thawed: its workers have said nothing either."""
    supervisor._workers[0].heard = supervisor._looked = time.monotonic() - LONG
    supervisor._look_after()
    assert said == []
    supervisor._workers[0].heard -= LONG
    supervisor._look_after()
    assert said == ["worker 0 hangs and is replaced"]
