"""Notifications on both databases, gathered and sent by two processes at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.internet.task import deferLater

from tests.contract.conftest import Loop
from tests.support import Clock
from tests.unit.test_notifications import ADMIN, Post
from tmad.events import Event
from tmad.identity.delivery.mail import Submitted
from tmad.journal import Journal
from tmad.lifecycle import notification, webhooks
from tmad.lifecycle.notify import Notifications
from tmad.managed.objects import TENANT, Objects
from tmad.signer.seal import Seal
from tmad.storage import deliveries
from tmad.storage.changes import Changes
from tmad.storage.database import Database

RECORDS = 300


class SlowPost(Post):
    """Takes a while over each message, so that others could take it, too."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor

    async def submit(
        self, to: Any, subject: str, text: str, *, name: str, waits: bool
    ) -> Submitted:
        await deferLater(self._reactor, 0.02)
        return await super().submit(to, subject, text, name=name, waits=waits)


class Worker:
    """One process: its own database, journal and mail server."""

    def __init__(self, database: Database, loop: Loop, clock: Clock, name: str) -> None:
        self.loop = loop
        self.database = database
        self.journal = Journal(database, name, clock)
        changes = Changes(database)
        self.objects = Objects(
            database, self.journal, changes, clock, (TENANT, notification.kind())
        )
        self.post = SlowPost(loop.reactor)
        self.service = Notifications(
            database,
            self.journal,
            changes,
            clock,
            node=name,
            mail=self.post,  # type: ignore[arg-type]  # the part of it that is used
            webhooks=webhooks.WebhookSender(loop.reactor, Seal(b"k" * 32), clock),
        )

    async def write(self, number: int) -> None:
        await self.journal.write(
            Event(
                kind="certificate.issued",
                tenant="default",
                actor="scep/x",
                object=f"{self.service._node}-{number}",
            )
        )


@pytest.fixture
def workers(
    open_database: Callable[..., Database], loop: Loop, clock: Clock
) -> tuple[Worker, Worker]:
    one, two = (Worker(open_database(), loop, clock, f"node{n}") for n in (1, 2))
    loop.run(one.objects.put(ADMIN, "*", "tenant", "default", {}))
    document = {
        "when": {"events": ["certificate.*"]},
        "mail": {"to": ["ops@example.test"]},
        "per_hour": 1_000,
    }
    loop.run(one.objects.put(ADMIN, "default", "notification", "all", document))
    clock.advance(seconds=1)
    return one, two


def test_two_that_gather_at_once_tell_of_each_record_once(
    workers: tuple[Worker, Worker], loop: Loop
) -> None:
    async def everything() -> None:
        work = [each.write(number) for number in range(RECORDS) for each in workers]
        gathering = [each.service.gather() for _ in range(10) for each in workers]
        mixed = [one for pair in zip(work[::30], gathering, strict=False) for one in pair]
        rest = [one for one in work if one not in mixed]
        await DeferredList([ensureDeferred(one) for one in (*mixed, *rest)], fireOnOneErrback=True)
        for each in workers:
            await each.service.gather()

    loop.run(everything(), seconds=60)
    rows = loop.run(workers[0].service.deliveries(ADMIN, "default", "all", limit=10_000))
    assert sum(row.events for row in rows) == 2 * RECORDS
    places = [place for row in rows for place in row.places]
    assert len(places) == len(set(places))


def test_two_that_send_at_once_send_each_message_once(
    workers: tuple[Worker, Worker], loop: Loop, clock: Clock
) -> None:
    one, two = workers

    async def everything() -> None:
        for number in range(5):
            await one.write(number)
        await one.service.gather()
        for _ in range(60):
            await DeferredList(
                [ensureDeferred(each.service.send_due()) for each in workers],
                fireOnOneErrback=True,
            )
            await deferLater(loop.reactor, 0.01)

    loop.run(everything(), seconds=60)
    loop.run(one.service.close())
    loop.run(two.service.close())
    names = [sent["name"] for each in workers for sent in each.post.sent]
    assert len(names) == len(set(names)) == 5
    rows = loop.run(one.service.deliveries(ADMIN, "default", "all"))
    assert {row.state for row in rows} == {"delivered"}


def test_rows_come_and_go(database: Database, loop: Loop, clock: Clock) -> None:
    journal = Journal(database, "node1", clock)
    loop.run(
        journal.write(
            Event(kind="a.b", tenant="t", actor="x"), Event(kind="a.c", tenant="t", actor="x")
        )
    )
    records = loop.run(journal.tail("t"))
    now = clock()

    def add(connection: Any) -> int:
        return deliveries.insert(
            connection, "t", "n", message="m", records=records[:1], now=now,
            due_at=now + timedelta(minutes=1),
        )  # fmt: skip

    key = loop.run(database.write(add))
    row = loop.run(database.read(deliveries.by_id, "t", key))
    assert row is not None
    assert loop.run(database.write(deliveries.gather, row, records[1:], now))
    row = loop.run(database.read(deliveries.by_id, "t", key))
    assert row is not None
    assert (row.events, row.counts) == (2, {"a.b": 1, "a.c": 1})
    assert loop.run(database.read(deliveries.find_records, row.places)) == records
    later = now + timedelta(minutes=2)
    assert loop.run(database.read(deliveries.due, now, 10)) == []
    assert loop.run(database.read(deliveries.due, later, 10)) == [("t", "n", key)]
    claimed = loop.run(database.write(deliveries.claim, key, later, later + timedelta(minutes=1)))
    assert claimed is not None
    assert claimed.attempts == 1
    assert loop.run(database.write(deliveries.claim, key, later, later)) is None
    assert not loop.run(database.write(deliveries.gather, row, records, now))
    done = lambda connection: deliveries.finish(  # noqa: E731
        connection, claimed, "delivered", "taken", done_at=later
    )
    assert loop.run(database.write(done))
    assert not loop.run(database.write(done))
    assert loop.run(database.write(deliveries.send_again, "t", key, "m2", later))
    assert loop.run(database.write(deliveries.give_up, "t", "n", "no", later)) == 1
    assert loop.run(database.write(deliveries.prune, later, 10)) == 0
    assert loop.run(database.write(deliveries.prune, later + timedelta(seconds=1), 10)) == 1
