"""``tmad snmp``: who may ask the SNMP agent, and who the agent is."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import Session, usage, with_core
from tmad.cli.snmp_target import mib, target, test

if TYPE_CHECKING:
    from tmad.identity.snmp_managers import Passphrases

# The agent shows the whole appliance: nothing of it belongs to one tenant.
_EVERYWHERE = "*"

_VIEW = click.option(
    "--view", default="all", show_default=True,
    help="What is shown: all, host, tmad, or numbers such as \"1.3.6.1 -1.3.6.1.2.1.25\".",
)  # fmt: skip


@click.group("snmp")
def snmp() -> None:
    """SNMP agent: users, communities, targets of notifications, the engine."""


@snmp.group("user")
def user() -> None:
    """Users of SNMPv3; each one asks with authentication and privacy."""


@user.command("add")
@click.argument("name")
@click.option(
    "--auth", "authentication", default="sha256", show_default=True,
    type=click.Choice(["sha1", "sha224", "sha256", "sha384", "sha512"]),
    help="HMAC; sha1 works only with [protocols.snmp] sha1 = true.",
)  # fmt: skip
@click.option(
    "--priv", "privacy", default="aes128", show_default=True,
    type=click.Choice(["aes128", "aes192", "aes256", "aes192c", "aes256c"]),
    help="Encryption; with a final c a long key is made as Cisco does.",
)  # fmt: skip
@_VIEW
@click.option(
    "--secret-file", type=click.File("rb"),
    help="Take the passphrases from a file: authentication in its first line, privacy in the"
    " second; one line is both.",
)  # fmt: skip
@with_core
async def add_user(
    core: Session,
    name: str,
    authentication: str,
    privacy: str,
    view: str,
    secret_file: BinaryIO | None,
) -> None:
    """Let a user ask, and print its passphrases, this one time."""
    given = _passphrases(secret_file)
    made = await core.services.snmp.add_user(
        core.actor,
        _EVERYWHERE,
        name,
        authentication=authentication,
        privacy=privacy,
        view=view,
        passphrases=given,
        dry_run=core.dry_run,
    )
    if core.dry_run:
        output.say(f"the user {name} would be added")
        return
    shown = "(as in the file)"
    output.record(
        {
            "user": name,
            "authentication": authentication,
            "authentication_passphrase": shown if given else made.authentication.reveal().decode(),
            "privacy": privacy,
            "privacy_passphrase": shown if given else made.privacy.reveal().decode(),
            "view": view,
        },
        name="user",
    )
    output.next_step(
        "enter them at the manager; they are not shown again",
        f"snmpwalk -v3 -l authPriv -u {name} -a {_HASHES[authentication]}"
        f" -A PASSPHRASE -x {_CIPHERS[privacy]} -X PASSPHRASE HOST:PORT system",
    )


_HASHES = {
    "sha1": "SHA", "sha224": "SHA-224", "sha256": "SHA-256", "sha384": "SHA-384",
    "sha512": "SHA-512",
}  # fmt: skip
_CIPHERS = {
    "aes128": "AES", "aes192": "AES-192", "aes256": "AES-256", "aes192c": "AES-192-C",
    "aes256c": "AES-256-C",
}  # fmt: skip


@user.command("list")
@with_core
async def list_users(core: Session) -> None:
    """List the users, never their passphrases."""
    found = await core.services.snmp.users(core.actor, _EVERYWHERE)
    output.rows(
        (
            {
                "name": row.name,
                "authentication": row.authentication,
                "privacy": row.privacy,
                "view": row.view,
                "created_at": row.created_at,
            }
            for row in found
        ),
        columns=("name", "authentication", "privacy", "view", "created_at"),
    )


@user.command("remove")
@click.argument("name")
@with_core
async def remove_user(core: Session, name: str) -> None:
    """Refuse a user from now on."""
    await core.services.snmp.remove_user(core.actor, _EVERYWHERE, name, dry_run=core.dry_run)
    output.say(f"the user {name} {'would be' if core.dry_run else 'is'} removed")


@snmp.group("community")
def community() -> None:
    """Communities of SNMPv1 and SNMPv2c, which cross the network in clear; read-only."""


@community.command("add")
@click.argument("name")
@click.option(
    "--prefix", "prefixes", multiple=True, required=True, metavar="ADDRESS[/BITS]",
    help="Where managers ask from; may be repeated.",
)  # fmt: skip
@_VIEW
@click.option(
    "--secret-file", type=click.File("rb"),
    help="Take the community from a file instead of a random one.",
)  # fmt: skip
@with_core
async def add_community(
    core: Session,
    name: str,
    prefixes: tuple[str, ...],
    view: str,
    secret_file: BinaryIO | None,
) -> None:
    """Let addresses ask with a community, and print it, this one time.

    NAME is what it is called here; what managers send is the community that is printed.
    """
    from tmad.events import Secret

    given = Secret(secret_file.read().rstrip(b"\r\n")) if secret_file else None
    made = await core.services.snmp.add_community(
        core.actor,
        _EVERYWHERE,
        name,
        prefixes,
        view=view,
        secret=given,
        dry_run=core.dry_run,
    )
    if core.dry_run:
        output.say(f"the community {name} would be added")
        return
    output.record(
        {
            "name": name,
            "community": "(as in the file)" if given else made.reveal().decode(),
            "prefixes": list(prefixes),
            "view": view,
        }
    )
    output.say("warning: whoever can read the network can read the community and every answer")
    output.next_step("tmad snmp user add NAME   for SNMPv3, which is encrypted")


@community.command("list")
@with_core
async def list_communities(core: Session) -> None:
    """List the communities by name, never what they are."""
    found = await core.services.snmp.communities(core.actor, _EVERYWHERE)
    output.rows(
        (
            {
                "name": row.name,
                "prefixes": row.prefixes.split(),
                "view": row.view,
                "created_at": row.created_at,
            }
            for row in found
        ),
        columns=("name", "prefixes", "view", "created_at"),
    )


@community.command("remove")
@click.argument("name")
@with_core
async def remove_community(core: Session, name: str) -> None:
    """Refuse a community from now on."""
    access = core.services.snmp
    await access.remove_community(core.actor, _EVERYWHERE, name, dry_run=core.dry_run)
    output.say(f"the community {name} {'would be' if core.dry_run else 'is'} removed")


@snmp.command("engine")
@with_core
async def engine(core: Session) -> None:
    """Show this node's engine, as managers and receivers of traps must know it."""
    found = await core.services.snmp.engine_state(core.actor, _EVERYWHERE)
    output.record(
        {
            "engine_id": "0x" + found.engine_id.hex(),
            "boots": found.boots,
            "seconds": int(found.age),
        },
        name="engine_id",
    )
    output.next_step(
        f"createUser -e 0x{found.engine_id.hex()} NAME …   in snmptrapd.conf, for traps of SNMPv3"
    )


def _passphrases(file: BinaryIO | None) -> Passphrases | None:
    if file is None:
        return None
    from tmad.events import Secret
    from tmad.identity.snmp_managers import Passphrases

    lines = file.read().splitlines()
    if not 1 <= len(lines) <= 2:
        usage("the file of passphrases has one line or two")
    return Passphrases(Secret(lines[0]), Secret(lines[-1]))


snmp.add_command(target)
snmp.add_command(test)
snmp.add_command(mib)
