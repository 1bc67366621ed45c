"""``tmad endpoint``: the doors for enrolment."""

from __future__ import annotations

from typing import Any, BinaryIO

import click

from tmad.cli import device_profiles, objects, output
from tmad.cli.context import Session, nothing_to_do, usage, with_core


@click.group()
def endpoint() -> None:
    """Endpoints: the doors for enrolment."""


_DOORS = {
    "scep": "/scep/",
    "est": "/.well-known/est/",
    "cmp": "/.well-known/cmp/p/",
    "cmc": "/cmc/",
    "tsa": "/tsa/",
    "wstep": "/xcep/",
}


def named(text: str) -> str:
    """Return the object's name of what a person types: scep/routers or scep-routers."""
    return text.replace("/", "-", 1)


@endpoint.command("create")
@click.argument("protocol")
@click.argument("label")
@click.option("--ca", required=True, help="The authority that issues.")
@click.option("--profile", required=True, help="What is issued.")
@click.option(
    "--authenticate",
    multiple=True,
    type=click.Choice(
        [
            "challenge",
            "password",
            "directory",
            "kerberos",
            "certificate",
            "manufacturer",
            "webhook",
            "acme",
            "manual",
        ]
    ),
    help="What proves a first enrolment (default: challenge); may be repeated.",
)
@click.option(
    "--manufacturer",
    "manufacturers",
    multiple=True,
    metavar="TRUST-ANCHOR",
    help="Devices enrol with the certificate of this maker; may be repeated.",
)
@click.option(
    "--directory",
    metavar="ACTIVE-DIRECTORY",
    help="Accounts of this domain enrol, under the names that it has for them.",
)
@click.option("--approval", type=click.Choice(["automatic", "manual"]), default="automatic")
@click.option("--webhook", metavar="URL", help="Ask this service whether a challenge is good.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@with_core
async def create(
    core: Session,
    protocol: str,
    label: str,
    ca: str,
    profile: str,
    authenticate: tuple[str, ...],
    manufacturers: tuple[str, ...],
    directory: str | None,
    approval: str,
    webhook: str | None,
    settings: tuple[str, ...],
) -> None:
    """Open a door: PROTOCOL and LABEL make its URL."""
    document: dict[str, Any] = {
        "protocol": protocol,
        "label": label,
        "authority": ca,
        "profile": profile,
        "approval": approval,
    }
    if webhook:
        document["webhook"] = {"url": webhook}
        authenticate = authenticate or ("webhook",)
    if manufacturers:
        document["manufacturers"] = list(manufacturers)
        authenticate = tuple(dict.fromkeys((*authenticate, "manufacturer")))
    if directory:
        document["directory"] = directory
        authenticate = authenticate or ("kerberos",)
    if protocol == "acme":
        # Control of the names is what an account shows; there is no other way in.
        authenticate = authenticate or ("acme",)
    if authenticate:
        document["authenticate"] = list(authenticate)
    for setting in settings:
        objects.assign(document, setting)
    change = await core.objects.put(
        core.actor,
        core.tenant,
        "endpoint",
        f"{protocol}-{label}",
        document,
        expect=0,
        dry_run=core.dry_run,
    )
    objects.show_change(core, change)
    door = _DOORS.get(protocol)
    steps = [f"the door is {door}{label}"] if door is not None else []
    if protocol != "tsa" and "challenge" in change.stored.document.authenticate:
        steps.append(f"tmad enroll-secret create --endpoint {protocol}/{label} --subject CN=…")
    if webhook:
        steps.append(f"tmad endpoint webhook-key {protocol}/{label}   to sign the questions")
    output.next_step(*steps, f"tmad endpoint show {protocol}/{label}")


@endpoint.command("enable")
@click.argument("name", metavar="PROTOCOL/LABEL")
@with_core
async def enable(core: Session, name: str) -> None:
    """Open a closed door."""
    await _switch(core, name, True)


@endpoint.command("disable")
@click.argument("name", metavar="PROTOCOL/LABEL")
@with_core
async def disable(core: Session, name: str) -> None:
    """Close a door: to the outside there is none."""
    await _switch(core, name, False)
    output.next_step(f"tmad endpoint enable {name}   opens it again")


@endpoint.command("webhook-key")
@click.argument("name", metavar="PROTOCOL/LABEL")
@click.option(
    "--key-file",
    type=click.File("rb"),
    help="Take the key from a file instead of a random one.",
)
@with_core
async def webhook_key(core: Session, name: str, key_file: BinaryIO | None) -> None:
    """Set the key that signs the questions to the webhook; a random one is printed once."""
    import secrets

    from tmad import documents
    from tmad.events import Secret

    stored = await core.objects.get(core.actor, core.tenant, "endpoint", named(name))
    if stored.document.webhook is None:
        usage(f"{name} has no webhook", f"tmad endpoint set {name} webhook.url=https://…")
    text = key_file.read().rstrip(b"\r\n") if key_file else secrets.token_hex(32).encode()
    key = Secret(text)
    document = documents.plain(stored.document)
    document["webhook"]["key"] = core.webhooks.seal_key(str(stored.document.id), key)
    await core.objects.put(
        core.actor,
        core.tenant,
        "endpoint",
        stored.name,
        document,
        expect=stored.revision,
        dry_run=core.dry_run,
    )
    shown = "(as in the file)" if key_file else text.decode()
    output.record({"endpoint": name, "key": "(dry run)" if core.dry_run else shown}, name="key")
    output.next_step(
        "give the key to the service: X-Tmad-Signature is t=TIME,v1=HMAC-SHA-256(key, TIME.BODY)"
    )


async def _switch(core: Session, name: str, enabled: bool) -> None:
    from tmad import documents

    stored = await core.objects.get(core.actor, core.tenant, "endpoint", named(name))
    if stored.document.enabled is enabled:
        nothing_to_do(f"{name} is {'open' if enabled else 'closed'}")
    change = await core.objects.put(
        core.actor,
        core.tenant,
        "endpoint",
        stored.name,
        documents.plain(stored.document) | {"enabled": enabled},
        expect=stored.revision,
        dry_run=core.dry_run,
    )
    objects.show_change(core, change)


objects.attach(
    endpoint,
    "endpoint",
    columns=("authority", "profile", "authenticate", "approval", "enabled"),
    named=named,
)
endpoint.add_command(device_profiles.profile)
endpoint.add_command(device_profiles.links)
endpoint.add_command(device_profiles.withdraw_link)
