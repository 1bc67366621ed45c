"""Rows of alarms: what is wrong just now, or was lately."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.storage.tables import alarms, certificate_names, certificates

CLEARED = "cleared"

_LOCK = 0x746D_616C  # "tmal", a number of our own for pg_advisory_xact_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRow:
    """One condition and what it is about.

    ``cleared_at`` is None while it is so. ``told`` is what the journal heard last: a severity,
    or CLEARED.
    """

    name: str
    object: str
    tenant: str
    severity: str
    text: str
    since: datetime
    cleared_at: datetime | None = None
    told: str = CLEARED
    raised_told_at: datetime | None = None
    cleared_told_at: datetime | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other."""
        return (self.name, self.object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A tenant's certificates that end soon and that no other has replaced."""

    number: int  # up to the limit that was asked for
    first_at: datetime
    first: str  # whose it is


def find(connection: sa.Connection) -> tuple[AlarmRow, ...]:
    """Return every alarm, also what is over: a handful."""
    rows = connection.execute(sa.select(*alarms.c).order_by(alarms.c.name, alarms.c.object))
    return tuple(AlarmRow(**row._mapping) for row in rows)


def lock(connection: sa.Connection) -> None:
    """Let nobody else settle alarms until this transaction ends.

    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def put(connection: sa.Connection, row: AlarmRow) -> None:
    """Insert a row or replace the one with its key."""
    values = {column.name: getattr(row, column.name) for column in alarms.c}
    changed = connection.execute(
        alarms.update()
        .where(alarms.c.name == row.name, alarms.c.object == row.object)
        .values(**values)
    ).rowcount
    if not changed:
        connection.execute(alarms.insert().values(**values))


def delete(connection: sa.Connection, row: AlarmRow) -> None:
    """Forget one."""
    connection.execute(
        alarms.delete().where(alarms.c.name == row.name, alarms.c.object == row.object)
    )


def ending(
    connection: sa.Connection, tenant: str, now: datetime, until: datetime, most: int
) -> Ending | None:
    """Return what of a tenant ends in this time and was not renewed under the same names.

    Of certificates without a name nobody can tell that they were renewed: they count.
    """
    other = certificates.alias("other")
    own, shared = certificate_names.alias("own"), certificate_names.alias("shared")
    renewed = (
        sa.select(sa.literal(1))
        .select_from(
            own.join(
                shared,
                (shared.c.tenant == own.c.tenant)
                & (shared.c.value == own.c.value)
                & (shared.c.certificate_id != own.c.certificate_id),
            ).join(other, other.c.id == shared.c.certificate_id)
        )
        .where(
            own.c.certificate_id == certificates.c.id,
            other.c.not_after > until,
            other.c.revoked_at.is_(None),
            other.c.state.in_(("issued", "imported")),
        )
        .exists()
    )
    rows = connection.execute(
        sa.select(certificates.c.not_after, certificates.c.subject)
        .where(
            certificates.c.tenant == tenant,
            certificates.c.not_after > now,
            certificates.c.not_after <= until,
            certificates.c.revoked_at.is_(None),
            certificates.c.state.in_(("issued", "imported")),
            # What tmad holds for itself it renews by itself.
            certificates.c.via != "system",
            ~renewed,
        )
        .order_by(certificates.c.not_after)
        .limit(most)
    ).all()
    if not rows:
        return None
    return Ending(number=len(rows), first_at=rows[0].not_after, first=rows[0].subject)
