"""Alarms: begun, grown worse and over, each told once and dampened, whatever restarts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import drive
from tests.world import World
from tmad.audit import Audit
from tmad.lifecycle import alarms
from tmad.lifecycle.alarms import Alarms, Condition
from tmad.lifecycle.figures import DiskFigures, Figures, Sampler
from tmad.lifecycle.workers import Worker
from tmad.signer.keyring import StoreHealth
from tmad.storage import alarms as rows
from tmad.storage import tables


@pytest.fixture
def world() -> World:
    world = World()

    def add(connection: sa.Connection) -> None:
        connection.execute(
            tables.objects.insert().values(
                tenant="*", kind="tenant", name="default", revision=1, document="{}",
                updated_at=world.clock(),
            )
        )  # fmt: skip

    world.write(add)
    return world


@pytest.fixture
def service(world: World) -> Alarms:
    return _service(world)


def _service(world: World) -> Alarms:
    audit = Audit(world.journal, world.keyring)
    return Alarms(world.database, world.journal, audit, world.clock)


def _told(world: World) -> list[tuple[str, str, str]]:
    """Return (kind, alarm, severity) of every event, oldest first."""
    records = drive(world.journal.tail(None, limit=500))
    data = [(record.kind, json.loads(record.data)) for record in records]
    return [(k, d["alarm"], d["severity"]) for k, d in data if k.startswith("alarm.")]


LOST = Condition(name="keys-lost", object="n1/pkcs11", severity="critical", text="no slot")


def _settle(service: Alarms, conditions: Iterable[Condition], node: str = "n1") -> int:
    return drive(service.settle(conditions, alarms.NODE, node=node))


def test_what_begins_is_told_once_and_kept_while_it_is_so(world: World, service: Alarms) -> None:
    assert _settle(service, [LOST]) == 1
    for _ in range(5):
        world.clock.advance(seconds=15)
        # Another process on the same database knows of it too.
        assert _settle(_service(world), [LOST]) == 0
    assert _told(world) == [("alarm.raised", "keys-lost", "critical")]
    (row,) = drive(service.current())
    assert (row.text, row.since) == ("no slot", world.clock() - timedelta(seconds=75))


def test_what_is_over_is_told_and_forgotten_after_a_day(world: World, service: Alarms) -> None:
    _settle(service, [LOST])
    world.clock.advance(seconds=15)
    assert _settle(service, []) == 1
    assert _told(world)[1:] == [("alarm.cleared", "keys-lost", "critical")]
    assert drive(service.current()) == ()
    world.clock.advance(days=1)
    _settle(service, [])
    assert drive(world.database.read(rows.find)) == ()


def test_flapping_is_told_once_an_hour_each_way(world: World, service: Alarms) -> None:
    for _ in range(60):
        _settle(service, [LOST])
        world.clock.advance(seconds=15)
        _settle(service, [])
        world.clock.advance(seconds=15)
    # Half an hour of it: told lost, told well, then silence.
    assert len(_told(world)) == 2
    _settle(service, [LOST])
    world.clock.advance(minutes=31)
    # It stayed lost: once the hour is over that must be heard.
    _settle(service, [LOST])
    assert [kind for kind, *_ in _told(world)] == ["alarm.raised", "alarm.cleared", "alarm.raised"]
    assert [row.name for row in drive(service.current())] == ["keys-lost"]


def test_what_grows_worse_is_told_at_once_and_what_grows_better_is_not(
    world: World, service: Alarms
) -> None:
    low = Condition(name="disk-low", object="n1", severity="warning", text="10 %")
    for severity in ("warning", "critical", "error", "critical"):
        _settle(service, [replace(low, severity=severity, text=severity)])
    assert [severity for *_, severity in _told(world)] == ["warning", "critical"]
    (row,) = drive(service.current())
    assert (row.severity, row.text) == ("critical", "critical")


def test_a_node_clears_only_what_is_its_own(world: World, service: Alarms) -> None:
    _settle(service, [LOST])
    other = replace(LOST, object="n2/pkcs11")
    _settle(service, [other], node="n2")
    assert _settle(service, [], node="n2") == 1
    assert [row.object for row in drive(service.current())] == ["n1/pkcs11"]


def test_the_event_and_the_row_are_one_transaction(
    world: World, service: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("the journal is full")

    monkeypatch.setattr(world.journal, "append", full)
    with pytest.raises(RuntimeError):
        _settle(service, [LOST])
    monkeypatch.undo()
    assert drive(service.current()) == ()
    assert _settle(service, [LOST]) == 1


# -- conditions ---------------------------------------------------------------------------------


@pytest.fixture
def sampler(world: World, tmp_path: Path) -> Sampler:
    return Sampler(
        world.database, world.hierarchy, world.keyring, world.clock, node="n1", data=tmp_path
    )


def _seen(figures: Figures) -> list[tuple[str, str, str]]:
    return [(c.name, c.object, c.severity) for c in alarms.everywhere(figures)]


def test_a_crl_that_is_not_replaced_alarms_and_then_grows_worse(
    world: World, sampler: Sampler
) -> None:
    ca = world.authority("ca")
    assert _seen(drive(sampler.sample())) == []
    drive(world.crls.current(ca.id))
    assert _seen(drive(sampler.sample())) == []
    world.clock.advance(hours=25)
    assert _seen(drive(sampler.sample())) == [("crl-stale", "authority/ca", "error")]
    world.clock.advance(days=6)
    assert _seen(drive(sampler.sample())) == [("crl-stale", "authority/ca", "critical")]


@pytest.mark.parametrize(
    ("days", "severity"), [(91, None), (89, "warning"), (29, "error"), (6, "critical")]
)
def test_the_end_of_an_authority_is_announced(
    world: World, sampler: Sampler, days: int, severity: str | None
) -> None:
    ca = world.authority("ca")
    assert ca.not_after is not None
    world.clock.time = ca.not_after - timedelta(days=days)
    expected = [] if severity is None else [("authority-expiring", "authority/ca", severity)]
    assert _seen(drive(sampler.sample())) == expected


def _node(world: World, **more: Any) -> list[tuple[str, str, str]]:
    now = world.clock()
    worker = Worker(
        index=0, run="1", pid=1, started_at=now - timedelta(hours=1), sampled_at=now, lag=0,
        connections=0,
    )  # fmt: skip
    figures = Figures(
        sampled_at=now,
        node="n1",
        database=drive(
            Sampler(
                world.database,
                world.hierarchy,
                world.keyring,
                world.clock,
                node="n1",
                data=Path(),
            ).sample()
        ).database,
        disk=DiskFigures(size=100, free=50),
        workers=(worker,),
    )
    found = alarms.of_node(replace(figures, **more), 2 if "workers" in more else 1)
    return [(c.name, c.object, c.severity) for c in found]


def test_a_key_store_a_disk_and_a_worker_alarm_for_their_node(world: World) -> None:
    assert _node(world) == []
    well = StoreHealth(store="soft", state="ok")
    lost = StoreHealth(store="pkcs11", state="degraded", reason="the token is gone")
    assert _node(world, stores=(well, lost)) == [("keys-lost", "n1/pkcs11", "critical")]
    assert _node(world, disk=DiskFigures(size=1000, free=45)) == [("disk-low", "n1", "error")]
    assert _node(world, disk=DiskFigures(size=0, free=0)) == []
    now = world.clock()
    old = Worker(
        index=0, run="1", pid=1, started_at=now - timedelta(hours=1), sampled_at=now, lag=0,
        connections=0,
    )  # fmt: skip
    assert _node(world, workers=(old,)) == [("workers-missing", "n1", "error")]
    young = replace(old, started_at=now - timedelta(seconds=10))
    assert _node(world, workers=(young,)) == []


def _name(world: World, certificate_id: int, value: str) -> None:
    def add(connection: sa.Connection) -> None:
        connection.execute(
            tables.certificate_names.insert().values(
                certificate_id=certificate_id, kind="dns", value=value, tenant="default"
            )
        )

    world.write(add)


def test_certificates_that_end_are_told_once_a_day_until_they_are_renewed(
    world: World, service: Alarms, sampler: Sampler
) -> None:
    ca = world.authority("ca")
    _name(world, world.issue(ca, 1, days=3), "a.test")
    _name(world, world.issue(ca, 2, days=6), "b.test")
    world.issue(ca, 3, days=300)
    drive(world.crls.current(ca.id))
    for _ in range(8):
        drive(service.watch(drive(sampler.sample())))
        world.clock.advance(hours=3)
    assert _told(world) == [("alarm.raised", "certificates-expiring", "warning")]
    drive(world.crls.build(_admin(), "default", "ca"))
    drive(service.watch(drive(sampler.sample())))
    assert len(_told(world)) == 2
    (row,) = drive(service.current())
    assert row.text.startswith("2 certificates of tenant default end within 7 days")
    _name(world, world.issue(ca, 4, days=300), "a.test")
    _name(world, world.issue(ca, 5, days=300), "b.test")
    world.clock.advance(hours=2)
    drive(service.watch(drive(sampler.sample())))
    assert _told(world)[-1] == ("alarm.cleared", "certificates-expiring", "warning")


def _admin() -> Any:
    from tests.world import ADMIN

    return ADMIN


def test_revoked_ones_and_our_own_are_not_counted(world: World) -> None:
    ca = world.authority("ca")
    world.issue(ca, 1, days=3)
    world.revoke(ca, 1)
    own = world.issue(ca, 2, days=3)

    def ours(connection: sa.Connection) -> None:
        table = tables.certificates
        connection.execute(table.update().where(table.c.id == own).values(via="system"))

    world.write(ours)
    now = world.clock()
    arguments = ("default", now, now + timedelta(days=7), 10)
    assert drive(world.database.read(rows.ending, *arguments)) is None


# -- the journal --------------------------------------------------------------------------------


def test_a_broken_journal_alarms_and_is_verified_once_a_day(world: World, service: Alarms) -> None:
    ca = world.authority("ca")
    for serial in (1, 2, 3):
        world.issue(ca, serial)
        world.revoke(ca, serial)
    drive(world.journal.seal(world.keyring))
    assert drive(service.verify_due())
    assert not drive(_service(world).verify_due())
    assert _told(world) == []

    def tamper(connection: sa.Connection) -> None:
        table = tables.journal
        connection.execute(table.update().where(table.c.seq == 2).values(actor="somebody else"))

    world.write(tamper)
    world.clock.advance(hours=23)
    assert not drive(service.verify_due())
    world.clock.advance(hours=1)
    assert drive(service.verify_due())
    assert _told(world) == [("alarm.raised", "audit-broken", "critical")]
    (row,) = drive(service.current())
    assert "altered" in row.text


def test_without_a_database_nothing_is_settled(world: World, service: Alarms) -> None:
    figures = drive(
        Sampler(
            world.database, world.hierarchy, world.keyring, world.clock, node="n1", data=Path()
        ).sample()
    )
    gone = replace(figures, database=replace(figures.database, state="failed"))
    assert drive(service.watch(gone)) == 0
    assert drive(service.watch_node(gone, 4)) == 0
