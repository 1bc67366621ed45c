"""``tmad snmp target``: who gets SNMP notifications."""

from __future__ import annotations

from typing import Any

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core

_KIND = "snmp-target"


@click.group("target")
def target() -> None:
    """Targets: management systems that get notifications (traps and informs)."""


@target.command("create")
@click.argument("name")
@click.argument("address", metavar="ADDRESS[:PORT]")
@click.option("--user", default="", help="Sign and encrypt as this user (SNMPv3).")
@click.option("--community", default="", metavar="NAME", help="Use this community (SNMPv2c).")
@click.option("--trap", is_flag=True, help="Send without asking for an acknowledgement.")
@click.option(
    "--severity", type=click.Choice(["warning", "error", "critical"]),
    help="The least grave alarm that is told; default: warning.",
)  # fmt: skip
@click.option(
    "--alarm", "alarms", multiple=True, help="Only this alarm; may be repeated. Default: all."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@with_core
async def create(
    core: Session,
    name: str,
    address: str,
    user: str,
    community: str,
    trap: bool,
    severity: str | None,
    alarms: tuple[str, ...],
    settings: tuple[str, ...],
) -> None:
    """Tell a management system what goes wrong, from now on."""
    document: dict[str, Any] = {"address": address, "version": "2c" if community else "3"}
    for key, given in (("user", user), ("community", community), ("severity", severity)):
        if given:
            document[key] = given
    if trap:
        document["inform"] = False
    if alarms:
        document["alarms"] = list(alarms)
    for setting in settings:
        objects.assign(document, setting)
    # Both belong to the whole node: whoever may not see them is told so here, not by silence.
    access = core.services.snmp
    if user:
        await access.user(user)
    if community:
        await access.community(community)
    change = await core.objects.put(
        core.actor, core.tenant, _KIND, name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    if trap and user:
        engine = (await access.engine()).engine_id.hex()
        output.next_step(
            f"createUser -e 0x{engine} {user} …   at the receiver: in a trap our engine speaks"
        )
    output.next_step(f"tmad snmp test {name}   sends a notification")


objects.attach(
    target, _KIND, columns=("enabled", "address", "version", "inform", "severity", "alarms")
)


@click.command("test")
@click.argument("name", metavar="TARGET")
@with_core
async def test(core: Session, name: str) -> None:
    """Send a notification to a target, and wait for its acknowledgement if it is an inform."""
    from twisted.internet import reactor

    from tmad.protocols.snmp.sending import Sender

    found, told = await core.services.snmp_targets.testing(core.actor, core.tenant, name)
    await Sender(core.services.snmp, reactor)(found, told)
    is_inform = found.document.inform
    output.record(
        {
            "name": name,
            "sent_to": found.document.address,
            "acknowledged": "yes" if is_inform else "traps are not acknowledged: look there",
        }
    )


@click.command("mib")
def mib() -> None:
    """Print TMAD-MIB, for management systems: tmad snmp mib > TMAD-MIB.txt."""
    from tmad.cli.shipped import mib as text

    click.echo(text(), nl=False)
