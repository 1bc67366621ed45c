"""Alarms, figures and what is told of them, on both databases and from two processes at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.ca_bench import Bench, asked
from tmad.audit import Audit
from tmad.ca.requests import Issued
from tmad.events import Event
from tmad.journal import Journal
from tmad.lifecycle import alarms, snmp_targets
from tmad.lifecycle.alarms import Alarms, Condition
from tmad.lifecycle.figures import Sampler
from tmad.storage import snmp_targets as rows
from tmad.storage import tables
from tmad.storage.database import Database

LOST = Condition(name="keys-lost", object="n1/pkcs11", severity="critical", text="no slot")


def _kinds(loop: Loop, database: Database) -> list[str]:
    def read(connection: sa.Connection) -> list[str]:
        journal = tables.journal
        query = sa.select(journal.c.kind).order_by(journal.c.at)
        return [kind for kind in connection.execute(query).scalars() if kind.startswith("alarm.")]

    return loop.run(database.read(read))


def test_two_processes_tell_of_an_alarm_once(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    opened = [open_database() for _ in range(2)]
    services = []
    for number, database in enumerate(opened):
        journal = Journal(database, f"node-{number}", clock)
        no_audit: Any = Audit(journal, None)  # type: ignore[arg-type]  # nothing is verified here
        services.append(Alarms(database, journal, no_audit, clock))

    def settle(*conditions: Condition) -> list[int]:
        work = [
            ensureDeferred(service.settle(conditions, alarms.NODE, node="n1"))
            for service in services * 4
        ]
        return [result for _, result in loop.run(DeferredList(work, fireOnOneErrback=True))]

    assert sum(settle(LOST)) == 1
    assert sum(settle(LOST)) == 0
    clock.advance(seconds=10)
    assert sum(settle()) == 1
    assert _kinds(loop, opened[0]) == ["alarm.raised", "alarm.cleared"]


def test_a_subscriber_gets_its_kinds_in_windows(
    loop: Loop, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_WINDOW", 3)
    journal = Journal(database, "one", clock)
    for number in range(10):
        kind = "alarm.raised" if number % 4 == 0 else "certificate.issued"
        event = Event(kind=kind, tenant="default", actor="system", object=str(number))
        loop.run(journal.write(event))
    found: list[str] = []
    turns = 0
    while True:
        news = loop.run(database.read(rows.news, "someone", snmp_targets.KINDS))
        if news.is_nothing:
            break
        turns += 1
        found += [record.object for record in news.records]
        loop.run(database.write(rows.settle, "someone", news.reached))
    assert found == ["0", "4", "8"]
    # On PostgreSQL each connection may write a chain of its own.
    assert turns == 4 or database.dialect == "postgresql"


def test_the_figures_are_the_same_on_both(
    loop: Loop, database: Database, clock: Clock, tmp_path: Path
) -> None:
    b = loop.run(Bench(database=database, clock=clock).prepare())
    outcome = loop.run(b.authority.enroll(asked(secret=loop.run(b.secret()))))
    assert isinstance(outcome, Issued)
    sampler = Sampler(database, b.hierarchy, b.keyring, clock, node="n1", data=tmp_path)
    figures = loop.run(sampler.sample())
    assert figures.database.state == "ok"
    signed = {known.id: known.signed for known in figures.authorities}[outcome.issuer_id]
    assert signed is not None
    assert signed.issued >= 1
    assert figures.journal is not None
    assert figures.journal.records > 0
    tenant = next(known for known in figures.tenants if known.tenant == "default")
    assert tenant.valid is not None
    assert tenant.valid >= 1
    assert tenant.expiring is not None
    assert set(tenant.expiring) == {1, 7, 30, 90}
