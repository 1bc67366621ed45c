"""``tmad radius-client``: switches, access points and gateways that ask tmad who may join."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, nothing_to_do, with_core
from tmad.cli.times import Lifetime

_KIND = "radius-client"
_SECRET_FILE = click.option(
    "--secret-file",
    type=click.File("rb"),
    help="Take the shared secret from a file instead of a random one.",
)


@click.group("radius-client")
def radius_client() -> None:
    """RADIUS clients: switches, access points, gateways, proxies."""


@radius_client.command("create")
@click.argument("name")
@click.option(
    "--prefix", "prefixes", multiple=True, metavar="ADDRESS[/BITS]",
    help="Where its packets come from; may be repeated.",
)  # fmt: skip
@click.option("--radsec-name", "names", multiple=True, help="DNS name in its TLS certificate.")
@click.option("--vendor", help="Whose attributes and quirks it has; default: generic.")
@click.option("--tag", "tags", multiple=True, help="A word for policies; may be repeated.")
@click.option(
    "--method", "methods", multiple=True,
    help="How people and devices log in (default: eap-tls); may be repeated, first is offered.",
)  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@_SECRET_FILE
@with_core
async def create(
    core: Session,
    name: str,
    prefixes: tuple[str, ...],
    names: tuple[str, ...],
    vendor: str | None,
    tags: tuple[str, ...],
    methods: tuple[str, ...],
    settings: tuple[str, ...],
    secret_file: BinaryIO | None,
) -> None:
    """Let a client ask, and give it a shared secret, which is printed this one time."""
    document: dict[str, Any] = {}
    for key, given in (("prefixes", prefixes), ("tags", tags), ("methods", methods)):
        if given:
            document[key] = list(given)
    if names:
        document["radsec"] = {"names": list(names)}
    if vendor:
        document["vendor"] = vendor
    for setting in settings:
        objects.assign(document, setting)
    change = await core.objects.put(
        core.actor, core.tenant, _KIND, name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    # In a dry run the client is not there, and cannot be given a secret.
    if change.stored.document.prefixes and not core.dry_run:
        await _give_secret(core, name, secret_file, None)
    if not prefixes:
        output.next_step(
            f"tmad radius-client show {name}",
            "[protocols.radius] radsec must name an address, and a CA of ours its certificate",
        )


@radius_client.command("secret")
@click.argument("name")
@_SECRET_FILE
@with_core
async def secret(core: Session, name: str, secret_file: BinaryIO | None) -> None:
    """Set a new shared secret; the old one is worth nothing from now on."""
    await _give_secret(core, name, secret_file, None)


@radius_client.command("rotate")
@click.argument("name")
@click.option(
    "--overlap", type=Lifetime("mhd"), default=timedelta(days=1), show_default="1d",
    help="How long the old secret works beside the new one.",
)  # fmt: skip
@_SECRET_FILE
@with_core
async def rotate(
    core: Session, name: str, overlap: timedelta, secret_file: BinaryIO | None
) -> None:
    """Set a new shared secret and let the old one work for a while."""
    await _give_secret(core, name, secret_file, overlap)


@radius_client.command("state")
@click.argument("name")
@with_core
async def state(core: Session, name: str) -> None:
    """Show when it was seen, whether it signs its requests, and since when it has its secret."""
    found = await core.services.radius_clients.state(core.actor, core.tenant, name)
    output.record(
        {
            "name": name,
            "seen_at": found.seen_at or "never",
            # what an operator must know before he requires Message-Authenticator.
            "last_without_message_authenticator": found.unsigned_at or "never",
            "signed_since": found.signed_since or "not learned",
            "secret_since": found.secret_since or "none",
            "old_secret_until": found.old_secret_until or "none",
        }
    )
    if found.secret_since is None:
        output.next_step(f"tmad radius-client secret {name}   gives it one")


@radius_client.command("unlearn")
@click.argument("name")
@with_core
async def unlearn(core: Session, name: str) -> None:
    """Forget that it signs its requests (require_message_authenticator = auto)."""
    clients = core.services.radius_clients
    if not await clients.unlearn(core.actor, core.tenant, name, dry_run=core.dry_run):
        nothing_to_do(f"{name} is not known to sign its requests")
    output.say(f"{name}: {'would be ' if core.dry_run else ''}forgotten")
    output.next_step(f"tmad radius-client set {name} require_message_authenticator=yes   is safer")


async def _give_secret(
    core: Session, name: str, file: BinaryIO | None, overlap: timedelta | None
) -> None:
    from tmad.events import Secret
    from tmad.network.clients import SHORT

    given = Secret(file.read().rstrip(b"\r\n")) if file else None
    clear = await core.services.radius_clients.set_secret(
        core.actor, core.tenant, name, given, overlap=overlap, dry_run=core.dry_run
    )
    text = clear.reveal().decode()
    shown = "(dry run)" if core.dry_run else "(as in the file)" if file else text
    output.record({"client": name, "secret": shown}, name="secret")
    if len(text) < SHORT:
        output.say(
            f"warning: a secret of fewer than {SHORT} characters can be guessed from one packet"
        )
    output.next_step(
        "enter it at the client; it is not shown again",
        f"tmad radius-client state {name}   shows when it was seen first",
    )


objects.attach(
    radius_client,
    _KIND,
    columns=("prefixes", "vendor", "methods", "require_message_authenticator", "tags"),
)
