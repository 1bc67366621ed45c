"""``tmad directory``: what LDAP shows of a tenant, and to whom."""

from __future__ import annotations

from typing import Any

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core


@click.group("directory")
def directory() -> None:
    """Directories: people, devices and authorities as LDAP clients find them."""


@directory.command("create")
@click.argument("name")
@click.argument("suffix")
@click.option(
    "--publish",
    multiple=True,
    type=click.Choice(["people", "devices", "authorities"]),
    help="A branch that it has; may be repeated. Default: all.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="PROFILE",
    help="A profile whose certificates it shows (* and ? stand for any). Default: all.",
)
@click.option(
    "--anonymous",
    type=click.Choice(["nothing", "authorities", "by-mail", "all"]),
    default="authorities",
    show_default=True,
    help="What is found without logging in.",
)
@click.option("--description", default="", help="A word for people.")
@with_core
async def create(
    core: Session,
    name: str,
    suffix: str,
    publish: tuple[str, ...],
    profiles: tuple[str, ...],
    anonymous: str,
    description: str,
) -> None:
    """Publish a tenant below SUFFIX: "o=acme" or "dc=acme,dc=test".

    It is there at once. With --anonymous by-mail whoever knows a person's whole mail address
    finds the certificates to encrypt to; all else needs a login.
    """
    document: dict[str, Any] = {
        "suffix": suffix,
        "profiles": list(profiles),
        "anonymous": anonymous,
        "description": description,
    }
    if publish:
        document["publish"] = list(publish)
    change = await core.objects.put(
        core.actor, core.tenant, "directory", name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    shown = change.stored.document.suffix
    output.next_step(
        f"ldapsearch -x -H ldap://localhost:3389 -b 'ou=CAs,{shown}'   shows the authorities",
        f"tmad directory set {name} anonymous=by-mail   lets strangers find people by mail",
    )


objects.attach(directory, "directory", columns=("suffix", "anonymous", "publish", "profiles"))
