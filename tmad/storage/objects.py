"""Rows of managed objects and of their revisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.tables import object_revisions, objects

_KEY = (
    objects.c.tenant == sa.bindparam("key_tenant"),
    objects.c.kind == sa.bindparam("key_kind"),
    objects.c.name == sa.bindparam("key_name"),
)
_BY_NAME = sa.select(objects).where(*_KEY)
_BY_HANDLE = sa.select(objects).where(
    objects.c.handle == sa.bindparam("handle"), objects.c.kind == sa.bindparam("kind")
)
_FIND = (
    sa.select(objects)
    .where(
        objects.c.tenant == sa.bindparam("tenant"),
        objects.c.kind == sa.bindparam("kind"),
        objects.c.name > sa.bindparam("after"),
    )
    .order_by(objects.c.name)
    .limit(sa.bindparam("limit"))
)
_FIND_ALL = (
    sa.select(objects)
    .where(
        sa.tuple_(objects.c.tenant, objects.c.kind, objects.c.name)
        > sa.tuple_(
            sa.bindparam("after_tenant"), sa.bindparam("after_kind"), sa.bindparam("after_name")
        )
    )
    .order_by(objects.c.tenant, objects.c.kind, objects.c.name)
    .limit(sa.bindparam("limit"))
)
_INSERT = objects.insert()
_UPDATE = (
    objects.update()
    .where(*_KEY, objects.c.revision == sa.bindparam("expect"))
    .values(
        handle=sa.bindparam("handle"),
        revision=sa.bindparam("revision"),
        document=sa.bindparam("document"),
        updated_at=sa.bindparam("updated_at"),
    )
)
_DELETE = objects.delete().where(*_KEY, objects.c.revision == sa.bindparam("expect"))
_REVISION_KEY = (
    object_revisions.c.tenant == sa.bindparam("tenant"),
    object_revisions.c.kind == sa.bindparam("kind"),
    object_revisions.c.name == sa.bindparam("name"),
)
_NEWEST_REVISION = sa.select(sa.func.coalesce(sa.func.max(object_revisions.c.revision), 0)).where(
    *_REVISION_KEY
)
_REVISION = sa.select(object_revisions).where(
    *_REVISION_KEY, object_revisions.c.revision == sa.bindparam("revision")
)
_REVISIONS = (
    sa.select(object_revisions)
    .where(*_REVISION_KEY, object_revisions.c.revision < sa.bindparam("before"))
    .order_by(object_revisions.c.revision.desc())
    .limit(sa.bindparam("limit"))
)
_INSERT_REVISION = object_revisions.insert()

_NO_REVISION_YET = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One managed object as it is now; ``document`` is canonical JSON."""

    tenant: str
    kind: str
    name: str
    handle: str | None
    revision: int
    document: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """One change of an object; ``document`` is None where it was deleted."""

    tenant: str
    kind: str
    name: str
    revision: int
    document: str | None
    difference: str
    actor: str
    at: datetime


def by_name(connection: sa.Connection, tenant: str, kind: str, name: str) -> ObjectRow | None:
    """Return one object."""
    row = connection.execute(
        _BY_NAME, {"key_tenant": tenant, "key_kind": kind, "key_name": name}
    ).first()
    return None if row is None else ObjectRow(*row)


def by_handle(connection: sa.Connection, kind: str, handle: str) -> ObjectRow | None:
    """Return the object of a kind that has this handle, in whatever tenant."""
    row = connection.execute(_BY_HANDLE, {"kind": kind, "handle": handle}).first()
    return None if row is None else ObjectRow(*row)


def find(
    connection: sa.Connection, tenant: str, kind: str, after: str = "", limit: int = 100
) -> list[ObjectRow]:
    """Return a page of a tenant's objects of one kind, by name."""
    rows = connection.execute(
        _FIND, {"tenant": tenant, "kind": kind, "after": after, "limit": limit}
    )
    return [ObjectRow(*row) for row in rows]


def find_all(
    connection: sa.Connection, after: tuple[str, str, str] = ("", "", ""), limit: int = 100
) -> list[ObjectRow]:
    """Return a page of every tenant's objects, by tenant, kind and name."""
    tenant, kind, name = after
    rows = connection.execute(
        _FIND_ALL,
        {"after_tenant": tenant, "after_kind": kind, "after_name": name, "limit": limit},
    )
    return [ObjectRow(*row) for row in rows]


def insert(
    connection: sa.Connection,
    tenant: str,
    kind: str,
    name: str,
    *,
    handle: str | None,
    document: str,
    difference: str,
    actor: str,
    at: datetime,
) -> ObjectRow:
    """Create an object, its revision and the change that announces it.

    The revision goes on from that of a deleted object of the same name, so that a pair of name
    and revision never means two things. Raises Fault(CONFLICT) if the name or handle is taken.
    """
    key = {"tenant": tenant, "kind": kind, "name": name}
    revision = connection.execute(_NEWEST_REVISION, key).scalar_one() + 1
    row = ObjectRow(tenant, kind, name, handle, revision, document, at)
    try:
        connection.execute(
            _INSERT,
            key
            | {
                "handle": handle,
                "revision": revision,
                "document": document,
                "updated_at": at,
            },
        )
    except sa.exc.IntegrityError as error:
        raise _taken(kind, name, handle) from error
    _record(connection, row, document, difference, actor)
    return row


def update(
    connection: sa.Connection,
    current: ObjectRow,
    *,
    handle: str | None,
    document: str,
    difference: str,
    actor: str,
    at: datetime,
) -> ObjectRow:
    """Replace an object's document by its next revision, and announce it.

    Raises Fault(CONFLICT) if the object is no longer at ``current``'s revision, or if the
    handle is taken.
    """
    row = ObjectRow(
        current.tenant, current.kind, current.name, handle, current.revision + 1, document, at
    )
    try:
        result = connection.execute(
            _UPDATE,
            _key_of(current)
            | {
                "handle": handle,
                "revision": row.revision,
                "document": document,
                "updated_at": at,
            },
        )
    except sa.exc.IntegrityError as error:
        raise _taken(current.kind, current.name, handle) from error
    if result.rowcount != 1:
        raise _outdated(current)
    _record(connection, row, document, difference, actor)
    return row


def delete(
    connection: sa.Connection, current: ObjectRow, *, difference: str, actor: str, at: datetime
) -> None:
    """Delete an object, keep its revisions, and announce it.

    Raises Fault(CONFLICT) if the object is no longer at ``current``'s revision.
    """
    if connection.execute(_DELETE, _key_of(current)).rowcount != 1:
        raise _outdated(current)
    gone = ObjectRow(current.tenant, current.kind, current.name, None, current.revision + 1, "", at)
    _record(connection, gone, None, difference, actor)


def revision_of(
    connection: sa.Connection, tenant: str, kind: str, name: str, revision: int
) -> RevisionRow | None:
    """Return one revision, of an object that may be deleted by now."""
    row = connection.execute(
        _REVISION, {"tenant": tenant, "kind": kind, "name": name, "revision": revision}
    ).first()
    return None if row is None else RevisionRow(*row)


def find_revisions(
    connection: sa.Connection,
    tenant: str,
    kind: str,
    name: str,
    before: int | None = None,
    limit: int = 100,
) -> list[RevisionRow]:
    """Return a page of an object's revisions, newest first."""
    rows = connection.execute(
        _REVISIONS,
        {
            "tenant": tenant,
            "kind": kind,
            "name": name,
            "before": _NO_REVISION_YET if before is None else before,
            "limit": limit,
        },
    )
    return [RevisionRow(*row) for row in rows]


def _record(
    connection: sa.Connection, row: ObjectRow, document: str | None, difference: str, actor: str
) -> None:
    try:
        connection.execute(
            _INSERT_REVISION,
            {
                "tenant": row.tenant,
                "kind": row.kind,
                "name": row.name,
                "revision": row.revision,
                "document": document,
                "difference": difference,
                "actor": actor,
                "at": row.updated_at,
            },
        )
    except sa.exc.IntegrityError as error:
        raise _outdated(row) from error
    changes.record(connection, "objects", f"{row.tenant}/{row.kind}/{row.name}")


def _key_of(row: ObjectRow) -> dict[str, object]:
    return {
        "key_tenant": row.tenant,
        "key_kind": row.kind,
        "key_name": row.name,
        "expect": row.revision,
    }


def _taken(kind: str, name: str, handle: str | None) -> Fault:
    return Fault(
        FaultCode.CONFLICT,
        f"the {kind} name or handle is taken",
        rule="object.name",
        values={"name": name, "handle": handle or ""},
    )


def _outdated(row: ObjectRow) -> Fault:
    return Fault(
        FaultCode.CONFLICT,
        f"the {row.kind} {row.name} was changed meanwhile",
        rule="object.revision",
        values={"expected": str(row.revision)},
    )
