"""Delta CRLs on both databases: two processes, threads, and who fails in between."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from cryptography import x509

from tests.directory_world import BASE, DirectoryWorld
from tests.hierarchy_world import ADMIN
from tests.support import Clock, drive
from tests.unit.test_delta_crl import base_of, combined, on
from tmad.ca.crl import CRL
from tmad.protocols.ldap.filters import Present
from tmad.protocols.ldap.tree import ANONYMOUS
from tmad.storage import crls, tables
from tmad.storage.database import Database

LIST = "deltaRevocationList"
NAME = "cn=issuing,ou=CAs,o=acme"


@pytest.fixture
def world(open_database: Callable[..., Database], clock: Clock) -> DirectoryWorld:
    made = DirectoryWorld(database=open_database(reactor=None), clock=clock).furnish()
    put_rules(made, 12)
    return made


@pytest.fixture
def there(world: DirectoryWorld, open_database: Callable[..., Database]) -> DirectoryWorld:
    """Another process on the same database."""
    return DirectoryWorld(world, database=open_database(reactor=None), holder="two")


def put_rules(world: DirectoryWorld, delta_hours: int | None) -> None:
    rules = {"crl": {"delta_hours": delta_hours}}
    drive(world.objects.put(ADMIN, "default", "authority", "issuing", rules))


def current(world: DirectoryWorld) -> CRL:
    issuer = drive(world.hierarchy.active("default", "issuing"))
    crl: CRL = drive(world.crls.current(issuer.id))
    return crl


def shown(world: DirectoryWorld, attribute: str = LIST) -> tuple[bytes, ...]:
    [entry] = world.search(Present("objectClass"), NAME, BASE, who=ANONYMOUS)
    return entry.attributes.get(attribute, ())


def test_any_history_by_deltas_is_the_complete_one(
    world: DirectoryWorld, there: DirectoryWorld
) -> None:
    chance = random.Random(5)
    mine = [world.mail_certificate(f"p{n}@example.test") for n in range(6)]
    held: set[int] = set()
    history = [current(world)]
    for _ in range(14):
        world.later(minutes=chance.randrange(200))
        actor, reader = chance.choice([(world, there), (there, world)])
        n = chance.randrange(len(mine))
        if n in held:
            actor.release(mine[n])
            held.remove(n)
        else:
            actor.hold(mine[n])
            held.add(n)
        crl = current(reader)
        assert current(actor) == crl
        assert set(on(crl)) == {mine[each].serial_number for each in held}
        for old in history:
            assert combined(old, crl) == on(crl)
        history.append(crl)
    assert history[-1].number == 15


def test_the_base_is_a_crl_that_was_published(world: DirectoryWorld, there: DirectoryWorld) -> None:
    for n in range(3):
        there.revoke(world.mail_certificate(f"p{n}@example.test"))
        crl = current(world)

        def numbers(connection: sa.Connection) -> list[int]:
            table = tables.crls
            query = sa.select(table.c.number).where(table.c.issuer_id == crl.issuer_id)  # noqa: B023
            return list(connection.execute(query).scalars())

        assert base_of(crl) in drive(there.database.read(numbers))


def test_what_fails_while_publishing_leaves_the_pair_before(
    world: DirectoryWorld, there: DirectoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = world.mail_certificate("alice@example.test")
    first = current(world)
    world.revoke(mine)
    original = crls.insert

    def die(connection: sa.Connection, row: crls.CRLRow) -> None:
        original(connection, row)
        raise RuntimeError("killed before the commit")

    monkeypatch.setattr(crls, "insert", die)
    with pytest.raises(RuntimeError, match="killed"):
        current(world)
    monkeypatch.undo()
    issuer = drive(there.hierarchy.active("default", "issuing"))
    head = drive(there.database.read(crls.newest, issuer.id))
    assert first.delta is not None
    assert (head.number, head.delta_der) == (first.number, first.delta.der)
    second = current(there)
    assert combined(first, second) == on(second)
    assert set(on(second)) == {mine.serial_number}


def test_the_directory_shows_it_as_it_is_now(world: DirectoryWorld, there: DirectoryWorld) -> None:
    mine = there.mail_certificate("alice@example.test")
    [first] = shown(world)
    there.revoke(mine)
    [second] = shown(world)
    assert first != second
    delta = x509.load_der_x509_crl(second)
    assert delta.get_revoked_certificate_by_serial_number(mine.serial_number) is not None
    assert delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator).critical
    crl = current(there)
    assert crl.delta is not None
    assert (crl.delta.der, crl.der) == (second, shown(world, "certificateRevocationList")[0])
    assert [entry.dn for entry in world.search(Present(LIST), who=ANONYMOUS)] == [NAME]
    put_rules(there, None)
    assert shown(world) == ()
    assert world.search(Present(LIST), who=ANONYMOUS) == []
