"""The daemon: the core with its doors open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tmad import observe, service
from tmad.config import Address, NodeSettings
from tmad.edge import sockets
from tmad.edge.health import Health
from tmad.edge.http import Doors, Site
from tmad.edge.limits import Connections
from tmad.edge.timers import Timers
from tmad.errors import Fault
from tmad.plugin import HTTPHandler, Limits
from tmad.service import Core
from tmad.storage import changes

log = Logger()

# How long a change stays readable: a process that sleeps longer drops its caches.
_KEEP_CHANGES = timedelta(days=1)
_DEFAULT_LIMITS = Limits()


class Daemon:
    """One process of the appliance: every protocol, on every listener."""

    def __init__(
        self,
        settings: NodeSettings,
        reactor: Any,
        writer: observe.LogWriter,
        *,
        worker: int | None = None,
    ) -> None:
        """``worker`` numbers the processes that share the addresses; None: the only one."""
        self.settings = settings
        self._reactor = reactor
        self._writer = writer
        self._worker = worker
        self._metrics = observe.Metrics()
        self._access = observe.AccessLog(writer)
        self._doors = Doors(self._metrics, reactor.seconds)
        self._connections = Connections()
        self._sites: list[Site] = []
        self._ports: list[IListeningPort] = []
        self._core: Core | None = None
        self._timers: Timers | None = None

    async def start(self) -> None:
        """Open the core, mount the protocols, listen; Fault when any of it cannot be."""
        self._configure_log(self.settings)
        core = self._core = await service.open_core(self.settings, self._reactor)
        timers = self._timers = Timers(
            self._reactor, core.services.database, core.holder, core.services.now
        )
        for name, module in service.protocols(self.settings).items():
            own = self.settings.protocol(name, module.Settings)
            if own.enabled:
                module.mount(own, core.services, _Edge(name, self, timers))
        self._schedule(core, timers)
        await self._listen(core)
        log.info("ready", node=self.settings.node.name, worker=self._worker or 0)

    async def stop(self) -> None:
        """Stop listening, finish requests, give leases back, close."""
        for port in self._ports:
            await port.stopListening()
        for site in self._sites:
            site.drain()
        deadline = self._reactor.seconds() + self.settings.limits.stop_seconds
        while any(site.running for site in self._sites) and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)
        for site in self._sites:
            site.abort()
        if self._timers is not None:
            await self._timers.stop()
        if self._core is not None:
            await self._core.close()
        self._access.flush()

    def reload(self, settings: NodeSettings) -> None:
        """Take over the log and limits of new settings; the rest waits for a restart."""
        self._configure_log(settings)
        for site in self._sites:
            site.reconfigure(settings.limits, access_hot=settings.log.access_hot)
        self.settings = settings

    def _configure_log(self, settings: NodeSettings) -> None:
        self._writer.configure(settings.log.level, settings.log.format)
        self._access.configure(settings.log.format)

    async def _listen(self, core: Core) -> None:
        listen = self.settings.listen
        health = Health(core.services.changes, core.services.keyring, self._metrics)
        for text in listen.http:
            self._open(text, self._site(self._doors))
        offset = 0 if self._worker is None else self._worker
        for text in listen.ops:
            address = Address.parse(text)
            self._open(str(address._replace(port=address.port + offset)), self._site(health.doors))

    def _site(self, doors: Doors, **named: Any) -> Site:
        site = Site(
            doors,
            self.settings.limits,
            self._reactor,
            access=self._access if self.settings.log.access else None,
            access_hot=self.settings.log.access_hot,
            connections=self._connections,
            **named,
        )
        self._sites.append(site)
        return site

    def _open(self, text: str, factory: Factory) -> None:
        self._ports.append(
            sockets.listen(
                self._reactor, Address.parse(text), factory, shared=self._worker is not None
            )
        )

    def _schedule(self, core: Core, timers: Timers) -> None:
        services = core.services

        async def prune() -> None:
            await services.database.write(changes.prune, services.now() - _KEEP_CHANGES)

        async def seal() -> None:
            await services.journal.seal(services.keyring)

        every = timers.every
        every(10, services.authority.recover, name="intents", lease=True)
        every(30, core.ceremony.recover, name="authorities", lease=True)
        every(60, core.requests.expire_due, name="requests", lease=True)
        every(60, seal, name="journal", lease=True)
        every(300, services.service_certificates.renew_due, name="certificates", lease=True)
        every(3600, prune, name="changes", lease=True)


class _Edge:
    """What one protocol may ask of the edge."""

    def __init__(self, protocol: str, daemon: Daemon, timers: Timers) -> None:
        self._protocol = protocol
        self._daemon = daemon
        self._timers = timers

    def http(
        self,
        prefix: str,
        handler: HTTPHandler,
        *,
        plain: bool = False,
        hot: bool = False,
        limits: Limits = _DEFAULT_LIMITS,
        methods: tuple[str, ...] = ("GET", "HEAD", "POST"),
    ) -> None:
        self._daemon._doors.mount(
            self._protocol,
            prefix,
            handler,
            plain=plain,
            hot=hot,
            limits=limits,
            methods=methods,
        )

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        name: str,
        lease: bool = False,
    ) -> None:
        self._timers.every(seconds, function, name=f"{self._protocol}.{name}", lease=lease)
