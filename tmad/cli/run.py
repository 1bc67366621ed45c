"""``tmad run``, ``check-config`` and ``migrate``: the node itself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import (
    USAGE,
    Ended,
    load_settings,
    nothing_to_do,
    with_settings,
)

if TYPE_CHECKING:
    from tmad.config import NodeSettings


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Identical processes; default: workers.count of the settings.",
)
@click.option("--worker", metavar="I/N", hidden=True, help="For the supervisor's own use.")
def run(workers: int | None, worker: str | None) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C."""
    settings = _checked_settings()
    count = workers or settings.workers.count
    if worker is not None:
        index, _, total = worker.partition("/")
        sys.exit(_run_one(settings, int(index), int(total)))
    if count == 1:
        sys.exit(_run_one(settings, 0, 1))
    sys.exit(_supervise(settings, count))


def _run_one(settings: NodeSettings, index: int, count: int) -> int:
    from tmad import daemon

    return daemon.run(settings, index=index, count=count)


def _supervise(settings: NodeSettings, count: int) -> int:
    from tmad.config import Address
    from tmad.edge import process, workers
    from tmad.edge.sockets import open_tcp

    process.harden()
    sockets: list[dict[str, Any]] = []
    for index in range(count):
        own = {}
        for kind in ("http", "https", "https_client"):
            for text in getattr(settings.listen, kind):
                own[f"{kind} {text}"] = open_tcp(Address.parse(text), shared=True)
        for text in settings.listen.ops:
            host, port = Address.parse(text)
            address = Address(host, port + index)
            own[f"ops {address}"] = open_tcp(address)
        sockets.append(own)
    process.become(settings.node.user)
    supervisor = workers.Supervisor(
        workers.command(settings.path),
        sockets,
        lambda text: click.echo(f"supervisor: {text}", err=True),
        stop_seconds=settings.limits.stop_seconds,
    )
    return supervisor.run()


def _checked_settings() -> NodeSettings:
    from tmad.daemon import section_models

    return load_settings(section_models())


@click.command("check-config")
@click.option("--reference", is_flag=True, help="Print docs/configuration.md instead.")
def check_config(reference: bool) -> None:
    """Check the settings file with every protocol's section; change nothing."""
    if reference:
        click.echo(settings_reference(), nl=False)
        return
    settings = _checked_settings()
    wrong = list(_check_files(settings))
    if wrong:
        raise Ended(USAGE, "\n".join(wrong))
    output.say(f"{settings.path}: no mistakes")


def settings_reference() -> str:
    """Return docs/configuration.md."""
    from tmad.cli import reference
    from tmad.config import NodeSettings
    from tmad.daemon import section_models

    return reference.reference(NodeSettings, section_models())


def _check_files(settings: NodeSettings) -> Any:
    """Yield what the settings point to and is not there."""
    wanted = {"node.data": settings.node.data, "node.data: master key": settings.master_file}
    keys = settings.keyring
    if keys.master == "passphrase":
        wanted["keyring.passphrase_file"] = keys.passphrase_file
    if keys.pkcs11 is not None:
        wanted["keyring.pkcs11.module"] = keys.pkcs11.module
        wanted["keyring.pkcs11.pin_file"] = keys.pkcs11.pin_file
    if settings.database.password_file is not None:
        wanted["database.password_file"] = settings.database.password_file
    for name, path in wanted.items():
        if not path.exists():
            yield f"{settings.path}  {name}: {path} does not exist"


@click.command()
@with_settings
def migrate(settings: NodeSettings) -> None:
    """Bring the database to this version's schema; nothing is lost, going back is not possible."""
    from tmad.service import database_url
    from tmad.storage.database import migrate as bring

    before, after = bring(database_url(settings))
    if before == after:
        nothing_to_do(f"the database has schema {after}")
    output.say(f"the database has schema {after}, it had {before or 'none'}")
