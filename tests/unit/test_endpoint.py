"""Endpoints: documents checked as a whole, found by URL, never stale."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from tests.support import Clock, drive
from tmad.ca import endpoint
from tmad.ca.authority import AUTHORITY, AuthorityDocument
from tmad.ca.endpoint import EndpointDocument, Endpoints, NoOptions
from tmad.ca.profile import PROFILE
from tmad.ca.requests import EndpointID
from tmad.cli import shipped
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.journal import Journal
from tmad.managed.objects import GRANT, TENANT, Objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")
ROUTERS = EndpointID("scep", "routers")
DOCUMENT = {
    "protocol": "scep",
    "label": "routers",
    "authority": "issuing",
    "profile": "device",
}


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    legacy: bool = False


class World:
    def __init__(self) -> None:
        clock = Clock()
        database = Database.in_memory(clock=clock)
        changes = Changes(database)
        models = {"scep": Options, "est": None}
        kinds = (TENANT, GRANT, AUTHORITY, PROFILE, endpoint.kind(models))
        self.objects = Objects(database, Journal(database, "test", clock), changes, clock, kinds)
        self.endpoints = Endpoints(self.objects, models)
        for tenant in ("default", "acme"):
            drive(self.objects.put(ADMIN, EVERY_TENANT, "tenant", tenant, {}))
            drive(self.objects.put(ADMIN, tenant, "authority", "issuing", AuthorityDocument()))
            device = shipped.document(shipped.profiles()["device"])
            drive(self.objects.put(ADMIN, tenant, "profile", "device", device))

    def put(self, name: str = "scep-routers", tenant: str = "default", **changes: Any) -> Any:
        return drive(self.objects.put(ADMIN, tenant, "endpoint", name, DOCUMENT | changes))

    def by_id(self, id: EndpointID = ROUTERS) -> endpoint.Endpoint:  # noqa: A002
        return drive(self.endpoints.by_id(id))


@pytest.fixture
def world() -> World:
    return World()


def fault_of(function: Any, *arguments: Any, **named: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        function(*arguments, **named)
    return caught.value


def test_an_endpoint_is_found_by_its_url_with_its_options_parsed(world: World) -> None:
    world.put(options={"legacy": True})
    found = world.by_id()
    assert (found.id, found.tenant, found.revision) == (ROUTERS, "default", 1)
    assert found.options == Options(legacy=True)
    assert world.by_id() is found  # parsed once


def test_a_change_is_seen_at_the_next_request(world: World) -> None:
    world.put()
    assert world.by_id().options == Options()
    world.put(options={"legacy": True})
    assert world.by_id().options == Options(legacy=True)
    drive(world.objects.delete(ADMIN, "default", "endpoint", "scep-routers"))
    assert fault_of(world.by_id).code is FaultCode.NOT_FOUND


def test_a_closed_endpoint_looks_like_none(world: World) -> None:
    absent = fault_of(world.by_id)
    world.put(enabled=False)
    closed = fault_of(world.by_id)
    assert (closed.code, closed.detail) == (absent.code, absent.detail)
    assert (closed.rule, absent.rule) == ("endpoint.disabled", "endpoint.absent")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"options": {"legasy": True}}, "endpoint.scep-routers.options.legasy"),
        ({"protocol": "skep"}, "endpoint.scep-routers"),
        ({"label": "Routers"}, "label"),
        ({"label": "a/b"}, "label"),
        ({"label": "switches"}, "endpoint.scep-routers"),
        ({"authority": "absent"}, "endpoint.scep-routers"),
        ({"profile": "absent"}, "endpoint.scep-routers"),
        ({"renewal": {"profiles": ["absent"]}}, "endpoint.scep-routers"),
        ({"authenticate": []}, "authenticate"),
        ({"authenticate": ["magic"]}, "authenticate.0"),
        ({"authenticate": ["kerberos"]}, "document"),
        ({"authenticate": ["directory"]}, "document"),
        ({"directory": "absent"}, "endpoint.scep-routers"),
        ({"authenticate": ["webhook"]}, "document"),
        ({"webhook": {"url": "http://mdm.example.test"}}, "webhook.url"),
        ({"challenge": {"lifetime_hours": 800}}, "challenge"),
        ({"renewal": {"window": 3}}, "renewal.window"),
    ],
)
def test_a_mistake_is_refused_when_it_is_stored(
    world: World, changes: dict[str, Any], path: str
) -> None:
    fault = fault_of(world.put, **changes)
    assert fault.code is FaultCode.REJECTED
    assert path in fault.values
    assert fault_of(world.by_id).code is FaultCode.NOT_FOUND


def test_a_protocol_without_options_takes_none(world: World) -> None:
    world.put("est-routers", protocol="est")
    assert world.by_id(EndpointID("est", "routers")).options == NoOptions()
    fault = fault_of(world.put, "est-x", protocol="est", label="x", options={"a": 1})
    assert "endpoint.est-x.options.a" in fault.values


def test_two_tenants_cannot_have_the_same_url(world: World) -> None:
    world.put()
    assert fault_of(world.put, tenant="acme").code is FaultCode.CONFLICT
    assert world.by_id().tenant == "default"


def test_what_an_endpoint_uses_is_not_deleted(world: World) -> None:
    world.put()
    delete = world.objects.delete
    fault = fault_of(drive, delete(ADMIN, "default", "profile", "device"))
    assert fault.values["endpoint"] == "scep-routers"
    drive(delete(ADMIN, "acme", "profile", "device"))


def test_scep_06_a_fresh_endpoint_wants_one_time_challenges() -> None:
    document = EndpointDocument.model_validate(DOCUMENT)
    assert document.authenticate == ("challenge",)
    assert document.challenge.static is False
    assert document.challenge.lifetime_hours == 24


def test_a_secret_learns_its_door(world: World) -> None:
    world.put(challenge={"static": True})
    door = drive(world.endpoints.door("scep/routers"))
    assert (door.tenant, door.policy.static) == ("default", True)
    for unknown in ("scep/none", "routers", ""):
        assert fault_of(drive, world.endpoints.door(unknown)).code is FaultCode.NOT_FOUND
