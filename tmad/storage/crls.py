"""Rows of crls, and the two questions that a CRL is made from: who is revoked, what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage import status as status_rows
from tmad.storage.tables import certificates, crls

TOPIC = "crls"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLRow:
    """One CRL; ``crl_der`` is None once a newer one has taken its place."""

    issuer_id: int
    number: int
    tenant: str
    this_update: datetime
    next_update: datetime
    entries: int
    change_id: int  # every status change up to this one is in it
    crl_der: bytes | None
    sha256: bytes


@dataclass(frozen=True, slots=True)
class StatusChanges:
    """What changed for one issuer; ``serials`` is None when only a full read can tell."""

    latest: int
    serials: frozenset[bytes] | None


# serial, revoked_at, reason, invalidity_date, not_after: instants in microseconds since 1970
RevokedRow = tuple[bytes, int, int | None, int | None, int]

_COLUMNS = [column for column in crls.c if column.name != "crl_der"]


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


def insert(connection: sa.Connection, row: CRLRow) -> None:
    """Publish a CRL: from this commit on it is the issuer's CRL.

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
        .values(crl_der=None)
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
    cursor = connection.connection.cursor()
    try:
        cursor.execute(_REVOKED.format(mark, bound), (*values, limit))
        rows: Sequence[RevokedRow] = cursor.fetchall()
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
