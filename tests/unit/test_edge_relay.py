"""Questions between workers: real sockets in a directory whose path is too long for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from tests.pumping import Pump, pumping
from tmad.edge.relay import Relay
from tmad.errors import Fault, FaultCode


class Workers:
    """Three relays in one process."""

    def __init__(self, pump: Pump, directory: Path) -> None:
        self.pump = pump
        self.directory = directory
        self.asked: list[tuple[int, bytes]] = []
        self.relays = [self.make(index) for index in range(3)]
        self.ports = [relay.open() for relay in self.relays]

    def make(self, index: int) -> Relay:
        async def answer(question: bytes) -> bytes | None:
            self.asked.append((index, question))
            if question == b"silence":
                return None
            if question == b"fault":
                raise Fault(FaultCode.MALFORMED, "no")
            if question == b"mistake":
                raise ValueError("ours")
            return question[::-1]

        return Relay("test", answer, self.directory, self.pump.reactor, index=index, count=3)

    def ask(self, asker: int, worker: int, question: bytes) -> bytes | Fault:
        results: list[Any] = self.pump.begin(self.relays[asker].ask(worker, question, patience=0.3))
        self.pump.until(lambda: results)
        [result] = results
        if isinstance(result, Failure):
            assert isinstance(result.value, Fault)
            return result.value
        assert isinstance(result, bytes)
        return result

    def close(self) -> None:
        for port in self.ports:
            port.stopListening()
        for _ in range(5):
            self.pump.turn()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with pumping() as pump:
        made = Workers(pump, tmp_path / ("long" * 30) / "run")
        yield made
        made.close()


def test_a_worker_answers_another(workers: Workers) -> None:
    assert workers.ask(0, 2, b"abc") == b"cba"
    assert workers.asked == [(2, b"abc")]
    large = bytes(range(256)) * 30
    assert workers.ask(1, 0, large) == large[::-1]


def test_silence_is_silence_and_strangers_are_unavailable(workers: Workers) -> None:
    for question in (b"silence", b"fault"):
        assert workers.ask(0, 1, question) == b""
    for worker in (0, 3, -1):
        found = workers.ask(0, worker, b"x")
        assert isinstance(found, Fault)
        assert (found.code, found.rule) == (FaultCode.UNAVAILABLE, "edge.relay")
    assert workers.relays[0]._waiting == {}


def test_more_questions_than_the_kernel_keeps_all_arrive(workers: Workers) -> None:
    questions = [b"%d" % number for number in range(200)]
    results: list[Any] = []
    for question in questions:
        asking = ensureDeferred(workers.relays[0].ask(1, question, patience=5))
        asking.addBoth(results.append)
    workers.pump.until(lambda: len(results) == len(questions))
    assert sorted(results) == sorted(question[::-1] for question in questions)
    assert [question for _, question in workers.asked] == questions
    assert workers.relays[0]._late == {}


def test_what_waits_for_a_worker_ends_with_it(workers: Workers) -> None:
    workers.ports[1].stopReading()
    results: list[Any] = []
    for number in range(40):
        asking = ensureDeferred(workers.relays[0].ask(1, b"%d" % number, patience=0.3))
        asking.addBoth(results.append)
    workers.ports[1].stopListening()
    workers.pump.until(lambda: len(results) == 40)
    assert set(results) == {b""}
    workers.pump.until(lambda: not workers.relays[0]._late)


def test_nobody_waits_for_long(workers: Workers) -> None:
    workers.ports[1].stopReading()
    assert workers.ask(0, 1, b"x") == b""
    assert workers.relays[0]._waiting == {}


def test_a_worker_that_has_ended_is_unavailable_and_its_successor_is_not(workers: Workers) -> None:
    workers.ports[1].stopListening()
    workers.pump.turn()
    workers.pump.turn()
    found = workers.ask(0, 1, b"x")
    assert isinstance(found, Fault)
    # What a killed one leaves behind is in nobody's way.
    (workers.directory / "test-1").touch()
    workers.relays[1] = workers.make(1)
    workers.ports[1] = workers.relays[1].open()
    assert workers.ask(0, 1, b"xy") == b"yx"


def test_noise_is_ignored(workers: Workers) -> None:
    relay = workers.relays[0]
    for octets in (b"", b"\x01", bytes(10), b"\x02\x00\x00" + bytes(8) + b"x", b"\x09" + bytes(20)):
        relay.datagramReceived(octets, "")
    assert workers.ask(0, 1, b"ab") == b"ba"


def test_only_we_may_enter(workers: Workers) -> None:
    assert workers.directory.stat().st_mode & 0o777 == 0o700
    assert (workers.directory / "test-0").stat().st_mode & 0o777 == 0o600
