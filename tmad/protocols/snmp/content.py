"""Everything that the agent shows, put together: the groups, and what refreshes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Protocol

from tmad.errors import Fault
from tmad.plugin import Edge, Services
from tmad.protocols.snmp.host import HostGroup
from tmad.protocols.snmp.mib import View
from tmad.protocols.snmp.system import EngineGroup, Identity, InterfaceGroup, SystemGroup
from tmad.protocols.snmp.tmad_mib import PRODUCT, TMADGroup

# With the figures' own five seconds, no value is older than ten.
_REFRESH_SECONDS = 4.0


class Engine(Protocol):
    """What this shows of the SNMP engine.

    ``time`` is snmpEngineTime: seconds since ``boots`` was raised; ``largest`` is in octets.
    """

    @property
    def counters(self) -> Mapping[str, int]: ...

    @property
    def engine_id(self) -> bytes: ...

    @property
    def boots(self) -> int: ...

    @property
    def largest(self) -> int: ...

    def time(self) -> int: ...


def view(
    services: Services,
    edge: Edge,
    engine: Engine,
    *,
    contact: str,
    location: str,
) -> View:
    """Return the view of this node, refreshed by a timer from now on."""
    release = version("tmad")
    seconds: Callable[[], float] = edge.reactor.seconds
    begun = seconds()

    def running() -> tuple[int, int]:
        figures = services.figures.newest
        return (edge.workers if figures is None else len(figures.workers), edge.workers)

    identity = Identity(
        name=services.host or os.uname().nodename,
        contact=contact,
        location=location,
        version=release,
        product=PRODUCT,
    )
    groups = (
        SystemGroup(identity, lambda: seconds() - begun),
        EngineGroup(
            engine.counters,
            engine_id=lambda: engine.engine_id,
            boots=lambda: engine.boots,
            time=engine.time,
            largest=engine.largest,
        ),
        InterfaceGroup(),
        HostGroup(seconds=seconds, now=_local_time, workers=running),
        TMADGroup(lambda: services.figures.newest, lambda: services.alarms.newest, release),
    )
    found = View(groups, edge.reactor)

    async def refresh() -> None:
        # Without the database what was known last is shown.
        with contextlib.suppress(Fault):
            await services.alarms.current()
        await found.refresh()

    edge.every(_REFRESH_SECONDS, refresh, name="objects")
    return found


def _local_time() -> datetime:
    return datetime.now().astimezone()
