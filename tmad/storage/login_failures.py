"""Failed logins: counted for people, tokens and sources, so that no rollback forgets them.

A row of a person or a token counts until a success; one of a source counts for a while.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tmad.storage.statement import Listing, Statement
from tmad.storage.tables import login_failures as t

# Locked until an administrator says otherwise.
FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)

# "tmlo" as a number: the class of the advisory locks that keep one person's logins in a row.
_LOCK_CLASS = 0x746D6C6F
_LOCK = Statement(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.literal_column(str(_LOCK_CLASS)), sa.bindparam("number", type_=sa.Integer)
        )
    )
)


@dataclass(frozen=True, slots=True)
class FailureRow:
    """How often a subject ("person:bob", "token:ID", "source:192.0.2.1") has failed."""

    tenant: str
    subject: str
    failures: int
    since: datetime
    locked_until: datetime | None

    def is_locked(self, now: datetime) -> bool:
        """Whether nothing that the subject presents is accepted just now."""
        return self.locked_until is not None and now < self.locked_until


_COLUMNS = (t.c.tenant, t.c.subject, t.c.failures, t.c.since, t.c.locked_until)
_SELECT = sa.select(*_COLUMNS)
_LISTED = Listing(
    lambda listed: _SELECT.where(t.c.tenant == sa.bindparam("key_tenant"), t.c.subject.in_(listed))
)
_DELETE = Statement(
    sa.delete(t).where(
        t.c.tenant == sa.bindparam("key_tenant"), t.c.subject == sa.bindparam("key_subject")
    )
)


def _upsert(insert: Any) -> Statement:
    """Return the statement that counts, in one dialect: atomic, whoever else counts."""
    now = sa.bindparam("now", type_=t.c.since.type)
    by = sa.bindparam("by", type_=sa.Integer)
    # The count starts anew when its time is over: that of a lock, or that of a source.
    is_over = sa.or_(
        t.c.locked_until <= now, t.c.since < sa.bindparam("oldest", type_=t.c.since.type)
    )
    total = sa.case((is_over, by), else_=t.c.failures + by)
    lock = sa.bindparam("lock", type_=t.c.locked_until.type)
    reached = total >= sa.bindparam("limit", type_=sa.Integer)
    still = sa.case((is_over, sa.null()), else_=t.c.locked_until)
    first = sa.bindparam("first_lock", type_=t.c.locked_until.type)
    statement = insert(t).values(
        tenant=sa.bindparam("key_tenant"),
        subject=sa.bindparam("key_subject"),
        failures=by,
        since=now,
        locked_until=first,
    )
    return Statement(
        statement.on_conflict_do_update(
            index_elements=[t.c.tenant, t.c.subject],
            set_={
                "failures": total,
                "since": sa.case((is_over, now), else_=t.c.since),
                "locked_until": sa.case((reached, sa.func.coalesce(still, lock)), else_=still),
            },
        ).returning(t.c.failures, t.c.locked_until)
    )


_COUNT: Mapping[str, Statement] = {
    "sqlite": _upsert(sqlite.insert),
    "postgresql": _upsert(postgresql.insert),
}


def in_a_row(connection: sa.Connection, subjects: Sequence[tuple[str, str]]) -> None:
    """Let the logins of each of some people follow one another until this transaction ends.

    People are subjects with their tenants before them.

    SQLite has one writer anyway; on PostgreSQL, guesses at the same instant would else all be
    judged before one of them has been counted.
    """
    if connection.dialect.name == "postgresql":
        # Two subjects of one number wait for each other, which does no harm. In one order: two
        # transactions never wait for each other.
        for number in sorted({zlib.crc32("/".join(each).encode()) for each in subjects}):
            _LOCK.rows(connection, {"number": number - 0x8000_0000})


def find_listed(
    connection: sa.Connection, tenant: str, subjects: Sequence[str]
) -> dict[str, FailureRow]:
    """Return those of one to many subjects that have failed, by subject."""
    found = _LISTED.rows(connection, subjects, key_tenant=tenant)
    return {row[1]: FailureRow(*row) for row in found}


def count(
    connection: sa.Connection,
    tenant: str,
    subject: str,
    *,
    now: datetime,
    by: int = 1,
    limit: int,
    locked_until: datetime | None,
    oldest: datetime,
) -> bool:
    """Count a failure; tell whether this one locked the subject.

    What was counted before ``oldest``, or up to a lock that is over, counts no more. From
    ``limit`` failures on the subject is locked until ``locked_until``.
    """
    values = {
        "key_tenant": tenant,
        "key_subject": subject,
        "now": now,
        "by": by,
        "limit": limit,
        "lock": locked_until,
        "first_lock": locked_until if by >= limit else None,
        "oldest": oldest,
    }
    [(failures, _)] = _COUNT[connection.dialect.name].rows(connection, values)
    return by > 0 and failures == limit and locked_until is not None


def reset(connection: sa.Connection, tenant: str, subject: str) -> bool:
    """Forget the failures of a subject; tell whether there were any."""
    return _DELETE.run(connection, {"key_tenant": tenant, "key_subject": subject}) == 1


def find_of(
    connection: sa.Connection, tenant: str, subjects: Iterable[str]
) -> dict[str, FailureRow]:
    """Return those of some subjects that have failed, by subject."""
    query = _SELECT.where(t.c.tenant == tenant, t.c.subject.in_(list(subjects)))
    return {row.subject: FailureRow(*row) for row in connection.execute(query)}


def prune(connection: sa.Connection, prefix: str, before: datetime) -> int:
    """Delete the counts of one sort ("source:") that began before an instant."""
    result = connection.execute(
        sa.delete(t).where(t.c.since < before, t.c.subject.startswith(prefix, autoescape=True))
    )
    return result.rowcount
