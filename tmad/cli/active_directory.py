"""``tmad active-directory``: domains whose accounts get certificates."""

from __future__ import annotations

from typing import Any, BinaryIO, TextIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core
from tmad.cli.secrets import given_secret

KIND = "active-directory"


@click.group(KIND)
def active_directory() -> None:
    """Active Directories: domains whose accounts get certificates."""


@active_directory.command("create")
@click.argument("name")
@click.option("--realm", required=True, help="The domain, in upper case: CORP.TEST.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    required=True,
    metavar="HOST[:PORT]",
    help="A domain controller, asked over TLS; may be repeated.",
)
@click.option("--bind", required=True, metavar="USER", help="Who asks: tmad@corp.test.")
@click.option("--base", default="", metavar="DN", help="Default: that of the realm.")
@click.option(
    "--ca-file",
    type=click.File("r"),
    help="PEM file with the authorities of the servers' TLS; its content is kept.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@with_core
async def create(
    core: Session,
    name: str,
    realm: str,
    servers: tuple[str, ...],
    bind: str,
    base: str,
    ca_file: TextIO | None,
    settings: tuple[str, ...],
) -> None:
    """Make a domain known. It is only read, when somebody asks for a certificate."""
    document: dict[str, Any] = {
        "realm": realm,
        "servers": list(servers),
        "bind": bind,
        "base": base or ",".join(f"DC={part.lower()}" for part in realm.split(".")),
        "trusted": "" if ca_file is None else ca_file.read(),
    }
    for setting in settings:
        objects.assign(document, setting)
    change = await core.objects.put(
        core.actor, core.tenant, KIND, name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    output.next_step(
        f"tmad active-directory password {name}   the password of {bind}",
        f"tmad active-directory check {name}   asks the domain",
    )


@active_directory.command("password")
@click.argument("name")
@click.option("--password-file", type=click.File("rb"), help="Take it from a file.")
@with_core
async def password(core: Session, name: str, password_file: BinaryIO | None) -> None:
    """Set the password with which the domain is asked; it is kept sealed."""
    from tmad import documents

    stored = await core.objects.get(core.actor, core.tenant, KIND, name)
    given = given_secret(password_file, f"password of {stored.document.bind}", "--password-file")
    document = documents.plain(stored.document)
    document["password"] = core.active_directories.seal_password(f"{core.tenant}/{name}", given)
    await core.objects.put(
        core.actor,
        core.tenant,
        KIND,
        stored.name,
        document,
        expect=stored.revision,
        dry_run=core.dry_run,
    )
    output.say(f"{KIND} {name}: the password {'would be' if core.dry_run else 'is'} set")
    output.next_step(f"tmad active-directory check {name}   asks the domain")


@active_directory.command("check")
@click.argument("name")
@click.option("--user", default="", help="Show what a certificate of this account would say.")
@with_core
async def check(core: Session, name: str, user: str) -> None:
    """Ask the domain now; with --user, about one account (bob, or pc1$ for a computer)."""
    stored = await core.objects.get(core.actor, core.tenant, KIND, name)
    about = f"{core.tenant}/{name}"
    if not user:
        await core.active_directories.check(stored.document, about)
        output.say(f"{KIND} {name} answers")
        return
    account = await core.active_directories.by_login(stored.document, about, user)
    output.record(
        {
            "account": account.login,
            "kind": "computer" if account.is_machine else "person",
            "sid": account.sid,
            "name": account.name,
            "dns": account.dns,
            "upn": account.upn,
            "mail": account.mail,
            "groups": list(account.groups),
        },
        name="account",
    )


objects.attach(active_directory, KIND, columns=("realm", "servers", "bind"))
