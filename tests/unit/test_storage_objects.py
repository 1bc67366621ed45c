"""Rows of managed objects: revisions, conflicts, pages, and the change that announces each."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.storage import changes, objects
from tmad.storage.database import Database
from tmad.storage.objects import ObjectRow


class Store:
    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)

    def write(self, function: Any, *arguments: Any, **named: Any) -> Any:
        return drive(self.database.write(lambda c: function(c, *arguments, **named)))

    def read(self, function: Any, *arguments: Any) -> Any:
        return drive(self.database.read(function, *arguments))

    def insert(self, name: str, tenant: str = "default", **named: Any) -> ObjectRow:
        values = {"handle": None, "document": "{}", "difference": "+", "actor": "me"} | named
        row: ObjectRow = self.write(
            objects.insert, tenant, "profile", name, at=self.clock(), **values
        )
        return row

    def update(self, row: ObjectRow, **named: Any) -> ObjectRow:
        values = {"handle": row.handle, "document": "{}", "difference": "~", "actor": "me"}
        changed: ObjectRow = self.write(objects.update, row, at=self.clock(), **values | named)
        return changed

    def delete(self, row: ObjectRow) -> None:
        self.write(objects.delete, row, difference="-", actor="me", at=self.clock())

    def announced(self) -> list[tuple[str, str]]:
        return list(self.read(changes.since, 0).changes)


@pytest.fixture
def store() -> Store:
    return Store()


def test_every_change_is_a_revision_and_is_announced(store: Store) -> None:
    first = store.insert("tls", handle="h")
    store.clock.advance(minutes=1)
    second = store.update(first, document='{"a":1}')
    assert (second.revision, second.document, second.handle) == (2, '{"a":1}', "h")
    assert second.updated_at == store.clock()
    assert store.read(objects.by_name, "default", "profile", "tls") == second
    assert store.read(objects.by_handle, "profile", "h") == second
    assert store.read(objects.by_handle, "endpoint", "h") is None
    store.delete(second)
    assert store.read(objects.by_name, "default", "profile", "tls") is None
    revisions = store.read(objects.find_revisions, "default", "profile", "tls")
    assert [(r.revision, r.document) for r in revisions] == [
        (3, None),
        (2, '{"a":1}'),
        (1, "{}"),
    ]
    assert store.announced() == [("objects", "default/profile/tls")] * 3


def test_a_name_that_comes_back_goes_on_counting(store: Store) -> None:
    """A certificate names profile and revision: the pair must never mean two things."""
    store.delete(store.insert("tls"))
    assert store.insert("tls").revision == 3


def conflict(function: Any, *arguments: Any, **named: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        function(*arguments, **named)
    assert caught.value.code is FaultCode.CONFLICT
    return caught.value


def test_a_name_and_a_handle_are_taken_once(store: Store) -> None:
    store.insert("tls", handle="h")
    conflict(store.insert, "tls")
    conflict(store.insert, "other", tenant="acme", handle="h")
    other = store.insert("tls", tenant="acme")
    conflict(store.update, other, handle="h")
    assert len(store.announced()) == 2


def test_who_comes_too_late_is_told_so(store: Store) -> None:
    first = store.insert("tls")
    store.update(first)
    assert conflict(store.update, first).rule == "object.revision"
    conflict(store.delete, first)
    assert len(store.announced()) == 2


def test_pages_go_on_where_the_last_one_ended(store: Store) -> None:
    for tenant in ("acme", "default"):
        for number in range(5):
            store.insert(f"p{number}", tenant=tenant)
    page = store.read(objects.find, "acme", "profile", "p1", 2)
    assert [(row.tenant, row.name) for row in page] == [("acme", "p2"), ("acme", "p3")]
    seen, after = [], ("", "", "")
    while found := store.read(objects.find_all, after, 3):
        seen += [(row.tenant, row.name) for row in found]
        after = (found[-1].tenant, found[-1].kind, found[-1].name)
    assert seen == [(t, f"p{n}") for t in ("acme", "default") for n in range(5)]


def test_revisions_of_a_deleted_object_can_be_read(store: Store) -> None:
    row = store.insert("tls", document='{"old":1}')
    store.delete(row)
    found = store.read(objects.revision_of, "default", "profile", "tls", 1)
    assert (found.document, found.actor) == ('{"old":1}', "me")
    assert store.read(objects.revision_of, "default", "profile", "tls", 9) is None


def test_nothing_of_a_failed_change_remains(store: Store) -> None:
    def failing(connection: sa.Connection) -> None:
        objects.insert(
            connection, "default", "profile", "tls",
            handle=None, document="{}", difference="+", actor="me", at=store.clock(),
        )  # fmt: skip
        raise Fault(FaultCode.REJECTED, "no")

    with pytest.raises(Fault):
        drive(store.database.write(failing))
    assert store.announced() == []
    assert store.read(objects.find_revisions, "default", "profile", "tls") == []
