"""What a transaction does to managed objects: read, put, delete, bring to a wanted state.

Everything here runs inside a database transaction; tmad/managed/objects.py is what others call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from tmad import documents
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import KINDS, GrantDocument, Records, no_such_tenant
from tmad.identity.actors import EVERY_TENANT, Actor, Grant
from tmad.managed import configuration
from tmad.storage import objects as rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
PAGE = 500

Reference: TypeAlias = tuple[str, str]  # kind and name, in the same tenant


class PrincipalRules(BaseModel):
    """How a certificate without a named owner is taken for a person's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: tuple[Literal["upn", "email", "dns", "cn"], ...] = Field(
        default=("upn", "email", "dns", "cn"),
        description="Names of a certificate that may be a person's, the most telling first.",
    )
    realms: tuple[str, ...] = Field(
        default=(), description="Domains that a name may end in: bob@example.test is bob."
    )


class TenantDocument(BaseModel):
    """One tenant: its objects are invisible to every other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", max_length=500)
    principals: PrincipalRules = PrincipalRules()


def _nothing(*arguments: Any) -> None:
    """Stand for a hook that a kind does not need."""


def _no_references(document: Any) -> Iterable[Reference]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of managed object.

    ``handle`` gives the name that must be unique across tenants, if the kind has one.
    ``references`` names what must exist beside a document, and is refused deletion while it
    is named. ``check`` and ``check_delete`` run inside the transaction and raise
    Fault(REJECTED) or Fault(CONFLICT).
    """

    name: str
    model: type[BaseModel]
    handle: Callable[[str, str, Any], str | None] = _nothing
    references: Callable[[Any], Iterable[Reference]] = _no_references
    check: Callable[[Connection, str, str, Any], None] = _nothing
    check_delete: Callable[[Connection, str, str, Any], None] = _nothing


def _check_tenant_gone(connection: Connection, tenant: str, name: str, document: Any) -> None:
    for kind in KINDS:
        if kind != "tenant" and rows.find(connection, name, kind, "", 1):
            raise Fault(
                FaultCode.CONFLICT,
                f"tenant {name} still has an object of kind {kind}",
                rule="managed.referenced",
                values={"tenant": name, "kind": kind},
            )


TENANT = Kind(name="tenant", model=TenantDocument, check_delete=_check_tenant_gone)
GRANT = Kind(name="grant", model=GrantDocument)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A managed object as the database holds it; ``document`` is its kind's model."""

    tenant: str
    kind: str
    name: str
    revision: int
    document: Any
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a put, delete or apply did or, in a dry run, would do to one object.

    ``action`` is "created", "changed", "deleted" or "unchanged"; ``stored`` is what is there
    afterwards, or was there before a deletion.
    """

    action: str
    difference: str
    stored: Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One entry of an object's history; no document means that it was deleted."""

    revision: int
    difference: str
    actor: str
    at: datetime
    document: str | None


class Catalogue:
    """The managed objects, for use inside a transaction."""

    def __init__(self, journal: Records, now: Clock, kinds: Iterable[Kind]) -> None:
        self.kinds = {kind.name: kind for kind in kinds}
        self._journal = journal
        self._now = now

    def put(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        kind: str,
        name: str,
        document: BaseModel,
        expect: int | None,
    ) -> Change:
        definition = self.kind(kind)
        _check_place(connection, tenant, kind, name)
        row = rows.by_name(connection, tenant, kind, name)
        text = documents.canonical(document)
        old = None if row is None else self._model(kind, row.document)
        # Compared as it is read today: what an older version stored lacks newer defaults.
        is_same = old is not None and documents.canonical(old) == text
        if row is not None and is_same and expect in (None, row.revision):
            return Change(action="unchanged", difference="", stored=self.stored(row))
        _check_expected(row, expect, kind, name)
        change = documents.difference(old, document)
        handle = definition.handle(tenant, name, document)
        now = self._now()
        if row is None:
            new = rows.insert(
                connection,
                tenant,
                kind,
                name,
                handle=handle,
                document=text,
                difference=change,
                actor=actor.name,
                at=now,
            )
        else:
            new = rows.update(
                connection,
                row,
                handle=handle,
                document=text,
                difference=change,
                actor=actor.name,
                at=now,
            )
        # Checked after the write: on PostgreSQL that is from where on the writers of managed
        # objects wait for each other, so what is true here is still true at the commit.
        for other, target in definition.references(document):
            if rows.by_name(connection, tenant, other, target) is None:
                raise documents.rejection({f"{kind}.{name}": f"there is no {other} {target!r}"})
        definition.check(connection, tenant, name, document)
        action = "created" if row is None else "changed"
        self._tell(connection, actor, f"{kind}.{action}", new, change)
        return Change(action=action, difference=change, stored=self.stored(new))

    def delete(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        kind: str,
        name: str,
        expect: int | None,
    ) -> Change:
        definition = self.kind(kind)
        row = rows.by_name(connection, tenant, kind, name)
        if row is None:
            raise absent(tenant, kind, name)
        _check_expected(row, expect, kind, name)
        stored = self.stored(row)
        # The deletion comes before the checks for the same reason as in put.
        rows.delete(connection, row, difference="deleted", actor=actor.name, at=self._now())
        for other in self._referring(connection, tenant, kind, name):
            raise Fault(
                FaultCode.CONFLICT,
                f"{kind} {name} is still used by {other.kind} {other.name}",
                rule="managed.referenced",
                values={kind: name, other.kind: other.name},
            )
        definition.check_delete(connection, tenant, name, stored.document)
        gone = replace(row, revision=row.revision + 1)
        self._tell(connection, actor, f"{kind}.deleted", gone, "deleted")
        return Change(action="deleted", difference="deleted", stored=stored)

    def apply(
        self, connection: Connection, actor: Actor, wanted: configuration.Wanted, prune: bool
    ) -> tuple[Change, ...]:
        done: list[Change] = []
        mistakes: dict[str, str] = {}
        for (tenant, kind, name), document in wanted.items():
            try:
                done.append(self.put(connection, actor, tenant, kind, name, document, None))
            except Fault as fault:
                path = name if kind == "tenant" else f"{tenant}.{kind}.{name}"
                mistakes[f"tenant.{path}"] = fault.detail
        if mistakes:
            raise documents.rejection(mistakes)
        if prune:
            named = {name if kind == "tenant" else at for at, kind, name in wanted}
            for tenant in sorted(named):
                for kind in reversed([k for k in configuration.ORDER[1:] if k in self.kinds]):
                    for stored in self.all(connection, tenant, kind):
                        if (tenant, kind, stored.name) not in wanted:
                            done.append(
                                self.delete(connection, actor, tenant, kind, stored.name, None)
                            )
        return tuple(done)

    def _tell(
        self,
        connection: Connection,
        actor: Actor,
        event: str,
        row: rows.ObjectRow,
        difference: str,
    ) -> None:
        self._journal.append(
            connection,
            Event(
                kind=event,
                tenant=row.tenant,
                actor=actor.name,
                object=f"{row.kind}/{row.name}",
                data={"revision": row.revision, "difference": difference},
            ),
        )

    def get(self, connection: Connection, tenant: str, kind: str, name: str) -> Stored:
        row = rows.by_name(connection, tenant, self.kind(kind).name, name)
        if row is None:
            raise absent(tenant, kind, name)
        return self.stored(row)

    def page(
        self, connection: Connection, tenant: str, kind: str, after: str, limit: int
    ) -> tuple[Stored, ...]:
        found = rows.find(connection, tenant, self.kind(kind).name, after, min(limit, PAGE))
        return tuple(self.stored(row) for row in found)

    def tenants(self, connection: Connection) -> list[Stored]:
        """Return every tenant."""
        return [*self.all(connection, EVERY_TENANT, "tenant")]

    def all(self, connection: Connection, tenant: str, kind: str) -> Iterator[Stored]:
        after = ""
        while page := self.page(connection, tenant, kind, after, PAGE):
            yield from page
            after = page[-1].name

    def everything(self, connection: Connection, tenant: str | None) -> list[Stored]:
        if tenant is None:
            tenants = self.tenants(connection)
        else:
            tenants = [self.get(connection, EVERY_TENANT, "tenant", tenant)]
        return tenants + [
            stored
            for owner in tenants
            for kind in self.kinds
            if kind != "tenant"
            for stored in self.all(connection, owner.name, kind)
        ]

    def actor(self, connection: Connection, name: str) -> Actor:
        return Actor(
            name,
            tuple(
                Grant(stored.document.role, tenant.name)
                for tenant in self.all(connection, EVERY_TENANT, "tenant")
                for stored in self.all(connection, tenant.name, "grant")
                if stored.document.subject == name
            ),
        )

    # -- small checks -------------------------------------------------------------------------

    def kind(self, kind: str) -> Kind:
        try:
            return self.kinds[kind]
        except KeyError:
            raise Fault(
                FaultCode.NOT_FOUND, f"there is no kind {kind!r}", rule="managed.kind"
            ) from None

    def _model(self, kind: str, text: str) -> Any:
        return self.kinds[kind].model.model_validate_json(text)

    def stored(self, row: rows.ObjectRow) -> Stored:
        return Stored(
            tenant=row.tenant,
            kind=row.kind,
            name=row.name,
            revision=row.revision,
            document=self._model(row.kind, row.document),
            updated_at=row.updated_at,
        )

    def _referring(
        self, connection: Connection, tenant: str, kind: str, name: str
    ) -> Iterator[Stored]:
        for other in self.kinds.values():
            if other.references is not _no_references:
                for stored in self.all(connection, tenant, other.name):
                    if (kind, name) in other.references(stored.document):
                        yield stored


def _check_place(connection: Connection, tenant: str, kind: str, name: str) -> None:
    """Check the name, and that the tenant exists: a tenant lives in "*", all else does not."""
    if not NAME.fullmatch(name):
        raise documents.rejection(
            {f"{kind}.{name}": "a name is 1 to 63 of a-z, 0-9 and -, and does not begin with -"}
        )
    if (kind == "tenant") != (tenant == EVERY_TENANT):
        raise no_such_tenant(tenant)
    if kind != "tenant" and rows.by_name(connection, EVERY_TENANT, "tenant", tenant) is None:
        raise no_such_tenant(tenant)


def _check_expected(row: rows.ObjectRow | None, expect: int | None, kind: str, name: str) -> None:
    revision = 0 if row is None else row.revision
    if expect is not None and expect != revision:
        raise Fault(
            FaultCode.CONFLICT,
            f"{kind} {name} is at revision {revision}, not {expect}",
            rule="managed.revision",
            values={"expected": str(expect), "revision": str(revision)},
        )


def absent(tenant: str, kind: str, name: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        f"there is no {kind} {name!r}",
        rule="managed.absent",
        values={"tenant": tenant, "kind": kind, "name": name},
    )
