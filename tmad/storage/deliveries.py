"""Rows of messages about journal records: what waits, what was delivered, what was given up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.storage.journal import Record
from tmad.storage.tables import Instant, deliveries, journal, object_revisions

LISTED = 50  # records that a message names; of the others it knows the number

Place = tuple[str, int]  # writer and seq of a record


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One message; ``kinds`` and ``records`` are JSON."""

    id: int
    tenant: str
    notification: str
    message: str
    state: str  # "waiting", "delivered", "failed"
    events: int
    kinds: str
    records: str
    attempts: int
    outcome: str
    due_at: datetime | None
    created_at: datetime
    done_at: datetime | None

    @property
    def places(self) -> list[Place]:
        """Return where in the journal the records stand that the message names."""
        return [(writer, seq) for writer, seq in json.loads(self.records)]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many records of each kind the message tells of."""
        found: dict[str, int] = json.loads(self.kinds)
        return found


_OF = (
    deliveries.c.tenant == sa.bindparam("of_tenant"),
    deliveries.c.notification == sa.bindparam("of_notification"),
)
_INSERT = deliveries.insert().returning(deliveries.c.id)
_NEWEST = (
    sa.select(deliveries)
    .where(*_OF)
    .order_by(deliveries.c.id.desc())
    .limit(1)
    .offset(sa.bindparam("skip"))
)
_FIND = (
    sa.select(deliveries)
    .where(*_OF, deliveries.c.id < sa.bindparam("before"))
    .order_by(deliveries.c.id.desc())
    .limit(sa.bindparam("limit"))
)
_BY_ID = sa.select(deliveries).where(deliveries.c.id == sa.bindparam("key"))
# A message that nobody has tried to send yet; the sender's claim ends that.
_GATHER = (
    deliveries.update()
    .where(
        deliveries.c.id == sa.bindparam("key"),
        deliveries.c.attempts == 0,
        deliveries.c.state == "waiting",
        deliveries.c.due_at > sa.bindparam("now", type_=Instant()),
    )
    .values(
        events=sa.bindparam("new_events"),
        kinds=sa.bindparam("new_kinds"),
        records=sa.bindparam("new_records"),
    )
)
_DUE = (
    sa.select(deliveries.c.tenant, deliveries.c.notification, sa.func.min(deliveries.c.id))
    .where(deliveries.c.due_at.is_not(None), deliveries.c.due_at <= sa.bindparam("now"))
    .group_by(deliveries.c.tenant, deliveries.c.notification)
    .limit(sa.bindparam("limit"))
)
_CLAIM = (
    deliveries.update()
    .where(
        deliveries.c.id == sa.bindparam("key"),
        deliveries.c.due_at <= sa.bindparam("now", type_=Instant()),
    )
    .values(attempts=deliveries.c.attempts + 1, due_at=sa.bindparam("until", type_=Instant()))
    .returning(*deliveries.c)
)
# Whoever claimed it again since has the later number of attempts.
_FINISH = (
    deliveries.update()
    .where(
        deliveries.c.id == sa.bindparam("key"),
        deliveries.c.attempts == sa.bindparam("tried"),
        deliveries.c.state == "waiting",
    )
    .values(
        state=sa.bindparam("new_state"),
        outcome=sa.bindparam("new_outcome"),
        due_at=sa.bindparam("new_due", type_=Instant()),
        done_at=sa.bindparam("new_done", type_=Instant()),
    )
)
_GIVE_UP = (
    deliveries.update()
    .where(*_OF, deliveries.c.due_at.is_not(None))
    .values(
        state="failed",
        outcome=sa.bindparam("new_outcome"),
        due_at=None,
        done_at=sa.bindparam("new_done", type_=Instant()),
    )
)
_AGAIN = (
    deliveries.update()
    .where(
        deliveries.c.id == sa.bindparam("key"),
        deliveries.c.tenant == sa.bindparam("of_tenant"),
        deliveries.c.due_at.is_(None),
    )
    .values(
        state="waiting",
        message=sa.bindparam("new_message"),
        attempts=0,
        outcome="",
        due_at=sa.bindparam("new_due", type_=Instant()),
        done_at=None,
    )
)
_OLD = (
    sa.select(deliveries.c.id)
    .where(deliveries.c.done_at.is_not(None), deliveries.c.done_at < sa.bindparam("before"))
    .order_by(deliveries.c.done_at)
    .limit(sa.bindparam("limit"))
)
_PRUNE = deliveries.delete().where(deliveries.c.id.in_(_OLD.scalar_subquery()))
_RECORD = sa.select(journal).where(
    journal.c.writer == sa.bindparam("writer"), journal.c.seq == sa.bindparam("seq")
)
_OF_OBJECT = (
    object_revisions.c.tenant == sa.bindparam("tenant"),
    object_revisions.c.kind == sa.bindparam("kind"),
    object_revisions.c.name == sa.bindparam("name"),
)
_LAST_DELETION = (
    sa.select(sa.func.coalesce(sa.func.max(object_revisions.c.revision), 0))
    .where(*_OF_OBJECT, object_revisions.c.document.is_(None))
    .scalar_subquery()
)
_SINCE = (
    sa.select(object_revisions.c.at)
    .where(*_OF_OBJECT, object_revisions.c.revision > _LAST_DELETION)
    .order_by(object_revisions.c.revision)
    .limit(1)
)

_NO_ID_YET = 2**62


def insert(
    connection: sa.Connection,
    tenant: str,
    notification: str,
    *,
    message: str,
    records: Iterable[Record],
    now: datetime,
    due_at: datetime,
) -> int:
    """Add a message that waits; return its id."""
    counts, places = _told(records)
    values = {
        "tenant": tenant,
        "notification": notification,
        "message": message,
        "state": "waiting",
        "events": sum(counts.values()),
        "kinds": _json(counts),
        "records": _json(places[:LISTED]),
        "attempts": 0,
        "outcome": "",
        "due_at": due_at,
        "created_at": now,
        "done_at": None,
    }
    found: int = connection.execute(_INSERT, values).scalar_one()
    return found


def gather(
    connection: sa.Connection, row: DeliveryRow, records: Iterable[Record], now: datetime
) -> bool:
    """Let a message that nobody sends yet tell of more records; False if somebody does."""
    counts, places = _told(records)
    events = row.events + sum(counts.values())
    kinds = row.counts
    for kind, number in counts.items():
        kinds[kind] = kinds.get(kind, 0) + number
    values = {
        "key": row.id,
        "now": now,
        "new_events": events,
        "new_kinds": _json(kinds),
        "new_records": _json([*row.places, *places][:LISTED]),
    }
    return connection.execute(_GATHER, values).rowcount == 1


def newest(
    connection: sa.Connection, tenant: str, notification: str, skip: int = 0
) -> DeliveryRow | None:
    """Return the newest message of a notification, or the one that came ``skip`` before it."""
    row = connection.execute(
        _NEWEST, {"of_tenant": tenant, "of_notification": notification, "skip": skip}
    ).first()
    return None if row is None else _row(row)


def find(
    connection: sa.Connection,
    tenant: str,
    notification: str,
    before: int | None = None,
    limit: int = 100,
) -> list[DeliveryRow]:
    """Return a page of a notification's messages, newest first."""
    rows = connection.execute(
        _FIND,
        {
            "of_tenant": tenant,
            "of_notification": notification,
            "before": _NO_ID_YET if before is None else before,
            "limit": limit,
        },
    )
    return [_row(row) for row in rows]


def by_id(connection: sa.Connection, tenant: str, key: int) -> DeliveryRow | None:
    """Return one message of a tenant."""
    row = connection.execute(_BY_ID, {"key": key}).first()
    return None if row is None or row.tenant != tenant else _row(row)


def due(connection: sa.Connection, now: datetime, limit: int) -> list[tuple[str, str, int]]:
    """Return tenant, name and oldest message of each notification that has one to send."""
    return [tuple(row) for row in connection.execute(_DUE, {"now": now, "limit": limit})]


def claim(
    connection: sa.Connection, key: int, now: datetime, until: datetime
) -> DeliveryRow | None:
    """Take a message to send; nobody else does before ``until``. None if somebody else has it."""
    row = connection.execute(_CLAIM, {"key": key, "now": now, "until": until}).first()
    return None if row is None else _row(row)


def finish(
    connection: sa.Connection,
    row: DeliveryRow,
    state: str,
    outcome: str,
    *,
    due_at: datetime | None = None,
    done_at: datetime | None = None,
) -> bool:
    """Note what became of a claimed message; False if it was claimed again meanwhile."""
    values = {
        "key": row.id,
        "tried": row.attempts,
        "new_state": state,
        "new_outcome": outcome,
        "new_due": due_at,
        "new_done": done_at,
    }
    return connection.execute(_FINISH, values).rowcount == 1


def give_up(
    connection: sa.Connection, tenant: str, notification: str, outcome: str, now: datetime
) -> int:
    """Let nothing of a notification wait any longer; return how many messages did."""
    values = {
        "of_tenant": tenant,
        "of_notification": notification,
        "new_outcome": outcome,
        "new_done": now,
    }
    return connection.execute(_GIVE_UP, values).rowcount


def send_again(
    connection: sa.Connection, tenant: str, key: int, message: str, now: datetime
) -> bool:
    """Let a message that is done with wait again, under a new name."""
    values = {"key": key, "of_tenant": tenant, "new_message": message, "new_due": now}
    return connection.execute(_AGAIN, values).rowcount == 1


def prune(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Delete messages that were done with before an instant, the oldest first."""
    return connection.execute(_PRUNE, {"before": before, "limit": limit}).rowcount


def find_records(connection: sa.Connection, places: Iterable[Place]) -> list[Record]:
    """Return the records at these places of the journal, in their order."""
    found = (
        connection.execute(_RECORD, {"writer": writer, "seq": seq}).first()
        for writer, seq in places
    )
    return [Record(*row) for row in found if row is not None]


def exists_since(connection: sa.Connection, tenant: str, kind: str, name: str) -> datetime | None:
    """Return when a managed object was created, or created again after its deletion."""
    found: datetime | None = connection.execute(
        _SINCE, {"tenant": tenant, "kind": kind, "name": name}
    ).scalar()
    return found


def _row(row: sa.Row[tuple[object, ...]]) -> DeliveryRow:
    return DeliveryRow(**row._mapping)


def _told(records: Iterable[Record]) -> tuple[dict[str, int], list[Place]]:
    counts: dict[str, int] = {}
    places = []
    for record in records:
        counts[record.kind] = counts.get(record.kind, 0) + 1
        places.append((record.writer, record.seq))
    return counts, places


def _json(value: Mapping[str, int] | list[Place]) -> str:
    return json.dumps(value, separators=(",", ":"))
