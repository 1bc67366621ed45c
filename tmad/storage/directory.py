"""What the directory publishes, found by index: people, devices, and the certificates they hold.

A question comes as a condition: a tree of the values below, which stands for SQL and never holds
any. Lists are paged by name. A condition may let more through than is wanted, never less: who
asks looks at each row again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from tmad.storage.certificates import serial_octets
from tmad.storage.statement import Statement
from tmad.storage.tables import certificate_names, certificates, devices, people

PERSON: Final = "person:"
DEVICE: Final = "device:"

# Of rows that no index finds: how many are looked at first, and how fast that grows.
_FIRST_PIECE: Final = 1_000
_GROWTH: Final = 8


@dataclass(frozen=True, slots=True)
class Same:
    """A column is this value."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Like:
    """A column begins with, contains in this order, and ends with these pieces."""

    column: str
    initial: str
    middle: tuple[str, ...]
    final: str


@dataclass(frozen=True, slots=True)
class Filled:
    """A column is not empty; or, with ``is_empty``, it is."""

    column: str
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class Holds:
    """Somebody holds a certificate of his own that is valid now."""


@dataclass(frozen=True, slots=True)
class Both:
    """Each of these is so; of none at all, everything is."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of these is so; of none at all, nothing is."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Same | Like | Filled | Holds | Both | Either

EVERYTHING: Final = Both(())
NOTHING: Final = Either(())


class Person(NamedTuple):
    """What is published of a person; the account is good now."""

    name: str
    full_name: str
    mail: str
    phone: str
    created_at: datetime
    updated_at: datetime


class Device(NamedTuple):
    """What is published of a device; it is not blocked."""

    name: str
    serial_number: str
    owner: str
    description: str
    created_at: datetime
    updated_at: datetime


class Held(NamedTuple):
    """One certificate that is valid and not revoked, and why it is somebody's.

    ``owner`` is the row's ("person:alice"); ``mail`` is the address in it that was asked for,
    empty where the owner was.
    """

    owner: str
    mail: str
    id: int
    issuer_id: int
    profile: str
    certificate_der: bytes


class Found(NamedTuple):
    """Some people or devices by name. ``reached``: up to where was looked; None: to the end."""

    rows: tuple[Any, ...]
    reached: str | None


class _Kind(NamedTuple):
    table: sa.Table
    columns: tuple[sa.ColumnElement[Any], ...]
    usable: sa.ColumnElement[bool]
    owner: str
    row: Any
    equal: frozenset[str]  # the columns that an index finds
    begun: frozenset[str]  # and those whose beginnings it finds, on both databases


_NOW = sa.bindparam("now", type_=certificates.c.not_after.type)
_PEOPLE = _Kind(
    people,
    tuple([people.c[name] for name in Person._fields]),
    sa.and_(
        people.c.disabled_at.is_(None),
        sa.or_(people.c.valid_until.is_(None), people.c.valid_until > _NOW),
    ),
    PERSON,
    Person,
    frozenset({"name", "mail", "cn_key", "sn_key"}),
    frozenset({"mail", "cn_key", "sn_key"}),
)
_DEVICES = _Kind(
    devices,
    tuple([devices.c[name] for name in Device._fields]),
    devices.c.blocked_at.is_(None),
    DEVICE,
    Device,
    frozenset({"name"}),
    frozenset(),
)
_KINDS: Final = {"people": _PEOPLE, "devices": _DEVICES}


def _select_one(kind: _Kind, column: str) -> Statement:
    table = kind.table
    return Statement(
        sa.select(*kind.columns)
        .where(
            table.c.tenant == sa.bindparam("tenant"),
            table.c[column] == sa.bindparam("value"),
            table.c.name > sa.bindparam("after"),
            kind.usable,
        )
        .order_by(table.c.name)
        .limit(sa.bindparam("limit", type_=sa.Integer))
    )


# Nearly every question is one of these: compiled once, by the driver's own cursor.
_BY = {
    (name, column): _select_one(kind, column)
    for name, kind in _KINDS.items()
    for column in kind.equal
}


def find(
    connection: sa.Connection,
    kind: str,
    tenant: str,
    condition: Condition,
    now: datetime,
    after: str,
    limit: int,
    scan: int,
) -> Found:
    """Return a page of "people" or "devices" that meet a condition, by name.

    Where no index answers it, at most ``scan`` rows are looked at; ``reached`` then tells where
    that ended.
    """
    one = _BY.get((kind, condition.column)) if isinstance(condition, Same) else None
    if one is not None:
        values = {"tenant": tenant, "value": condition.value, "after": after}  # type: ignore[union-attr]  # a Same
        rows = one.rows(connection, values | {"limit": limit, "now": now})
        return _found(_KINDS[kind], rows, limit)
    chosen = _KINDS[kind]
    values = {"tenant": tenant, "now": now, "after": after, "limit": limit, "scan": scan}
    ways = lookups(kind, condition)
    if ways is not None:
        return _found(chosen, _by_ways(connection, chosen, condition, ways, values), limit)
    if condition == EVERYTHING:
        return _found(chosen, _listed(connection, chosen, values), limit)
    return _scanned(connection, chosen, condition, values)


def lookups(kind: str, condition: Condition) -> list[Same | Like] | None:
    """Return the index lookups that together find all that meets a condition; None: none do."""
    chosen = _KINDS[kind]
    if isinstance(condition, Same):
        return [condition] if condition.column in chosen.equal else None
    if isinstance(condition, Like):
        return [condition] if condition.initial and condition.column in chosen.begun else None
    if isinstance(condition, Either):
        ways: list[Same | Like] = []
        for part in condition.parts:
            found = lookups(kind, part)
            if found is None:
                return None
            ways += found
        return ways
    if isinstance(condition, Both):
        every = [lookups(kind, part) for part in condition.parts]
        usable = [found for found in every if found is not None]
        # The fewest, and among those rather whole values than beginnings.
        return min(usable, key=lambda found: (len(found), _looseness(found)), default=None)
    return None


def _looseness(ways: Iterable[Same | Like]) -> int:
    return sum(isinstance(way, Like) for way in ways)


def _found(kind: _Kind, rows: Iterable[Sequence[Any]], limit: int) -> Found:
    read = tuple([kind.row(*row) for row in rows])
    return Found(read, read[-1].name if len(read) == limit else None)


def _by_ways(
    connection: sa.Connection,
    kind: _Kind,
    condition: Condition,
    ways: Sequence[Same | Like],
    values: dict[str, Any],
) -> Sequence[sa.Row[Any]]:
    table = kind.table
    if not ways:
        return ()
    dialect = connection.dialect.name
    names = [
        sa.select(table.c.name).where(
            table.c.tenant == sa.bindparam("tenant"),
            _begins(table.c[way.column], way.initial, dialect)
            if isinstance(way, Like)
            else table.c[way.column] == way.value,
            # Not where the rows are read: SQLite would walk all of them from here on.
            table.c.name > sa.bindparam("after"),
        )
        for way in ways
    ]
    return connection.execute(
        sa.select(*kind.columns)
        .where(
            table.c.tenant == sa.bindparam("tenant"),
            table.c.name.in_(sa.union(*names) if len(names) > 1 else names[0]),
            kind.usable,
            _clause(condition, kind, dialect),
        )
        .order_by(table.c.name)
        .limit(values["limit"]),
        values,
    ).all()


def _listed(
    connection: sa.Connection, kind: _Kind, values: dict[str, Any]
) -> Sequence[sa.Row[Any]]:
    table = kind.table
    return connection.execute(
        sa.select(*kind.columns)
        .where(
            table.c.tenant == sa.bindparam("tenant"),
            table.c.name > sa.bindparam("after"),
            kind.usable,
        )
        .order_by(table.c.name)
        .limit(values["limit"]),
        values,
    ).all()


def _scanned(
    connection: sa.Connection, kind: _Kind, condition: Condition, values: dict[str, Any]
) -> Found:
    """Return what meets the condition among the next ``scan`` rows.

    They are looked at in ever larger pieces, so that whoever finds many is done soon.
    """
    table = kind.table
    clause = _clause(condition, kind, connection.dialect.name)
    query = (
        sa.select(*kind.columns)
        .where(
            table.c.tenant == sa.bindparam("tenant"),
            table.c.name > sa.bindparam("after"),
            kind.usable,
            clause,
        )
        .order_by(table.c.name)
    )
    ends = (
        sa.select(table.c.name)
        .where(table.c.tenant == sa.bindparam("tenant"), table.c.name > sa.bindparam("after"))
        .order_by(table.c.name)
        .limit(1)
    )
    found: list[Any] = []
    after, size, left = values["after"], _FIRST_PIECE, values["scan"]
    while True:
        size = min(size, left)
        here = values | {"after": after}
        end = connection.execute(ends.offset(size - 1), here).scalar()
        piece = query if end is None else query.where(table.c.name <= end)
        rows = connection.execute(piece.limit(values["limit"] - len(found)), here)
        found += [kind.row(*row) for row in rows]
        if len(found) == values["limit"]:
            return Found(tuple(found), found[-1].name)
        left -= size
        if end is None or left <= 0:
            return Found(tuple(found), end)
        after, size = end, size * _GROWTH


# -- conditions as SQL ----------------------------------------------------------------------------


def _clause(condition: Condition, kind: _Kind, dialect: str) -> sa.ColumnElement[bool]:
    if isinstance(condition, Both):
        return sa.and_(sa.true(), *[_clause(part, kind, dialect) for part in condition.parts])
    if isinstance(condition, Either):
        return sa.or_(sa.false(), *[_clause(part, kind, dialect) for part in condition.parts])
    if isinstance(condition, Holds):
        return _holds(kind)
    column = kind.table.c[condition.column]
    if isinstance(condition, Same):
        return column == condition.value
    if isinstance(condition, Filled):
        return column == "" if condition.is_empty else column != ""
    return _like(column, condition)


def _like(column: sa.ColumnElement[Any], condition: Like) -> sa.ColumnElement[bool]:
    pieces = [condition.initial, *condition.middle, condition.final]
    pattern = "%".join(
        piece.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for piece in pieces
    )
    return column.like(pattern, escape="\\")


def _begins(column: sa.ColumnElement[Any], prefix: str, dialect: str) -> sa.ColumnElement[bool]:
    """Return a range that an index serves: whatever begins so, and nothing else."""
    # In UTF-8 octets, as in SQLite's order, nothing comes after this character.
    beyond = prefix + "\U0010ffff"
    if dialect == "postgresql":
        # By octets, as the indexes' operator class has it, whatever the collation.
        return sa.and_(column.op("~>=~")(prefix), column.op("~<=~")(beyond))
    return sa.and_(column >= prefix, column <= beyond)


def _valid() -> sa.ColumnElement[bool]:
    return sa.and_(
        certificates.c.not_after > _NOW,
        certificates.c.not_before <= _NOW,
        certificates.c.revoked_at.is_(None),
        certificates.c.state.in_([sa.literal_column("'issued'"), sa.literal_column("'imported'")]),
    )


def _holds(kind: _Kind) -> sa.ColumnElement[bool]:
    table = kind.table
    # With a limit, PostgreSQL looks for each row's own and never reads all certificates.
    by_owner = (
        sa.select(certificates.c.id)
        .where(
            certificates.c.tenant == sa.bindparam("tenant"),
            certificates.c.owner == sa.literal_column(f"'{kind.owner}'") + table.c.name,
            _valid(),
        )
        .limit(1)
        .scalar_subquery()
    )
    if kind.owner != PERSON:
        return by_owner.is_not(None)
    by_mail = (
        sa.select(certificates.c.id)
        .where(
            certificate_names.c.tenant == sa.bindparam("tenant"),
            certificate_names.c.value == table.c.mail,
            certificate_names.c.kind == sa.literal_column("'email'"),
            certificates.c.id == certificate_names.c.certificate_id,
            _valid(),
        )
        .limit(1)
        .scalar_subquery()
    )
    return sa.or_(by_owner.is_not(None), by_mail.is_not(None))


# -- certificates ---------------------------------------------------------------------------------

_HELD = (
    certificates.c.id,
    certificates.c.issuer_id,
    certificates.c.profile,
    certificates.c.certificate_der,
)
_UNNAMED = sa.and_(
    certificates.c.owner.not_like("person:%"), certificates.c.owner.not_like("device:%")
)


def _of_owners(owners: Any) -> sa.Select[Any]:
    return sa.select(certificates.c.owner, sa.literal_column("''").label("mail"), *_HELD).where(
        certificates.c.tenant == sa.bindparam("tenant"), owners, _valid()
    )


def _of_mails(mails: Any) -> sa.Select[Any]:
    """Select what names an address and has no owner who is somebody else."""
    return sa.select(certificates.c.owner, certificate_names.c.value.label("mail"), *_HELD).where(
        certificate_names.c.tenant == sa.bindparam("tenant"),
        mails,
        certificate_names.c.kind == sa.literal_column("'email'"),
        # It is the same tenant's: said of the certificate, SQLite would begin there.
        certificates.c.id == certificate_names.c.certificate_id,
        _valid(),
        _UNNAMED,
    )


_OF_OWNER = Statement(_of_owners(certificates.c.owner == sa.bindparam("owner")))
_OF_ONE = Statement(
    sa.union_all(
        _of_owners(certificates.c.owner == sa.bindparam("owner")),
        _of_mails(certificate_names.c.value == sa.bindparam("mail")),
    )
)
_OF_MANY = sa.union_all(
    _of_owners(certificates.c.owner.in_(sa.bindparam("owners", expanding=True))),
    _of_mails(certificate_names.c.value.in_(sa.bindparam("mails", expanding=True))),
)


def held_by(
    connection: sa.Connection,
    tenant: str,
    owners: Sequence[str],
    mails: Sequence[str],
    now: datetime,
) -> list[Held]:
    """Return what these owners hold, and what names one of these addresses."""
    values = {"tenant": tenant, "now": now}
    if len(owners) == 1 and len(mails) <= 1:
        statement = _OF_ONE if mails else _OF_OWNER
        mail = {"mail": mails[0]} if mails else {}
        return [
            Held(*row) for row in statement.rows(connection, values | {"owner": owners[0]} | mail)
        ]
    many = values | {"owners": list(owners), "mails": list(mails)}
    return [Held(*row) for row in connection.execute(_OF_MANY, many)]


class Names(NamedTuple):
    """Whose a certificate is, as far as its row says."""

    owner: str
    mails: tuple[str, ...]


_NAMED = Statement(
    sa.select(certificates.c.owner, certificate_names.c.value)
    .select_from(
        certificates.outerjoin(
            certificate_names,
            sa.and_(
                certificate_names.c.certificate_id == certificates.c.id,
                certificate_names.c.kind == sa.literal_column("'email'"),
            ),
        )
    )
    .where(
        certificates.c.issuer_id == sa.bindparam("issuer"),
        certificates.c.serial == sa.bindparam("serial"),
        certificates.c.tenant == sa.bindparam("tenant"),
        _valid(),
    )
)


def named_by(
    connection: sa.Connection, tenant: str, issuer_id: int, serial: int, now: datetime
) -> Names | None:
    """Return whom one valid certificate names; None when there is none such."""
    values = {"issuer": issuer_id, "serial": serial_octets(serial), "tenant": tenant, "now": now}
    rows = _NAMED.rows(connection, values)
    if not rows:
        return None
    return Names(rows[0][0], tuple([mail for _, mail in rows if mail]))
