"""Notifications: from the journal to those who want them, as traps or informs (RFC 3416, 4.2.6).

One process of all delivers. Each target has its own pace and its own place in the journal: one
that is away is asked again after growing pauses, and gets everything in order when it is back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from tmad.errors import Fault
from tmad.lifecycle import alarms
from tmad.lifecycle.snmp_targets import (
    CLEARED,
    REACHED,
    STARTED,
    TESTED,
    UNREACHABLE,
    Notification,
    SNMPTargets,
    Target,
)
from tmad.protocols.snmp.tmad_mib import (
    NOTIFICATION_OBJECTS,
    NOTIFICATIONS,
    SEVERITIES,
    instant,
    text,
)
from tmad.protocols.snmp.values import OID, Integer, ObjectID, TimeTicks, Value

log = Logger()

_UP_TIME: OID = (1, 3, 6, 1, 2, 1, 1, 3, 0)
_TRAP_OID: OID = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
_COLD_START: OID = (1, 3, 6, 1, 6, 3, 1, 1, 5, 1)

# Alarm → its number below tmadNotifications while it is so.
_RAISED: Mapping[str, int] = {
    alarms.AUTHORITY_EXPIRING: 1,
    alarms.CERTIFICATES_EXPIRING: 2,
    alarms.CRL_STALE: 3,
    alarms.KEYS_LOST: 4,
    alarms.DISK_LOW: 6,
    alarms.WORKERS_MISSING: 7,
    alarms.AUDIT_BROKEN: 8,
}
_KEYS_RESTORED, _ALARM_CLEARED, _TEST, _ALARM_RAISED = 5, 9, 10, 11

_FIRST_PAUSE: Final = 10.0
_LONGEST_PAUSE: Final = 300.0

Binding = tuple[OID, Value]
# Sends one notification to one target; Fault(UNAVAILABLE) when it did not acknowledge.
Send = Callable[[Target, Notification], Awaitable[None]]


def bindings(told: Notification, uptime: float) -> list[Binding]:
    """Return the variables of a notification; ``uptime`` in seconds."""
    found: list[Binding] = [
        (_UP_TIME, TimeTicks(int(uptime * 100))),
        (_TRAP_OID, ObjectID(_identity(told))),
    ]
    if told.kind == STARTED:
        return found
    severity = "cleared" if told.kind == CLEARED else told.severity
    values: tuple[Value, ...] = (
        Integer(SEVERITIES.get(severity, SEVERITIES[alarms.ERROR])),
        text(told.object),
        text(told.text),
        text(told.tenant),
        text(told.alarm),
        instant(told.at),
    )
    for place, value in enumerate(values, 1):
        found.append(((*NOTIFICATION_OBJECTS, place, 0), value))
    return found


def _identity(told: Notification) -> OID:
    if told.kind == STARTED:
        return _COLD_START
    if told.kind == TESTED:
        return (*NOTIFICATIONS, _TEST)
    if told.kind == CLEARED:
        is_keys = told.alarm == alarms.KEYS_LOST
        return (*NOTIFICATIONS, _KEYS_RESTORED if is_keys else _ALARM_CLEARED)
    # A newer node of the cluster may look for more than this one has names for.
    return (*NOTIFICATIONS, _RAISED.get(told.alarm, _ALARM_RAISED))


# -- who is served -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pace:
    """How a target does."""

    revision: int
    failures: int = 0
    again: float = 0.0  # by the reactor's clock
    seen: tuple[int, int] | None = None  # the journal's extent up to which it was served
    running: Deferred[None] | None = field(default=None)


class Notifier:
    """Serves every target, none of which waits for another."""

    def __init__(self, targets: SNMPTargets, send: Send, seconds: Callable[[], float]) -> None:
        self._targets = targets
        self._send = send
        self._seconds = seconds
        self._paces: dict[str, _Pace] = {}

    async def turn(self) -> None:
        """Begin to serve every target that is not being served and may be asked again."""
        try:
            targets = {target.key: target for target in await self._targets.all()}
            extent = await self._targets.extent() if targets else None
        except Fault as fault:
            # Not a failure of this job, which would have to wait longer and longer: once the
            # database is back, what it holds is told at once.
            log.debug("no target could be looked up: {why}", why=str(fault))
            return
        for key in self._paces.keys() - targets.keys():
            del self._paces[key]
        for key, target in targets.items():
            pace = self._paces.get(key)
            if pace is None or pace.revision != target.revision:
                # Somebody has mended it: no reason to wait.
                running = None if pace is None else pace.running
                pace = self._paces[key] = _Pace(target.revision, running=running)
            is_due = pace.seen != extent and self._seconds() >= pace.again
            if pace.running is None and is_due:
                self._begin(target, pace, extent)

    def _begin(self, target: Target, pace: _Pace, extent: tuple[int, int] | None) -> None:
        serving = ensureDeferred(self._serve(target, pace, extent))
        if serving.called:
            return
        pace.running = serving

        def over(_: object) -> None:
            pace.running = None
            if (newer := self._paces.get(target.key)) is not None and newer.running is serving:
                newer.running = None

        serving.addBoth(over)

    async def _serve(self, target: Target, pace: _Pace, extent: tuple[int, int] | None) -> None:
        try:
            await self._deliver(target, pace)
            pace.seen = extent
        except Fault as fault:
            # Of the database, or a target that did not answer: both come back.
            self._fail(pace)
            log.info("nothing was told to {target}: {why}", target=target.key, why=str(fault))
        except Exception:
            self._fail(pace)
            log.failure("a notification to {target} failed", target=target.key)

    async def _deliver(self, target: Target, pace: _Pace) -> None:
        while not (news := await self._targets.news(target.key)).is_nothing:
            reached: dict[str, int] = {}
            try:
                for record in news.records:
                    told = Notification.of(record)
                    if target.wants(told):
                        await self._tell(target, told, pace)
                    reached[record.writer] = record.seq
                reached.update(news.reached)
            finally:
                if reached:
                    await self._targets.settle(target.key, reached)

    async def _tell(self, target: Target, told: Notification, pace: _Pace) -> None:
        try:
            await self._send(target, told)
        except Fault as fault:
            if not pace.failures:
                await self._targets.tell(target, UNREACHABLE, why=fault.detail)
            raise
        if pace.failures:
            await self._targets.tell(target, REACHED, attempts=pace.failures)
            pace.failures = 0

    def _fail(self, pace: _Pace) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(pace.failures, 10))
        pace.failures += 1
        pace.again = self._seconds() + pause
