"""Authorities on both databases, with two processes that see each other's work."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.hierarchy_world import ADMIN, World, subject
from tests.support import drive
from tmad.ca import generation
from tmad.ca.trust import check_path
from tmad.errors import Fault, FaultCode
from tmad.storage import leases, tables
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerState


@pytest.fixture
def two(database_url: str) -> Iterator[tuple[World, World]]:
    first, second = Database(database_url), Database(database_url)
    one = World(database=first)
    yield one, World(one, holder="two", database=second)
    closing: list[Deferred[None]] = [first.close(), second.close()]
    assert all(deferred.called for deferred in closing)


def test_the_life_of_an_authority_is_the_same_in_both_processes(
    two: tuple[World, World],
) -> None:
    one, other = two
    one.create("root")
    other.create("sub", parent="root")
    one.endpoint("routers", "sub")
    first = drive(other.service_certificates.current("scep-ra", "scep/routers"))
    assert drive(one.service_certificates.current("scep-ra", "scep/routers")).id == first.id
    drive(one.ceremony.rekey(ADMIN, "default", "sub"))
    new = drive(other.ceremony.activate(ADMIN, "default", "sub"))
    assert one.leaf("sub").issuer_id == new.id
    old, present = drive(one.hierarchy.generations("default", "sub"))
    assert (old.state, present.state) == (IssuerState.RETIRED, IssuerState.ACTIVE)
    second = drive(one.service_certificates.current("scep-ra", "scep/routers"))
    assert second.issuer_id == new.id
    valid = drive(other.service_certificates.valid("scep-ra", "scep/routers"))
    assert [c.id for c in valid] == [second.id, first.id]
    renewed = drive(other.ceremony.renew(ADMIN, "default", "root"))
    chain = drive(one.hierarchy.by_id(new.id)).chain
    assert chain[1] == renewed.certificate
    check_path(chain, one.clock())


def test_a_subject_is_taken_for_every_process(two: tuple[World, World]) -> None:
    one, other = two
    one.create("root", subject=subject("CN=the root"))
    with pytest.raises(Fault) as caught:
        other.create("again", subject=subject("CN=the root"))
    assert caught.value.rule == "authority.subject"
    assert one.count(tables.private_keys) == 1


def test_one_process_at_a_time_holds_a_ceremony(two: tuple[World, World]) -> None:
    one, other = two
    lease = drive(
        one.database.write(leases.acquire, "authority:default/root", "one", 60.0, one.clock())
    )
    assert lease is not None
    with pytest.raises(Fault) as caught:
        other.create("root")
    assert caught.value.code is FaultCode.CONFLICT
    drive(one.database.write(leases.release, lease, one.clock()))
    assert other.create("root").state is IssuerState.ACTIVE


def test_a_renewal_at_the_same_time_does_not_undo_that_a_key_is_compromised(
    two: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.create("root")
    sign, has_read, is_compromised = generation.sign, Event(), Event()

    def slowly(*arguments: Any) -> Any:
        has_read.set()
        is_compromised.wait(1.0)  # in vain where the other one has to wait
        return sign(*arguments)

    def renew() -> None:
        drive(one.ceremony.renew(ADMIN, "default", "root"))

    def compromise() -> None:
        drive(other.ceremony.compromise(ADMIN, "default", "root"))
        is_compromised.set()

    monkeypatch.setattr(generation, "sign", slowly)
    threads = [Thread(target=renew), Thread(target=compromise)]
    threads[0].start()
    assert has_read.wait(10.0)
    threads[1].start()
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()
    assert is_compromised.is_set()
    [root] = drive(one.hierarchy.generations("default", "root"))
    assert root.state is IssuerState.WITHDRAWN
    assert root.compromised_at is not None
