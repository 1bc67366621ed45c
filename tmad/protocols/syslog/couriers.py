"""The couriers of one process: as many as there are collectors, while it is the one to deliver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.logger import Logger

from tmad.errors import Fault
from tmad.lifecycle.log_collectors import Collector, LogCollectors
from tmad.protocols.syslog.collector import Courier

log = Logger()

_TURN_SECONDS: Final = 1.0
_REST_SECONDS: Final = 5.0  # without a turn, another process delivers

Hire = Callable[[Collector], Courier]


class Couriers:
    """Has one courier for each collector; ``turn`` is a leased timer's job."""

    def __init__(self, collectors: LogCollectors, hire: Hire, reactor: Any) -> None:
        self._collectors = collectors
        self._hire = hire
        self._reactor = reactor
        self._couriers: dict[tuple[str, str], Courier] = {}
        self._rest: Any = None
        self._is_turning = False
        self._is_stopping = False
        self._trouble = ""  # why the database could not be asked, said once

    async def turn(self) -> None:
        """Let every courier bring what there is, for a second at most."""
        if self._is_stopping:
            return
        self._is_turning = True
        try:
            await self._turn()
            self._trouble = ""
        except Fault as fault:
            # The timer's own pause after a failure would be longer than a collector's.
            if fault.detail != self._trouble:
                self._trouble = fault.detail
                log.warn("log collectors wait: {why}", why=str(fault))
        finally:
            self._is_turning = False
            await self._after_turn()

    async def stop(self) -> None:
        """End every courier politely; a turn that runs does it when it is over."""
        self._is_stopping = True
        if not self._is_turning:
            await self._close_all()

    async def _after_turn(self) -> None:
        self._expect_another()
        if self._is_stopping:
            await self._close_all()

    async def _turn(self) -> None:
        await self._staff()
        if not self._couriers:
            return
        heads = await self._collectors.heads()
        until = self._reactor.seconds() + _TURN_SECONDS
        turns = [ensureDeferred(courier.turn(heads, until)) for courier in self._couriers.values()]
        found = await gatherResults([turn.addCallbacks(_nothing, _fault_of) for turn in turns])
        for fault in found:
            if fault is not None:
                raise fault

    async def _staff(self) -> None:
        """Have a courier for each collector as it is configured now."""
        wanted = {(each.tenant, each.name): each for each in await self._collectors.all()}
        for key, courier in list(self._couriers.items()):
            if wanted.get(key) != courier.collector:
                del self._couriers[key]
                await courier.close()
        for key, collector in wanted.items():
            if key not in self._couriers:
                self._couriers[key] = self._hire(collector)

    def _expect_another(self) -> None:
        if self._rest is not None and self._rest.active():
            self._rest.reset(_REST_SECONDS)
        elif self._couriers and not self._is_stopping:
            self._rest = self._reactor.callLater(_REST_SECONDS, self._drop_all)

    def _drop_all(self) -> None:
        """Leave all collectors to the process that has the lease now."""
        if self._is_turning:
            # The database is slow: that is no reason to break connections.
            self._expect_another()
            return
        while self._couriers:
            self._couriers.popitem()[1].drop()

    async def _close_all(self) -> None:
        if self._rest is not None and self._rest.active():
            self._rest.cancel()
        while self._couriers:
            await self._couriers.popitem()[1].close()


def _nothing(_: object) -> Fault | None:
    return None


def _fault_of(failure: Any) -> Fault | None:
    """Return a courier's Fault; another exception is logged and ends that turn only."""
    if failure.check(Fault):
        fault: Fault = failure.value
        return fault
    log.failure("a log collector's turn failed", failure)
    return None
