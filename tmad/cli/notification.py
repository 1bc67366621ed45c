"""``tmad notification``: who is told of what, by mail or by webhook, and what became of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, usage, with_core
from tmad.cli.times import Lifetime

_KIND = "notification"
_KEY_FILE = click.option(
    "--key-file",
    type=click.File("rb"),
    help="Take the key (whsec_…) from a file instead of a random one.",
)

_URL_SECRET_FILE = click.option(
    "--url-secret-file",
    type=click.File("rb"),
    help="What stands for {{secret}} in the URL, as chat services want it.",
)


@click.group("notification")
def notification() -> None:
    """Notifications: mail and webhooks about what happens."""


@notification.command("create")
@click.argument("name")
@click.option(
    "--event", "events", multiple=True, required=True, metavar="KIND",
    help='Kind of record: certificate.revoked, "alarm.*"; may be repeated.',
)  # fmt: skip
@click.option("--except", "unless", multiple=True, metavar="KIND", help="Kind to leave out.")
@click.option("--mail", "addresses", multiple=True, metavar="ADDRESS", help="Who gets a mail.")
@click.option("--webhook", "url", metavar="URL", help="Where a signed POST goes.")
@click.option(
    "--authorities", type=click.File("rb"), metavar="PEM",
    help="CA certificates that the webhook's TLS certificate may come from.",
)  # fmt: skip
@click.option(
    "--digest", type=Lifetime("mhd"), help="Gather this long into one message; default: at once."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting.")
@_KEY_FILE
@_URL_SECRET_FILE
@with_core
async def create(
    core: Session,
    name: str,
    events: tuple[str, ...],
    unless: tuple[str, ...],
    addresses: tuple[str, ...],
    url: str | None,
    authorities: BinaryIO | None,
    digest: timedelta | None,
    settings: tuple[str, ...],
    key_file: BinaryIO | None,
    url_secret_file: BinaryIO | None,
) -> None:
    """Tell people by mail, or a service by webhook, when something is journaled.

    A webhook's key is printed this one time.
    """
    if bool(addresses) == (url is not None):
        usage("either --mail or --webhook must say who is told")
    document: dict[str, Any] = {"when": {"events": list(events)}}
    if unless:
        document["when"]["unless"] = list(unless)
    if addresses:
        document["mail"] = {"to": list(addresses)}
    if digest is not None:
        document["digest_minutes"] = int(digest.total_seconds()) // 60
    shown = ""
    if url is not None:
        key, shown = _key(key_file)
        document["webhook"] = {
            "url": url,
            "key": core.notifications.seal_key(core.tenant, name, key),
        }
        if url_secret_file is not None:
            document["webhook"]["secret"] = _url_secret(core, name, url_secret_file)
        if authorities is not None:
            document["webhook"]["authorities"] = authorities.read(65_537).decode("ascii", "replace")
    for setting in settings:
        objects.assign(document, setting)
    change = await core.objects.put(
        core.actor, core.tenant, _KIND, name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    if shown:
        _show_key(core, name, shown)
    elif not core.notifications.has_mail:
        output.say("warning: the settings have no [delivery.mail], so no mail leaves this node")
    output.next_step(f"tmad notification test {name}")


@notification.command("secret")
@click.argument("name")
@_KEY_FILE
@_URL_SECRET_FILE
@with_core
async def secret(
    core: Session, name: str, key_file: BinaryIO | None, url_secret_file: BinaryIO | None
) -> None:
    """Set a new key that signs the webhook; a random one is printed this one time.

    With --url-secret-file set the secret in the URL instead, and leave the key.
    """
    from tmad import documents

    stored = await core.objects.get(core.actor, core.tenant, _KIND, name)
    if stored.document.webhook is None:
        usage(f"{name} sends mail, which is not signed")
    document = documents.plain(stored.document)
    shown = ""
    if url_secret_file is not None:
        document["webhook"]["secret"] = _url_secret(core, name, url_secret_file)
    else:
        key, shown = _key(key_file)
        document["webhook"]["key"] = core.notifications.seal_key(core.tenant, name, key)
    await core.objects.put(
        core.actor,
        core.tenant,
        _KIND,
        name,
        document,
        expect=stored.revision,
        dry_run=core.dry_run,
    )
    if shown:
        _show_key(core, name, shown)
    else:
        output.say(f"{name}: the secret of the URL is {'not ' if core.dry_run else ''}changed")


@notification.command("test")
@click.argument("name")
@with_core
async def test(core: Session, name: str) -> None:
    """Send a made-up record now, and say what the receiver answered."""
    answer = await core.notifications.test(core.actor, core.tenant, name)
    output.record({"notification": name, "answer": answer}, name="answer")


@notification.command("deliveries")
@click.argument("name")
@click.option("--before", type=click.IntRange(min=1), metavar="ID", help="Begin before this one.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 500))
@with_core
async def deliveries(core: Session, name: str, before: int | None, limit: int) -> None:
    """List the messages of a notification, newest first: what became of each."""
    found = await core.notifications.deliveries(
        core.actor, core.tenant, name, before=before, limit=limit
    )
    output.rows(
        (
            {
                "id": row.id,
                "created_at": row.created_at,
                "state": row.state,
                "events": row.events,
                "kinds": row.counts,
                "attempts": row.attempts,
                "due_at": row.due_at,
                "done_at": row.done_at,
                "message": row.message,
                "outcome": row.outcome,
                "records": [f"{writer}:{seq}" for writer, seq in row.places],
            }
            for row in found
        ),
        columns=("id", "created_at", "state", "events", "attempts", "due_at", "outcome"),
        name="id",
    )


@notification.command("redeliver")
@click.argument("id", type=click.IntRange(min=1))
@with_core
async def redeliver(core: Session, id: int) -> None:  # noqa: A002  as the page names it
    """Send a message once more, under a new name: receivers take it for another one."""
    row = await core.notifications.redeliver(core.actor, core.tenant, id, dry_run=core.dry_run)
    would = "would be sent" if core.dry_run else "is sent"
    output.say(f"delivery {row.id} of {row.notification} {would} again")
    output.next_step(f"tmad notification deliveries {row.notification}   shows what became of it")


def _key(file: BinaryIO | None) -> tuple[Any, str]:
    """Return a key, and what is shown of it."""
    import secrets

    from tmad.events import Secret
    from tmad.lifecycle import webhooks

    if file is None:
        key = Secret(secrets.token_bytes(32))
        return key, webhooks.shown(key)
    try:
        return webhooks.read_key(file.read(1_000).decode("ascii", "replace")), "(as in the file)"
    except ValueError as error:
        usage(f"{file.name}: {error}")


def _url_secret(core: Session, name: str, file: BinaryIO) -> str:
    from tmad.events import Secret

    given = Secret(file.read(1_000).strip())
    sealed: str = core.notifications.seal_url_secret(core.tenant, name, given)
    return sealed


def _show_key(core: Session, name: str, shown: str) -> None:
    output.record({"notification": name, "key": "(dry run)" if core.dry_run else shown}, name="key")
    output.next_step("give the key to the receiver; it is not shown again")


objects.attach(
    notification, _KIND, columns=("enabled", "when", "mail", "webhook", "digest_minutes")
)
