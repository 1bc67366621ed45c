"""``tmad log-collector``: who is told over syslog what the journal records."""

from __future__ import annotations

from typing import Any, TextIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core

_KIND = "log-collector"


@click.group("log-collector")
def log_collector() -> None:
    """Log collectors: syslog servers and SIEMs that get what the journal records."""


@log_collector.command("create")
@click.argument("name")
@click.option(
    "--transport", type=click.Choice(["udp", "tcp", "tls", "journald", "stdout"]), default="tls",
    show_default=True, help="How it is reached; journald and stdout are this machine's.",
)  # fmt: skip
@click.option("--address", default="", metavar="HOST:PORT", help="Where it listens.")
@click.option(
    "--format", "style", type=click.Choice(["rfc5424", "rfc3164", "cef", "leef", "json"]),
    help="How a message looks; default: rfc5424, on standard output json.",
)  # fmt: skip
@click.option("--facility", help="Syslog's facility; default: authpriv.")
@click.option("--severity", help="The least grave that it gets (warning, notice, …).")
@click.option("--event", "events", multiple=True, metavar="KIND",
              help='Events that it gets, with * ("certificate.*"); may be repeated.')  # fmt: skip
@click.option("--except", "unless", multiple=True, metavar="KIND",
              help="Events that it does not get; may be repeated.")  # fmt: skip
@click.option("--from-tenant", "tenants", multiple=True, metavar="TENANT",
              help="Whose events, * for everybody's; may be repeated.")  # fmt: skip
@click.option("--ca-file", type=click.File("r"), help="PEM of the CA that certified it.")
@click.option("--authority", help="Our authority that certified it.")
@click.option("--server-name", help="Name in its certificate, if not that of its address.")
@click.option("--fingerprint", help="SHA-256 of its certificate, instead of a CA.")
@click.option(
    "--client-certificate", type=click.Choice(["none", "own", "file"]),
    help="What we show it: nothing, a certificate that renews itself, or that of tmad.toml.",
)  # fmt: skip
@click.option("--beginning", is_flag=True, help="Send it the whole journal first.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@with_core
async def create(
    core: Session,
    name: str,
    transport: str,
    address: str,
    style: str | None,
    facility: str | None,
    severity: str | None,
    events: tuple[str, ...],
    unless: tuple[str, ...],
    tenants: tuple[str, ...],
    ca_file: TextIO | None,
    authority: str | None,
    server_name: str | None,
    fingerprint: str | None,
    client_certificate: str | None,
    beginning: bool,
    settings: tuple[str, ...],
) -> None:
    """Begin to send: what happens from now on, or with --beginning all that ever happened."""
    document: dict[str, Any] = {
        "transport": transport,
        "address": address,
        "format": style or ("json" if transport == "stdout" else "rfc5424"),
        "start": "beginning" if beginning else "now",
    }
    security = {
        "ca": ca_file.read() if ca_file else None,
        "authority": authority,
        "name": server_name,
        "fingerprint": fingerprint,
        "client": client_certificate,
    }
    for place, given in (
        (document, {"facility": facility, "severity": severity}),
        (document, {"events": events, "unless": unless, "tenants": tenants}),
        (document.setdefault("tls", {}), security),
    ):
        place.update({k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if v})
    for setting in settings:
        objects.assign(document, setting)
    change = await core.objects.put(
        core.actor, core.tenant, _KIND, name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    if tenants:
        _warn_of_others(core)
    output.next_step(
        f"tmad log-collector test {name}   sends a message",
        f"tmad log-collector state {name}   shows what waits for it",
    )


@log_collector.command("state")
@click.argument("name")
@with_core
async def state(core: Session, name: str) -> None:
    """Show how many records wait for it, and since when."""
    found = await core.services.log_collectors.waiting(core.actor, core.tenant, name)
    output.record(
        {
            "name": name,
            "records_waiting": found.records,
            "waiting_since": found.since or "nothing waits",
        }
    )


@log_collector.command("test")
@click.argument("name")
@with_core
async def test(core: Session, name: str) -> None:
    """Connect to it from here and send one message; no collector says what it received."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    from tmad.protocols.syslog.plugin import Settings, Ways
    from tmad.protocols.syslog.transports import unreachable

    settings = core.settings.protocol("syslog", Settings)
    collector, record = await core.services.log_collectors.testing(
        core.actor, core.tenant, name, dry_run=core.dry_run
    )
    lost: list[str] = []
    ways = Ways(settings, core.services, reactor)
    link = await ways.open(collector, lost.append)
    if core.dry_run:
        link.close()
        output.say(f"{name}: {link.peer} would be sent a message")
        return
    message = ways.render(collector)(record, 1)
    link.send(message)
    # With TLS 1.3 a client whose certificate is refused learns it only now (Y-06).
    for _ in range(20):
        await deferLater(reactor, 0.1)
        if lost:
            break
    unsent = 0 if lost else link.pending()
    link.close()
    if lost or unsent:
        raise unreachable(lost[0] if lost else "it takes nothing")
    output.record(
        {
            "name": name,
            "sent_to": link.peer,
            "octets": len(message),
            "message": message.decode().rstrip("\n"),
        }
    )
    output.next_step("look for it at the collector: syslog has no acknowledgement")


def _warn_of_others(core: Session) -> None:
    from tmad.protocols.syslog.plugin import Settings

    if core.settings.protocol("syslog", Settings).operator_tenant != core.tenant:
        output.say(
            "warning: it gets this tenant's events only, until tmad.toml has"
            f' [protocols.syslog] operator_tenant = "{core.tenant}"'
        )


objects.attach(
    log_collector,
    _KIND,
    columns=("enabled", "transport", "address", "format", "severity", "events"),
)
