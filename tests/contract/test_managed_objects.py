"""Managed objects and enrolment secrets on both databases, with real threads at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.python.failure import Failure

from tests.support import Clock
from tmad.ca import endpoint
from tmad.ca.authority import AUTHORITY, AuthorityDocument
from tmad.ca.endpoint import Endpoints
from tmad.ca.profile import PROFILE
from tmad.cli import shipped
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.identity.credentials import EnrollSecrets
from tmad.journal import Journal
from tmad.managed.objects import GRANT, TENANT, Kind, Objects
from tmad.signer.seal import Seal
from tmad.storage import tables
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.enroll_secrets import by_digest

ADMIN = Actor.administrator("local:test")
ENDPOINT: dict[str, Any] = {
    "protocol": "scep",
    "label": "a",
    "authority": "issuing",
    "profile": "device",
}


class World:
    def __init__(self, database: Database, loop: Any, clock: Clock) -> None:
        self.database = database
        self.loop = loop
        self.clock = clock
        models = {"scep": None}
        journal = Journal(database, "test", clock)
        kinds = (TENANT, GRANT, AUTHORITY, PROFILE, endpoint.kind(models))
        self.objects = Objects(database, journal, Changes(database), clock, kinds)
        door = Endpoints(self.objects, models).door
        self.secrets = EnrollSecrets(database, journal, Seal(b"k" * 32), clock, door)
        self.run(self.objects.put(ADMIN, EVERY_TENANT, "tenant", "default", {}))
        self.put("authority", "issuing", AuthorityDocument())
        self.put("profile", "device", shipped.document(shipped.profiles()["device"]))

    def run(self, coroutine: Any) -> Any:
        return self.loop.run(coroutine)

    def put(self, kind: str, name: str, document: Any, **options: Any) -> Any:
        return self.run(self.objects.put(ADMIN, "default", kind, name, document, **options))

    def at_once(self, *coroutines: Any) -> list[Any]:
        """Begin all before waiting for any; return results and Faults."""
        begun = DeferredList([ensureDeferred(c) for c in coroutines], consumeErrors=True)
        results = []
        for _, result in self.loop.run(begun):
            if isinstance(result, Failure):
                result.trap(Fault)
                result = result.value
            results.append(result)
        return results


@pytest.fixture
def world(database: Database, loop: Any, clock: Clock) -> World:
    return World(database, loop, clock)


def test_a_static_secret_is_kept_until_any_process_revokes_it(
    world: World, open_database: Callable[..., Database]
) -> None:
    world.put("endpoint", "scep-a", ENDPOINT | {"challenge": {"static": True}})
    row, clear = world.run(world.secrets.create(ADMIN, "default", "scep/a", uses=None))
    other = open_database()
    reads: list[bytes] = []

    async def door(endpoint: str) -> Any:
        raise AssertionError(endpoint)

    async def lookup(function: Any, *arguments: Any) -> Any:
        reads.append(arguments[-1])
        return await Database.lookup(other, function, *arguments)

    changes = Changes(other)
    other.lookup = lookup  # type: ignore[method-assign]
    secrets = EnrollSecrets(
        other, Journal(other, "b", world.clock), Seal(b"k" * 32), world.clock, door, changes
    )
    digest = secrets.digest("scep/a", clear)
    for _ in range(3):
        assert world.run(secrets.find("scep/a", digest)).id == row.id
    assert reads.count(digest) == 1
    _, once = world.run(world.secrets.create(ADMIN, "default", "scep/a"))
    for _ in range(3):
        world.run(secrets.find("scep/a", secrets.digest("scep/a", once)))
    assert reads.count(secrets.digest("scep/a", once)) == 3  # it changes with each use

    world.run(world.secrets.revoke(ADMIN, "default", row.id))

    with pytest.raises(Fault) as caught:
        world.run(secrets.find("scep/a", digest))
    assert caught.value.rule == "secret.revoked"


def test_scep_02_fifty_claims_at_once_let_one_win(world: World) -> None:
    world.put("endpoint", "scep-a", ENDPOINT)
    row, secret = world.run(world.secrets.create(ADMIN, "default", "scep/a"))
    digest = world.secrets.digest("scep/a", secret)

    def use(connection: Any, request: str) -> str:
        found = by_digest(connection, "scep/a", digest)
        assert found is not None
        world.secrets.check_usable(found)
        world.secrets.claim(connection, [(row.id, request)], world.clock())
        return request

    results = world.at_once(*(world.database.write(use, f"r{n}") for n in range(50)))
    winners = [result for result in results if isinstance(result, str)]
    assert len(winners) == 1
    losers = [result for result in results if isinstance(result, Fault)]
    assert {fault.detail for fault in losers} == {"the challenge was not accepted"}
    assert len(losers) == 49


def test_twenty_puts_at_once_of_one_revision_let_one_win(world: World) -> None:
    put = world.objects.put
    grant = {"subject": "person:a", "role": "auditor"}
    world.put("grant", "g", grant)
    results = world.at_once(
        *(
            put(ADMIN, "default", "grant", "g", grant | {"description": str(n)}, expect=1)
            for n in range(20)
        )
    )
    assert [getattr(r, "action", None) for r in results].count("changed") == 1
    assert [getattr(r, "code", None) for r in results].count(FaultCode.CONFLICT) == 19
    history = world.run(world.objects.revisions(ADMIN, "default", "grant", "g"))
    assert [revision.revision for revision in history] == [2, 1]


def test_a_reference_and_its_targets_deletion_at_once_leave_nothing_dangling(
    world: World,
) -> None:
    for number in range(10):
        name = f"p{number}"
        world.put("profile", name, shipped.document(shipped.profiles()["device"]))
        world.at_once(
            world.objects.put(ADMIN, "default", "endpoint", "scep-a", ENDPOINT | {"profile": name}),
            world.objects.delete(ADMIN, "default", "profile", name),
        )
        profiles = {p.name for p in world.run(world.objects.list(ADMIN, "default", "profile"))}
        for stored in world.run(world.objects.list(ADMIN, "default", "endpoint")):
            assert stored.document.profile in profiles


def test_export_and_apply_round_trip(world: World) -> None:
    world.put("endpoint", "scep-a", ENDPOINT)
    text = world.run(world.objects.export(ADMIN, None))
    changes = world.run(world.objects.apply(ADMIN, None, text, prune=True))
    assert {change.action for change in changes} == {"unchanged"}
    names = [t.name for t in world.run(world.objects.visible_tenants(ADMIN))]
    assert names == ["default"]


def test_a_secret_is_listed_revoked_and_gone(world: World) -> None:
    world.put("endpoint", "scep-a", ENDPOINT)
    made = [world.run(world.secrets.create(ADMIN, "default", "scep/a"))[0] for _ in range(3)]
    page = world.run(world.secrets.list(ADMIN, "default", "scep/a", limit=2))
    rest = world.run(world.secrets.list(ADMIN, "default", "scep/a", after=page[-1].id))
    assert sorted(row.id for row in (*page, *rest)) == sorted(row.id for row in made)
    assert world.run(world.secrets.revoke(ADMIN, "default", made[0].id)) is True
    assert world.run(world.secrets.revoke(ADMIN, "default", made[0].id)) is False


class Before(BaseModel):
    """A kind as the version before knows it."""

    model_config = ConfigDict(extra="forbid")

    colour: str = "grey"
    size: int | None = 3


class After(Before):
    """The same kind with one more key."""

    shape: str = "round"


def test_nodes_of_two_versions_share_what_says_nothing_new(
    database: Database, loop: Any, clock: Clock
) -> None:
    journal = Journal(database, "test", clock)
    old, new = (
        Objects(
            database, journal, Changes(database), clock, (TENANT, Kind(name="profile", model=model))
        )
        for model in (Before, After)
    )
    loop.run(new.put(ADMIN, EVERY_TENANT, "tenant", "default", {}))
    loop.run(new.put(ADMIN, "default", "profile", "plain", {"colour": "red", "size": None}))
    read = loop.run(old.load("default", "profile", "plain"))
    assert read.document == Before(colour="red", size=None)
    # What the old one changes keeps what it cannot say, for nobody has said it.
    loop.run(old.put(ADMIN, "default", "profile", "plain", {"colour": "blue"}))
    assert loop.run(new.load("default", "profile", "plain")).document == After(colour="blue")
    # A document that uses the new key is refused, not read without it.
    loop.run(new.put(ADMIN, "default", "profile", "shaped", {"shape": "square"}))
    with pytest.raises(ValidationError, match="shape"):
        loop.run(old.load("default", "profile", "shaped"))
    assert loop.run(old.load("default", "profile", "plain")).document == Before(colour="blue")


def test_a_document_with_its_defaults_is_the_same_without_them(
    database: Database, loop: Any, clock: Clock
) -> None:
    """As the versions before stored them all."""
    journal = Journal(database, "test", clock)
    kinds = (TENANT, Kind(name="profile", model=After))
    objects = Objects(database, journal, Changes(database), clock, kinds)
    loop.run(objects.put(ADMIN, EVERY_TENANT, "tenant", "default", {}))
    loop.run(objects.put(ADMIN, "default", "profile", "full", {"colour": "red"}))
    everything = '{"colour":"red","shape":"round","size":3}'
    whole = sa.update(tables.objects).where(tables.objects.c.name == "full")
    loop.run(database.write(lambda c: c.execute(whole.values(document=everything))))
    same = loop.run(objects.put(ADMIN, "default", "profile", "full", {"colour": "red"}))
    assert (same.action, same.stored.revision) == ("unchanged", 1)
