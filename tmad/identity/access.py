"""Who may do what: permissions, roles, and the check that every service function makes.

There are no negative grants: what no role allows is refused. A tenant in which an actor holds
nothing at all is answered exactly as one that does not exist.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Event
from tmad.identity.actors import EVERY_TENANT, Actor

if TYPE_CHECKING:
    from sqlalchemy import Connection

KINDS = (
    "tenant",
    "active-directory",
    "authority",
    "directory",
    "profile",
    "endpoint",
    "grant",
    "log-collector",
    "snmp-target",
    "radius-client",
    "radius-policy",
    "trust-anchor",
    "notification",
)

PERMISSIONS: frozenset[str] = frozenset(
    {f"{kind}.{verb}" for kind in KINDS for verb in ("read", "write", "delete")}
    | {f"certificate.{v}" for v in ("issue", "read", "revoke", "hold", "release", "export")}
    | {"certificate.import"}
    | {f"request.{verb}" for verb in ("read", "approve", "deny", "comment")}
    | {
        f"authority.{verb}"
        for verb in ("create", "renew", "rekey", "install", "withdraw", "import")
    }
    | {"crl.build", "crl.read", "log-collector.test", "snmp-target.test"}
    | {"secret.create", "secret.read", "secret.revoke"}
    | {"audit.read", "audit.verify", "hsm.read", "status.read"}
    | {"configuration.export", "configuration.apply"}
    | {f"{noun}.{verb}" for noun in ("person", "device") for verb in ("read", "write", "delete")}
    | {f"token.{verb}" for verb in ("read", "write", "delete", "import", "reset")}
    | {"person.password", "device.block", "session.read", "session.disconnect"}
    | {"radius-client.secret", "acme.read", "acme.write"}
    | {f"snmp-user.{verb}" for verb in ("read", "write", "delete")}
    | {"agent.read", "agent.delete"}
)

# What an operator may do everything with.
_OPERATED = (
    "certificate.",
    "secret.",
    "crl.",
    "person.",
    "device.",
    "token.",
    "acme.",
    "session.",
    "agent.",
)

_READ = frozenset(p for p in PERMISSIONS if p.endswith(".read"))

ROLES: Mapping[str, frozenset[str]] = {
    "administrator": PERMISSIONS,
    # Issues and revokes within the rules, but changes none of them.
    "operator": frozenset(
        {p for p in PERMISSIONS if p.startswith(_OPERATED)}
        | (_READ - {"audit.read", "grant.read"})
        | {"request.comment"}
    ),
    "approver": frozenset(
        {
            "request.read",
            "request.approve",
            "request.deny",
            "request.comment",
            "certificate.read",
            "authority.read",
            "profile.read",
            "endpoint.read",
            "tenant.read",
        }
    ),
    # Sees everything, changes nothing.
    "auditor": frozenset(_READ | {"audit.verify", "configuration.export"}),
    # What the appliance does by itself: its own certificates, CRLs and rollovers.
    "system": frozenset(
        _READ
        | {"certificate.issue", "certificate.revoke", "crl.build", "audit.verify"}
        | {"authority.renew", "authority.rekey", "session.disconnect"}
    ),
}

# Every service function that an actor can call: qualified name -> permission. A permission
# with "{kind}" in it depends on the argument of that name.
OPERATIONS: dict[str, str] = {}


class GrantDocument(BaseModel):
    """A role given to somebody in the tenant that holds this document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str = Field(
        min_length=1, max_length=200, description='Whose grant it is: "person:alice".'
    )
    role: Literal["administrator", "operator", "approver", "auditor"]
    description: str = Field(default="", max_length=500)


class Records(Protocol):
    """The part of the journal that this layer writes to (tmad/journal.py)."""

    def append(self, connection: Connection, *events: Event) -> None: ...

    async def write(self, *events: Event) -> None: ...

    async def refuse(
        self,
        fault: Fault,
        *,
        tenant: str,
        actor: str,
        object: str,  # noqa: A002  the journal's word
        data: Mapping[str, JSON],
    ) -> str: ...


def may(actor: Actor, permission: str, tenant: str) -> bool:
    """Tell whether ``actor`` holds ``permission`` in ``tenant`` ("*": in every tenant)."""
    return any(
        grant.covers(tenant) and permission in ROLES.get(grant.role, ()) for grant in actor.grants
    )


def require(actor: Actor, permission: str, tenant: str) -> None:
    """Raise Fault(FORBIDDEN) unless ``actor`` holds ``permission`` in ``tenant``.

    Raise NOT_FOUND when the actor holds nothing there: he must not learn that it exists.
    """
    if may(actor, permission, tenant):
        return
    held = sorted({grant.role for grant in actor.grants if grant.covers(tenant)})
    values = {"actor": actor.name, "permission": permission, "tenant": tenant}
    if not held and tenant != EVERY_TENANT:
        fault = no_such_tenant(tenant)
        fault.values = values
        raise fault
    sufficient = sorted(role for role, permissions in ROLES.items() if permission in permissions)
    raise Fault(
        FaultCode.FORBIDDEN,
        f"the permission {permission} is needed in tenant {tenant}",
        rule="access.permission",
        values=values | {"roles": ", ".join(held), "sufficient": ", ".join(sufficient)},
    )


def no_such_tenant(tenant: str) -> Fault:
    """Return the one answer for a tenant that does not exist or that an actor may not see."""
    return Fault(FaultCode.NOT_FOUND, f"there is no tenant {tenant!r}", rule="access.tenant")


F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def guarded(permission: str) -> Callable[[F], F]:
    """Check ``permission`` before an async method ``(self, actor, tenant, …)`` runs.

    Registers the method in OPERATIONS, so that the authorisation matrix covers it. A refusal
    is journaled through the ``journal`` attribute of the object, where it has one.
    """
    by_kind = "{kind}" in permission
    if not by_kind and permission not in PERMISSIONS:
        raise ValueError(f"unknown permission {permission!r}")

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        if list(signature.parameters)[:3] != ["self", "actor", "tenant"]:
            raise TypeError(f"{function.__qualname__} must start with (self, actor, tenant)")
        name = f"{function.__module__}.{function.__qualname__}"
        OPERATIONS[name] = permission

        @functools.wraps(function)
        async def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(self, *args, **kwargs).arguments
            # No tenant means all of them.
            actor, tenant = arguments["actor"], arguments["tenant"] or EVERY_TENANT
            needed = permission.format(kind=arguments["kind"]) if by_kind else permission
            try:
                require(actor, needed, tenant)
            except Fault as fault:
                await _record(self, fault, actor, tenant, name)
                raise
            return await function(self, *args, **kwargs)

        return cast(F, checked)

    return decorate


async def _record(service: object, fault: Fault, actor: Actor, tenant: str, name: str) -> None:
    journal: Records | None = getattr(service, "journal", getattr(service, "_journal", None))
    if journal is not None:
        await journal.refuse(
            fault, tenant=tenant, actor=actor.name, object="", data={"operation": name}
        )
