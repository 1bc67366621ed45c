"""Managed objects: tenants, authorities, profiles, endpoints and grants as documents.

A document is changed only here, with an actor; each change is a numbered revision with its
difference, journaled in the transaction that makes it. Tenants themselves are kept under the
tenant "*", so that making one needs a grant that reaches into every tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tmad import documents
from tmad.events import Clock
from tmad.identity.access import Records, guarded, may
from tmad.identity.actors import EVERY_TENANT, Actor
from tmad.managed import configuration
from tmad.managed.catalogue import (
    GRANT,
    TENANT,
    Catalogue,
    Change,
    Kind,
    Revision,
    Stored,
    TenantDocument,
    absent,
)
from tmad.storage import objects as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["GRANT", "TENANT", "Change", "Kind", "Objects", "Revision", "Stored", "TenantDocument"]


class Objects:
    """The managed objects of one database."""

    def __init__(
        self,
        database: Database,
        journal: Records,
        changes: Changes,
        now: Clock,
        kinds: Iterable[Kind],
    ) -> None:
        self.journal = journal
        self._catalogue = Catalogue(journal, now, kinds)
        self._database = database
        self._changes = changes
        self._kept: KeptByKey[tuple[str, str, str], Stored] = KeptByKey()
        self._by_handle: KeptByKey[tuple[str, str], Stored | None] = KeptByKey()
        changes.listen("objects", self._forget)

    # -- for actors -----------------------------------------------------------------------

    @guarded("{kind}.write")
    async def put(
        self,
        actor: Actor,
        tenant: str,
        kind: str,
        name: str,
        document: Mapping[str, Any] | BaseModel,
        *,
        expect: int | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Create or replace one object.

        ``expect`` is the revision that the caller has seen (0: none exists yet); Fault(CONFLICT)
        when it is no longer the newest.
        """
        model = documents.parse(self._catalogue.kind(kind).model, document)
        return await self._database.write(
            self._catalogue.put, actor, tenant, kind, name, model, expect, dry_run=dry_run
        )

    @guarded("{kind}.delete")
    async def delete(
        self,
        actor: Actor,
        tenant: str,
        kind: str,
        name: str,
        *,
        expect: int | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Remove one object; Fault(CONFLICT) while another one names it."""
        return await self._database.write(
            self._catalogue.delete, actor, tenant, kind, name, expect, dry_run=dry_run
        )

    @guarded("{kind}.read")
    async def get(self, actor: Actor, tenant: str, kind: str, name: str) -> Stored:
        """Return one object as it is now; Fault(NOT_FOUND)."""
        return await self._database.read(self._catalogue.get, tenant, kind, name)

    @guarded("{kind}.read")
    async def list(
        self, actor: Actor, tenant: str, kind: str, *, after: str = "", limit: int = 100
    ) -> tuple[Stored, ...]:
        """Return a page of objects by name, beginning after the name ``after``."""
        return await self._database.read(self._catalogue.page, tenant, kind, after, limit)

    @guarded("{kind}.read")
    async def revisions(
        self,
        actor: Actor,
        tenant: str,
        kind: str,
        name: str,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[Revision, ...]:
        """Return the history of one object, newest first; Fault(NOT_FOUND) without one."""
        found = await self._database.read(
            rows.find_revisions, tenant, self._catalogue.kind(kind).name, name, before, limit
        )
        if not found and before is None:
            raise absent(tenant, kind, name)
        return tuple(
            Revision(
                revision=row.revision,
                difference=row.difference,
                actor=row.actor,
                at=row.at,
                document=row.document,
            )
            for row in found
        )

    async def visible_tenants(self, actor: Actor) -> tuple[Stored, ...]:
        """Return the tenants in which ``actor`` may read; nobody is refused an empty answer."""
        every = await self._database.read(self._catalogue.tenants)
        return tuple(t for t in every if may(actor, "tenant.read", t.name))

    @guarded("configuration.export")
    async def export(self, actor: Actor, tenant: str | None) -> str:
        """Return every managed object, of one tenant or of all, as TOML without defaults."""
        every = await self._database.read(self._catalogue.everything, tenant)
        return documents.to_toml(configuration.tree(every))

    @guarded("configuration.apply")
    async def apply(
        self,
        actor: Actor,
        tenant: str | None,
        text: str | bytes,
        *,
        dry_run: bool = False,
        prune: bool = False,
    ) -> tuple[Change, ...]:
        """Bring the objects to the state that the TOML describes, all of it or nothing.

        ``tenant`` confines the file to one tenant; without it, the actor needs the permission
        in every tenant. ``prune`` also deletes what the named tenants hold beyond the file.
        """
        wanted = configuration.wanted(text, self._catalogue.kinds)
        if tenant is not None:
            named = {name if kind == "tenant" else at for at, kind, name in wanted}
            if strangers := sorted(named - {tenant}):
                only = f"only tenant.{tenant} may stand here"
                raise documents.rejection({f"tenant.{other}": only for other in strangers})
            if not may(actor, "tenant.write", EVERY_TENANT):
                # The tenant's own document belongs to those who may make tenants.
                wanted.pop((EVERY_TENANT, "tenant", tenant), None)
        return await self._database.write(
            self._catalogue.apply, actor, wanted, prune, dry_run=dry_run
        )

    # -- inside somebody's transaction ------------------------------------------------------

    def put_in(
        self,
        connection: Connection,
        actor: Actor,
        tenant: str,
        kind: str,
        name: str,
        document: Mapping[str, Any] | BaseModel,
    ) -> Stored:
        """Create or replace one object in a transaction whose owner checked the permission."""
        model = documents.parse(self._catalogue.kind(kind).model, document)
        return self._catalogue.put(connection, actor, tenant, kind, name, model, None).stored

    # -- for the core -----------------------------------------------------------------------

    async def load(self, tenant: str, kind: str, name: str) -> Stored:
        """Return one object as of the last committed change, cached; Fault(NOT_FOUND)."""
        await self._changes.catch_up()
        key = (tenant, kind, name)
        found = self._kept.get(key)
        return found or await self._kept.fill(key, self._read(*key))

    async def load_by_handle(self, kind: str, handle: str) -> Stored | None:
        """Return the object that has this handle in whatever tenant, cached, or None."""
        await self._changes.catch_up()
        key = (kind, handle)
        found = self._by_handle.get(key)
        return found or await self._by_handle.fill(key, self._read_by_handle(*key))

    async def actor(self, name: str) -> Actor:
        """Return ``name`` with the roles that the grant documents of all tenants give it."""
        return await self._database.read(self._catalogue.actor, name)

    async def _read(self, tenant: str, kind: str, name: str) -> Stored:
        row = await self._database.lookup(rows.by_name, tenant, kind, name)
        if row is None:
            raise absent(tenant, kind, name)
        return self._catalogue.stored(row)

    async def _read_by_handle(self, kind: str, handle: str) -> Stored | None:
        row = await self._database.lookup(rows.by_handle, kind, handle)
        return None if row is None else self._catalogue.stored(row)

    def _forget(self, key: str) -> None:
        self._by_handle.forget_all()
        if key == "*":
            self._kept.forget_all()
        else:
            tenant, kind, name = key.split("/")
            self._kept.forget((tenant, kind, name))
