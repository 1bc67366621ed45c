"""The objects of TMAD-MIB (conf/mibs/TMAD-MIB.txt), from the newest figures."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tmad import observe
from tmad.lifecycle.figures import WINDOWS, AuthorityFigures, Figures, TenantFigures
from tmad.lifecycle.workers import Door, Worker
from tmad.protocols.snmp.host import date_and_time
from tmad.protocols.snmp.mib import Item, scalar, table, text_index
from tmad.protocols.snmp.values import (
    OID,
    Counter64,
    Gauge32,
    Integer,
    Octets,
    TimeTicks,
    Value,
)
from tmad.signer.keyring import StoreHealth
from tmad.storage.alarms import AlarmRow

TMAD: OID = (1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 2026)
NOTIFICATIONS: OID = (*TMAD, 0)
PRODUCT: OID = (*TMAD, 3, 1)
NOTIFICATION_OBJECTS: OID = (*TMAD, 1, 11)

SEVERITIES: Mapping[str, int] = {"cleared": 1, "warning": 2, "error": 3, "critical": 4}

_OBJECTS: OID = (*TMAD, 1)
_NODE, _AUTHORITIES, _TENANTS, _STORES, _DOORS, _OUTCOMES, _QUEUES, _SUBSCRIBERS, _WORKERS, \
    _ALARMS = range(1, 11)  # fmt: skip

_DATABASE_STATES = {"ok": 1, "read-only": 2, "failed": 3}
_STORE_STATES = {"ok": 1, "degraded": 2, "failed": 3}
_AUTHORITY_STATES = {
    "creating": 1, "pending": 2, "next": 3, "active": 4, "retired": 5, "withdrawn": 6,
    "anchor": 7,
}  # fmt: skip
_CRL_STATES = {"none": 1, "missing": 2, "current": 3, "overdue": 4, "expired": 5}
# Counters of key stores that mean that somebody did not get a signature.
_STORE_FAILURES = ("refused", "timeouts", "wrong signatures")
_TRUE, _FALSE = 1, 2
_MEBIBYTE = 1 << 20
# An instance's name has room for so much of three texts (RFC 2578, 3.5: 128 arcs).
_LONGEST_PROTOCOL, _LONGEST_DOOR, _LONGEST_OUTCOME = 32, 55, 24
_LONGEST_NAME = 96


def text(value: str, most: int = 255) -> Octets:
    """Return an SnmpAdminString, cut where a character ends."""
    return Octets(value.encode()[:most].decode(errors="ignore").encode())


def instant(at: datetime) -> Octets:
    """Return a DateAndTime in UTC."""
    return Octets(date_and_time(at.astimezone(UTC)))


class TMADGroup:
    """Everything of TMAD-MIB; nothing at all before the first sample."""

    def __init__(
        self,
        figures: Callable[[], Figures | None],
        alarms: Callable[[], Sequence[AlarmRow]],
        version: str,
    ) -> None:
        self._figures = figures
        self._alarms = alarms
        self._version = version

    def __call__(self) -> Iterator[Item]:
        figures = self._figures()
        if figures is None:
            return
        alarms = self._alarms()
        yield from _node(figures, len(alarms), self._version)
        now, journal = figures.sampled_at, figures.journal
        for part, rows in (
            (_AUTHORITIES, (_authority(known, figures) for known in figures.authorities)),
            (_TENANTS, map(_tenant, figures.tenants)),
            (_STORES, map(_store, figures.stores)),
            (_DOORS, map(_door, figures.doors)),
            (_OUTCOMES, (row for known in figures.doors for row in _outcomes(known))),
            (_QUEUES, _named(figures.queues)),
            (_SUBSCRIBERS, _named({} if journal is None else journal.behind)),
            (_WORKERS, (_worker(known, now) for known in figures.workers)),
            (_ALARMS, map(_alarm, alarms)),
        ):
            yield from table((*_OBJECTS, part, 1), rows)


_Row = tuple[OID, Mapping[int, Value]]


def _node(figures: Figures, alarms: int, version: str) -> Iterator[Item]:
    database, journal = figures.database, figures.journal
    begun = min((worker.started_at for worker in figures.workers), default=figures.sampled_at)
    values: dict[int, Value | None] = {
        1: text(version),
        2: text(figures.node),
        3: _ticks(figures.sampled_at - begun),
        4: instant(figures.sampled_at),
        5: None if figures.counted_at is None else instant(figures.counted_at),
        6: Integer(_DATABASE_STATES[database.state]),
        7: text(database.trouble),
        8: _microseconds(database.seconds),
        9: Gauge32(figures.disk.size // _MEBIBYTE),
        10: Gauge32(figures.disk.free // _MEBIBYTE),
        11: None if journal is None else Counter64(journal.records),
        12: None if journal is None else Gauge32(journal.checkpoint),
        13: None if journal is None or journal.sealed_at is None else instant(journal.sealed_at),
        14: Gauge32(alarms),
    }
    for place, value in values.items():
        if value is not None:
            yield scalar((*_OBJECTS, _NODE, place), value)


def _authority(known: AuthorityFigures, figures: Figures) -> _Row:
    row: dict[int, Value] = {
        2: text(known.tenant),
        3: text(known.authority),
        4: Gauge32(known.generation),
        5: Integer(_AUTHORITY_STATES[known.state]),
        7: Integer(_TRUE if known.is_compromised else _FALSE),
        11: Integer(_CRL_STATES[known.crl_state]),
    }
    if known.not_after is not None:
        row[6] = instant(known.not_after)
    if (signed := known.signed) is not None:
        row[8] = Gauge32(signed.issued)
        row[9] = Gauge32(signed.revoked)
        row[10] = Gauge32(signed.revoked_unexpired)
    if (crl := known.crl) is not None:
        age = figures.sampled_at - crl.this_update
        row |= {
            12: Gauge32(crl.number),
            13: instant(crl.this_update),
            14: instant(crl.next_update),
            15: Gauge32(int(age.total_seconds())),
            16: Gauge32(crl.entries),
            17: Gauge32(crl.size),
        }
    return (min(known.id, 0x7FFF_FFFF),), row


def _tenant(known: TenantFigures) -> _Row:
    row: dict[int, Value] = {2: Gauge32(known.pending)}
    if known.valid is not None:
        row[3] = Gauge32(known.valid)
    for place, days in enumerate(WINDOWS, 4):
        if known.expiring is not None:
            row[place] = Gauge32(known.expiring[days])
    return text_index(known.tenant), row


def _store(known: StoreHealth) -> _Row:
    counters = known.counters
    failed = sum(counters.get(name, 0) for name in _STORE_FAILURES)
    return text_index(known.store), {
        2: Integer(_STORE_STATES.get(known.state, 3)),
        3: text(known.reason),
        4: Gauge32(known.queue),
        # Each kind of store has its own word for it.
        5: Counter64(counters.get("used", counters.get("signed", 0))),
        6: Counter64(failed),
    }


def _door_index(known: Door) -> OID:
    return (
        *text_index(_cut(known.protocol, _LONGEST_PROTOCOL)),
        *text_index(_cut(known.door, _LONGEST_DOOR)),
    )


def _door(known: Door) -> _Row:
    row: dict[int, Value] = {
        3: Counter64(known.requests),
        4: Counter64(known.refusals),
        5: Counter64(known.failures),
    }
    most = known.percentile(0.95, observe.BUCKETS)
    if most is not None:
        row[6] = _microseconds(most)
    return _door_index(known), row


def _outcomes(known: Door) -> Iterator[_Row]:
    index = _door_index(known)
    for word, number in known.outcomes.items():
        yield (*index, *text_index(_cut(word, _LONGEST_OUTCOME))), {2: Counter64(number)}


def _named(numbers: Mapping[str, int]) -> list[_Row]:
    return [
        (text_index(_cut(name, _LONGEST_NAME)), {2: Gauge32(number)})
        for name, number in numbers.items()
    ]


def _worker(known: Worker, now: datetime) -> _Row:
    return (known.index + 1,), {
        2: Gauge32(known.pid),
        3: _ticks(now - known.started_at),
        4: Gauge32(known.connections),
        5: _microseconds(known.lag),
    }


def _alarm(known: AlarmRow) -> _Row:
    # The object's name may be longer than an index; its checksum stays the same.
    index = (*text_index(known.name), zlib.crc32(known.object.encode()))
    return index, {
        3: text(known.object),
        4: text(known.tenant),
        5: Integer(SEVERITIES[known.severity]),
        6: text(known.text),
        7: instant(known.since),
    }


def _cut(value: str, most: int) -> str:
    return value.encode()[:most].decode(errors="ignore")


def _ticks(passed: timedelta) -> TimeTicks:
    return TimeTicks(max(0, int(passed.total_seconds() * 100)))


def _microseconds(seconds: float) -> Gauge32:
    return Gauge32(int(min(seconds, 4_294.0) * 1_000_000))
