"""Users and engines of SNMP on both databases, as several processes see them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contract.conftest import Loop
from tests.support import Clock
from tmad.errors import Fault
from tmad.identity.actors import Actor
from tmad.identity.snmp_access import SNMPAccess
from tmad.journal import Journal
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")


def access(database: Database, clock: Clock, node: str = "n1") -> SNMPAccess:
    journal = Journal(database, node, clock)
    return SNMPAccess(database, journal, Changes(database), Seal(b"k" * 32), clock, node=node)


def test_users_are_the_same_everywhere_at_once(
    loop: Loop, open_database: Callable[..., Database], clock: Clock, dialect: str
) -> None:
    one, two = (access(open_database(), clock, name) for name in ("n1", "n2"))
    assert not loop.run(two.current()).users
    loop.run(one.add_user(ADMIN, "*", "noc"))
    loop.run(one.add_community(ADMIN, "*", "site", ["192.0.2.0/24"]))
    found = loop.run(two.current())
    assert list(found.users) == [b"noc"]
    assert len(found.communities) == 1
    assert loop.run(two.current()) is found
    # SQLite shows without a question that nothing has changed.
    assert two.ready() is (None if dialect == "postgresql" else found)
    with pytest.raises(Fault) as caught:
        loop.run(two.add_user(ADMIN, "*", "noc"))
    assert caught.value.rule == "snmp.name.taken"
    loop.run(one.remove_user(ADMIN, "*", "noc"))
    assert two.ready() is None
    assert not loop.run(two.current()).users
    assert [row.name for row in loop.run(one.communities(ADMIN, "*"))] == ["site"]


def test_t_snmp_05_boots_rise_whoever_starts(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    for boots in range(1, 6):
        # Another process each time, as after a kill.
        state = loop.run(access(open_database(), clock).boot())
        assert (state.boots, state.age) == (boots, 0.0)
    other = loop.run(access(open_database(), clock, "n2").boot())
    assert other.boots == 1
    assert other.engine_id != state.engine_id
    clock.advance(seconds=7)
    assert loop.run(access(open_database(), clock).engine()).age == 7.0
