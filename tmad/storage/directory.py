"""What the directory publishes, found by index: people and devices, in pages by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tmad.storage.conditions import (
    EVERYTHING,
    Both,
    Condition,
    Either,
    Filled,
    Holds,
    Like,
    Same,
)
from tmad.storage.tables import Instant, certificate_names, certificates, devices, people
from tmad.storage.tables import microseconds as microseconds

PERSON: Final = "person:"
DEVICE: Final = "device:"

# Of rows that no index finds: how many are looked at first, and how fast that grows.
_FIRST_PIECE: Final = 1_000
_GROWTH: Final = 8


class Person(NamedTuple):
    """What is published of a person; the account is good now. Instants are in microseconds."""

    name: str
    full_name: str
    mail: str
    phone: str
    created_at: int
    updated_at: int


class Device(NamedTuple):
    """What is published of a device; it is not blocked. Instants are in microseconds."""

    name: str
    serial_number: str
    owner: str
    description: str
    created_at: int
    updated_at: int


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


def _as_stored(table: sa.Table, names: Iterable[str]) -> tuple[sa.ColumnElement[Any], ...]:
    """Return columns whose instants stay numbers: few of them are ever shown."""
    columns = [table.c[name] for name in names]
    return tuple(
        [sa.type_coerce(c, sa.BigInteger) if isinstance(c.type, Instant) else c for c in columns]
    )


_NOW = sa.bindparam("now", type_=sa.BigInteger)
_PEOPLE = _Kind(
    people,
    _as_stored(people, Person._fields),
    sa.and_(
        people.c.disabled_at.is_(None),
        sa.or_(
            people.c.valid_until.is_(None),
            sa.type_coerce(people.c.valid_until, sa.BigInteger) > _NOW,
        ),
    ),
    PERSON,
    Person,
    frozenset({"name", "mail", "cn_key", "sn_key"}),
    frozenset({"mail", "cn_key", "sn_key"}),
)
_DEVICES = _Kind(
    devices,
    _as_stored(devices, Device._fields),
    devices.c.blocked_at.is_(None),
    DEVICE,
    Device,
    frozenset({"name"}),
    frozenset(),
)
_KINDS: Final = {"people": _PEOPLE, "devices": _DEVICES}
MARKS: Final = {"sqlite": "?", "postgresql": "%s"}

# Nearly every question is one of these. They run by the driver's own cursor (performance 5.5).
_ONE_PERSON = (
    "SELECT name, full_name, mail, phone, created_at, updated_at FROM people"
    " WHERE tenant = {0} AND {column} = {0} AND name > {0} AND disabled_at IS NULL"
    " AND (valid_until IS NULL OR valid_until > {0}) ORDER BY name LIMIT {0}"
)
_ONE_DEVICE = (
    "SELECT name, serial_number, owner, description, created_at, updated_at FROM devices"
    " WHERE tenant = {0} AND {column} = {0} AND name > {0} AND blocked_at IS NULL"
    " ORDER BY name LIMIT {0}"
)
_ONE: Final = {
    (dialect, name, column): sql.format(mark, column=column)
    for dialect, mark in MARKS.items()
    for name, sql in (("people", _ONE_PERSON), ("devices", _ONE_DEVICE))
    for column in _KINDS[name].equal
}


def run(connection: sa.Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a statement by the driver's own cursor."""
    driver: Any = connection.connection.driver_connection
    rows: list[tuple[Any, ...]] = driver.execute(sql, values).fetchall()
    return rows


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
    at = microseconds(now)
    if isinstance(condition, Same):
        sql = _ONE.get((connection.dialect.name, kind, condition.column))
        if sql is not None:
            values = [tenant, condition.value, after, *([at] if kind == "people" else []), limit]
            return _found(_KINDS[kind], run(connection, sql, values), limit)
    chosen = _KINDS[kind]
    named = {"tenant": tenant, "now": at, "after": after, "limit": limit, "scan": scan}
    ways = lookups(kind, condition)
    if ways is not None:
        return _found(chosen, _by_ways(connection, chosen, condition, ways, named), limit)
    if condition == EVERYTHING:
        return _found(chosen, _listed(connection, chosen, named), limit)
    return _scanned(connection, chosen, condition, named)


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
    read = tuple([kind.row._make(row) for row in rows])
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
    values_of, begun = _grouped(ways)
    found: list[sa.ColumnElement[bool]] = [
        table.c[column].in_(each) for column, each in values_of.items()
    ]
    found += [
        _begins(table.c[way.column], way.initial, dialect) for way in begun if isinstance(way, Like)
    ]
    names = [
        sa.select(table.c.name).where(
            table.c.tenant == sa.bindparam("tenant"),
            way_in,
            # Not where the rows are read: SQLite would walk all of them from here on.
            table.c.name > sa.bindparam("after"),
        )
        for way_in in found
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


def _grouped(
    conditions: Iterable[Condition],
) -> tuple[dict[str, list[str]], list[Condition]]:
    """Return the values that columns are to have, by column, and all other conditions."""
    values_of: dict[str, list[str]] = {}
    others: list[Condition] = []
    for each in conditions:
        if isinstance(each, Same):
            values_of.setdefault(each.column, []).append(each.value)
        else:
            others.append(each)
    return values_of, others


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
        found += [kind.row._make(row) for row in rows]
        if len(found) == values["limit"]:
            return Found(tuple(found), found[-1].name)
        left -= size
        if end is None:
            return Found(tuple(found), None)
        if left <= 0:
            has_more = connection.execute(ends, values | {"after": end}).first() is not None
            return Found(tuple(found), end if has_more else None)
        after, size = end, size * _GROWTH


# -- conditions as SQL ----------------------------------------------------------------------------


def _clause(condition: Condition, kind: _Kind, dialect: str) -> sa.ColumnElement[bool]:
    if isinstance(condition, Both):
        return sa.and_(sa.true(), *[_clause(part, kind, dialect) for part in condition.parts])
    if isinstance(condition, Either):
        values_of, others = _grouped(condition.parts)
        same = [kind.table.c[column].in_(values) for column, values in values_of.items()]
        return sa.or_(sa.false(), *same, *[_clause(part, kind, dialect) for part in others])
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


def valid() -> sa.ColumnElement[bool]:
    """Return that a certificate is valid and not revoked at the parameter "now"."""
    return sa.and_(
        sa.type_coerce(certificates.c.not_after, sa.BigInteger) > _NOW,
        sa.type_coerce(certificates.c.not_before, sa.BigInteger) <= _NOW,
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
            valid(),
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
            valid(),
        )
        .limit(1)
        .scalar_subquery()
    )
    return sa.or_(by_owner.is_not(None), by_mail.is_not(None))
