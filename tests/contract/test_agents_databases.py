"""Agents' reports on both databases: several workers at once, and rows that stay."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.ca_bench import ADMIN, Bench, asked
from tmad.ca.agents import Agents
from tmad.ca.requests import EndpointID, Issued, Password
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.storage import agents
from tmad.storage.database import Database
from tmad.wire.reports import Report

DOOR = EndpointID("est", "devices")


@pytest.fixture
def b(loop: Loop, database: Database, clock: Clock) -> Bench:
    made = loop.run(Bench(database=database, clock=clock).prepare())
    loop.run(made.open("est", "devices", authenticate=["password"], people={"names": "any"}))
    loop.run(made.accounts.person("alice", "correct horse battery"))
    return made


def process(b: Bench) -> Agents:
    return Agents(
        database=b.database,
        journal=b.journal,
        hierarchy=b.hierarchy,
        status=b.status,
        endpoints=b.endpoints,
        objects=b.objects,
        now=b.clock,
    )


def certificate(loop: Loop, b: Bench) -> bytes:
    outcome = loop.run(
        b.authority.enroll(
            asked(
                via="est",
                endpoint=DOOR,
                credential=Password("alice", Secret("correct horse battery")),
            )
        )
    )
    assert isinstance(outcome, Issued)
    return outcome.certificate.public_bytes(Encoding.DER)


def report(id: str = "0" * 16, **changes: Any) -> Report:  # noqa: A002
    return Report(
        **{
            "id": id, "host": "h", "label": "l", "version": "1", "source": "est", "state": "good",
            "served": "", "error": "", "renew_at": None, **changes,
        }
    )  # fmt: skip


def test_two_workers_hear_of_one_agent_at_once(loop: Loop, b: Bench) -> None:
    der = certificate(loop, b)
    workers = (process(b), process(b))
    begun = [
        ensureDeferred(workers[number % 2].report(der, report(host=f"h{number}")))
        for number in range(12)
    ]
    done = loop.run(DeferredList(begun, consumeErrors=True), 60.0)
    faults = [result.value for _, result in done if isinstance(result, Failure)]
    # Whoever lost the race for the first row comes again a second later.
    assert {fault.code for fault in faults} <= {FaultCode.UNAVAILABLE}, faults
    rows = loop.run(workers[0].list(ADMIN, "default"))
    assert [row.id for row in rows] == ["0" * 16]


def test_pages_states_and_silence(loop: Loop, b: Bench, clock: Clock) -> None:
    der, service = certificate(loop, b), process(b)
    for number in range(5):
        state = "failing" if number % 2 else "good"
        loop.run(service.report(der, report(f"{number:016x}", state=state)))
    clock.advance(days=3)
    loop.run(service.report(der, report(f"{1:016x}", state="good")))
    first = loop.run(service.list(ADMIN, "default", limit=2))
    rest = loop.run(service.list(ADMIN, "default", after=first[-1].id))
    assert [row.id[-1] for row in (*first, *rest)] == ["0", "1", "2", "3", "4"]
    failing = loop.run(service.list(ADMIN, "default", state="failing"))
    assert [row.id[-1] for row in failing] == ["3"]
    silent = loop.run(service.list(ADMIN, "default", silent_for=timedelta(days=1)))
    assert [row.id[-1] for row in silent] == ["0", "2", "3", "4"]
    loop.run(service.forget(ADMIN, "default", f"{0:016x}"))
    with pytest.raises(Fault) as caught:
        loop.run(service.forget(ADMIN, "default", f"{0:016x}"))
    assert caught.value.rule == "agent.unknown"


def test_a_row_is_added_once(loop: Loop, b: Bench) -> None:
    der, service = certificate(loop, b), process(b)
    loop.run(service.report(der, report()))
    (row,) = loop.run(service.list(ADMIN, "default"))
    with pytest.raises(Fault) as caught:
        loop.run(b.database.write(agents.insert, row))
    assert caught.value.rule == "agent.twice"
