"""A tenant's rules for logins, kept in memory for as long as nothing has changed them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tmad.identity.actors import EVERY_TENANT
from tmad.managed.catalogue import PrincipalRules, TenantDocument
from tmad.network import policy
from tmad.network.matching import CompiledRule, compile_rules
from tmad.network.policy import RadiusPolicyDocument
from tmad.storage import objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey
from tmad.storage.objects import ObjectRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PAGE: Final = 500
_KINDS: Final = ("radius-policy", "radius-client")


@dataclass(frozen=True, slots=True)
class TenantRules:
    """What one tenant's logins are matched against."""

    rules: tuple[CompiledRule, ...]
    principals: PrincipalRules
    vendors: Mapping[str, str]  # of RADIUS clients, by name


class Rules:
    """The rules of every tenant, as of the last ``changes.catch_up()``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._kept: KeptByKey[str, TenantRules] = KeptByKey()
        changes.listen("objects", self._forget)

    async def of(self, tenant: str) -> TenantRules:
        """Return a tenant's rules; the caller has caught up with the changes."""
        found = self._kept.get(tenant)
        if found is None:
            found = await self._kept.fill(tenant, self._database.read(_load, tenant))
        return found

    def _forget(self, key: str) -> None:
        if key == "*":
            self._kept.forget_all()
            return
        tenant, kind, name = key.split("/")
        if kind in _KINDS:
            self._kept.forget(tenant)
        elif kind == "tenant":
            self._kept.forget(name)


def _load(connection: Connection, tenant: str) -> TenantRules:
    row = objects.by_name(connection, EVERY_TENANT, "tenant", tenant)
    document = TenantDocument() if row is None else TenantDocument.model_validate_json(row.document)
    return TenantRules(
        compile_rules(
            (row.name, RadiusPolicyDocument.model_validate_json(row.document))
            for row in _all(connection, tenant, policy.KIND)
        ),
        document.principals,
        {
            row.name: json.loads(row.document).get("vendor", "generic")
            for row in _all(connection, tenant, "radius-client")
        },
    )


def _all(connection: Connection, tenant: str, kind: str) -> Iterator[ObjectRow]:
    after = ""
    while page := objects.find(connection, tenant, kind, after, _PAGE):
        yield from page
        after = page[-1].name
