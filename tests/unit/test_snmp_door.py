"""The door of the SNMP agent: booted before it answers, patient with the database, never stuck."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as ReactorClock
from twisted.logger import capturedLogs, formatEvent

from tests.snmp_world import SYSTEM, small
from tests.support import Clock, drive
from tests.unit.test_credentials import Notes
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor
from tmad.identity.snmp_access import SNMPAccess
from tmad.identity.snmp_managers import Table
from tmad.observe import DoorMeter
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import Kind
from tmad.protocols.snmp.door import Door, Station
from tmad.protocols.snmp.engine import Engine, Policy
from tmad.protocols.snmp.usm import LocalEngine, Salts
from tmad.protocols.snmp.values import NULL, encode_oid
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:root")
MANAGER = ("192.0.2.1", 50_000)
PIECE = codec.encode_binding(encode_oid((*SYSTEM, 1, 0)), NULL)
ASKED = codec.encode_community(1, b"a-community", codec.encode_pdu(Kind.GET, 7, 0, 0, [PIECE]))


class Wire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []

    def write(self, octets: bytes, address: Any) -> None:
        self.sent.append((octets, address))


class World:
    def __init__(self) -> None:
        clock = Clock()
        self.reactor = ReactorClock()
        self.database = Database.in_memory(clock=clock)
        self.access = SNMPAccess(
            self.database, Notes(), Changes(self.database), Seal(bytes(32)), clock, node="one"
        )
        drive(
            self.access.add_community(
                ADMIN, "*", "site", ["192.0.2.0/24"], secret=Secret("a-community")
            )
        )
        self.station = Station(self.access, self.build, self.reactor.seconds)
        self.meter = DoorMeter("snmp", "agent")
        self.door = Door(self.station, self.access, self.meter, self.reactor)
        self.wire = Wire()
        self.door.transport = self.wire  # type: ignore[assignment]  # all that a door needs

    def build(self, local: LocalEngine, counters: dict[str, int]) -> Engine:
        return Engine(local, small, Salts(0), self.reactor.seconds, Policy(), counters)

    def ask(self) -> int:
        """Send a question; return how many answers there are by then."""
        self.door.datagramReceived(ASKED, MANAGER)
        return len(self.wire.sent)


@pytest.fixture
def world() -> World:
    return World()


def away(*_: Any) -> Any:
    raise Fault(FaultCode.UNAVAILABLE, "the database is away")


def test_t_snmp_05_the_boots_are_counted_before_the_first_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (world.station.engine_id, world.station.boots, world.station.time()) == (b"", 0, 0)
    boot = world.access.boot
    counted: Deferred[None] = Deferred()

    async def slowly() -> Any:
        await counted
        return await boot()

    monkeypatch.setattr(world.access, "boot", slowly)
    assert [world.ask() for _ in range(3)] == [0, 0, 0]
    counted.callback(None)
    assert len(world.wire.sent) == 3
    assert world.station.boots == 1
    assert world.wire.sent[0][1] == MANAGER
    world.reactor.advance(5)
    assert world.station.time() == 5
    assert world.meter.outcomes == {"answered": 3}


def test_while_nothing_can_be_counted_nobody_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(world.access, "boot", away)
        assert world.ask() == 0
        assert world.meter.outcomes == {"unavailable": 1}
    assert world.ask() == 1


def test_without_the_database_those_may_ask_who_might(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(world.station.boot())
    with monkeypatch.context() as context:
        context.setattr(world.access, "current", _async(away))
        assert world.ask() == 0  # nobody is known yet
    assert world.ask() == 1
    with monkeypatch.context() as context:
        context.setattr(world.access, "current", _async(away))
        assert world.ask() == 2
    assert world.meter.outcomes == {"unavailable": 1, "answered": 2}


def _async(function: Any) -> Any:
    async def called() -> Table:
        result: Table = function()
        return result

    return called


def test_a_database_that_hangs_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.ask() == 1

    async def hangs() -> Table:
        found: Table = await Deferred()
        return found

    monkeypatch.setattr(world.access, "current", hangs)
    assert world.ask() == 1
    world.reactor.advance(0.6)
    assert len(world.wire.sent) == 2
    # And no more wait than that.
    for _ in range(1_100):
        world.ask()
    assert world.meter.outcomes["busy"] == 100
    world.reactor.advance(0.6)
    assert len(world.wire.sent) == 1_002


def test_what_breaks_is_counted_and_the_next_one_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.ask() == 1
    engine = world.station.engine
    assert engine is not None

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as context:
        context.setattr(engine, "answer", broken)
        assert world.ask() == 1
    assert world.meter.outcomes["failed"] == 1
    assert world.ask() == 2


def test_a_removed_community_is_refused_at_once(world: World) -> None:
    assert world.ask() == 1
    drive(world.access.remove_community(ADMIN, "*", "site"))
    assert world.ask() == 1
    assert world.meter.outcomes == {"answered": 1, "dropped-community": 1}


def test_a_silent_refusal_is_told_in_the_log(world: World) -> None:
    with capturedLogs() as logged:
        world.ask()
        world.door.tell()
        assert not logged
        for octets in (b"", ASKED.replace(b"a-community", b"b-community")):
            world.door.datagramReceived(octets, MANAGER)
        world.door.tell()
        world.door.tell()
    [line] = [formatEvent(event) for event in logged]
    assert line == ("SNMP: 2 questions without an answer, the last one of 192.0.2.1: community")
