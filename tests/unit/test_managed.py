"""Managed objects: validated, revised, journaled, exported and applied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import Event
from tmad.identity.actors import EVERY_TENANT, Actor, Grant
from tmad.managed.catalogue import GRANT, TENANT, Catalogue, Kind
from tmad.managed.objects import Objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum: int = 2048
    curves: tuple[str, ...] = ("p256",)


class Profile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    lifetime_days: int = Field(default=90, ge=1)
    key: Inner = Inner()


class Endpoint(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    profile: str


def _profile_of(document: Endpoint) -> Iterable[tuple[str, str]]:
    yield "profile", document.profile


def _refuse_forbidden_label(connection: object, tenant: str, name: str, document: Endpoint) -> None:
    if document.label == "forbidden":
        raise Fault(FaultCode.REJECTED, "no such label here", rule="test.label")


KINDS = (
    TENANT,
    GRANT,
    Kind(name="profile", model=Profile),
    Kind(
        name="endpoint",
        model=Endpoint,
        handle=lambda tenant, name, document: f"scep/{document.label}",
        references=_profile_of,
        check=_refuse_forbidden_label,
    ),
)


class Notes:
    """A journal that keeps its events in a list."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refused: list[tuple[Fault, dict[str, Any]]] = []

    def append(self, connection: object, *events: Event) -> None:
        self.events += events

    async def write(self, *events: Event) -> None:
        self.events += events

    async def refuse(self, fault: Fault, **about: Any) -> str:
        self.refused.append((fault, about))
        fault.explain_id = "TEST-0001"
        return fault.explain_id


class World:
    """One database with two tenants."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)
        self.journal = Notes()
        self.objects = self.another_process()
        for tenant in ("default", "acme"):
            drive(self.objects.put(ADMIN, EVERY_TENANT, "tenant", tenant, {}))
        self.journal.events.clear()

    def another_process(self) -> Objects:
        return Objects(self.database, self.journal, Changes(self.database), self.clock, KINDS)

    def put(self, kind: str, name: str, document: dict[str, Any], **options: Any) -> Any:
        return drive(self.objects.put(ADMIN, "default", kind, name, document, **options))


@pytest.fixture
def world() -> World:
    return World()


def refused(coroutine: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


def test_each_change_is_a_numbered_revision_with_its_difference(world: World) -> None:
    first = world.put("profile", "tls", {})
    second = world.put("profile", "tls", {"lifetime_days": 30, "key": {"minimum": 3072}})
    assert (first.action, second.action) == ("created", "changed")
    assert second.stored.revision == 2
    assert second.difference == "~ key.minimum = 2048 -> 3072\n~ lifetime_days = 90 -> 30"
    history = drive(world.objects.revisions(ADMIN, "default", "profile", "tls"))
    assert [(r.revision, r.actor) for r in history] == [(2, "local:test"), (1, "local:test")]
    assert [r.document for r in history] == [
        '{"key":{"minimum":3072},"lifetime_days":30}',
        "{}",
    ]


def test_a_change_is_journaled_and_no_change_is_not(world: World) -> None:
    world.put("profile", "tls", {"lifetime_days": 30})
    again = world.put("profile", "tls", {"lifetime_days": 30})
    assert again.action == "unchanged"
    assert again.stored.revision == 1
    [event] = world.journal.events
    assert (event.kind, event.object, event.actor) == (
        "profile.created",
        "profile/tls",
        "local:test",
    )
    assert event.data == {"revision": 1, "difference": "+ lifetime_days = 30"}


def test_all_mistakes_are_named_at_once_by_path_with_a_guess(world: World) -> None:
    fault = refused(
        world.objects.put(
            ADMIN,
            "default",
            "profile",
            "tls",
            {"lifetime_day": 1, "key": {"minimun": 1, "curves": 3}},
        )
    )
    assert fault.code is FaultCode.REJECTED
    assert fault.values["lifetime_day"] == 'unknown key, did you mean "lifetime_days"?'
    assert fault.values["key.minimun"] == 'unknown key, did you mean "minimum"?'
    assert "key.curves" in fault.values


def test_expect_refuses_a_revision_that_is_no_longer_the_newest(world: World) -> None:
    world.put("profile", "tls", {}, expect=0)
    world.put("profile", "tls", {"lifetime_days": 30}, expect=1)
    for stale in (0, 1):
        fault = refused(
            world.objects.put(
                ADMIN, "default", "profile", "tls", {"lifetime_days": 31}, expect=stale
            )
        )
        assert fault.code is FaultCode.CONFLICT
    stored = drive(world.objects.get(ADMIN, "default", "profile", "tls"))
    assert stored.document.lifetime_days == 30


def test_dry_run_tells_the_same_and_changes_nothing(world: World) -> None:
    change = world.put("profile", "tls", {"lifetime_days": 30}, dry_run=True)
    assert change.difference == "+ lifetime_days = 30"
    assert refused(world.objects.load("default", "profile", "tls")).code is FaultCode.NOT_FOUND


def test_what_is_named_must_exist_and_cannot_be_deleted(world: World) -> None:
    endpoint = {"label": "routers", "profile": "tls"}
    missing = refused(world.objects.put(ADMIN, "default", "endpoint", "scep-routers", endpoint))
    assert missing.values == {"endpoint.scep-routers": "there is no profile 'tls'"}
    world.put("profile", "tls", {})
    world.put("endpoint", "scep-routers", endpoint)
    fault = refused(world.objects.delete(ADMIN, "default", "profile", "tls"))
    assert fault.rule == "managed.referenced"
    drive(world.objects.delete(ADMIN, "default", "endpoint", "scep-routers"))
    drive(world.objects.delete(ADMIN, "default", "profile", "tls"))
    assert world.put("profile", "tls", {}).stored.revision == 3


def test_a_failed_check_leaves_nothing_behind(world: World) -> None:
    world.put("profile", "tls", {})
    refused(
        world.objects.put(
            ADMIN, "default", "endpoint", "scep-x", {"label": "forbidden", "profile": "tls"}
        )
    )
    assert drive(world.objects.load_by_handle("endpoint", "scep/forbidden")) is None


def test_a_handle_is_unique_across_tenants(world: World) -> None:
    for tenant in ("default", "acme"):
        drive(world.objects.put(ADMIN, tenant, "profile", "tls", {}))
    endpoint = {"label": "routers", "profile": "tls"}
    world.put("endpoint", "scep-routers", endpoint)
    fault = refused(world.objects.put(ADMIN, "acme", "endpoint", "scep-routers", endpoint))
    assert fault.code is FaultCode.CONFLICT
    found = drive(world.objects.load_by_handle("endpoint", "scep/routers"))
    assert found is not None
    assert found.tenant == "default"


def test_the_cache_follows_another_process_at_once(world: World) -> None:
    world.put("profile", "tls", {})
    other = world.another_process()
    assert drive(other.load("default", "profile", "tls")).document.lifetime_days == 90
    assert drive(other.load("default", "profile", "tls")) is drive(
        other.load("default", "profile", "tls")
    )
    world.put("profile", "tls", {"lifetime_days": 7})
    assert drive(other.load("default", "profile", "tls")).document.lifetime_days == 7
    drive(world.objects.delete(ADMIN, "default", "profile", "tls"))
    assert refused(other.load("default", "profile", "tls")).code is FaultCode.NOT_FOUND


def test_a_cached_handle_follows_a_move(world: World) -> None:
    world.put("profile", "tls", {})
    world.put("endpoint", "scep-a", {"label": "a", "profile": "tls"})
    other = world.another_process()
    assert drive(other.load_by_handle("endpoint", "scep/a")) is not None
    world.put("endpoint", "scep-a", {"label": "b", "profile": "tls"})
    assert drive(other.load_by_handle("endpoint", "scep/a")) is None
    assert drive(other.load_by_handle("endpoint", "scep/b")) is not None


def test_another_tenant_is_as_absent_as_one_that_does_not_exist(world: World) -> None:
    world.put("profile", "tls", {})
    stranger = Actor("person:eve", (Grant("administrator", "acme"),))
    hidden = refused(world.objects.get(stranger, "default", "profile", "tls"))
    absent = refused(world.objects.get(stranger, "nowhere", "profile", "tls"))
    assert hidden.code is absent.code is FaultCode.NOT_FOUND
    assert hidden.detail.replace("default", "nowhere") == absent.detail
    assert [f.detail for f, _ in world.journal.refused] == [hidden.detail, absent.detail]


def test_an_object_needs_a_tenant_and_a_tenant_needs_every_tenant(world: World) -> None:
    fault = refused(world.objects.put(ADMIN, "nowhere", "profile", "tls", {}))
    assert fault.code is FaultCode.NOT_FOUND
    fault = refused(world.objects.put(ADMIN, "default", "tenant", "inside", {}))
    assert fault.code is FaultCode.NOT_FOUND
    chief = Actor("person:chief", (Grant("administrator", "acme"),))
    fault = refused(world.objects.put(chief, EVERY_TENANT, "tenant", "mine", {}))
    assert fault.code is FaultCode.FORBIDDEN


def test_a_tenant_with_objects_is_not_deleted(world: World) -> None:
    drive(world.objects.put(ADMIN, "acme", "profile", "tls", {}))
    fault = refused(world.objects.delete(ADMIN, EVERY_TENANT, "tenant", "acme"))
    assert fault.code is FaultCode.CONFLICT
    drive(world.objects.delete(ADMIN, "acme", "profile", "tls"))
    drive(world.objects.delete(ADMIN, EVERY_TENANT, "tenant", "acme"))
    assert [t.name for t in drive(world.objects.visible_tenants(ADMIN))] == ["default"]


def test_grants_make_an_actor(world: World) -> None:
    grant = {"subject": "person:alice", "role": "auditor"}
    drive(world.objects.put(ADMIN, "acme", "grant", "alice-auditor", grant))
    alice = drive(world.objects.actor("person:alice"))
    assert alice.grants == (Grant("auditor", "acme"),)
    assert drive(world.objects.list(alice, "acme", "profile")) == ()
    assert refused(world.objects.put(alice, "acme", "profile", "p", {})).code is (
        FaultCode.FORBIDDEN
    )
    assert [t.name for t in drive(world.objects.visible_tenants(alice))] == ["acme"]


@pytest.mark.parametrize("name", ["", "-a", "A", "a/b", "a.b", "ä", "a" * 64, "a\n"])
def test_a_bad_name_is_refused(world: World, name: str) -> None:
    assert refused(world.objects.put(ADMIN, "default", "profile", name, {})).code is (
        FaultCode.REJECTED
    )


def fill(world: World) -> None:
    world.put("profile", "tls", {"lifetime_days": 30, "key": {"curves": ["p256", "p384"]}})
    world.put("profile", "plain", {})
    world.put("endpoint", "scep-routers", {"label": "routers", "profile": "tls"})
    grant = {"subject": "person:alice", "role": "operator"}
    drive(world.objects.put(ADMIN, "acme", "grant", "alice", grant))


def test_export_then_apply_changes_nothing(world: World) -> None:
    fill(world)
    text = drive(world.objects.export(ADMIN, None))
    assert text == drive(world.objects.export(ADMIN, None))
    changes = drive(world.objects.apply(ADMIN, None, text, prune=True))
    assert {change.action for change in changes} == {"unchanged"}
    assert drive(world.objects.export(ADMIN, None)) == text


def test_export_applied_to_an_empty_database_makes_the_same(world: World) -> None:
    fill(world)
    text = drive(world.objects.export(ADMIN, None))
    empty = World()
    drive(empty.objects.apply(ADMIN, None, text))
    assert drive(empty.objects.export(ADMIN, None)) == text


def test_apply_prunes_only_when_asked(world: World) -> None:
    fill(world)
    text = "[tenant.default.profile.tls]\nlifetime_days = 31\n"
    kept = drive(world.objects.apply(ADMIN, None, text))
    assert [(c.action, c.difference) for c in kept if c.action != "unchanged"] == [
        ("changed", '~ key.curves = ["p256", "p384"] -> ["p256"]\n~ lifetime_days = 30 -> 31')
    ]
    pruned = drive(world.objects.apply(ADMIN, None, text, prune=True))
    assert [(c.stored.kind, c.stored.name) for c in pruned if c.action == "deleted"] == [
        ("endpoint", "scep-routers"),
        ("profile", "plain"),
    ]
    assert drive(world.objects.actor("person:alice")).grants  # acme is not in the file


def test_apply_is_all_or_nothing_and_names_every_mistake(world: World) -> None:
    before = drive(world.objects.export(ADMIN, None))
    broken = """
        [tenant.default.profile.good]
        [tenant.default.profile.bad]
        lifetime_days = 0
        keys = 1
        [tenant.default.profil.other]
        [tenants.x]
    """
    fault = refused(world.objects.apply(ADMIN, None, broken))
    assert set(fault.values) == {
        "tenant.default.profile.bad.lifetime_days",
        "tenant.default.profile.bad.keys",
        "tenant.default.profil",
        "tenants",
    }
    dangling = """
        [tenant.default.profile.good]
        [tenant.default.endpoint.scep-a]
        label = "a"
        profile = "absent"
    """
    fault = refused(world.objects.apply(ADMIN, None, dangling))
    assert set(fault.values) == {"tenant.default.endpoint.scep-a"}
    assert drive(world.objects.export(ADMIN, None)) == before


def test_apply_confined_to_a_tenant_touches_no_other(world: World) -> None:
    chief = Actor("person:chief", (Grant("administrator", "acme"),))
    own = "[tenant.acme.profile.tls]\n"
    drive(world.objects.apply(chief, "acme", own))
    stranger = own + "[tenant.default.profile.tls]\n"
    assert refused(world.objects.apply(chief, "acme", stranger)).code is FaultCode.REJECTED
    assert refused(world.objects.apply(chief, None, own)).code is FaultCode.FORBIDDEN
    assert refused(world.objects.apply(chief, "default", own)).code is FaultCode.NOT_FOUND


def test_concurrent_puts_of_one_revision_let_one_win(world: World) -> None:
    """Both read revision 1 before either writes, as two nodes on PostgreSQL may."""
    world.put("profile", "tls", {})
    catalogue = Catalogue(world.journal, world.clock, KINDS)

    def both(connection: Any) -> None:
        from tmad.storage import objects as rows

        seen = rows.by_name(connection, "default", "profile", "tls")
        assert seen is not None
        catalogue.put(
            connection, ADMIN, "default", "profile", "tls", Profile(lifetime_days=1), None
        )
        rows.update(
            connection,
            seen,
            handle=None,
            document="{}",
            difference="",
            actor="other",
            at=world.clock(),
        )

    fault = refused(world.database.write(both))
    assert fault.code is FaultCode.CONFLICT
    stored = drive(world.objects.get(ADMIN, "default", "profile", "tls"))
    assert (stored.revision, stored.document.lifetime_days) == (1, 90)
