"""The daemon: core, protocols, listeners and timers of one process, from start to stop."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

from prometheus_client import ProcessCollector
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from tmad import config, observe
from tmad.ca.trust import Trust
from tmad.config import Address, NodeSettings
from tmad.edge import process, tcp
from tmad.edge import reactor as epoll
from tmad.edge.gauges import Gauges
from tmad.edge.health import Health
from tmad.edge.http import Doors, Site
from tmad.edge.limits import Connections
from tmad.edge.mounting import Listeners, ProtocolEdge
from tmad.edge.sockets import Adopt, Sockets, most_connections
from tmad.edge.timers import Timers
from tmad.edge.tls import ClientCertificates, ServerTLS
from tmad.errors import Fault
from tmad.events import utc_now
from tmad.lifecycle.workers import Door, Worker
from tmad.plugin import Settings
from tmad.service import Core, installed, open_core, protocols
from tmad.storage import changes

log = Logger()

_NEWS_SECONDS = 1.0
_TLS_SECONDS = 60.0
_RENEW_SECONDS = 300.0
_INTENT_SECONDS = 5.0
_RECOVER_SECONDS = 30.0
_EXPIRE_SECONDS = 300.0
_SEAL_SECONDS = 60.0
_PRUNE_SECONDS = 3_600.0
_ANCHOR_SECONDS = 60.0
_NOTIFY_SECONDS = 1.0
# Longer than any process is paused or disconnected without dropping its caches anyway.
_CHANGES_KEPT = timedelta(days=1)
_LAG_SECONDS = 0.1
_FIGURES_SECONDS = 5.0
_ALARM_SECONDS = 10.0
_VERIFY_SECONDS = 600.0  # how often it is looked whether a verification is due
_OPS_CONNECTIONS = 32


def section_models() -> dict[str, type[Settings]]:
    """Return the model of each installed protocol's section of tmad.toml."""
    return {name: plugin.load().Settings for name, plugin in installed().items()}


class Daemon:
    """One process: number ``index`` of ``count`` identical ones."""

    def __init__(
        self,
        settings: NodeSettings,
        reactor: Any,
        writer: observe.LogWriter,
        *,
        index: int = 0,
        count: int = 1,
    ) -> None:
        self.settings = settings
        self.reactor = reactor
        self.index = index
        self.count = count
        self.metrics = observe.Metrics()
        self.core: Core | None = None
        self.started: float | None = None
        self._writer = writer
        self._access = observe.AccessLog(writer)
        self._doors = Doors(self.metrics, reactor.seconds)
        self._connections = Connections()
        self._maximum = most_connections()
        self._sockets = Sockets(shared=count > 1)
        self._sites: dict[str, Site] = {}
        self._tls: dict[str, ServerTLS] = {}
        self._ports: list[IListeningPort] = []
        self._timers: Timers | None = None
        self.is_stopping = False
        self._lag = 0.0

    # -- start --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything; Fault when settings, keys, database or an address refuse."""
        self._configure_log(self.settings)
        process.harden()
        settings = self.settings
        listen = settings.listen
        for kind in ("http", "https", "https_client"):
            self._sockets.open(kind, getattr(listen, kind))
        self._sockets.open("ops", ops_addresses(settings, self.index))
        process.become(settings.node.user)
        if self.count > 1:
            process.die_with_supervisor()
        self._warn_of_root()
        core = self.core = await open_core(settings, self.reactor)
        services = core.services
        timers = self._timers = Timers(self.reactor, services.database, services.now, core.holder)
        listeners = Listeners(
            self.reactor,
            self._sockets,
            settings.limits,
            self._connections,
            directory=settings.node.data / "run",
            index=self.index,
            count=self.count,
        )
        for name, module in protocols(settings).items():
            own = settings.protocol(name, module.Settings)
            module.mount(own, services, ProtocolEdge(name, self._doors, timers, listeners))
        self._plan_jobs(core, timers)
        self._show_figures(core, timers)
        self._listen(core, listeners)
        await self._open_tls()
        self._ports += listeners.open()
        await timers.start()
        self._measure_lag()
        self._feed_watchdog()
        self.started = time.monotonic()
        log.info(
            "ready: http {http}, https {https}, ops {ops}",
            http=", ".join(listen.http) or "off",
            https=", ".join(listen.https) or "off",
            ops=", ".join(ops_addresses(settings, self.index)) or "off",
        )
        process.notify("READY=1")

    def _configure_log(self, settings: NodeSettings) -> None:
        log_ = settings.log
        self._writer.configure(log_.level, log_.format, log_.output, str(log_.journald_socket))
        self._access.configure(settings.log.format)

    def _warn_of_root(self) -> None:
        if os.geteuid() == 0:
            log.warn("running as root; set node.user or start as an ordinary user")

    def _plan_jobs(self, core: Core, timers: Timers) -> None:
        services = core.services

        async def seal() -> None:
            await services.journal.seal(services.keyring)

        async def prune() -> None:
            before = services.now() - _CHANGES_KEPT
            await services.database.write(changes.prune, before)

        async def watch() -> None:
            if (figures := services.figures.newest) is not None:
                await services.alarms.watch(figures)

        async def watch_node() -> None:
            if (figures := services.figures.newest) is not None:
                await services.alarms.watch_node(figures, self.count)

        once = (
            ("renew", _RENEW_SECONDS, services.service_certificates.renew_due),
            ("intents", _INTENT_SECONDS, services.authority.recover),
            ("authorities", _RECOVER_SECONDS, core.ceremony.recover),
            ("expire", _EXPIRE_SECONDS, core.requests.expire_due),
            ("seal", _SEAL_SECONDS, seal),
            ("prune", _PRUNE_SECONDS, prune),
            ("alarms", _ALARM_SECONDS, watch),
            ("verify", _VERIFY_SECONDS, services.alarms.verify_due),
            ("trust-anchors", _ANCHOR_SECONDS, core.anchors.refresh_due),
            ("notifications", _NOTIFY_SECONDS, core.notifications.gather),
            ("deliveries", _NOTIFY_SECONDS, core.notifications.send_due),
            ("deliveries-prune", _PRUNE_SECONDS, core.notifications.prune),
            ("codes", _PRUNE_SECONDS, core.codes.prune),
            ("login-failures", _PRUNE_SECONDS, services.logins.prune),
        )
        for name, seconds, function in once:
            timers.every(seconds, function, name=name, lease=True)
        # Whoever is asked hears of changes by itself; what must be done about some, nobody asks.
        timers.every(_NEWS_SECONDS, services.changes.catch_up, name="news")
        refresh = timers.every(_TLS_SECONDS, self._refresh_tls, name="tls")
        services.service_certificates.listen(refresh)
        services.figures.watch(self._describe)
        timers.every(_FIGURES_SECONDS, services.figures.sample, name="figures")
        if self.index == 0:
            timers.every(_ALARM_SECONDS, watch_node, name="node-alarms")

    def _show_figures(self, core: Core, timers: Timers) -> None:
        services = core.services
        gauges = Gauges(
            lambda: services.figures.newest,
            lambda: services.alarms.newest,
            events=services.journal.counts,
            refusals=services.journal.refusals,
            messages=core.notifications.counts,
            jobs=lambda: timers.failures,
            is_leader=lambda: timers.is_leader,
        )
        self.metrics.registry.register(gauges)
        ProcessCollector(registry=self.metrics.registry)

    def _site(self, kind: str, doors: Doors, **options: Any) -> Site:
        settings = self.settings
        site = self._sites[kind] = Site(
            doors,
            settings.limits,
            self.reactor,
            **{"connections": self._connections, "maximum": self._maximum, **options},
        )
        return site

    def _listen(self, core: Core, listeners: Listeners) -> None:
        settings = self.settings
        access: dict[str, Any] = {
            "access": self._access if settings.log.access else None,
            "access_hot": settings.log.access_hot,
        }
        services = core.services
        health = Health(
            services.changes,
            services.keyring,
            self.metrics,
            about={"node": settings.node.name, "worker": self.index},
            measure=self._measure,
            writing=lambda: services.database.why_not_writing,
            serving=lambda: self.started is not None and not self.is_stopping,
            waiting=lambda: [kind for kind, server in self._tls.items() if not server.is_ready],
            reading=listeners.reading,
            changing=[*listeners.changing, "mail and webhooks"],
            alarms=services.alarms.current,
        )
        # Of its own, so that operators get in when strangers have taken everything.
        ops = self._site("ops", health.doors, connections=Connections(), maximum=_OPS_CONNECTIONS)
        self._open("ops", ops_addresses(settings, self.index), ops)
        self._open("http", settings.listen.http, self._site("http", self._doors, **access))
        checker = ClientCertificates(Trust(services.hierarchy), services.status, services.now)
        self._site("https", self._doors, secure=True, **access)
        self._site("https_client", self._doors, secure=True, verifier=checker.check, **access)

    def _open(
        self, kind: str, addresses: tuple[str, ...], site: Site, adopt: Adopt = tcp.adopt
    ) -> None:
        self._ports += self._sockets.listen(self.reactor, kind, addresses, site, adopt=adopt)

    async def _open_tls(self) -> None:
        """Open the HTTPS listeners; without a certificate yet, the timer does it later."""
        settings, core = self.settings, self.core
        assert core is not None
        services = core.services
        for kind in ("https", "https_client"):
            addresses: tuple[str, ...] = getattr(settings.listen, kind)
            if not addresses:
                continue
            server = ServerTLS(
                services.service_certificates,
                services.keyring,
                settings.node.host,
                asks=kind == "https_client",
            )
            self._tls[kind] = server
            try:
                await self._bring_up(kind, server)
            except Fault as fault:
                log.warn(
                    "{kind} waits for a certificate: {why} {private}",
                    kind=kind,
                    why=str(fault),
                    private=fault.private,
                )

    async def _bring_up(self, kind: str, server: ServerTLS) -> None:
        was_ready = server.is_ready
        await server.refresh()
        if not was_ready and not self.is_stopping:
            addresses: tuple[str, ...] = getattr(self.settings.listen, kind)
            self._open(kind, addresses, self._sites[kind], server.adopt)

    async def _refresh_tls(self) -> None:
        for kind, server in self._tls.items():
            await self._bring_up(kind, server)

    # -- while it runs ------------------------------------------------------------------------

    def reload(self) -> bool:
        """Read the settings file again; all of it counts or nothing does.

        What needs a restart is named in the log.
        """
        try:
            new = NodeSettings.load(self.settings.path, section_models())
        except Fault as fault:
            log.error("not reloaded, the old settings hold: {why}", why=fault.detail)
            return False
        old = self.settings
        waiting = [
            name
            for name in type(new).model_fields
            if name not in ("log", "limits") and getattr(new, name) != getattr(old, name)
        ]
        self.settings = old.model_copy(update={"log": new.log, "limits": new.limits})
        self._configure_log(new)
        for kind, site in self._sites.items():
            site.reconfigure(new.limits, access_hot=new.log.access_hot)
            if kind != "ops":
                site.access = self._access if new.log.access else None
        if waiting:
            log.warn("reloaded; a restart is needed for: {names}", names=", ".join(waiting))
        else:
            log.info("reloaded")
        return True

    def _measure_lag(self) -> None:
        """Notice how late the reactor is: something blocked it that long."""
        planned = self.reactor.seconds() + _LAG_SECONDS
        worst = 0.0
        count = 0

        def tick() -> None:
            nonlocal planned, worst, count
            now = self.reactor.seconds()
            worst = max(worst, now - planned)
            count += 1
            if count >= 10:
                self._lag, worst, count = worst, 0.0, 0
            planned = now + _LAG_SECONDS
            self.reactor.callLater(_LAG_SECONDS, tick)

        self.reactor.callLater(_LAG_SECONDS, tick)

    def _feed_watchdog(self) -> None:
        seconds = process.watchdog_seconds()
        if seconds is None:
            return
        process.notify("WATCHDOG=1")
        self.reactor.callLater(seconds / 3, self._feed_watchdog)

    def _measure(self) -> None:
        """Bring the numbers up to date that nobody counts."""
        self.metrics.lag.set(self._lag)
        self.metrics.connections.set(self._connections.total)
        self.metrics.cut_off.set(sum(site.cut_off for site in self._sites.values()))

    def _describe(self) -> Worker:
        """Say how this process does, for everybody who shows figures of the node."""
        assert self.core is not None
        now = utc_now()
        alive = 0.0 if self.started is None else time.monotonic() - self.started
        return Worker(
            index=self.index,
            run=os.environ.get(process.SUPERVISOR, "") or str(os.getpid()),
            pid=os.getpid(),
            started_at=now - timedelta(seconds=alive),
            sampled_at=now,
            lag=self._lag,
            connections=self._connections.total,
            waiting=self.core.services.database.waiting,
            doors=tuple(
                Door(
                    protocol=meter.protocol,
                    door=meter.door,
                    outcomes={str(word): number for word, number in meter.outcomes.items()},
                    buckets=tuple(meter.buckets),
                    seconds=meter.seconds,
                )
                for meter in self.metrics.doors
            ),
        )

    # -- stop ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop listening, finish requests, release leases, close; safe to call at any time."""
        if self.is_stopping:
            return
        self.is_stopping = True
        process.notify("STOPPING=1")
        ports, self._ports = self._ports, []
        for port in ports:
            closed = port.stopListening()
            if closed is not None:
                await closed
        self._sockets.close()
        for site in self._sites.values():
            site.drain()
        end = self.reactor.seconds() + self.settings.limits.stop_seconds
        while self._connections.total and self.reactor.seconds() < end:
            await deferLater(self.reactor, 0.05)
        for site in self._sites.values():
            site.abort()
        if self._timers is not None:
            await self._timers.stop()
        if self.core is not None:
            core, self.core = self.core, None
            await core.close()
        self._access.flush()
        log.info("stopped")


def ops_addresses(settings: NodeSettings, index: int) -> tuple[str, ...]:
    """Return where worker ``index`` shows its metrics: each one on a port of its own."""
    found = []
    for text in settings.listen.ops:
        address = Address.parse(text)
        found.append(str(Address(address.host, address.port + index)))
    return tuple(found)


def run(settings: NodeSettings, *, index: int = 0, count: int = 1) -> int:
    """Run one process until it is told to stop; return its exit code."""
    epoll.install()
    from twisted.internet import reactor as installed_reactor

    # The module's type does not know that it provides every reactor interface.
    reactor: Any = installed_reactor
    writer = observe.begin(sys.stderr)
    daemon = Daemon(settings, reactor, writer, index=index, count=count)
    code = 0

    def failed(failure: Failure) -> None:
        nonlocal code
        if daemon.is_stopping:
            return  # what it was about to open had been closed
        fault = failure.value
        code = 1 if isinstance(fault, Fault) else 2
        if isinstance(fault, Fault):
            log.error("cannot start: {why} {private}", why=fault.detail, private=fault.private)
        else:
            log.failure("cannot start", failure)
        reactor.callLater(0, reactor.stop)

    def leave() -> None:
        # A second signal while stopping changes nothing.
        if not daemon.is_stopping:
            reactor.stop()

    def begin() -> None:
        # These replace the handlers that Twisted has just set.
        for number, function in (
            (signal.SIGTERM, leave),
            (signal.SIGINT, leave),
            (signal.SIGHUP, daemon.reload),
        ):
            signal.signal(number, lambda *_, function=function: reactor.callFromThread(function))
        if count > 1:
            # Ctrl-C reaches every process of the terminal; the supervisor tells its workers.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        ensureDeferred(daemon.start()).addCallbacks(lambda _: spare_the_collector(), failed)

    def end() -> Deferred[None]:
        return ensureDeferred(daemon.stop())

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", end)
    reactor.run()
    return code


def spare_the_collector() -> None:
    """Leave to itself what lives as long as the process: looking at it all takes 70 ms.

    And look at what is new less often than after 700 objects, which dozens of requests under way
    have together: that took 2 % of the time, and found hardly anything.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


class Options(usage.Options):
    """What ``twist tmad`` and ``twistd tmad`` understand."""

    optParameters = [["config", "c", "", "Settings file; else $TMAD_CONFIG, ./tmad.toml, …"]]  # noqa: N815, RUF012  Twisted's name


class DaemonService(Service):
    """The daemon under twist or twistd, which own the log and the signals."""

    def __init__(self, settings: NodeSettings, reactor: Any) -> None:
        self._daemon = Daemon(settings, reactor, observe.LogWriter(sys.stderr))
        self._reactor = reactor

    def startService(self) -> None:  # noqa: N802  Twisted's name
        super().startService()  # type: ignore[no-untyped-call]  # untyped

        def failed(failure: Failure) -> None:
            log.failure("cannot start", failure)
            self._reactor.stop()

        ensureDeferred(self._daemon.start()).addErrback(failed)

    def stopService(self) -> Deferred[None]:  # noqa: N802  Twisted's name
        super().stopService()  # type: ignore[no-untyped-call]  # untyped
        return ensureDeferred(self._daemon.stop())


def makeService(options: Options) -> DaemonService:  # noqa: N802  Twisted's name
    """Return the daemon as a Twisted service."""
    from twisted.internet import reactor

    return DaemonService(
        NodeSettings.load(config.find(options["config"]), section_models()), reactor
    )
