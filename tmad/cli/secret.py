"""``tmad enroll-secret``: challenges for enrolment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core
from tmad.cli.times import Lifetime


@click.group("enroll-secret")
def enroll_secret() -> None:
    """Enrolment secrets: what a device shows at an endpoint (SCEP challenge)."""


@enroll_secret.command("create")
@click.option("--endpoint", required=True, metavar="PROTOCOL/LABEL")
@click.option("--lifetime", type=Lifetime("mhd"), help="30m, 24h, 7d; else what the endpoint says.")
@click.option("--subject", multiple=True, metavar="CN=PATTERN", help="Good for this subject only.")
@click.option("--name", "names", multiple=True, metavar="dns:PATTERN", help="… and these names.")
@click.option("--profile", default="", help="Good for this profile only.")
@click.option("--static", is_flag=True, help="Works any number of times; think twice.")
@click.option(
    "--secret-file",
    type=click.File("rb"),
    help="Take the secret from a file instead of a random one.",
)
@click.option(
    "--recoverable",
    is_flag=True,
    help="Keep it sealed: the client shows by a MAC that it knows it (CMP, CMC).",
)
@click.option("--person", default="", help="What is had with it is this person's (ACME).")
@click.option("--grouped", is_flag=True, help="In groups of four, to be typed by people.")
@with_core
async def create(
    core: Session,
    endpoint: str,
    lifetime: timedelta | None,
    subject: tuple[str, ...],
    names: tuple[str, ...],
    profile: str,
    static: bool,
    secret_file: BinaryIO | None,
    recoverable: bool,
    person: str,
    grouped: bool,
) -> None:
    """Make a secret and print it, this one time.

    Bind it to the subject and the names that the device will ask for: an unbound secret lets
    whoever holds it enrol as anyone that the profile allows.
    """
    from tmad import documents
    from tmad.events import Secret
    from tmad.identity import credentials
    from tmad.identity.binding import Binding

    # RFC 8555, 7.3.4: an account is bound by a MAC.
    is_binding = endpoint.startswith("acme/")
    if person and not is_binding:
        raise click.UsageError("--person is for ACME accounts: --endpoint acme/LABEL")
    recoverable = recoverable or is_binding
    if grouped and recoverable:
        raise click.UsageError("a MAC is made with the secret as it is: not with --grouped")
    bound_to = documents.parse(
        Binding,
        {"subject": list(subject), "names": list(names), "profile": profile, "person": person},
    )
    given = Secret(secret_file.read().rstrip(b"\r\n")) if secret_file else None
    row, secret = await core.secrets.create(
        core.actor,
        core.tenant,
        endpoint,
        uses=None if static else 1,
        lifetime=lifetime,
        bound_to=bound_to,
        secret=given,
        recoverable=recoverable,
        dry_run=core.dry_run,
    )
    if core.dry_run:
        output.say(f"a secret for {endpoint} would be made")
        return
    # A secret that was brought along is known to whoever brought it.
    shown = "(as in the file)" if given else secret.reveal().decode()
    output.record(
        {
            "id": row.id,
            **({"reference": row.id} if recoverable else {}),
            "endpoint": row.endpoint,
            "secret": credentials.grouped(secret) if grouped and not given else shown,
            **(_binding_key(row.id, secret) if is_binding and not given else {}),
            "expires_at": row.expires_at,
            "uses": row.uses_left,
        },
        name="secret",
    )
    if static:
        output.say(
            "warning: a static secret lets whoever reads it enrol as anyone the profile allows;"
            " a warning is in the journal"
        )
    elif not (subject or names):
        output.say("advice: bind it with --subject CN=… or --name dns:…")
    output.next_step(
        "give eab_kid and eab_hmac_key to the client (--eab-kid, --eab-hmac-key); they are not "
        "shown again"
        if is_binding
        else "give it to the device as its challenge password; it is not shown again",
        f"tmad enroll-secret revoke {row.id}   if it gets lost",
    )


@enroll_secret.command("list")
@click.option("--endpoint", metavar="PROTOCOL/LABEL")
@click.option("--after", default="", metavar="ID", help="Begin after this id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@with_core
async def list_(core: Session, endpoint: str | None, after: str, limit: int) -> None:
    """List secrets, oldest first, never what they are."""
    from tmad.events import utc_now

    now = utc_now()
    found = await core.secrets.list(core.actor, core.tenant, endpoint, after=after, limit=limit)
    output.rows(
        (
            {
                "id": row.id,
                "endpoint": row.endpoint,
                "state": _state(row, now),
                "kind": "static" if row.uses_left is None else "one-time",
                "expires_at": row.expires_at,
                "bound_to": row.bound_to,
                "created_by": row.created_by,
                "created_at": row.created_at,
            }
            for row in found
        ),
        columns=("id", "endpoint", "state", "kind", "expires_at", "bound_to"),
        name="id",
    )


@enroll_secret.command("revoke")
@click.argument("secret_id", metavar="ID")
@with_core
async def revoke(core: Session, secret_id: str) -> None:
    """Make a secret unusable at once."""
    if not await core.secrets.revoke(core.actor, core.tenant, secret_id, dry_run=core.dry_run):
        nothing_to_do(f"secret {secret_id} was revoked before")
    output.say(f"secret {secret_id} {'would be ' if core.dry_run else ''}revoked")
    output.next_step("tmad enroll-secret create --endpoint …   for another one")


def _binding_key(secret_id: str, secret: Any) -> dict[str, str]:
    """Return the two words that an ACME client is given, as all of them take them."""
    from base64 import urlsafe_b64encode

    key = urlsafe_b64encode(secret.reveal()).rstrip(b"=").decode()
    return {"eab_kid": secret_id, "eab_hmac_key": key}


def _state(row: Any, now: Any) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.uses_left == 0:
        return "used"
    if row.claimed_by is not None:
        return "in use"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired"
    return "good"
