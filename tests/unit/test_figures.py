"""The figures: counted right, of all workers together, and there while the database is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import drive
from tests.world import World
from tmad.errors import Fault, FaultCode
from tmad.lifecycle.figures import Figures, Sampler
from tmad.lifecycle.workers import Board, Door, Worker, summed
from tmad.storage import tables


class Seconds:
    def __init__(self) -> None:
        self.value = 100.0

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def world() -> World:
    world = World()
    _tenant(world, "default")
    return world


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def sampler(world: World, seconds: Seconds, tmp_path: Path) -> Sampler:
    return Sampler(
        world.database,
        world.hierarchy,
        world.keyring,
        world.clock,
        node="n1",
        data=tmp_path,
        seconds=seconds,
    )


def _tenant(world: World, name: str) -> None:
    def add(connection: sa.Connection) -> None:
        connection.execute(
            tables.objects.insert().values(
                tenant="*", kind="tenant", name=name, revision=1, document="{}",
                updated_at=world.clock(),
            )
        )  # fmt: skip

    world.write(add)


def _request(world: World, request_id: str, tenant: str, state: str) -> None:
    def add(connection: sa.Connection) -> None:
        now = world.clock()
        texts = dict.fromkeys(
            ("endpoint", "via", "transaction", "applicant", "peer", "subject", "comment",
             "decided_by"), "",
        )  # fmt: skip
        connection.execute(
            tables.requests.insert().values(
                id=request_id, tenant=tenant, state=state, body="{}", spki_sha256=b"",
                fingerprint=b"", created_at=now, updated_at=now, expires_at=now, **texts,
            )
        )  # fmt: skip

    world.write(add)


def test_certificates_are_counted_by_authority_tenant_and_window(
    world: World, sampler: Sampler
) -> None:
    ca, other = world.authority("ca"), world.authority("other")
    for serial, days in enumerate((-5, 0.5, 3, 20, 60, 400), start=1):
        world.issue(ca, serial, days=days)
    world.issue(other, 1, days=3)
    world.revoke(ca, 3)
    world.revoke(ca, 6)
    figures = drive(sampler.sample())
    signed = {known.authority: known.signed for known in figures.authorities}
    assert signed["ca"] is not None
    assert signed["other"] is not None
    assert (signed["ca"].issued, signed["ca"].revoked, signed["ca"].revoked_unexpired) == (6, 2, 2)
    assert (signed["other"].issued, signed["other"].revoked) == (1, 0)
    (tenant,) = figures.tenants
    assert tenant.valid == 4
    assert tenant.expiring == {1: 1, 7: 2, 30: 3, 90: 4}


def test_counting_takes_at_most_a_hundredth_of_the_time(
    world: World, sampler: Sampler, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = world.authority("ca")
    world.issue(ca, 1)
    drive(sampler.sample())
    world.issue(ca, 2)

    def issued() -> int:
        signed = drive(sampler.sample()).authorities[0].signed
        assert signed is not None
        return signed.issued

    seconds.value += 59
    assert issued() == 1
    seconds.value += 2
    real = world.database.read

    async def slow(*arguments: Any) -> Any:
        seconds.value += 1.0
        return await real(*arguments)

    monkeypatch.setattr(world.database, "read", slow)
    assert issued() == 2
    monkeypatch.undo()
    world.issue(ca, 3)
    seconds.value += 150
    assert issued() == 2
    seconds.value += 100
    assert issued() == 3


def test_a_crl_is_missing_current_overdue_and_expired_in_turn(
    world: World, sampler: Sampler
) -> None:
    ca = world.authority("ca")

    def state() -> str:
        return drive(sampler.sample()).authorities[0].crl_state

    assert state() == "missing"
    crl = drive(world.crls.current(ca.id))
    assert state() == "current"
    head = drive(sampler.sample()).authorities[0].crl
    assert head is not None
    assert (head.number, head.entries, head.size) == (crl.number, 0, len(crl.der))
    world.clock.advance(hours=24)
    assert state() == "current"
    world.clock.advance(hours=1)
    assert state() == "overdue"
    world.clock.advance(days=6)
    assert state() == "expired"
    world.clock.advance(days=3660)
    # Nobody believes a CRL of an authority whose own certificate is over.
    assert state() == "none"


def test_what_waits_is_counted_by_tenant(world: World, sampler: Sampler) -> None:
    _tenant(world, "acme")
    for number, state in enumerate(("pending", "pending", "issued")):
        _request(world, f"R{number}", "acme", state)
    figures = drive(sampler.sample())
    assert {known.tenant: known.pending for known in figures.tenants} == {"acme": 2, "default": 0}
    assert figures.queues["requests"] == 2


def test_the_journal_tells_who_has_not_had_it(world: World, sampler: Sampler) -> None:
    ca = world.authority("ca")
    for serial in (1, 2, 3):
        world.issue(ca, serial)
        world.revoke(ca, serial)

    drive(world.journal.transfer("one", lambda connection, records: None, 2))
    drive(world.journal.seal(world.keyring))
    journal = drive(sampler.sample()).journal
    assert journal is not None
    assert journal.records >= 3
    assert journal.behind == {"one": journal.records - 2}
    assert journal.checkpoint == 1
    assert journal.sealed_at == world.clock()


def test_without_the_database_the_last_figures_stay_and_time_goes_on(
    world: World, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = world.authority("ca")
    world.issue(ca, 1)
    drive(world.crls.current(ca.id))
    before = drive(sampler.sample())

    async def gone(*_: object) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the database is not available")

    monkeypatch.setattr(world.database, "read", gone)
    world.clock.advance(days=30)
    after = drive(sampler.sample())
    assert after.database.state == "failed"
    assert after.database.trouble == "the database is not available"
    assert after.authorities[0].crl_state == "expired"
    assert after.tenants == before.tenants
    assert after.counted_at == before.counted_at
    assert [store.state for store in after.stores] == ["ok"]


def test_without_a_database_from_the_start_there_are_figures_too(
    world: World, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the database is not available")

    monkeypatch.setattr(world.database, "read", gone)
    figures = drive(sampler.sample())
    assert figures.database.state == "failed"
    assert figures.authorities == ()
    assert figures.disk.size > 0


def test_whoever_listens_hears_of_each_sample(world: World, sampler: Sampler) -> None:
    heard: list[Figures] = []
    sampler.listen(heard.append)
    last = drive(sampler.sample())
    assert heard[-1] is last is sampler.newest


# -- workers ------------------------------------------------------------------------------------


def _door(**outcomes: int) -> Door:
    return Door(protocol="radius", door="auth", outcomes=outcomes)


@pytest.fixture
def worker(world: World) -> Worker:
    now = world.clock()
    return Worker(
        index=0, run="7", pid=8, started_at=now, sampled_at=now, lag=0.001, connections=3,
        waiting={"database-read": 2}, doors=(_door(accept=5, reject=1),),
    )  # fmt: skip


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "run")


def test_a_worker_is_read_as_it_was_written(board: Board, worker: Worker) -> None:
    board.write(worker)
    assert board.read() == (worker,)


def test_the_doors_of_all_workers_are_one(
    world: World, sampler: Sampler, worker: Worker, tmp_path: Path
) -> None:
    Board(tmp_path / "run").write(replace(worker, index=1, pid=9))
    sampler.watch(lambda: replace(worker, sampled_at=world.clock()))
    figures = drive(sampler.sample())
    (door,) = figures.doors
    assert door.outcomes == {"accept": 10, "reject": 2}
    assert (door.requests, door.refusals, door.failures) == (12, 2, 0)
    assert len(figures.workers) == 2
    assert figures.queues["database-read"] == 4


def test_an_heir_goes_on_with_the_counters_of_the_dead(board: Board, worker: Worker) -> None:
    board.write(worker)
    heir = replace(worker, pid=9, doors=(_door(accept=1),))
    for _ in range(2):
        assert board_of(board).write(heir).doors[0].outcomes == {"accept": 6, "reject": 1}
        board.write(worker)
    # The next start of the daemon begins at nothing.
    stranger = replace(worker, run="99", pid=100, doors=(_door(accept=1),))
    assert board_of(board).write(stranger).doors[0].outcomes == {"accept": 1}


def board_of(board: Board) -> Board:
    """Return the same files as another process has them."""
    return Board(board._directory)


def test_a_worker_that_is_gone_counts_but_is_not_shown(
    world: World, sampler: Sampler, worker: Worker, tmp_path: Path
) -> None:
    old = world.clock() - timedelta(minutes=5)
    board = Board(tmp_path / "run")
    board.write(replace(worker, index=1, pid=9, sampled_at=old))
    board.write(replace(worker, index=2, pid=10, run="other"))
    sampler.watch(lambda: worker)
    figures = drive(sampler.sample())
    assert [known.index for known in figures.workers] == [0]
    assert figures.doors[0].outcomes["accept"] == 10


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"doors": [{}]}', b'{"doors": 1}', b"\xff"])
def test_a_file_that_cannot_be_read_is_left_out(board: Board, worker: Worker, text: bytes) -> None:
    board.write(worker)
    path = board._directory / "figures-1.json"
    path.write_bytes(text)
    assert board.read() == (worker,)


def test_the_command_line_reads_the_daemons_doors(
    world: World, sampler: Sampler, worker: Worker, tmp_path: Path
) -> None:
    Board(tmp_path / "run").write(worker)
    assert drive(sampler.sample()).doors == worker.doors
    world.clock.advance(minutes=2)
    assert drive(sampler.sample()).workers == ()


def test_outcomes_are_failures_refusals_or_neither() -> None:
    door = Door(
        protocol="p",
        door="d",
        outcomes={"200": 1, "404": 2, "503": 4, "dropped-repeated": 8, "reject": 16, "accept": 32},
    )
    assert (door.requests, door.failures, door.refusals) == (63, 12, 18)


def test_a_percentile_names_the_bound_that_held() -> None:
    door = Door(protocol="p", door="d", outcomes={}, buckets=(90, 8, 2))
    assert door.percentile(0.9, (0.1, 0.5)) == 0.1
    assert door.percentile(0.95, (0.1, 0.5)) == 0.5
    assert door.percentile(0.99, (0.1, 0.5)) == float("inf")
    assert Door(protocol="p", door="d", outcomes={}).percentile(0.95, (0.1,)) is None


def test_sums_join_what_belongs_together() -> None:
    one, two = _door(accept=1), replace(_door(accept=2), buckets=(1, 2), seconds=0.5)
    other = replace(_door(accept=4), door="acct")
    assert summed((one, other, two)) == (
        other,
        replace(one, outcomes={"accept": 3}, buckets=(1, 2), seconds=0.5),
    )
