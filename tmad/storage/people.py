"""People: rows by their normalised name."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.statement import Listing, Statement
from tmad.storage.tables import people as t

TOPIC = "people"  # of storage/changes.py; the key is "tenant/name"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonRow:
    """One person. ``name`` is normalised (identity/naming.py), ``mail`` in lower case.

    ``source`` is "local" or the directory that the person came from; ``disabled_at`` None
    means enabled; ``valid_until`` None means for ever.
    """

    tenant: str
    name: str
    full_name: str = ""
    mail: str = ""
    phone: str = ""
    groups: tuple[str, ...] = ()
    source: str = "local"
    password_hash: str | None = field(default=None, repr=False)
    nt_hash: bytes | None = field(default=None, repr=False)
    password_at: datetime | None = None
    disabled_at: datetime | None = None
    valid_until: datetime | None = None
    created_at: datetime
    updated_at: datetime

    def is_usable(self, now: datetime) -> bool:
        """Whether the account is enabled and has not ended."""
        return self.disabled_at is None and (self.valid_until is None or now < self.valid_until)


# disabled_at, valid_until, password_at
Standing: TypeAlias = tuple[datetime | None, datetime | None, datetime | None]

_COLUMNS = tuple([t.c[each.name] for each in fields(PersonRow)])
_NAMES = tuple(column.name for column in _COLUMNS)
_GROUPS = _NAMES.index("groups")
_KEY = (t.c.tenant == sa.bindparam("key_tenant"), t.c.name == sa.bindparam("key_name"))
_SELECT = sa.select(*_COLUMNS)
_BY_NAME = Statement(_SELECT.where(*_KEY))
_BY_NAME_LOCKED = _SELECT.where(*_KEY).with_for_update()
# Two, because one row more tells that the address is not one person's.
_BY_MAIL = Statement(
    _SELECT.where(
        t.c.tenant == sa.bindparam("key_tenant"), t.c.mail == sa.bindparam("key_mail")
    ).limit(2)
)
_STANDINGS = Listing(
    lambda listed: sa.select(
        t.c.tenant, t.c.name, t.c.disabled_at, t.c.valid_until, t.c.password_at
    ).where(t.c.tenant == sa.bindparam("key_tenant"), t.c.name.in_(listed))
)
_REHASH = Statement(
    sa.update(t)
    .where(*_KEY, t.c.password_hash == sa.bindparam("old"))
    .values(password_hash=sa.bindparam("new"))
)


def folded(text: str) -> str:
    """Return a text as people are found by it: compatibility forms, case, spaces made equal."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.split())


def by_name(connection: sa.Connection, tenant: str, name: str) -> PersonRow | None:
    """Return one person, as one point read."""
    return _one(_BY_NAME.rows(connection, {"key_tenant": tenant, "key_name": name}))


def as_now(connection: sa.Connection, person: PersonRow) -> PersonRow | None:
    """Return a person that was read before with what lets it in or not as that is now.

    None when it is gone. Everything else of the row is as it was read.
    """
    return with_standing(person, standings(connection, person.tenant, [person.name]))


def standings(
    connection: sa.Connection, tenant: str, names: Sequence[str]
) -> dict[tuple[str, str], Standing]:
    """Return what lets some people in or not, by tenant and name."""
    found = _STANDINGS.rows(connection, names, key_tenant=tenant)
    return {(row[0], row[1]): row[2:] for row in found}


def with_standing(
    person: PersonRow | None, found: Mapping[tuple[str, str], Standing]
) -> PersonRow | None:
    """Return a person that was read before as ``as_now`` does, from what ``standings`` found."""
    standing = None if person is None else found.get((person.tenant, person.name))
    if person is None or standing is None:
        return None
    if standing == (person.disabled_at, person.valid_until, person.password_at):
        return person
    disabled_at, valid_until, password_at = standing
    return replace(
        person, disabled_at=disabled_at, valid_until=valid_until, password_at=password_at
    )


def by_mail(connection: sa.Connection, tenant: str, mail: str) -> PersonRow | None:
    """Return the person whose address this is; None when it is nobody's or not only one's."""
    if not mail:
        return None
    found = _BY_MAIL.rows(connection, {"key_tenant": tenant, "key_mail": mail})
    return _one(found) if len(found) == 1 else None


def by_upn(connection: sa.Connection, tenant: str, upn: str) -> PersonRow | None:
    """Return the person whose name, or else whose only address, is this ``user@realm``."""
    return by_name(connection, tenant, upn) or by_mail(connection, tenant, upn)


def locked(connection: sa.Connection, tenant: str, name: str) -> PersonRow | None:
    """Return one person whose row nobody else can change before this transaction ends."""
    row = connection.execute(_BY_NAME_LOCKED, {"key_tenant": tenant, "key_name": name}).first()
    return None if row is None else _person(tuple(row))


def find(
    connection: sa.Connection, tenant: str, after: str = "", limit: int = 100
) -> tuple[PersonRow, ...]:
    """Return a page of a tenant's people by name, beginning after the name ``after``."""
    query = _SELECT.where(t.c.tenant == tenant, t.c.name > after).order_by(t.c.name).limit(limit)
    return tuple([_person(tuple(row)) for row in connection.execute(query)])


def insert(connection: sa.Connection, person: PersonRow) -> None:
    """Add a person; Fault(CONFLICT) when the name is taken."""
    try:
        connection.execute(sa.insert(t), _values(person))
    except sa.exc.IntegrityError:
        raise Fault(
            FaultCode.CONFLICT,
            f"there is a person {person.name} already",
            rule="person.exists",
            values={"tenant": person.tenant, "name": person.name},
        ) from None
    changes.record(connection, TOPIC, f"{person.tenant}/{person.name}")


def update(connection: sa.Connection, person: PersonRow) -> None:
    """Write everything about a person whose row was read by ``locked``."""
    connection.execute(
        sa.update(t).where(*_KEY).values(**_values(person)),
        {"key_tenant": person.tenant, "key_name": person.name},
    )
    changes.record(connection, TOPIC, f"{person.tenant}/{person.name}")


def delete(connection: sa.Connection, tenant: str, name: str) -> bool:
    """Remove a person; tell whether there was one."""
    result = connection.execute(sa.delete(t).where(t.c.tenant == tenant, t.c.name == name))
    changes.record(connection, TOPIC, f"{tenant}/{name}")
    return result.rowcount == 1


def rehash(connection: sa.Connection, tenant: str, name: str, old: str, new: str) -> bool:
    """Replace the hash of a password that is still the same; nothing else has changed."""
    values = {"key_tenant": tenant, "key_name": name, "old": old, "new": new}
    if not _REHASH.run(connection, values):
        return False
    changes.record(connection, TOPIC, f"{tenant}/{name}")
    return True


def _values(person: PersonRow) -> dict[str, Any]:
    values = {name: getattr(person, name) for name in _NAMES}
    values["groups"] = json.dumps(sorted(person.groups), ensure_ascii=False)
    values["cn_key"] = folded(person.full_name or person.name)
    # The last word of a name is its surname, as far as anybody can tell from one line.
    values["sn_key"] = values["cn_key"].rpartition(" ")[2]
    return values


def _one(rows: list[tuple[Any, ...]]) -> PersonRow | None:
    return _person(rows[0]) if rows else None


def _person(row: tuple[Any, ...]) -> PersonRow:
    values = dict(zip(_NAMES, row, strict=True))
    values["groups"] = tuple(json.loads(row[_GROUPS]))
    return PersonRow(**values)
