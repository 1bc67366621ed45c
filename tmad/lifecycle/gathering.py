"""Which message of a notification tells of which record: at once, in digests, never too many."""

from __future__ import annotations

import secrets as random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.lifecycle.notification import KIND, NotificationDocument, Rule
from tmad.storage import deliveries as rows
from tmad.storage import objects
from tmad.storage.journal import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PAGE: Final = 500
_ALONE: Final = 5  # records of one turn that get a message each; more get one together


def find_rules(connection: Connection) -> dict[tuple[str, str], Rule]:
    """Return every tenant's notifications by tenant and name."""
    found = {}
    for row in _every(connection):
        since = rows.exists_since(connection, row.tenant, KIND, row.name)
        document = NotificationDocument.model_validate_json(row.document)
        found[row.tenant, row.name] = Rule(row.tenant, row.name, document, since or row.updated_at)
    return found


def _every(connection: Connection) -> list[objects.ObjectRow]:
    """Return the notifications of all tenants."""
    tenants = _all(connection, "*", "tenant")
    return [row for tenant in tenants for row in _all(connection, tenant.name, KIND)]


def _all(connection: Connection, tenant: str, kind: str) -> list[objects.ObjectRow]:
    found: list[objects.ObjectRow] = []
    while page := objects.find(connection, tenant, kind, found[-1].name if found else "", _PAGE):
        found += page
    return found


def queue(connection: Connection, rule: Rule, records: list[Record], now: datetime) -> None:
    """Write down that a notification has to tell of these records."""
    open_ = rows.newest(connection, rule.tenant, rule.name)
    is_open = open_ is not None and open_.due_at is not None and open_.due_at > now
    if open_ is not None and is_open and rows.gather(connection, open_, records, now):
        return
    if rule.document.digest_minutes:
        due_at = now + timedelta(minutes=rule.document.digest_minutes)
        _insert(connection, rule, records, now, due_at)
        return
    alone = [[record] for record in records] if len(records) <= _ALONE else [records]
    while alone:
        due_at = _allowed_from(connection, rule, now)
        if due_at > now:
            # The rest goes together, when the next message may go.
            rest = [record for each in alone for record in each]
            _insert(connection, rule, rest, now, due_at)
            return
        _insert(connection, rule, alone.pop(0), now, now)


def _allowed_from(connection: Connection, rule: Rule, now: datetime) -> datetime:
    """Return when the next message may go, so that no hour has more than were asked for."""
    row = rows.newest(connection, rule.tenant, rule.name, rule.document.per_hour - 1)
    if row is None:
        return now
    went_at = row.done_at or row.due_at or row.created_at
    return max(now, went_at + timedelta(hours=1))


def _insert(
    connection: Connection,
    rule: Rule,
    records: Sequence[Record],
    now: datetime,
    due_at: datetime,
) -> None:
    rows.insert(
        connection,
        rule.tenant,
        rule.name,
        message=name_message(),
        records=records,
        now=now,
        due_at=due_at,
    )


def name_message() -> str:
    """Return what receivers know a message by."""
    return f"msg_{random.token_hex(12)}"
