"""``tmad agent``: certificates of this machine, kept fresh; and the agents that report here."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import agent_options as wishes
from tmad.cli import output
from tmad.cli.context import (
    REFUSED,
    UNREACHABLE,
    WAITS,
    Ended,
    Session,
    nothing_to_do,
    program,
    usage,
    with_core,
)
from tmad.cli.options import options
from tmad.cli.times import Lifetime

if TYPE_CHECKING:
    from tmad.agent.keeper import Result
    from tmad.agent.store import Store
    from tmad.storage.agents import AgentRow


@click.group()
def agent() -> None:
    """The agent: gets certificates for this machine and keeps them fresh.

    list, show and forget are for the appliance: the agents that report to it.
    """


@agent.command("enroll")
@click.argument("name")
@click.option("--subject", default="", metavar="DN", help="CN=…,O=…; else CN=NAME for EST.")
@click.option("--san", "names", multiple=True, metavar="KIND:NAME", help="dns:, ip:, email:, uri:")
@click.option("--key", help="p256, p384, rsa-3072, ed25519 …; else p256, for SCEP rsa-3072.")
@wishes.equipped(wishes.SOURCE, wishes.PLACES, wishes.RENEWAL)
@wishes.directory_option
def enroll(name: str, directory: Path | None, **given: Any) -> None:
    """Get a certificate and keep it: NAME is what the agent calls it."""
    from tmad.agent import settings as agent_settings
    from tmad.agent import store as stores

    where = directory or agent_settings.default_directory()
    document = wishes.document_of(name, given)
    if given["subject"] or not document.get("acme"):
        document["subject"] = given["subject"] or f"CN={name}"
    document["names"] = list(given["names"]) or wishes.own_name(document, name)
    document["key"] = given["key"] or ("rsa-3072" if given["scep"] else "p256")
    settings = wishes.checked(document)
    if options().dry_run:
        output.record(settings.model_dump(mode="json", exclude_defaults=True))
        return
    store = stores.create(where, name)
    settings = wishes.with_anchor(store, settings, given)
    agent_settings.save(store.directory, settings)
    _run(where, (name,), is_forced=True)
    output.next_step(
        "tmad agent install   once: systemd looks after it from now on",
        f"tmad agent status    how {name} is",
    )


@agent.command("adopt")
@click.argument("certificate", type=wishes.EXISTING)
@click.option(
    "--key", "key_file", type=wishes.EXISTING, required=True, help="Its private key, PEM."
)
@click.option("--chain", "chain_file", type=wishes.EXISTING, help="The authorities above it, PEM.")
@click.option("--name", default="", help="What the agent calls it; else the file's name.")
@wishes.equipped(wishes.SOURCE, wishes.PLACES, wishes.RENEWAL)
@wishes.directory_option
def adopt(
    certificate: Path, key_file: Path, chain_file: Path | None, name: str,
    directory: Path | None, **given: Any,
) -> None:  # fmt: skip
    """Keep a CERTIFICATE that there is already, in the same files.

    Its key is kept as it is until the first renewal, or for ever with --same-key.
    """
    from tmad.agent import identity as identities
    from tmad.agent import keeper
    from tmad.agent import settings as agent_settings
    from tmad.agent import store as stores

    where = directory or agent_settings.default_directory()
    text = certificate.read_bytes()
    found = identities.read_certificates(text)
    key_pem = key_file.read_bytes()
    if chain_file is not None:
        text += chain_file.read_bytes()
    name = name or certificate.stem.lower()
    document = wishes.document_of(name, given)
    document["subject"] = found[0].subject.rfc4514_string()
    document["names"] = list(identities.names_of(found[0]))
    document["key"] = identities.kind_of(identities.read_key(key_pem))
    place = document.setdefault("place", {})
    if not {"directory", *wishes.FILES.values()} & place.keys():
        wishes.same_places(place, certificate, key_file, chain_file, len(found) > 1)
    settings = wishes.checked(document)
    if options().dry_run:
        output.record(settings.model_dump(mode="json", exclude_defaults=True))
        return
    store = stores.create(where, name)
    settings = wishes.with_anchor(store, settings, given)
    keeper.adopt(store, settings, key_pem, text)
    _run(where, (name,))
    output.next_step("tmad agent install   once: systemd looks after it from now on")


@agent.command("once")
@click.argument("names", nargs=-1)
@click.option("--now", is_flag=True, help="Renew, whatever the time is; try again at once.")
@wishes.directory_option
def once(names: tuple[str, ...], now: bool, directory: Path | None) -> None:
    """Do what is due now, then end: for a timer."""
    from tmad.agent import settings as agent_settings

    _run(directory or agent_settings.default_directory(), names, is_forced=now)


@agent.command("run")
@wishes.directory_option
def run(directory: Path | None) -> None:
    """Keep every certificate until SIGTERM; SIGHUP looks at all at once."""
    from tmad.agent import agent as agents
    from tmad.agent import settings as agent_settings

    def tell(result: Result) -> None:
        for line in _lines(result):
            output.say(line)
        sys.stdout.flush()

    agents.run(directory or agent_settings.default_directory(), tell)


@agent.command("status")
@click.argument("name", required=False)
@wishes.directory_option
def status(name: str | None, directory: Path | None) -> None:
    """Show the certificates of this machine, and what is wrong with which."""
    from tmad.agent import settings as agent_settings
    from tmad.agent import store as stores

    where = directory or agent_settings.default_directory()
    if name is not None:
        output.record(_status(stores.open_one(where, name)))
        return
    columns = ("name", "source", "state", "not_after", "renew_at", "served", "error")
    output.rows([_status(store) for store in stores.open_all(where)], columns=columns)


@agent.command("install")
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), default="/etc/systemd/system",
    show_default=True, help="Where systemd looks for units.",
)  # fmt: skip
@wishes.directory_option
def install(to: Path, directory: Path | None) -> None:
    """Write the systemd units: a service that stays, and a timer instead of it."""
    from tmad.agent import settings as agent_settings
    from tmad.agent import units

    where = (directory or agent_settings.default_directory()).absolute()
    found = program()
    command = found if os.path.isabs(found) else shutil.which(found) or found
    if options().dry_run:
        for unit, text in units.contents(command, where).items():
            output.say(f"# {unit}\n{text}")
        return
    try:
        for path in units.write(command, where, to):
            output.say(f"wrote {path}")
    except OSError as error:
        usage(f"{to}: {error.strerror}", "run it as root, or say --to DIRECTORY")
    output.next_step(
        "systemctl daemon-reload",
        "systemctl enable --now tmad-agent.service      one process that stays",
        "systemctl enable --now tmad-agent-once.timer   or a look every hour",
    )


@agent.command("remove")
@click.argument("name")
@wishes.directory_option
def remove(name: str, directory: Path | None) -> None:
    """Keep a certificate no longer: what is in its places stays there."""
    from tmad.agent import files
    from tmad.agent import settings as agent_settings
    from tmad.agent import store as stores

    store = stores.open_one(directory or agent_settings.default_directory(), name)
    if options().dry_run:
        output.say(f"{name} would be forgotten")
        return
    with store.locked():
        files.remove_directory(store.directory)
    output.say(f"{name} is not kept any more; its files stay where they are")


# -- the appliance's side


@agent.command("list")
@click.option("--state", type=click.Choice(["good", "waiting", "failing", "withdrawn"]))
@click.option("--silent-for", type=Lifetime("mhdw"), help="Only those not heard of for so long.")
@click.option("--after", default="", metavar="ID", help="Begin after this id.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@with_core
async def list_(
    core: Session, state: str | None, silent_for: timedelta | None, after: str, limit: int
) -> None:
    """List the agents that report to this appliance."""
    rows = await core.services.agents.list(
        core.actor, core.tenant, state=state, silent_for=silent_for, after=after, limit=limit
    )
    columns = ("id", "host", "label", "state", "last_contact", "renew_at", "error")
    output.rows([_row(row) for row in rows], columns=columns, name="id")
    if len(rows) == limit:
        output.say(f"there may be more: --after {rows[-1].id}")


@agent.command("show")
@click.argument("id_", metavar="ID")
@with_core
async def show(core: Session, id_: str) -> None:
    """Show what one agent said last."""
    output.record(_row(await core.services.agents.show(core.actor, core.tenant, id_)), name="id")


@agent.command("forget")
@click.argument("id_", metavar="ID")
@with_core
async def forget(core: Session, id_: str) -> None:
    """Forget an agent; if it is alive, its next report brings it back."""
    await core.services.agents.forget(core.actor, core.tenant, id_, dry_run=core.dry_run)
    output.say(f"{id_} {'would be ' if core.dry_run else ''}forgotten")


def _row(row: AgentRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "host": row.host,
        "label": row.label,
        "state": row.state,
        "subject": row.subject,
        "owner": row.owner,
        "certificate": row.certificate_id,
        "source": row.source,
        "version": row.version,
        "served": row.served,
        "renew_at": row.renew_at,
        "last_contact": row.last_contact,
        "first_contact": row.first_contact,
        "error": row.error,
    }


# -- what people see


def _run(directory: Path, names: tuple[str, ...], *, is_forced: bool = False) -> None:
    """Run once; end with the code of what was worst."""
    from tmad.agent import agent as agents
    from tmad.errors import FaultCode

    results = []
    for result in agents.run_once(directory, names=names, is_forced=is_forced):
        results.append(result)
        for line in _lines(result):
            output.say(line)
    if not results:
        nothing_to_do(f"there are no certificates in {directory}; tmad agent enroll gets one")
    faults = [result.fault for result in results if result.fault is not None]
    if faults:
        away = all(fault.code is FaultCode.UNAVAILABLE for fault in faults)
        raise Ended(
            UNREACHABLE if away else REFUSED,
            f"{len(faults)} of {len(results)} failed",
            "it is tried again by itself: tmad agent status",
        )
    if any("the server lets us wait" in result.done for result in results):
        raise Ended(WAITS, "waits for approval", "the next run asks again")


def _lines(result: Result) -> list[str]:
    lines = [f"{result.name}: {output.visible(each)}" for each in result.done]
    if result.fault is not None:
        lines.append(f"{result.name}: {output.visible(str(result.fault))}")
    return lines or [f"{result.name}: nothing is due before {result.next_at:%Y-%m-%d %H:%M} UTC"]


def _status(store: Store) -> dict[str, Any]:
    from tmad.agent import keeper, timing
    from tmad.agent import settings as agent_settings
    from tmad.errors import Fault

    found: dict[str, Any] = {"name": store.name}
    try:
        settings, state = agent_settings.load(store.directory), store.load()
        found |= {"source": settings.source, "state": keeper.condition(state)}
        if state.current:
            own = store.identity(state.current)
            found |= {
                "subject": own.certificate.subject.rfc4514_string(),
                "names": list(own.names),
                "serial": f"{own.certificate.serial_number:x}",
                "not_after": own.not_after,
                "renew_at": timing.renewal_at(own, state, settings.renewal),
            }
        return found | {
            "withdrawn": state.withdrawn,
            "served": state.served,
            "retry_at": state.retry_at,
            "last_report": state.reported_at,
            "failures": state.failures,
            "error": state.error,
            "id": state.id,
        }
    except Fault as fault:
        return found | {"state": "broken", "error": fault.detail}
