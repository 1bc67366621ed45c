"""Rows of sessions on the network, of the accounting that tells of them, of which must end.

A session is live until its state is "closed": "admitted" by an Access-Accept, "open" once
accounting has said that it began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tmad.storage.statement import Statement
from tmad.storage.tables import certificates as c
from tmad.storage.tables import devices as d
from tmad.storage.tables import issuers as i
from tmad.storage.tables import login_failures as f
from tmad.storage.tables import objects as o
from tmad.storage.tables import otp_tokens as k
from tmad.storage.tables import people as p
from tmad.storage.tables import radius_accounting as a
from tmad.storage.tables import radius_disconnects as j
from tmad.storage.tables import radius_sessions as t

# How long a login that no accounting has confirmed counts as the use of a person.
UNCONFIRMED = timedelta(minutes=5)

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class SessionRow:
    """One login that was admitted, and what became of it."""

    id: str
    tenant: str
    client: str
    state: str  # "admitted", "open", "closed"
    nas_address: str
    nas_identifier: str
    nas_port: str
    session_key: str  # Acct-Session-Id
    user_name: str
    user_sent: str = ""  # what its NAS calls the user, which may be nobody's name
    person: str | None
    device: str | None
    issuer_id: int | None
    serial: bytes | None
    anchor: str | None
    anchor_issuer: bytes | None
    anchor_serial: bytes | None
    method: str  # empty: nobody was authenticated here, accounting alone tells of it
    policy: str
    ssid: str
    calling_station: str
    calling_sent: str
    called_station: str
    framed_address: str
    octets_in: int
    octets_out: int
    seconds: int
    cause: str
    admitted_at: datetime
    seen_at: datetime
    ends_at: datetime | None
    interim: int
    stale_at: datetime
    closed_at: datetime | None

    @property
    def is_live(self) -> bool:
        return self.state != "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingRow:
    """One accounting record as it came in; ``data`` is JSON."""

    id: int
    tenant: str
    client: str
    session_id: str | None
    status: int
    at: datetime
    data: str


_NAMES = tuple(field.name for field in fields(SessionRow))
_VALUES = attrgetter(*_NAMES)
_COLUMNS = tuple(t.c[name] for name in _NAMES)
# In the words of the partial indexes: with a parameter no planner could use them.
_LIVE = t.c.state != sa.literal_column("'closed'")


def _param(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name)


_INSERT = Statement(t.insert(), columns=_NAMES)
# What accounting tells.
_TOLD = (
    "state",
    "user_sent",
    "nas_port",
    "session_key",
    "ssid",
    "calling_station",
    "calling_sent",
    "called_station",
    "framed_address",
    "octets_in",
    "octets_out",
    "seconds",
    "cause",
    "seen_at",
    "stale_at",
    "closed_at",
)
_UPDATE = Statement(
    t.update()
    .where(t.c.id == _param("key"))
    .values({name: _param(f"new_{name}") for name in _TOLD})
)
_BY_ID = Statement(sa.select(*_COLUMNS).where(t.c.id == _param("key")))
_SAME_NAS = (t.c.tenant == _param("owner"), t.c.client == _param("nas"))
_BY_KEY = Statement(
    sa.select(*_COLUMNS)
    .where(
        *_SAME_NAS,
        t.c.session_key == _param("key"),
        t.c.nas_identifier == _param("identifier"),
    )
    .order_by(t.c.id.desc())
    .limit(1)
)
_BY_STATION = Statement(
    sa.select(*_COLUMNS)
    .where(
        *_SAME_NAS,
        t.c.calling_station == _param("station"),
        t.c.nas_identifier == _param("identifier"),
        # What already has another Acct-Session-Id is another session.
        sa.or_(t.c.session_key == "", t.c.session_key == _param("key")),
        _LIVE,
    )
    .order_by(t.c.id.desc())
    .limit(1)
)
_SUPERSEDE = Statement(
    t.update()
    .where(
        *_SAME_NAS,
        t.c.calling_station == _param("station"),
        t.c.nas_identifier == _param("identifier"),
        # At the same port, or in the same session of the NAS, which has authenticated again.
        sa.or_(
            t.c.nas_port == _param("port"),
            sa.and_(t.c.session_key == _param("key"), t.c.session_key != ""),
        ),
        _LIVE,
    )
    .values(state="closed", cause="superseded", closed_at=_param("now"))
)
_COUNT = Statement(
    sa.select(sa.func.count())
    .select_from(t)
    .where(
        t.c.tenant == _param("owner"),
        t.c.person == _param("who"),
        t.c.calling_station != _param("station"),
        _LIVE,
        t.c.stale_at > _param("now"),
        sa.or_(t.c.state == "open", t.c.admitted_at > _param("recent")),
    )
)
_ACCOUNTING = ("tenant", "client", "digest", "session_id", "status", "at", "data")
_INSERT_ACCOUNTING = {
    dialect.__name__.rpartition(".")[2]: Statement(
        dialect.insert(a).on_conflict_do_nothing(index_elements=["digest"]), columns=_ACCOUNTING
    )
    for dialect in (sqlite, postgresql)
}
_KNOWN_DIGESTS = Statement(
    sa.select(a.c.id).where(
        a.c.digest.in_([_param("digest"), _param("digest_before"), _param("digest_after")])
    )
)


# -- sessions ---------------------------------------------------------------------------------


def insert(connection: sa.Connection, *rows: SessionRow) -> None:
    """Add sessions."""
    _INSERT.insert(connection, map(_VALUES, rows))


def by_id(connection: sa.Connection, session_id: str) -> SessionRow | None:
    """Return a session, whoever's it is: compare its tenant."""
    return _one(_BY_ID.rows(connection, {"key": session_id}))


def by_key(
    connection: sa.Connection, tenant: str, client: str, identifier: str, session_key: str
) -> SessionRow | None:
    """Return the newest session that a NAS knows by this Acct-Session-Id."""
    return _one(
        _BY_KEY.rows(
            connection,
            {"owner": tenant, "nas": client, "identifier": identifier, "key": session_key},
        )
    )


def by_station(
    connection: sa.Connection,
    tenant: str,
    client: str,
    identifier: str,
    station: str,
    session_key: str,
) -> SessionRow | None:
    """Return the newest live session of a station that may have this Acct-Session-Id."""
    return _one(
        _BY_STATION.rows(
            connection,
            {
                "owner": tenant,
                "nas": client,
                "identifier": identifier,
                "station": station,
                "key": session_key,
            },
        )
    )


def update(connection: sa.Connection, row: SessionRow) -> None:
    """Write back what accounting may change of a session."""
    values = {f"new_{name}": getattr(row, name) for name in _TOLD}
    _UPDATE.run(connection, values | {"key": row.id})


def lock(connection: sa.Connection, row: SessionRow) -> SessionRow:
    """Return a session as it is now, locked until the transaction ends."""
    if connection.dialect.name == "sqlite":
        return row  # there is one writer
    found = connection.execute(
        sa.select(*_COLUMNS).where(t.c.id == row.id).with_for_update()
    ).mappings()
    return SessionRow(**found.one())


def supersede(connection: sa.Connection, heirs: Sequence[SessionRow]) -> int:
    """Close what the same stations have at the same ports; return how many that were.

    Call it before the heirs are added: they would be among what they close.
    """
    return _SUPERSEDE.run_many(
        connection,
        [
            {
                "owner": heir.tenant,
                "nas": heir.client,
                "station": heir.calling_station,
                "identifier": heir.nas_identifier,
                "port": heir.nas_port,
                "key": heir.session_key,
                "now": heir.admitted_at,
            }
            for heir in heirs
        ],
    )


def count_live(
    connection: sa.Connection, tenant: str, person: str, calling_station: str, now: datetime
) -> int:
    """Return how many sessions a person has from other stations.

    A login that no accounting has confirmed counts for five minutes: where no accounting is
    sent nobody would otherwise get in again.
    """
    [[count]] = _COUNT.rows(
        connection,
        {
            "owner": tenant,
            "who": person,
            "station": calling_station,
            "now": now,
            "recent": now - UNCONFIRMED,
        },
    )
    return int(count)


def find(
    connection: sa.Connection,
    tenant: str,
    *,
    live: bool = True,
    client: str = "",
    person: str = "",
    device: str = "",
    station: str = "",
    user_name: str = "",
    before: str = "",
    limit: int = 100,
) -> tuple[SessionRow, ...]:
    """Return a page of a tenant's sessions, newest first, beginning before the id ``before``."""
    query = sa.select(*_COLUMNS).where(t.c.tenant == tenant)
    if live:
        query = query.where(_LIVE)
    if before:
        query = query.where(t.c.id < before)
    wanted = {
        t.c.client: client,
        t.c.person: person,
        t.c.device: device,
        t.c.calling_station: station,
        t.c.user_name: user_name,
    }
    for column, value in wanted.items():
        if value:
            query = query.where(column == value)
    rows = connection.execute(query.order_by(t.c.id.desc()).limit(limit)).mappings()
    return tuple([SessionRow(**row) for row in rows])


def has_heir(connection: sa.Connection, row: SessionRow) -> bool:
    """Tell whether the station of a session has another one at the same client."""
    query = sa.select(t.c.id).where(
        t.c.tenant == row.tenant,
        t.c.client == row.client,
        t.c.calling_station == row.calling_station,
        t.c.id != row.id,
        _LIVE,
    )
    return connection.execute(query.limit(1)).first() is not None


def close_of_nas(
    connection: sa.Connection,
    tenant: str,
    client: str,
    address: str,
    identifier: str,
    *,
    before: datetime,
    cause: str,
    now: datetime,
) -> int:
    """Close what a NAS had open when it started or stopped; return how many that were."""
    query = t.update().where(
        t.c.tenant == tenant,
        t.c.client == client,
        t.c.nas_address == address,
        _LIVE,
        t.c.admitted_at <= before,
    )
    if identifier:
        query = query.where(t.c.nas_identifier == identifier)
    closed = connection.execute(query.values(state="closed", cause=cause, closed_at=now))
    return closed.rowcount


def end(connection: sa.Connection, session_id: str, now: datetime) -> bool:
    """Close a session that its NAS has ended at our word; tell whether that is news."""
    closed = connection.execute(
        t.update()
        # Its Stop, without a cause, may have come before the acknowledgement.
        .where(t.c.id == session_id, sa.or_(_LIVE, t.c.cause == "stop"))
        .values(
            state="closed",
            cause="disconnected",
            closed_at=sa.func.coalesce(t.c.closed_at, sa.literal(now, t.c.closed_at.type)),
        )
    )
    return closed.rowcount == 1


def close_stale(connection: sa.Connection, now: datetime, limit: int) -> int:
    """Close sessions of which nothing was heard for too long; return how many that were."""
    stale = sa.select(t.c.id).where(_LIVE, t.c.stale_at <= now).order_by(t.c.stale_at).limit(limit)
    closed = connection.execute(
        t.update()
        .where(t.c.id.in_(stale), _LIVE)
        .values(state="closed", cause="stale", closed_at=now)
    )
    return closed.rowcount


def prune(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Delete closed sessions that were admitted before an instant; return how many."""
    old = (
        sa.select(t.c.id)
        .where(t.c.state == "closed", t.c.id < first_id(before))
        .order_by(t.c.id)
        .limit(limit)
    )
    gone = list(connection.execute(old).scalars())
    if gone:
        connection.execute(t.delete().where(t.c.id.in_(gone)))
        connection.execute(j.delete().where(j.c.session_id.in_(gone), j.c.due_at.is_(None)))
    return len(gone)


def first_id(at: datetime) -> str:
    """Return the smallest ULID of an instant."""
    number = int(at.astimezone(UTC).timestamp() * 1000) << 80
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _one(rows: list[tuple[Any, ...]]) -> SessionRow | None:
    return SessionRow(**dict(zip(_NAMES, rows[0], strict=True))) if rows else None


# -- accounting -------------------------------------------------------------------------------


def has_accounting(connection: sa.Connection, digests: Sequence[bytes]) -> bool:
    """Tell whether one of three digests is there already."""
    exact, before, after = digests
    values = {"digest": exact, "digest_before": before, "digest_after": after}
    return bool(_KNOWN_DIGESTS.rows(connection, values))


def insert_accounting(
    connection: sa.Connection,
    *,
    tenant: str,
    client: str,
    digest: bytes,
    session_id: str | None,
    status: int,
    at: datetime,
    data: str,
) -> bool:
    """Add a record; False when it is there already."""
    values = {
        "tenant": tenant,
        "client": client,
        "digest": digest,
        "session_id": session_id,
        "status": status,
        "at": at,
        "data": data,
    }
    return _INSERT_ACCOUNTING[connection.dialect.name].run(connection, values) == 1


def find_accounting(
    connection: sa.Connection, tenant: str, session_id: str | None, before: int, limit: int
) -> tuple[AccountingRow, ...]:
    """Return a page of records, newest first, of one session or of all; 0: from the newest."""
    columns = [a.c[field.name] for field in fields(AccountingRow)]
    query = sa.select(*columns).where(a.c.tenant == tenant)
    if session_id is not None:
        query = query.where(a.c.session_id == session_id)
    if before:
        query = query.where(a.c.id < before)
    rows = connection.execute(query.order_by(a.c.id.desc()).limit(limit)).mappings()
    return tuple([AccountingRow(**row) for row in rows])


def prune_accounting(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Delete records of before an instant, in the order they came; return how many."""
    # Ids rise with time, so no index on the time is needed: the first young one ends it.
    oldest = connection.execute(sa.select(a.c.id, a.c.at).order_by(a.c.id).limit(limit)).all()
    gone = []
    for row in oldest:
        if row.at >= before:
            break
        gone.append(row.id)
    if gone:
        connection.execute(a.delete().where(a.c.id >= gone[0], a.c.id <= gone[-1]))
    return len(gone)


# -- what must end ----------------------------------------------------------------------------

# Why a live session may not stay: the row with the reason, for each thing that it stands on.
_NO_JOB = ~(
    sa.exists()
    .where(
        j.c.session_id == t.c.id,
        # One that is under way, or one that came to its end after the session was last heard
        # of. A NAS that still speaks of a session that had been given up is asked again.
        sa.or_(j.c.due_at.is_not(None), j.c.finished_at >= t.c.seen_at),
    )
    .correlate(t)
)
_CERTIFICATE = sa.and_(t.c.issuer_id == c.c.issuer_id, t.c.serial == c.c.serial)
_BAD_CERTIFICATES = (
    sa.select(t.c.id, c.c.reason, c.c.revoked_at, i.c.compromised_at, c.c.state)
    .select_from(t.outerjoin(c, _CERTIFICATE).outerjoin(i, i.c.id == t.c.issuer_id))
    .where(
        _LIVE,
        t.c.issuer_id.is_not(None),
        sa.or_(
            c.c.id.is_(None),
            c.c.revoked_at.is_not(None),
            c.c.state.not_in(["issued", "imported"]),
            i.c.id.is_(None),
            i.c.compromised_at.is_not(None),
        ),
        _NO_JOB,
    )
)
_BAD_PEOPLE = (
    sa.select(t.c.id, p.c.name, p.c.disabled_at)
    .select_from(t.outerjoin(p, sa.and_(p.c.tenant == t.c.tenant, p.c.name == t.c.person)))
    .where(
        _LIVE,
        t.c.person.is_not(None),
        sa.or_(p.c.name.is_(None), p.c.disabled_at.is_not(None), p.c.valid_until <= _param("now")),
        _NO_JOB,
    )
)
_BAD_DEVICES = (
    sa.select(t.c.id)
    .select_from(t.join(d, sa.and_(d.c.tenant == t.c.tenant, d.c.name == t.c.device)))
    .where(_LIVE, d.c.blocked_at.is_not(None), _NO_JOB)
)
# A block holds by the address, too. Whoever came in by it leaves when it is no device's any more.
_BLOCKED_STATIONS = (
    sa.select(t.c.id)
    .select_from(t.join(d, sa.and_(d.c.tenant == t.c.tenant, d.c.mac == t.c.calling_station)))
    .where(_LIVE, d.c.blocked_at.is_not(None), _NO_JOB)
)
_LOST_STATIONS = (
    sa.select(t.c.id)
    .select_from(
        t.outerjoin(
            d,
            sa.and_(
                d.c.tenant == t.c.tenant,
                d.c.name == t.c.device,
                d.c.mac == t.c.calling_station,
            ),
        )
    )
    .where(_LIVE, t.c.method == "mac", t.c.device.is_not(None), d.c.name.is_(None), _NO_JOB)
)
_BAD_ANCHORS = (
    sa.select(t.c.id)
    .select_from(
        t.outerjoin(
            o,
            sa.and_(o.c.tenant == t.c.tenant, o.c.kind == "trust-anchor", o.c.name == t.c.anchor),
        )
    )
    .where(_LIVE, t.c.anchor.is_not(None), o.c.name.is_(None), _NO_JOB)
)
_OWN_TOKEN = sa.exists().where(
    k.c.tenant == t.c.tenant,
    k.c.person == t.c.person,
    f.c.subject == sa.literal("token:") + k.c.id,
)
_LOCKED_OUT = (
    sa.select(t.c.id)
    .distinct()
    .select_from(t.join(f, f.c.tenant == t.c.tenant))
    .where(
        _LIVE,
        t.c.person.is_not(None),
        f.c.locked_until > _param("now"),
        sa.or_(f.c.subject == sa.literal("person:") + t.c.person, _OWN_TOKEN),
        _NO_JOB,
    )
)


@dataclass(frozen=True, slots=True)
class ForeignSession:
    """A live session by somebody else's certificate: by which, under which trust-anchor."""

    id: str
    tenant: str
    anchor: str
    issuer: bytes
    serial: bytes


@dataclass(frozen=True, slots=True)
class Condemned:
    """A live session that must end, and why."""

    session_id: str
    reason: str


def bad_certificates(
    connection: sa.Connection,
    limit: int,
    issuer_id: int | None = None,
    serial: bytes | None = None,
) -> tuple[Condemned, ...]:
    """Return live sessions whose certificate is not good any more: of one serial, issuer, all."""
    query = _BAD_CERTIFICATES
    if issuer_id is not None:
        query = query.where(t.c.issuer_id == issuer_id)
    if serial is not None:
        query = query.where(t.c.serial == serial)
    return tuple(
        [
            Condemned(row.id, _why(row.reason, row.revoked_at))
            for row in connection.execute(query.limit(limit))
        ]
    )


def _why(reason: int | None, revoked_at: datetime | None) -> str:
    if revoked_at is None:
        return "certificate-gone"
    return "certificate-held" if reason == 6 else "certificate-revoked"  # RFC 5280, 5.3.1


def bad_people(
    connection: sa.Connection,
    now: datetime,
    limit: int,
    tenant: str | None = None,
    name: str | None = None,
) -> tuple[Condemned, ...]:
    """Return live sessions of people who are disabled, over or gone: of one person, of all."""
    query = _BAD_PEOPLE
    if tenant is not None:
        query = query.where(t.c.tenant == tenant, t.c.person == name)
    found = []
    for row in connection.execute(query.limit(limit), {"now": now}):
        if row.name is None:
            reason = "person-gone"
        else:
            reason = "person-disabled" if row.disabled_at is not None else "person-expired"
        found.append(Condemned(row.id, reason))
    return tuple(found)


def bad_devices(
    connection: sa.Connection, limit: int, tenant: str | None = None, name: str | None = None
) -> tuple[Condemned, ...]:
    """Return live sessions of devices that are blocked: of one device, of all."""
    query = _BAD_DEVICES
    if tenant is not None:
        query = query.where(t.c.tenant == tenant, t.c.device == name)
    rows = connection.execute(query.limit(limit)).scalars()
    return tuple([Condemned(session_id, "device-blocked") for session_id in rows])


def bad_stations(
    connection: sa.Connection, limit: int, tenant: str | None = None, name: str | None = None
) -> tuple[Condemned, ...]:
    """Return live sessions whose MAC address is a blocked device's, or let in as one that has
    another by now: of one device, of all.
    """
    blocked, lost = _BLOCKED_STATIONS, _LOST_STATIONS
    if tenant is not None:
        blocked = blocked.where(d.c.tenant == tenant, d.c.name == name)
        lost = lost.where(t.c.tenant == tenant, t.c.device == name)
    found = [(id_, "device-blocked") for id_ in connection.execute(blocked.limit(limit)).scalars()]
    if len(found) < limit:
        rows = connection.execute(lost.limit(limit - len(found))).scalars()
        found += [(id_, "device-gone") for id_ in rows]
    return tuple([Condemned(*each) for each in found])


def bad_anchors(
    connection: sa.Connection, limit: int, tenant: str | None = None, name: str | None = None
) -> tuple[Condemned, ...]:
    """Return live sessions whose trust-anchor is gone: of one anchor, of all."""
    query = _BAD_ANCHORS
    if tenant is not None:
        query = query.where(t.c.tenant == tenant, t.c.anchor == name)
    rows = connection.execute(query.limit(limit)).scalars()
    return tuple([Condemned(session_id, "anchor-gone") for session_id in rows])


def find_foreign(
    connection: sa.Connection,
    after: str,
    limit: int,
    tenant: str | None = None,
    name: str | None = None,
) -> tuple[ForeignSession, ...]:
    """Return a page of live sessions by foreign certificates: of one anchor, of all."""
    query = sa.select(t.c.id, t.c.tenant, t.c.anchor, t.c.anchor_issuer, t.c.anchor_serial).where(
        _LIVE, t.c.anchor_serial.is_not(None), t.c.id > after, _NO_JOB
    )
    if tenant is not None:
        query = query.where(t.c.tenant == tenant, t.c.anchor == name)
    rows = connection.execute(query.order_by(t.c.id).limit(limit))
    return tuple([ForeignSession(*row) for row in rows])


def locked_out(connection: sa.Connection, now: datetime, limit: int) -> tuple[Condemned, ...]:
    """Return live sessions of people who are locked out, or a token of theirs is."""
    rows = connection.execute(_LOCKED_OUT.limit(limit), {"now": now}).scalars()
    return tuple([Condemned(session_id, "locked-out") for session_id in rows])
