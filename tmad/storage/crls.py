"""Rows of crls, and the two questions that a CRL is made from: who is revoked, what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage import status as status_rows
from tmad.storage.tables import certificates, crls

TOPIC = "crls"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# How much the clocks of nodes may differ, and a revocation's date from its commit.
_SKEW = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLRow:
    """One CRL; ``crl_der`` is None once a newer one has taken its place.

    What is said of a delta CRL is None where none was published with it; ``keeps_expired``
    then tells whether certificates stay on both lists when they expire.
    """

    issuer_id: int
    number: int
    tenant: str
    this_update: datetime
    next_update: datetime
    entries: int
    change_id: int  # every status change up to this one is in it
    crl_der: bytes | None
    sha256: bytes
    base_number: int | None = None
    keeps_expired: bool | None = None
    delta_next_update: datetime | None = None
    delta_entries: int | None = None
    delta_der: bytes | None = None
    delta_sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeltaBase:
    """The complete CRL that a delta CRL begins at, and what was not on it.

    ``dropped_before``: what had expired, and was revoked, before that was not on it. Whatever
    changed up to ``change_id_before`` was surely revoked before ``dropped_before``, too.
    """

    number: int
    change_id: int
    change_id_before: int
    dropped_before: datetime


@dataclass(frozen=True, slots=True)
class StatusChanges:
    """What changed for one issuer; ``serials`` is None when only a full read can tell."""

    latest: int
    serials: frozenset[bytes] | None


# serial, revoked_at, reason, invalidity_date, not_after: instants in microseconds since 1970
RevokedRow = tuple[bytes, int, int | None, int | None, int]
# changed_id, serial, revoked_at, reason, invalidity_date, not_after
ChangedRow = tuple[int, bytes, int | None, int | None, int | None, int]

_COLUMNS = [column for column in crls.c if column.name not in ("crl_der", "delta_der")]


def newest(connection: sa.Connection, issuer_id: int) -> CRLRow | None:
    """Return the last CRL of an issuer."""
    row = connection.execute(
        sa.select(*crls.c)
        .where(crls.c.issuer_id == issuer_id)
        .order_by(crls.c.number.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else CRLRow(**row._mapping)


def newest_head(connection: sa.Connection, issuer_id: int) -> CRLRow | None:
    """Return the last CRL of an issuer without its octets."""
    page = find_heads(connection, issuer_id, before=None, limit=1)
    return page[0] if page else None


def find_heads(
    connection: sa.Connection, issuer_id: int, before: int | None, limit: int
) -> list[CRLRow]:
    """Return a page of an issuer's CRLs without their octets, newest first."""
    query = sa.select(*_COLUMNS).where(crls.c.issuer_id == issuer_id)
    if before is not None:
        query = query.where(crls.c.number < before)
    rows = connection.execute(query.order_by(crls.c.number.desc()).limit(limit))
    return [CRLRow(crl_der=None, **row._mapping) for row in rows]


def delta_base(
    connection: sa.Connection, issuer_id: int, oldest: int, now: datetime
) -> DeltaBase | None:
    """Return the first CRL from the number ``oldest`` on that somebody may still rely on."""
    base = connection.execute(
        sa.select(crls.c.number, crls.c.change_id)
        .where(crls.c.issuer_id == issuer_id, crls.c.number >= oldest, crls.c.next_update > now)
        .order_by(crls.c.number)
        .limit(1)
    ).one_or_none()
    if base is None:
        return None
    before = find_heads(connection, issuer_id, base.number, 1)
    dropped_before = before[0].this_update if before else _EPOCH
    change_id_before = connection.execute(
        sa.select(crls.c.change_id)
        .where(
            crls.c.issuer_id == issuer_id,
            crls.c.number < base.number,
            crls.c.this_update < dropped_before - _SKEW,
        )
        .order_by(crls.c.number.desc())
        .limit(1)
    ).scalar_one_or_none()
    return DeltaBase(base.number, base.change_id, change_id_before or 0, dropped_before)


def insert(connection: sa.Connection, row: CRLRow) -> None:
    """Publish a CRL, and its delta CRL: from this commit on they are the issuer's.

    Raise Fault(CONFLICT) unless it follows the newest one in every respect: whoever was
    overtaken while building throws his CRL away, unseen (RFC 5280, 5.2.3).
    """
    last = newest_head(connection, row.issuer_id)
    if last is not None and (
        row.number != last.number + 1
        or row.this_update < last.this_update
        or row.change_id < last.change_id
    ):
        raise _overtaken(row)
    try:
        connection.execute(
            crls.insert().values(
                issuer_id=row.issuer_id,
                number=row.number,
                tenant=row.tenant,
                this_update=row.this_update,
                next_update=row.next_update,
                entries=row.entries,
                change_id=row.change_id,
                crl_der=row.crl_der,
                sha256=row.sha256,
                base_number=row.base_number,
                keeps_expired=row.keeps_expired,
                delta_next_update=row.delta_next_update,
                delta_entries=row.delta_entries,
                delta_der=row.delta_der,
                delta_sha256=row.delta_sha256,
            )
        )
    except IntegrityError as error:
        raise _overtaken(row) from error
    connection.execute(
        crls.update()
        .where(
            crls.c.issuer_id == row.issuer_id,
            crls.c.number < row.number,
            crls.c.crl_der.is_not(None),
        )
        .values(crl_der=None, delta_der=None)
    )
    changes.record(connection, TOPIC, str(row.issuer_id))


def _overtaken(row: CRLRow) -> Fault:
    return Fault(
        FaultCode.CONFLICT,
        "a newer CRL was published meanwhile",
        private=f"issuer {row.issuer_id}, number {row.number}",
    )


_REVOKED = (
    "SELECT serial, revoked_at, reason, invalidity_date, not_after FROM certificates"
    " WHERE issuer_id = {0} AND serial > {0} AND revoked_at IS NOT NULL"
    " AND (not_after >= {0} OR revoked_at >= {0}){1} ORDER BY serial LIMIT {0}"
)
_UP_TO = " AND serial <= {0}"
# A change is of one certificate: no two rows have the same changed_id.
_CHANGED = (
    "SELECT changed_id, serial, revoked_at, reason, invalidity_date, not_after FROM certificates"
    " WHERE issuer_id = {0} AND changed_id > {0} ORDER BY changed_id LIMIT {0}"
)
_DROPPED = (
    "SELECT serial, revoked_at, reason, invalidity_date, not_after FROM certificates"
    " WHERE issuer_id = {0} AND revoked_at IS NOT NULL AND (not_after, serial) > ({0}, {0})"
    " AND not_after < {0} AND revoked_at < {0} AND (changed_id IS NULL OR changed_id <= {0})"
    " ORDER BY not_after, serial LIMIT {0}"
)
_MARKS = {"sqlite": "?", "postgresql": "%s"}


def find_revoked(
    connection: sa.Connection,
    issuer_id: int,
    after: bytes,
    up_to: bytes | None,
    still_valid_at: datetime | None,
    limit: int,
) -> Sequence[RevokedRow]:
    """Return a page of revoked certificates by serial, as plain tuples: a CRL reads millions.

    The page begins behind ``after`` and does not reach beyond ``up_to``. What expired, and
    was revoked, before ``still_valid_at`` is left out.
    """
    mark = _MARKS[connection.dialect.name]
    limit_date = 0 if still_valid_at is None else _microseconds(still_valid_at)
    values: list[object] = [issuer_id, after, limit_date, limit_date]
    bound = ""
    if up_to is not None:
        bound = _UP_TO.format(mark)
        values.append(up_to)
    return _fetch(connection, _REVOKED.format(mark, bound), (*values, limit))


def find_changed(
    connection: sa.Connection, issuer_id: int, after: int, limit: int
) -> Sequence[ChangedRow]:
    """Return a page of certificates by the change that set their status last."""
    query = _CHANGED.format(_MARKS[connection.dialect.name])
    return _fetch(connection, query, (issuer_id, after, limit))


def find_dropped(
    connection: sa.Connection,
    issuer_id: int,
    base: DeltaBase,
    until: datetime,
    after: tuple[int, bytes] | None,
    limit: int,
) -> Sequence[RevokedRow]:
    """Return a page of what was on the base and expired, and was revoked, before ``until``.

    The page begins behind ``after``, an end in microseconds since 1970 and a serial number.
    What has changed since ``base.change_id_before`` is left out: ``find_changed`` has it.
    """
    start = after or (_microseconds(base.dropped_before), b"")
    limit_date = _microseconds(until)
    query = _DROPPED.format(_MARKS[connection.dialect.name])
    values = (issuer_id, *start, limit_date, limit_date, base.change_id_before, limit)
    return _fetch(connection, query, values)


def _fetch(connection: sa.Connection, query: str, values: Sequence[object]) -> Sequence[Any]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(query, tuple(values))
        rows: Sequence[Any] = cursor.fetchall()
    finally:
        cursor.close()
    return rows


def find_all_unexpired(
    connection: sa.Connection,
    issuer_id: int,
    after: bytes,
    up_to: bytes | None,
    compromised_at: datetime,
    limit: int,
) -> list[RevokedRow]:
    """Return a page of everything that a compromised key has signed, as if revoked by that.

    An earlier revocation of one certificate keeps its own date and reason.
    """
    query = (
        sa.select(
            certificates.c.serial,
            certificates.c.revoked_at,
            certificates.c.reason,
            certificates.c.invalidity_date,
            certificates.c.not_after,
        )
        .where(
            certificates.c.issuer_id == issuer_id,
            certificates.c.serial > after,
            certificates.c.state != "intent",
            certificates.c.not_after >= compromised_at,
        )
        .order_by(certificates.c.serial)
        .limit(limit)
    )
    if up_to is not None:
        query = query.where(certificates.c.serial <= up_to)
    found: list[RevokedRow] = []
    for serial, revoked_at, reason, invalidity_date, not_after in connection.execute(query):
        if revoked_at is None or revoked_at > compromised_at:
            revoked_at, reason, invalidity_date = compromised_at, 2, None
        found.append(
            (
                serial,
                _microseconds(revoked_at),
                reason,
                None if invalidity_date is None else _microseconds(invalidity_date),
                _microseconds(not_after),
            )
        )
    return found


def find_status_changes(connection: sa.Connection, issuer_id: int, after: int) -> StatusChanges:
    """Return what changed for one issuer since the change ``after``."""
    news = changes.since(connection, after)
    if not news.continuous:
        return StatusChanges(news.latest, None)
    prefix = f"{issuer_id}:"
    serials = set()
    for topic, key in news.changes:
        if topic == status_rows.TOPIC and key.startswith(prefix):
            serial_hex = key.removeprefix(prefix)
            if serial_hex == changes.EVERYTHING:
                return StatusChanges(news.latest, None)
            serials.add(bytes.fromhex(serial_hex))
    return StatusChanges(news.latest, frozenset(serials))


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
