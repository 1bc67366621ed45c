"""A journal with log collectors, and a way to them that a test holds in its hands."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock as Reactor

from tests.support import Clock, drive
from tmad.ca.authority import AUTHORITY
from tmad.errors import Fault
from tmad.events import Event
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.journal import Journal
from tmad.lifecycle.log_collectors import LOG_COLLECTOR, Collector, LogCollectors
from tmad.managed.objects import TENANT, Objects
from tmad.observe import DoorMeter
from tmad.protocols.syslog.collector import Courier
from tmad.protocols.syslog.transports import unreachable
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.journal import Record

ADMIN = Actor.administrator("local:test")


class Wire:
    """A link whose other end is a list; what is in ``unacknowledged`` may be lost."""

    peer = "a list"

    def __init__(self, world: World, lost: Callable[[str], None]) -> None:
        self._world = world
        self._lost = lost
        self.is_full = False
        self.is_open = True
        self.unacknowledged = 0

    def pending(self) -> int:
        return self.unacknowledged

    def send(self, message: bytes) -> None:
        assert self.is_open
        self._world.received.append(json.loads(message))
        self.unacknowledged += 0 if self._world.acknowledges else len(message)
        if self._world.breaks_at == len(self._world.received):
            self.break_()

    def close(self) -> None:
        self.is_open = False

    def break_(self, why: str = "cut") -> None:
        """Lose the connection."""
        self.is_open = False
        self._lost(why)


class World:
    """Tenants default and acme, their collectors and their journal, in memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = Reactor()
        self.database = Database.in_memory(clock=self.clock)
        self.journal = Journal(self.database, "node1", self.clock)
        changes = Changes(self.database)
        self.objects = Objects(
            self.database, self.journal, changes, self.clock, (TENANT, AUTHORITY, LOG_COLLECTOR)
        )
        self.collectors = LogCollectors(self.database, changes, self.journal, self.clock)
        self.meter = DoorMeter("syslog", "delivery")
        self.received: list[Any] = []
        self.acknowledges = True
        self.is_down = False
        self.unshowable = ""
        self.breaks_at: int | None = None
        self.wires: list[Wire] = []
        for tenant in ("default", "acme"):
            drive(self.objects.put(ADMIN, EVERY_TENANT, "tenant", tenant, {}))

    def put(self, name: str = "siem", tenant: str = "default", **document: Any) -> Collector:
        """Create or change a collector and return it."""
        self.change(name, tenant, **document)
        return self.collector(name, tenant)

    def change(self, name: str = "siem", tenant: str = "default", **document: Any) -> None:
        """Create or change a collector."""
        document = {"transport": "tcp", "address": "192.0.2.1:601"} | document
        drive(self.objects.put(ADMIN, tenant, "log-collector", name, document))

    def collector(self, name: str = "siem", tenant: str = "default") -> Collector:
        [found] = [
            each
            for each in drive(self.collectors.all())
            if (each.tenant, each.name) == (tenant, name)
        ]
        return found

    def courier(self, collector: Collector | None = None, *, operator: bool = False) -> Courier:
        """Hire a courier, as a process that has just got the lease does."""
        return Courier(
            collector or self.collector(),
            self.collectors,
            self.open,
            self.render,
            self.meter,
            self.reactor,
            operator=operator,
        )

    def render(self, record: Record, number: int) -> bytes:
        """Return a message; one record cannot be shown."""
        if record.object == self.unshowable:
            raise ValueError("no")
        return json.dumps([record.kind, record.object, number]).encode()

    async def open(self, collector: Collector, lost: Callable[[str], None]) -> Wire:
        """Open a wire unless the collector is down."""
        if self.is_down:
            raise unreachable("it is down")
        self.wires.append(Wire(self, lost))
        return self.wires[-1]

    def happen(self, *names: object, kind: str = "certificate.issued", **more: Any) -> None:
        """Journal something about each name."""
        for name in names:
            self.clock.advance(seconds=1)
            event = Event(kind=kind, actor="x", object=str(name), **({"tenant": "default"} | more))
            drive(self.journal.write(event))

    def turn(self, courier: Courier, times: int = 1, *, pause: float = 0.25) -> None:
        """Let a courier have its turn, and time pass as in the daemon."""
        for _ in range(times):
            done: list[object] = []
            heads = drive(self.collectors.heads())
            ensureDeferred(courier.turn(heads, self.reactor.seconds() + 1)).addBoth(done.append)
            while not done:
                self.reactor.advance(0.01)
            if done[0] is not None:
                raise AssertionError(done[0])
            self.reactor.advance(pause)

    def sent(self, kind: str = "certificate.issued") -> list[str]:
        """Return the names of what has arrived."""
        return [name for each, name, _ in self.received if each == kind]

    def journaled(self, kind: str) -> list[Record]:
        """Return the records of a kind."""
        found = drive(self.journal.tail(None, limit=500))
        return [record for record in found if record.kind == kind]

    def settled(self, name: str = "siem") -> int:
        """Return how far a collector's durable cursor is."""
        return drive(self.collectors.position(self.collector(name))).get("node1", 0)

    def refusal(self, **document: Any) -> dict[str, str]:
        """Return what is wrong with a document."""
        try:
            self.put("wrong", **document)
        except Fault as fault:
            return fault.values
        raise AssertionError("it was taken")
