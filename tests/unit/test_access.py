"""Permissions, roles and the guard."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.identity import access
from tmad.identity.access import (
    OPERATIONS,
    PERMISSIONS,
    ROLES,
    GrantDocument,
    guarded,
    may,
    require,
)
from tmad.identity.actors import Actor, Grant


class Refusals:
    def __init__(self) -> None:
        self.noted: list[tuple[str, dict[str, Any]]] = []

    async def refuse(self, fault: Fault, **about: Any) -> str:
        self.noted.append((fault.rule, about))
        fault.explain_id = "TEST-0001"
        return fault.explain_id


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The class below is no operation of tmad: the matrix must not see it.
    monkeypatch.setattr(access, "OPERATIONS", dict(OPERATIONS))

    class Door:
        def __init__(self) -> None:
            self.journal = Refusals()
            self.opened = 0

        @guarded("certificate.revoke")
        async def open(self, actor: Actor, tenant: str, *, wide: bool = False) -> str:
            self.opened += 1
            return f"{tenant} {wide}"

        @guarded("{kind}.write")
        async def change(self, actor: Actor, tenant: str | None, kind: str) -> str:
            self.opened += 1
            return kind

    assert {n.rpartition(".")[2] for n in access.OPERATIONS if "Door" in n} == {"open", "change"}
    return Door()


def test_roles_hold_known_permissions_only() -> None:
    for role, permissions in ROLES.items():
        assert permissions <= PERMISSIONS, role


def test_an_auditor_changes_nothing() -> None:
    verbs = {permission.partition(".")[2] for permission in ROLES["auditor"]}
    assert verbs == {"read", "verify", "export"}
    assert "certificate.export" not in ROLES["auditor"]


def test_the_system_grants_no_rights_and_writes_no_rules() -> None:
    assert not {p for p in ROLES["system"] if p.endswith((".write", ".delete", ".apply"))}


def test_nobody_can_be_granted_the_systems_role() -> None:
    with pytest.raises(ValidationError):
        GrantDocument.model_validate({"subject": "person:eve", "role": "system"})


def test_a_missing_permission_names_itself_and_who_has_it() -> None:
    auditor = Actor("person:alice", (Grant("auditor", "acme"),))
    with pytest.raises(Fault) as caught:
        require(auditor, "certificate.revoke", "acme")
    assert caught.value.code is FaultCode.FORBIDDEN
    assert caught.value.values["permission"] == "certificate.revoke"
    assert caught.value.values["roles"] == "auditor"
    assert caught.value.values["sufficient"] == "administrator, operator, system"


def test_a_grant_reaches_into_its_tenant_only() -> None:
    operator = Actor("person:bob", (Grant("operator", "acme"),))
    assert may(operator, "certificate.revoke", "acme")
    assert not may(operator, "certificate.revoke", "other")
    assert not may(operator, "certificate.revoke", "*")
    with pytest.raises(Fault) as caught:
        require(operator, "certificate.revoke", "other")
    assert caught.value.code is FaultCode.NOT_FOUND


def test_an_unknown_role_and_an_unknown_permission_allow_nothing() -> None:
    assert not may(Actor("x", (Grant("root", "*"),)), "certificate.read", "acme")
    with pytest.raises(Fault) as caught:
        require(Actor.administrator("x"), "certificate.forge", "acme")
    assert caught.value.code is FaultCode.FORBIDDEN


def test_the_guard_runs_the_method_only_with_the_permission(door: Any) -> None:
    assert drive(door.open(Actor.administrator("x"), "acme", wide=True)) == "acme True"
    assert drive(door.open(actor=Actor.administrator("x"), tenant="acme")) == "acme False"
    for actor in (Actor("nobody"), Actor("a", (Grant("auditor", "*"),))):
        with pytest.raises(Fault) as caught:
            drive(door.open(actor, "acme"))
        assert caught.value.explain_id == "TEST-0001"
    assert door.opened == 2
    assert [rule for rule, _ in door.journal.noted] == ["access.tenant", "access.permission"]


def test_the_guard_checks_the_permission_of_the_kind(door: Any) -> None:
    operator = Actor("x", (Grant("operator", "*"),))
    with pytest.raises(Fault):
        drive(door.change(operator, "acme", "profile"))
    with pytest.raises(Fault):
        drive(door.change(Actor.administrator("x"), "acme", "unheard-of"))
    assert drive(door.change(Actor.administrator("x"), None, kind="profile")) == "profile"


def test_no_tenant_means_every_tenant(door: Any) -> None:
    chief = Actor("chief", (Grant("administrator", "acme"),))
    with pytest.raises(Fault) as caught:
        drive(door.change(chief, None, "profile"))
    assert caught.value.code is FaultCode.FORBIDDEN


def test_a_guard_with_a_permission_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="unknown permission"):
        guarded("certificate.forge")


def test_a_guarded_method_names_actor_and_tenant_first() -> None:
    with pytest.raises(TypeError, match="must start with"):

        @guarded("certificate.read")
        async def look(self: object, tenant: str, actor: Actor) -> None: ...
