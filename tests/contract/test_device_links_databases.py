"""Links to profiles on both databases: of two processes that open one, one gets it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.contract.conftest import Loop
from tests.support import Clock
from tmad.storage import device_links
from tmad.storage.database import Database
from tmad.storage.device_links import DeviceLink


def link(clock: Clock, number: int = 1, **others: Any) -> DeviceLink:
    values: dict[str, Any] = {
        "id": f"01{number:024}",
        "tenant": "default",
        "endpoint": "scep/phones",
        "platform": "apple",
        "wish": '{"subject":["CN=a"]}',
        "secret_id": "01S",
        "sealed": b"sealed",
        "created_by": "person:op",
        "created_at": clock(),
        "expires_at": clock() + timedelta(hours=1),
    }
    return DeviceLink(**{**values, **others})


@pytest.fixture
def databases(open_database: Callable[..., Database]) -> tuple[Database, Database]:
    return open_database(), open_database()


def test_a_link_comes_back_as_it_was_written(
    loop: Loop, databases: tuple[Database, Database], clock: Clock
) -> None:
    one, other = databases
    made = link(clock)
    loop.run(one.write(device_links.insert, made, b"digest"))
    assert loop.run(other.lookup(device_links.by_digest, b"digest")) == made
    assert loop.run(other.lookup(device_links.by_digest, b"another")) is None
    assert loop.run(other.read(device_links.by_id, "default", made.id)) == made
    assert loop.run(other.read(device_links.by_id, "other", made.id)) is None
    for endpoint, after, found in (
        (None, "", (made,)),
        ("scep/phones", "", (made,)),
        ("scep/none", "", ()),
        (None, made.id, ()),
    ):
        page = loop.run(one.read(device_links.find, "default", endpoint, after, 10))
        assert page == found


def test_of_two_processes_that_open_a_link_one_gets_it(
    loop: Loop, databases: tuple[Database, Database], clock: Clock
) -> None:
    loop.run(databases[0].write(device_links.insert, link(clock), b"digest"))
    begun = [
        ensureDeferred(each.write(device_links.open_once, link(clock).id, f"p{n}", clock()))
        for n, each in enumerate(databases * 3)
    ]
    done = loop.run(DeferredList(begun), 60.0)
    assert sorted(result for _, result in done) == [False] * 5 + [True]
    found = loop.run(databases[1].lookup(device_links.by_digest, b"digest"))
    assert found is not None
    assert (found.sealed, found.opened_at) == (None, clock())
    assert not loop.run(databases[0].write(device_links.revoke, found.id, clock()))


def test_what_has_ended_opens_no_more_and_is_forgotten(
    loop: Loop, databases: tuple[Database, Database], clock: Clock
) -> None:
    one, other = databases
    for number in (1, 2, 3):
        loop.run(one.write(device_links.insert, link(clock, number), bytes([number])))
    assert loop.run(other.write(device_links.revoke, link(clock, 2).id, clock()))
    assert not loop.run(one.write(device_links.open_once, link(clock, 2).id, "p", clock()))
    late = clock() + timedelta(hours=1)
    assert not loop.run(one.write(device_links.open_once, link(clock, 1).id, "p", late))
    assert loop.run(one.write(device_links.forget, late, clock(), 1)) == 1
    assert loop.run(one.write(device_links.forget, late, clock(), 10)) == 1
    kept = loop.run(other.read(device_links.find, "default", None, "", 10))
    assert [row.sealed for row in kept] == [None] * 3
    assert loop.run(one.write(device_links.forget, late, late, 10)) == 3
    assert loop.run(other.read(device_links.find, "default", None, "", 10)) == ()
