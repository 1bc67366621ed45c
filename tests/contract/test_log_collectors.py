"""Log collectors' places in the journal, on both databases and with several chains."""

from __future__ import annotations

from typing import Any

from tests.support import Clock
from tmad.events import Event
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.journal import Journal
from tmad.lifecycle.log_collectors import LOG_COLLECTOR, Collector, LogCollectors
from tmad.managed.objects import TENANT, Objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")


class Place:
    def __init__(self, database: Database, loop: Any, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._nodes = {name: Journal(database, name, clock) for name in ("one", "two")}
        changes = Changes(database)
        journal = self._nodes["one"]
        self.objects = Objects(database, journal, changes, clock, (TENANT, LOG_COLLECTOR))
        self.collectors = LogCollectors(database, changes, journal, clock)
        self.run(self.objects.put(ADMIN, EVERY_TENANT, "tenant", "default", {}))

    def run(self, work: Any) -> Any:
        return self._loop.run(work)

    def happen(self, node: str, *names: str) -> None:
        for name in names:
            self._clock.advance(seconds=1)
            event = Event(kind="x.happened", tenant="default", actor="x", object=name)
            self.run(self._nodes[node].write(event))

    def create(self, name: str, **document: Any) -> Collector:
        document = {"transport": "udp", "address": "192.0.2.1:514"} | document
        self.run(self.objects.put(ADMIN, "default", "log-collector", name, document))
        found: Collector
        [found] = [each for each in self.run(self.collectors.all()) if each.name == name]
        return found


def test_a_place_in_every_chain(database: Database, loop: Any, clock: Clock) -> None:
    place = Place(database, loop, clock)
    place.happen("one", "before")
    siem = place.create("siem")
    place.happen("one", "a")
    place.happen("two", "b")
    place.happen("one", "c")
    reached = place.run(place.collectors.position(siem))
    records = place.run(place.collectors.after(reached, 100))
    assert [r.object for r in records if r.kind == "x.happened"] == ["a", "b", "c"]
    for record in records[:-1]:
        reached[record.writer] = record.seq
    place.run(place.collectors.settle(siem, reached))
    again = place.run(place.collectors.position(siem))
    assert [r.object for r in place.run(place.collectors.after(again, 100))] == ["c"]
    found = place.run(place.collectors.waiting(ADMIN, "default", "siem"))
    assert (found.records, found.since) == (1, clock())
    # A cursor never goes back.
    place.run(place.collectors.settle(siem, dict.fromkeys(reached, 1)))
    assert place.run(place.collectors.position(siem)) == again


def test_pages_are_merged_by_time_and_lose_nothing(
    database: Database, loop: Any, clock: Clock
) -> None:
    place = Place(database, loop, clock)
    siem = place.create("siem", start="beginning", events=["x.happened"])
    for number in range(6):
        place.happen("one", f"{number}a", f"{number}b", f"{number}c")
        place.happen("two", f"{number}d")
    clock.advance(hours=-1)  # a clock that was set back
    place.happen("two", "back1", "back2", "back3")
    position: dict[str, int] = {}
    names = []
    while records := place.run(place.collectors.after(position, 2)):
        for record in records:
            position[record.writer] = record.seq
            if siem.wants(record, operator=False):
                names.append(record.object)
    assert sorted(names) == sorted(
        [f"{n}{c}" for n in range(6) for c in "abcd"] + ["back1", "back2", "back3"]
    )
    forward = [name for name in names if not name.startswith("back")]
    assert forward == sorted(forward)


def test_deleting_takes_the_cursors_along(database: Database, loop: Any, clock: Clock) -> None:
    place = Place(database, loop, clock)
    siem = place.create("siem")
    place.happen("one", "a")
    assert place.run(place.collectors.position(siem))
    place.run(place.objects.delete(ADMIN, "default", "log-collector", "siem"))
    assert place.run(place.collectors.position(siem)) == {}
    # Whoever delivered to it until now does not bring them back.
    place.run(place.collectors.settle(siem, {"one": 1}))
    assert place.run(place.collectors.position(siem)) == {}


def test_a_dry_run_leaves_no_cursor(database: Database, loop: Any, clock: Clock) -> None:
    place = Place(database, loop, clock)
    siem = place.create("siem")
    document = {"transport": "udp", "address": "192.0.2.1:514"}
    put = place.objects.put(ADMIN, "default", "log-collector", "dry", document, dry_run=True)
    place.run(put)
    assert [each.name for each in place.run(place.collectors.all())] == [siem.name]
