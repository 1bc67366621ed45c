"""A tenant's rules for logins, kept in memory for as long as nothing has changed them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tmad.identity.actors import EVERY_TENANT
from tmad.managed.catalogue import PrincipalRules, TenantDocument
from tmad.network import policy
from tmad.network.policy import CompiledRule, RadiusPolicyDocument
from tmad.storage import objects
from tmad.storage.changes import Changes
from tmad.storage.database import Database
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
        self._kept: dict[str, TenantRules] = {}
        self._fills = 0  # rises with each change, so that a read begun before it is not kept
        changes.listen("objects", self._forget)

    async def of(self, tenant: str) -> TenantRules:
        """Return a tenant's rules; the caller has caught up with the changes."""
        found = self._kept.get(tenant)
        if found is None:
            fills = self._fills
            found = await self._database.read(_load, tenant)
            if fills == self._fills:
                self._kept[tenant] = found
        return found

    def _forget(self, key: str) -> None:
        if key == "*":
            self._fills += 1
            self._kept.clear()
            return
        tenant, kind, name = key.split("/")
        if kind in _KINDS:
            self._fills += 1
            self._kept.pop(tenant, None)
        elif kind == "tenant":
            self._fills += 1
            self._kept.pop(name, None)


def _load(connection: Connection, tenant: str) -> TenantRules:
    row = objects.by_name(connection, EVERY_TENANT, "tenant", tenant)
    document = TenantDocument() if row is None else TenantDocument.model_validate_json(row.document)
    return TenantRules(
        policy.compile_rules(
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
