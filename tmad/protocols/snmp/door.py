"""The UDP door of the SNMP agent, in one worker of a node (RFC 3417, 3).

One worker answers, since an engine has one count of boots and seconds, and since what the agent
shows must not run backwards between two workers' samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from tmad.errors import Fault
from tmad.identity.snmp_access import SNMPAccess
from tmad.identity.snmp_managers import EngineState, Table
from tmad.plugin import Meter
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.engine import COUNTERS, Engine
from tmad.protocols.snmp.usm import LocalEngine

log = Logger()

# How long a database that does not answer may hold up an answer: managers ask again after one
# second, and an appliance whose database is away is what they want to hear of.
_PATIENCE: Final = 0.5
_MOST_WAITING: Final = 1_000


class Station:
    """This node's engine, booted before its first answer."""

    def __init__(
        self,
        access: SNMPAccess,
        build: Callable[[LocalEngine, dict[str, int]], Engine],
        seconds: Callable[[], float],
    ) -> None:
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.engine: Engine | None = None
        self._access = access
        self._build = build
        self._seconds = seconds
        self._booting: Deferred[EngineState] | None = None

    @property
    def engine_id(self) -> bytes:
        """The engine's id; nothing before it has booted."""
        return b"" if self.engine is None else self.engine.local.engine_id

    @property
    def boots(self) -> int:
        """How often it has booted."""
        return 0 if self.engine is None else self.engine.local.boots

    @property
    def largest(self) -> int:
        """Octets of the longest message that it takes."""
        return codec.LONGEST_IN

    def time(self) -> int:
        """Return the seconds since it has booted."""
        return 0 if self.engine is None else self.engine.local.time()

    async def boot(self) -> Engine:
        """Return the engine; its boots are counted durably before (T-SNMP-05). Fault."""
        while self.engine is None:
            if self._booting is not None:
                await _after(self._booting)
                continue
            self._booting = ensureDeferred(self._access.boot())
            try:
                state = await self._booting
            finally:
                self._booting = None
            self.engine = self._build(LocalEngine(state, self._seconds), self.counters)
        return self.engine


def _after(running: Deferred[Any]) -> Deferred[None]:
    """Return a Deferred that fires when another one has, whatever its result."""
    done: Deferred[None] = Deferred()

    def fire(result: Any) -> Any:
        done.callback(None)
        return result

    running.addBoth(fire)
    return done


class Door(DatagramProtocol):
    """One address that managers ask."""

    noisy = False

    def __init__(self, station: Station, access: SNMPAccess, meter: Meter, reactor: Any) -> None:
        self._station = station
        self._access = access
        self._meter = meter
        self._reactor = reactor
        self._waiting = 0
        self._unanswered = 0
        self._last = ("", "")

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802  Twisted's name
        began = self._reactor.seconds()
        engine, table = self._station.engine, self._access.ready()
        if engine is not None and table is not None:
            # A walk asks thousands of times: nothing here waits for anything.
            self._answer(engine, table, datagram, addr, began)
        elif self._waiting < _MOST_WAITING:
            self._waiting += 1
            ensureDeferred(self._serve(datagram, addr, began))
        else:
            self._meter.count("busy")

    def _answer(
        self, engine: Engine, table: Table, datagram: bytes, addr: Any, began: float
    ) -> None:
        try:
            reply = engine.answer(datagram, addr[0], table)
        except Exception:
            self._meter.count("failed")
            log.failure("a question over SNMP failed")
            return
        if reply.octets is None:
            self._meter.count(f"dropped-{reply.outcome}")
            self._unanswered += 1
            self._last = (addr[0], reply.outcome)
        elif self.transport is not None:
            self._meter.count(reply.outcome)
            self.transport.write(reply.octets, addr)
            self._meter.time(self._reactor.seconds() - began)

    async def _serve(self, datagram: bytes, addr: Any, began: float) -> None:
        """Answer once the engine has booted and it is known who may ask."""
        try:
            engine = self._station.engine or await self._station.boot()
            self._answer(engine, await self._table(), datagram, addr, began)
        except Fault as fault:
            self._meter.count("unavailable")
            log.debug("a question was dropped: {why}", why=fault.detail)
        except Exception:
            self._meter.count("failed")
            log.failure("a question over SNMP failed")
        finally:
            self._waiting -= 1

    def tell(self) -> None:
        """Log how many questions had no answer since the last time: the manager hears nothing."""
        if self._unanswered:
            source, outcome = self._last
            log.info(
                "SNMP: {count} questions without an answer, the last one of {source}: {outcome}",
                count=self._unanswered,
                source=source,
                outcome=outcome,
            )
            self._unanswered = 0

    async def _table(self) -> Table:
        """Return who may ask now; while the database cannot be asked, who might the last time."""
        asking = ensureDeferred(self._access.current())
        if not asking.called:
            asking.addTimeout(_PATIENCE, self._reactor)
        try:
            return await asking
        except (Fault, WaitedTooLong):
            known = self._access.known
            if known is None:
                raise
            return known
