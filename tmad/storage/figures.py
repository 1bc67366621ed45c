"""The numbers that operators watch, read from indexes alone: no statement loads a table.

Counts of certificates walk a covering index (0.05 s a million entries on SQLite, in memory), so
whoever asks for them leaves a long pause in between; everything else is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.storage.tables import (
    certificates,
    crls,
    deliveries,
    journal_checkpoints,
    journal_cursors,
    journal_writers,
    objects,
    radius_disconnects,
    requests,
)

# What waits is counted up to here: more is an alarm anyway.
MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLHead:
    """The newest CRL of an issuer; ``size`` in octets."""

    issuer_id: int
    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What waits, of every tenant; each number stops at MOST_WAITING."""

    requests: dict[str, int]  # by tenant
    deliveries: int
    disconnects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalState:
    """How much was journaled, how much of it no checkpoint covers, who has not had it yet."""

    records: int
    writers: int
    checkpoint: int  # the newest one's number; 0: none
    sealed_at: datetime | None
    heads: str  # of the newest checkpoint, JSON: writer -> [seq, hash]
    delivered: dict[str, int]  # subscriber -> records that it has had


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What one issuer has signed; ``revoked_until`` answers the ends that were asked for."""

    issued: int
    revoked: int
    revoked_unexpired: int
    revoked_until: tuple[int, ...]


def find_tenants(connection: sa.Connection) -> tuple[str, ...]:
    """Return the name of every tenant."""
    query = sa.select(objects.c.name).where(objects.c.tenant == "*", objects.c.kind == "tenant")
    return tuple(connection.execute(query.order_by(objects.c.name)).scalars())


def find_crl_heads(connection: sa.Connection, issuers: Sequence[int]) -> tuple[CRLHead, ...]:
    """Return the newest CRL of each of these issuers that has one."""
    query = (
        sa.select(
            crls.c.issuer_id,
            crls.c.number,
            crls.c.this_update,
            crls.c.next_update,
            crls.c.entries,
            sa.func.coalesce(sa.func.length(crls.c.crl_der), 0).label("size"),
        )
        .where(crls.c.issuer_id == sa.bindparam("issuer"))
        .order_by(crls.c.number.desc())
        .limit(1)
    )
    found = (connection.execute(query, {"issuer": issuer}).one_or_none() for issuer in issuers)
    return tuple(CRLHead(**row._mapping) for row in found if row is not None)


def waiting(connection: sa.Connection, tenants: Sequence[str]) -> Waiting:
    """Return what waits for somebody, or for another machine."""
    return Waiting(
        requests={
            tenant: _count(connection, requests.c.tenant == tenant, requests.c.state == "pending")
            for tenant in tenants
        },
        deliveries=_count(connection, deliveries.c.due_at.is_not(None)),
        disconnects=_count(connection, radius_disconnects.c.due_at.is_not(None)),
    )


def _count(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
    rows = sa.select(sa.literal(1)).where(*conditions).limit(MOST_WAITING).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one())


def journal_state(connection: sa.Connection) -> JournalState:
    """Return how far the journal has got, and how far its subscribers have."""
    records, writers = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(journal_writers.c.seq), 0), sa.func.count())
    ).one()
    last = connection.execute(
        sa.select(journal_checkpoints.c.id, journal_checkpoints.c.at, journal_checkpoints.c.heads)
        .order_by(journal_checkpoints.c.id.desc())
        .limit(1)
    ).one_or_none()
    delivered = connection.execute(
        sa.select(journal_cursors.c.subscriber, sa.func.sum(journal_cursors.c.seq)).group_by(
            journal_cursors.c.subscriber
        )
    )
    return JournalState(
        records=int(records),
        writers=int(writers),
        checkpoint=0 if last is None else last.id,
        sealed_at=None if last is None else last.at,
        heads="{}" if last is None else last.heads,
        delivered={subscriber: int(number) for subscriber, number in delivered},
    )


def signed(
    connection: sa.Connection, issuer_id: int, now: datetime, ends: Sequence[datetime]
) -> Signed:
    """Count what an issuer has signed, and what of it was revoked and ends up to ``ends``."""
    of_issuer = certificates.c.issuer_id == issuer_id
    issued = connection.execute(
        sa.select(sa.func.count()).select_from(certificates).where(of_issuer)
    ).scalar_one()
    not_after = certificates.c.not_after
    is_unexpired = not_after > now
    numbers = connection.execute(
        sa.select(
            sa.func.count(),
            *(
                sa.func.count(sa.case((condition, 1)))
                for condition in (
                    is_unexpired,
                    *(sa.and_(is_unexpired, not_after <= end) for end in ends),
                )
            ),
        ).where(of_issuer, certificates.c.revoked_at.is_not(None))
    ).one()
    revoked, revoked_unexpired, *revoked_until = (int(number) for number in numbers)
    return Signed(
        issued=int(issued),
        revoked=revoked,
        revoked_unexpired=revoked_unexpired,
        revoked_until=tuple(revoked_until),
    )


def ending(
    connection: sa.Connection, tenant: str, now: datetime, ends: Sequence[datetime]
) -> tuple[int, ...]:
    """Count a tenant's certificates that are valid now and end up to each of ``ends``.

    Those that were revoked are among them. The last number has no end: all that are unexpired.
    """
    query = (
        sa.select(sa.func.count())
        .select_from(certificates)
        .where(certificates.c.tenant == tenant, certificates.c.not_after > now)
    )
    windows = (*(query.where(certificates.c.not_after <= end) for end in ends), query)
    return tuple(int(connection.execute(window).scalar_one()) for window in windows)
