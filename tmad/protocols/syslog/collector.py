"""Couriers: each brings one collector what it wants, at the collector's own pace.

Syslog has no acknowledgement. A courier therefore reads ahead in memory and moves the durable
cursor behind: a record is settled once the other side's kernel has acknowledged it and the
connection has lived for ``settle_seconds`` since. When a connection breaks, or this process
dies, what was not settled is sent again; the journal itself is the queue (Y-06, Y-07).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tmad.errors import Fault
from tmad.lifecycle.log_collectors import REACHED, UNREACHABLE, Collector, LogCollectors
from tmad.plugin import Meter
from tmad.protocols.syslog.transports import Link
from tmad.storage.journal import Record

log = Logger()

PAGE: Final = 200  # records formatted in one go: some 10 ms
UDP_RATE: Final = 500  # messages a second: a datagram has no back-pressure

_SETTLE_PAUSE: Final = 1.0  # seconds between two moves of a cursor
_FULL_PAUSE: Final = 0.01
_FULL_PATIENCE: Final = 0.2  # seconds, for a collector that takes nothing now
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # between two attempts to connect
_QUIET_SECONDS: Final = 600.0  # between two records about one collector's outages

Open = Callable[[Collector, Callable[[str], None]], Awaitable[Link]]
Render = Callable[[Record, int], bytes]


@dataclass(slots=True)
class _Mark:
    """What had been sent at an instant, and whether all of it has been acknowledged since."""

    at: float
    position: dict[str, int]
    is_acknowledged: bool = False


class Courier:
    """Serves one collector; ``turn`` is called again and again and never waits for it long."""

    def __init__(
        self,
        collector: Collector,
        collectors: LogCollectors,
        open: Open,  # noqa: A002  the word for it
        render: Render,
        meter: Meter,
        reactor: Any,
        *,
        operator: bool = False,
    ) -> None:
        self.collector = collector
        self._collectors = collectors
        self._open = open
        self._render = render
        self._meter = meter
        self._reactor = reactor
        self._operator = operator
        self._link: Link | None = None
        self._opening: Deferred[None] | None = None
        self._settled: dict[str, int] | None = None  # as the database has it
        self._position: dict[str, int] = {}
        self._marks: deque[_Mark] = deque()
        self._number = 0
        self._next_settling = 0.0
        self._tokens = _Tokens(_rate(collector), reactor.seconds)
        self._is_closed = False
        self._failures = 0
        self._retry_at = 0.0
        self._opened_at = 0.0
        self._lost_at: float | None = None
        self._told_at = float("-inf")
        self._has_told = False
        self._news: list[tuple[str, dict[str, str | int]]] = []

    @property
    def name(self) -> str:
        """The collector's name, for people."""
        return f"{self.collector.tenant}/{self.collector.name}"

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None

    async def turn(self, heads: dict[str, int], until: float) -> None:
        """Bring what there is; return at ``until`` (the reactor's seconds) or soon after.

        ``heads`` is what the journal has. Fault(UNAVAILABLE): the database has failed.
        """
        if self._settled is None:
            self._settled = await self._collectors.position(self.collector)
            self._position = dict(self._settled)
        await self._tell()
        if self._link is None:
            self._connect()
            return
        await self._bring(heads, until)
        await self._settle()
        if self._link is not None:
            self._note_recovery()

    async def close(self) -> None:
        """End politely: what the other side has is settled, and not sent twice later."""
        if self._is_closed:
            return
        link = self._link
        if link is not None:
            self._acknowledge(link)
            # The connection lives: nothing speaks against what has been acknowledged.
            for mark in self._marks:
                mark.at = float("-inf")
            try:
                await self._settle(at_once=True)
            except Fault as fault:
                log.info("{collector}: {why}", collector=self.name, why=str(fault))
        self.drop()

    def drop(self) -> None:
        """End without a word; somebody else goes on from the last settled record."""
        self._is_closed = True
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._opening is not None:
            self._opening.cancel()

    # -- sending ------------------------------------------------------------------------------

    async def _bring(self, heads: dict[str, int], until: float) -> None:
        seconds = self._reactor.seconds
        full_since = None
        while (link := self._link) is not None and seconds() < until:
            if link.is_full or self._tokens.available < 1:
                full_since = full_since or seconds()
                if seconds() - full_since > _FULL_PATIENCE:
                    return
                await deferLater(self._reactor, _FULL_PAUSE)
                continue
            full_since = None
            if all(seq <= self._position.get(writer, 0) for writer, seq in heads.items()):
                return
            limit = int(min(PAGE, self._tokens.available))
            records = await self._collectors.after(self._position, limit)
            if self._link is not link or not records:
                return
            self._send(link, records)
            await deferLater(self._reactor, 0)

    def _send(self, link: Link, records: list[Record]) -> None:
        self._acknowledge(link)
        sent = 0
        for record in records:
            if self.collector.wants(record, operator=self._operator):
                sent += self._send_one(link, record)
                if self._link is not link:
                    # Lost in the middle: the position has gone back already.
                    return
            self._position[record.writer] = record.seq
        self._tokens.take(sent)
        for _ in range(sent):
            self._meter.count("sent")
        mark = _Mark(self._reactor.seconds(), dict(self._position))
        if not sent and not self._marks:
            mark.at, mark.is_acknowledged = float("-inf"), True
        self._marks.append(mark)

    def _send_one(self, link: Link, record: Record) -> int:
        """Send a record; return how many messages that were."""
        try:
            message = self._render(record, self._number + 1)
        except Exception:
            # One that cannot be shown must not keep all that follow: it is in the journal.
            log.failure(
                "log collector {collector}: record {writer}/{seq} cannot be shown",
                collector=self.name,
                writer=record.writer,
                seq=record.seq,
            )
            self._meter.count("unshown")
            return 0
        self._number += 1
        link.send(message)
        return 1

    # -- settling -----------------------------------------------------------------------------

    def _acknowledge(self, link: Link) -> None:
        if self._marks and not self._marks[-1].is_acknowledged and link.pending() == 0:
            for mark in self._marks:
                mark.is_acknowledged = True

    async def _settle(self, *, at_once: bool = False) -> None:
        """Move the durable cursor to what is believed to have arrived."""
        link = self._link
        if link is None:
            return
        self._acknowledge(link)
        now = self._reactor.seconds()
        if now < self._next_settling and not at_once:
            return
        before = now - self.collector.document.settle_seconds
        reached = None
        while self._marks and self._marks[0].is_acknowledged and self._marks[0].at <= before:
            reached = self._marks.popleft().position
        if reached is None:
            return
        self._next_settling = now + _SETTLE_PAUSE
        # Before the database is asked: should it fail, these records are only sent again later.
        changed = {w: s for w, s in reached.items() if (self._settled or {}).get(w) != s}
        await self._collectors.settle(self.collector, changed)
        self._settled = reached

    # -- connecting ---------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._opening is None and self._reactor.seconds() >= self._retry_at:
            opening = ensureDeferred(self._try())
            # A way that is open at once has called back already.
            if not opening.called:
                self._opening = opening.addBoth(self._note_end)

    def _note_end(self, _: object) -> None:
        self._opening = None

    async def _try(self) -> None:
        try:
            link = await self._open(self.collector, self._lost)
        except Fault as fault:
            self._failed(fault.values.get("failure", fault.detail))
        except Exception:
            log.failure("log collector {collector}: cannot connect", collector=self.name)
            self._failed("an error of ours; the log has it")
        else:
            self._opened(link)

    def _opened(self, link: Link) -> None:
        if self._is_closed:
            link.close()
            return
        self._link = link
        self._opened_at = self._reactor.seconds()
        self._meter.count("connected")
        if self._lost_at is None:
            log.info("log collector {collector}: {peer}", collector=self.name, peer=link.peer)

    def _lived(self) -> bool:
        """Tell whether the connection is older than a refusal takes to arrive (Y-06)."""
        age = self._reactor.seconds() - self._opened_at
        return bool(age >= self.collector.document.settle_seconds)

    def _note_recovery(self) -> None:
        if self._lost_at is None or not self._lived():
            return
        seconds = round(self._reactor.seconds() - self._lost_at)
        self._lost_at = None
        log.info(
            "log collector {collector}: reached again after {seconds} s",
            collector=self.name,
            seconds=seconds,
        )
        if self._has_told:
            self._has_told = False
            self._news.append((REACHED, {"seconds": seconds}))

    def _lost(self, why: str) -> None:
        """Go back to what is settled: the other side may not have had the rest (Y-06)."""
        link, self._link = self._link, None
        if link is None:
            return
        self._meter.count("lost")
        self._marks.clear()
        self._position = dict(self._settled or {})
        if self._lived():
            self._failures = 0
        self._failed(why)

    def _failed(self, why: str) -> None:
        if self._is_closed:
            return
        now = self._reactor.seconds()
        self._failures += 1
        pause = min(_FIRST_PAUSE * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
        self._retry_at = now + pause * random.uniform(0.8, 1.2)  # noqa: S311  jitter, no secret
        if self._lost_at is None:
            self._lost_at = now
            log.warn("log collector {collector}: {why}", collector=self.name, why=why)
        if not self._has_told and now - self._told_at > _QUIET_SECONDS:
            self._told_at, self._has_told = now, True
            self._news.append((UNREACHABLE, {"detail": why}))
        self._meter.count("failed")

    async def _tell(self) -> None:
        """Journal what became of the connection (Y-12: seldom, and never to itself)."""
        while self._news:
            kind, data = self._news.pop(0)
            await self._collectors.tell(self.collector, kind, **data)


class _Tokens:
    """So many messages a second, or as many as there are."""

    def __init__(self, rate: int, seconds: Callable[[], float]) -> None:
        self._rate = rate
        self._seconds = seconds
        self._left = float(rate)
        self._at = seconds()

    @property
    def available(self) -> float:
        """How many may be sent now."""
        if not self._rate:
            return float(PAGE)
        now = self._seconds()
        # No more at once than a tenth of a second's: the collector's buffer is small.
        self._left = min(self._left + (now - self._at) * self._rate, max(1.0, self._rate / 10))
        self._at = now
        return self._left

    def take(self, count: int) -> None:
        """Use some up."""
        self._left -= count


def _rate(collector: Collector) -> int:
    document = collector.document
    return document.rate or (UDP_RATE if document.transport == "udp" else 0)
