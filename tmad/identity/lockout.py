"""What failed logins lead to: people and tokens are locked, sources must wait.

Counting is part of the transaction that judges a login and that commits whatever it says; the
caller's own transaction, which may be rolled back, has no part in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.identity.login_rules import LockRules
from tmad.storage import login_failures as rows
from tmad.storage.login_failures import FailureRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Names that nobody has are counted like others, which costs as much and tells as little; in a
# few rows, however many names a stranger thinks of.
_BUCKETS: Final = 4_096
_NOBODY: Final = "unknown:"
_NOBODIES: Final = (_NOBODY, f"token:{_NOBODY}")


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whose failures count in one login: ``tokens`` are all that were tried."""

    person: str
    tokens: tuple[str, ...]
    token: str  # the one whose code was presented, or the first
    source: str

    @classmethod
    def of(
        cls, name: str, *, is_known: bool, tokens: tuple[str, ...] | None, token: str, source: str
    ) -> Subjects:
        """Return the subjects of a login with this normalised name.

        ``tokens`` is None where none is asked for, and empty where the person has none.
        """
        stand_in = f"{_NOBODY}{zlib.crc32(name.encode()) % _BUCKETS:03x}"
        person = f"person:{name}" if is_known else stand_in
        if tokens is not None and not tokens:
            token = f"token:{stand_in}"
            tokens = (token,)
        return cls(person, tokens or (), token, f"source:{source}")


class Lockout:
    """The failures of one login's subjects, inside its transaction."""

    def __init__(
        self,
        connection: Connection,
        tenant: str,
        subjects: Subjects,
        rules: LockRules,
        before: Mapping[str, FailureRow] | None = None,
    ) -> None:
        """``before`` is what ``failures_of`` returned, where logins are looked at together."""
        self._connection = connection
        self._tenant = tenant
        self._subjects = subjects
        self._rules = rules
        self._before = failures_of(connection, tenant, [subjects]) if before is None else before

    def obstacle(self, now: datetime) -> str:
        """Return the rule by which nothing that is presented now is accepted, or ""."""
        mine = self._subjects
        for subject, rule in (
            (mine.source, "login.source"),
            (mine.person, "login.locked"),
            (mine.token, "otp.locked"),
        ):
            row = self._before.get(subject)
            if row is not None and row.is_locked(now):
                return rule
        return ""

    def fail(self, now: datetime, obstacle: str) -> tuple[str, ...]:
        """Count a failure; return the subjects that it has locked.

        What was not judged, because of an obstacle, writes as much but counts for the source
        alone: time must not tell which of the two it was.
        """
        mine, rules = self._subjects, self._rules
        until = now + timedelta(minutes=rules.minutes) if rules.minutes else rows.FOR_EVER
        by = 0 if obstacle else 1
        locked = []
        for subject in (mine.person, *mine.tokens):
            if rows.count(
                self._connection,
                self._tenant,
                subject,
                now=now,
                by=by,
                limit=rules.failures,
                # Nobody would see that one of many names in a bucket is locked.
                locked_until=None if subject.startswith(_NOBODIES) else until,
                oldest=_EVER,
            ):
                locked.append(subject)
        window = timedelta(minutes=rules.source_minutes)
        if rows.count(
            self._connection,
            self._tenant,
            mine.source,
            now=now,
            by=0 if obstacle == "login.source" else 1,
            limit=rules.source_failures,
            locked_until=now + window if rules.source_failures else None,
            oldest=now - window,
        ):
            locked.append(mine.source)
        return tuple(locked)

    def succeed(self) -> None:
        """Forget the failures of the person and of the token that was used."""
        for subject in (self._subjects.person, self._subjects.token):
            if subject in self._before:
                rows.reset(self._connection, self._tenant, subject)


def hold(connection: Connection, logins: Sequence[tuple[str, Subjects]]) -> None:
    """Let guesses at the same instant follow each other, so that no more than the limit count."""
    rows.in_a_row(connection, [(tenant, each.person) for tenant, each in logins])


def failures_of(
    connection: Connection, tenant: str, logins: Sequence[Subjects]
) -> Mapping[str, FailureRow]:
    """Return which subjects of some logins have failed, by subject."""
    hold(connection, [(tenant, each) for each in logins])
    subjects = {subject for each in logins for subject in (each.person, each.token, each.source)}
    return rows.find_listed(connection, tenant, sorted(subjects))


def prune(connection: Connection, before: datetime) -> int:
    """Delete the counts of sources and of nobodies that began before an instant."""
    return sum(rows.prune(connection, prefix, before) for prefix in ("source:", *_NOBODIES))
