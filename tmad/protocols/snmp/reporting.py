"""What makes notifications leave: the jobs of targets, and of an SNMP agent that was joined."""

from __future__ import annotations

from twisted.logger import Logger

from tmad.errors import Fault
from tmad.lifecycle.snmp_targets import Notification
from tmad.plugin import Edge, Services
from tmad.protocols.snmp.agentx import Subagent
from tmad.protocols.snmp.mib import View
from tmad.protocols.snmp.notify import Notifier, bindings
from tmad.protocols.snmp.sending import Sender
from tmad.protocols.snmp.tmad_mib import PRODUCT, TMAD

log = Logger()

_TURN_SECONDS = 1.0


def mount_targets(services: Services, edge: Edge) -> None:
    """Deliver to the targets; call it in every process, since any may hold the timers' lease."""
    sender = Sender(services.snmp, edge.reactor)
    notifier = Notifier(services.snmp_targets, sender, edge.reactor.seconds)
    edge.every(_TURN_SECONDS, notifier.turn, name="notifications", lease=True)


def mount_agentx(address: str, services: Services, edge: Edge, view: View) -> None:
    """Join the SNMP agent at ``address``, and hand it what happens from now on."""
    subagent = Subagent(
        edge.reactor,
        address,
        lambda: view.snapshot,
        subtree=TMAD,
        identity=PRODUCT,
        description="tmad, trust management appliance",
    )
    feed = Feed(services, subagent, edge)
    edge.reactor.callWhenRunning(subagent.start)
    edge.every(_TURN_SECONDS, feed.turn, name="agentx")


class Feed:
    """Hands notifications to the agent that was joined; what it did not take waits for it."""

    def __init__(self, services: Services, subagent: Subagent, edge: Edge) -> None:
        self._targets = services.snmp_targets
        self._subagent = subagent
        self._seconds = edge.reactor.seconds
        self._begun = edge.reactor.seconds()
        self._key = f"snmp-agentx/{services.figures.node}"
        self._is_known = False
        self._seen: tuple[int, int] | None = None

    async def turn(self) -> None:
        """Hand over what is new."""
        try:
            if not self._is_known:
                await self._targets.begin_now(self._key)
                self._is_known = True
            extent = await self._targets.extent()
            while self._seen != extent and await self._deliver():
                pass
            self._seen = extent
        except Fault as fault:
            # The subagent or the database has said so itself; the cursor stays before it.
            log.debug("the SNMP agent takes no notification: {why}", why=fault.detail)

    async def _deliver(self) -> bool:
        """Hand over the next notifications; tell whether there may be more."""
        news = await self._targets.news(self._key)
        reached: dict[str, int] = {}
        try:
            for record in news.records:
                told = Notification.of(record)
                await self._subagent.notify(bindings(told, self._seconds() - self._begun))
                reached[record.writer] = record.seq
            reached.update(news.reached)
        finally:
            if reached:
                await self._targets.settle(self._key, reached)
        return not news.is_nothing
