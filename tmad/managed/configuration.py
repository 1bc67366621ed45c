"""All managed objects as one TOML tree: configuration as code, without a second truth.

``[tenant.NAME]`` holds the tenant's own document and, one table a kind, its objects:
``[tenant.default.profile.tls-server]``. Defaults are left out, keys are sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tmad import documents
from tmad.errors import Fault
from tmad.identity.actors import EVERY_TENANT

if TYPE_CHECKING:
    from tmad.managed.catalogue import Kind, Stored

# What is named by others comes before those who name it.
ORDER = (
    "tenant",
    "authority",
    "profile",
    "grant",
    "directory",
    "endpoint",
    "log-collector",
    "snmp-target",
    "radius-client",
    "trust-anchor",
    "radius-policy",
    "notification",
)

Wanted = dict[tuple[str, str, str], BaseModel]  # (tenant, kind, name) -> document


def tree(stored: Iterable[Stored]) -> dict[str, Any]:
    """Return the tree that says these objects; their tenants must be among them."""
    tenants: dict[str, Any] = {}
    for item in stored:
        if item.kind == "tenant":
            tenants.setdefault(item.name, {}).update(documents.plain(item.document))
        else:
            kinds = tenants.setdefault(item.tenant, {})
            kinds.setdefault(item.kind, {})[item.name] = documents.plain(item.document)
    return {"tenant": tenants}


def wanted(text: str | bytes, kinds: Mapping[str, Kind]) -> Wanted:
    """Return the objects that a TOML text describes.

    Raise Fault(REJECTED) that names every mistake of the whole text by its dotted path.
    """
    found: Wanted = {}
    mistakes: dict[str, str] = {}
    for tenant, kind, name, path, data in _entries(documents.from_toml(text), kinds, mistakes):
        try:
            found[tenant, kind, name] = documents.parse(kinds[kind].model, data, at=path)
        except Fault as fault:
            mistakes.update(fault.values)
    if mistakes:
        raise documents.rejection(mistakes)
    position = {kind: index for index, kind in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (position[item[0][1]], item[0])))


def _entries(
    top: Mapping[str, Any], kinds: Mapping[str, Kind], mistakes: dict[str, str]
) -> Iterator[tuple[str, str, str, str, Mapping[str, Any]]]:
    for key in top.keys() - {"tenant"}:
        mistakes[key] = "unknown key" + documents.nearest(key, ["tenant"])
    for tenant, content in _tables(top.get("tenant", {}), "tenant", mistakes):
        own = {key: value for key, value in content.items() if key not in kinds}
        # An unknown table may be a misspelt kind as well as a misspelt setting.
        model = kinds["tenant"].model
        for key in [k for k, v in own.items() if isinstance(v, dict)]:
            if key not in model.model_fields:
                del own[key]
                known = [kind for kind in kinds if kind != "tenant"]
                mistakes[f"tenant.{tenant}.{key}"] = "unknown kind" + documents.nearest(key, known)
        yield EVERY_TENANT, "tenant", tenant, f"tenant.{tenant}", own
        for kind in content.keys() & kinds.keys():
            place = f"tenant.{tenant}.{kind}"
            for name, data in _tables(content[kind], place, mistakes):
                yield tenant, kind, name, f"{place}.{name}", data


def _tables(
    value: Any, path: str, mistakes: dict[str, str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, dict):
        mistakes[path] = "must be a table"
        return
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield key, inner
        else:
            mistakes[f"{path}.{key}"] = "must be a table"
