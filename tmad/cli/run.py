"""tmad run, status, check-config, migrate: the daemon and its node."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Ended, ended, load_settings, nothing_to_do, usage
from tmad.errors import Fault

if TYPE_CHECKING:
    from tmad.daemon import Daemon


@click.command()
def run() -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C; SIGHUP reloads."""
    from twisted.internet import reactor

    from tmad import observe
    from tmad.daemon import Daemon

    settings = load_settings()
    fault = serve(Daemon(settings, reactor, observe.begin()), reactor)
    if fault is not None:
        raise ended(fault)


def serve(daemon: Daemon, reactor: Any) -> Fault | None:
    """Run a daemon until it is told to stop; return why it could not start, if so."""
    from twisted.internet.defer import Deferred, ensureDeferred
    from twisted.python.failure import Failure

    failures: list[Failure] = []

    def started(result: object) -> None:
        if isinstance(result, Failure):
            failures.append(result)
            reactor.callLater(0, reactor.stop)

    def start() -> None:
        ensureDeferred(daemon.start()).addBoth(started)

    def stop() -> Deferred[None]:
        return ensureDeferred(daemon.stop())

    reactor.callWhenRunning(start)
    reactor.addSystemEventTrigger("before", "shutdown", stop)
    reactor.callWhenRunning(
        lambda: signal.signal(
            signal.SIGHUP, lambda *_: reactor.callFromThread(_reload, daemon)
        )
    )
    reactor.run()
    if failures and isinstance(failures[0].value, Fault):
        return failures[0].value
    if failures:
        failures[0].raiseException()
    return None


def _reload(daemon: Daemon) -> None:
    from twisted.logger import Logger

    from tmad.config import NodeSettings

    try:
        daemon.reload(NodeSettings.load(daemon.settings.path))
    except Fault as fault:
        Logger().error("the settings were not reloaded: {fault}", fault=fault)


@click.command()
def check_config() -> None:
    """Check the settings file and what it points to; change nothing."""
    from tmad import service

    settings = load_settings(service.settings_models())
    try:
        service.master_source(settings)
    except Fault as fault:
        raise ended(fault) from None
    output.say(f"{settings.path}: no mistakes")


@click.command()
def migrate() -> None:
    """Bring the database to this version's schema; make it if there is none."""
    from tmad import service
    from tmad.storage.database import migrate as bring_forward

    settings = load_settings()
    before, after = bring_forward(service.database_url(settings))
    if before == after:
        nothing_to_do(f"the schema is at {after}")
    output.say(f"schema {before or 'none'} -> {after}")
