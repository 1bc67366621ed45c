"""What counts against the next login of a person, or the next code of a token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from tmad.storage import login_failures

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing(Generic[T]):
    """A person or a token, its failures and until when it is locked for them."""

    of: T
    failures: int
    locked_until: datetime | None


def standing(
    connection: Connection, of: T, tenant: str, subject: str, now: datetime
) -> Standing[T]:
    """Return how something stands whose failures are counted as ``subject``."""
    row = login_failures.find_of(connection, tenant, [subject]).get(subject)
    if row is None:
        return Standing(of, 0, None)
    return Standing(of, row.failures, row.locked_until if row.is_locked(now) else None)
