"""``tmad agent``: certificates of this machine, kept fresh; and the agents that report here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    from tmad.agent.settings import CertificateSettings
    from tmad.agent.store import Store
    from tmad.storage.agents import AgentRow

_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
_dir = click.option(
    "--dir", "directory", type=click.Path(file_okay=False, path_type=Path),
    help="Where the agent keeps its certificates; else $TMAD_AGENT_DIR, /var/lib/tmad-agent.",
)  # fmt: skip

_SOURCE = (
    click.option("--est", metavar="URL", help="EST: https://HOST:8444/.well-known/est/LABEL"),
    click.option("--acme", metavar="URL", help="ACME: its directory, https://HOST/…/directory"),
    click.option("--scep", metavar="URL", help="SCEP, for adopt: http://HOST/scep/LABEL"),
    click.option("--scep-legacy", is_flag=True, help="SCEP: take answers signed with SHA-1."),
    click.option("--trust", type=_EXISTING, help="PEM file of the CA that the server is known by."),
    click.option("--fingerprint", metavar="SHA256", help="EST: fetch that CA, known by this."),
    click.option("--user", default="", help="EST: name for the first time; else NAME."),
    click.option("--secret-file", type=_EXISTING, help="EST: password for the first time."),
    click.option("--contact", multiple=True, metavar="MAIL", help="ACME: whom to write to."),
    click.option("--agree", is_flag=True, help="ACME: the server's terms are agreed to."),
    click.option("--acme-profile", default="", help="ACME: which of the server's profiles."),
    click.option("--eab-kid", default="", help="ACME: id of the external account."),
    click.option("--eab-key-file", type=_EXISTING, help="ACME: its key in base64url."),
    click.option("--listen", default="", metavar="ADDR:PORT", help="ACME: answer http-01 here."),
    click.option("--webroot", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 help="ACME: answer http-01 by files of a web server."),
    click.option("--report", metavar="URL", help='https://HOST:8444/agent; "": none.'),
)  # fmt: skip
_PLACES = (
    click.option("--link", type=_FILE, help="A link to a directory with all; changes at once."),
    click.option("--key-out", type=_FILE, help="Where the key goes."),
    click.option("--cert-out", type=_FILE, help="Where the certificate alone goes."),
    click.option("--chain-out", type=_FILE, help="Where the authorities go."),
    click.option("--fullchain-out", type=_FILE, help="Where certificate and authorities go."),
    click.option("--bundle-out", type=_FILE, help="Where key, certificate and authorities go."),
    click.option("--pkcs12-out", type=_FILE, help="Where all goes as PKCS#12."),
    click.option("--pkcs12-password-file", type=_EXISTING, help="Its password."),
    click.option("--owner", default="", metavar="USER[:GROUP]", help="Whose the files are."),
    click.option("--key-mode", default="0600", show_default=True, help="Mode of files with keys."),
    click.option("--reload", "reload_", default="", metavar="COMMAND",
                 help="What makes the service read them; words as a shell splits them."),
    click.option("--reload-seconds", type=float, default=30.0, show_default=True),
    click.option("--check", default="", metavar="HOST:PORT", help="Where the service shows it."),
)  # fmt: skip
_RENEWAL = (
    click.option("--renew-before", type=Lifetime("mhdw"), help="Before the end; else a third."),
    click.option("--spread", type=Lifetime("mhdw"), help="Up to so much earlier, by chance."),
    click.option("--same-key", is_flag=True, help="Keep the key when renewing."),
    click.option("--if-revoked", type=click.Choice(["stop", "enroll"]), default="stop",
                 show_default=True, help="What to do when it was revoked."),
)  # fmt: skip


def _with(*decorators: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for decorator in reversed([each for group in decorators for each in group]):
            function = decorator(function)
        return function

    return decorate


@click.group()
def agent() -> None:
    """The agent: gets certificates for this machine and keeps them fresh.

    list, show and forget are for the appliance: the agents that report to it.
    """


@agent.command("enroll")
@click.argument("name")
@click.option("--subject", default="", metavar="DN", help="CN=…,O=…; else CN=NAME for EST.")
@click.option("--san", "names", multiple=True, metavar="KIND:NAME", help="dns:, ip:, email:, uri:")
@click.option("--key", default="p256", show_default=True, help="p256, p384, rsa-3072, ed25519 …")
@_with(_SOURCE, _PLACES, _RENEWAL)
@_dir
def enroll(name: str, directory: Path | None, **given: Any) -> None:
    """Get a certificate and keep it: NAME is what the agent calls it."""
    from tmad.agent import settings as agent_settings
    from tmad.agent import store as stores

    where = directory or agent_settings.default_directory()
    document = _document(name, given)
    if given["subject"] or not document.get("acme"):
        document["subject"] = given["subject"] or f"CN={name}"
    document["names"] = list(given["names"]) or _own_name(document, name)
    document["key"] = given["key"]
    settings = _checked(document)
    if options().dry_run:
        output.record(settings.model_dump(mode="json", exclude_defaults=True))
        return
    store = stores.create(where, name)
    settings = _with_anchor(store, settings, given)
    agent_settings.save(store.directory, settings)
    _run(where, (name,))
    output.next_step(
        "tmad agent install   once: systemd looks after it from now on",
        f"tmad agent status    how {name} is",
    )


@agent.command("adopt")
@click.argument("certificate", type=_EXISTING)
@click.option("--key", "key_file", type=_EXISTING, required=True, help="Its private key, PEM.")
@click.option("--chain", "chain_file", type=_EXISTING, help="The authorities above it, PEM.")
@click.option("--name", default="", help="What the agent calls it; else the file's name.")
@_with(_SOURCE, _PLACES, _RENEWAL)
@_dir
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
    document = _document(name, given)
    document["subject"] = found[0].subject.rfc4514_string()
    document["names"] = list(identities.names_of(found[0]))
    document["key"] = identities.kind_of(identities.read_key(key_pem))
    place = document.setdefault("place", {})
    if not {"directory", *_FILES.values()} & place.keys():
        _same_places(place, certificate, key_file, chain_file, len(found) > 1)
    settings = _checked(document)
    if options().dry_run:
        output.record(settings.model_dump(mode="json", exclude_defaults=True))
        return
    store = stores.create(where, name)
    settings = _with_anchor(store, settings, given)
    keeper.adopt(store, settings, key_pem, text)
    _run(where, (name,))
    output.next_step("tmad agent install   once: systemd looks after it from now on")


@agent.command("once")
@click.argument("names", nargs=-1)
@click.option("--now", is_flag=True, help="Renew, whatever the time is; try again at once.")
@_dir
def once(names: tuple[str, ...], now: bool, directory: Path | None) -> None:
    """Do what is due now, then end: for a timer."""
    from tmad.agent import settings as agent_settings

    _run(directory or agent_settings.default_directory(), names, is_forced=now)


@agent.command("run")
@_dir
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
@_dir
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
@_dir
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
@_dir
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


# -- from options to settings

_FILES = {
    "key_out": "key", "cert_out": "certificate", "chain_out": "chain",
    "fullchain_out": "fullchain", "bundle_out": "bundle", "pkcs12_out": "pkcs12",
}  # fmt: skip


def _document(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the options say, as the file would hold them."""
    document: dict[str, Any] = {"trust": _path(given["trust"])}
    if given["est"]:
        document["est"] = {
            "url": given["est"], "user": given["user"] or name,
            "secret_file": _path(given["secret_file"]),
        }  # fmt: skip
    if given["acme"]:
        document["acme"] = {
            "directory": given["acme"], "contact": [_mail(each) for each in given["contact"]],
            "agrees": given["agree"], "profile": given["acme_profile"],
            "eab_kid": given["eab_kid"], "eab_key_file": _path(given["eab_key_file"]),
            "listen": given["listen"], "webroot": _path(given["webroot"]),
        }  # fmt: skip
    if given["scep"]:
        document["scep"] = {"url": given["scep"], "legacy": given["scep_legacy"]}
    document["report"] = given["report"] or ""
    user, _, group = given["owner"].partition(":")
    place = {kind: _path(given[option]) for option, kind in _FILES.items() if given[option]}
    if given["link"]:
        place["directory"] = _path(given["link"])
    if given["pkcs12_password_file"]:
        place["pkcs12_password_file"] = _path(given["pkcs12_password_file"])
    document["place"] = {**place, "user": user, "group": group, "key_mode": given["key_mode"]}
    document["reload"] = {"command": _words(given["reload_"]), "seconds": given["reload_seconds"]}
    document["check"] = {"address": given["check"]}
    document["renewal"] = {"new_key": not given["same_key"], "revoked": given["if_revoked"]}
    if given["renew_before"]:
        document["renewal"]["before_days"] = given["renew_before"] / timedelta(days=1)
    if given["spread"] is not None:
        document["renewal"]["spread_hours"] = given["spread"] / timedelta(hours=1)
    return document


def _checked(document: dict[str, Any]) -> CertificateSettings:
    from tmad import documents
    from tmad.agent import identity as identities
    from tmad.agent.settings import CertificateSettings
    from tmad.errors import Fault

    try:
        settings = documents.parse(CertificateSettings, document)
        for each in settings.names:
            identities.general_name(each)
    except Fault as fault:
        usage(fault.detail, "tmad agent enroll --help says what each option means")
    return settings


def _with_anchor(
    store: Store, settings: CertificateSettings, given: dict[str, Any]
) -> CertificateSettings:
    """Fetch the CA that the fingerprint names, if there is one."""
    if not given["fingerprint"]:
        return settings
    from tmad.agent import est, files

    digits = given["fingerprint"].replace(":", "").replace(" ", "")
    if settings.est is None or settings.trust:
        usage("--fingerprint is for EST, and instead of --trust")
    if len(digits) != 64 or set(digits.lower()) - set("0123456789abcdef"):
        usage("--fingerprint is a SHA-256: 64 hexadecimal digits")
    path = store.directory / "trust.pem"
    files.write(path, est.anchor(settings.est.url, digits), mode=0o644)
    return settings.model_copy(update={"trust": str(path.absolute())})


def _own_name(document: dict[str, Any], name: str) -> list[str]:
    """Return the name itself as a host name, where only that can be meant."""
    return [f"dns:{name}"] if "." in name and document.get("acme") else []


def _same_places(
    place: dict[str, Any], certificate: Path, key: Path, chain: Path | None, is_full: bool
) -> None:
    """Let the files that were adopted be the places; links are followed, not replaced."""
    place["fullchain" if is_full else "certificate"] = str(certificate.resolve())
    place["key"] = str(key.resolve())
    if chain is not None:
        place["chain"] = str(chain.resolve())


def _path(given: Path | None) -> str:
    return "" if given is None else str(given.absolute())


def _mail(text: str) -> str:
    return text if ":" in text else f"mailto:{text}"


def _words(text: str) -> list[str]:
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        usage(f"--reload: {error}")


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
