"""``tmad request``: requests that wait for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Session, with_core

if TYPE_CHECKING:
    from tmad.storage.requests import RequestRow

_STATES = ("pending", "issued", "denied", "failed", "issuing")


@click.group()
def request() -> None:
    """Requests that wait for a person."""


@request.command("list")
@click.option("--state", default="pending", show_default=True, type=click.Choice(_STATES))
@click.option("--after", default="", metavar="ID", help="Begin after this id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@with_core
async def list_(core: Session, state: str, after: str, limit: int) -> None:
    """List requests in one state, oldest first."""
    found = await core.requests.list(core.actor, core.tenant, state=state, after=after, limit=limit)
    output.rows(
        (describe(row) for row in found),
        columns=("id", "endpoint", "subject", "applicant", "created_at", "comment"),
        name="id",
    )


@request.command("show")
@click.argument("request_id", metavar="ID")
@with_core
async def show(core: Session, request_id: str) -> None:
    """Show what is asked for: names, key and wishes."""
    from tmad.ca.keycheck import describe as describe_key
    from tmad.ca.names import kind_of, text_of

    found = await core.requests.show(core.actor, core.tenant, request_id)
    key = describe_key(found.request.public_key)
    output.record(
        {
            **describe(found.row),
            "names": [f"{kind_of(name)}:{text_of(name)}" for name in found.request.names],
            "key": f"{key.algorithm} {key.bits}" if key.bits else key.algorithm,
            "spki_sha256": found.row.spki_sha256,
            "proof": found.request.proof.value,
            "method": found.method,
            "wanted": [wish.oid.dotted_string for wish in found.request.wanted],
        },
        name="id",
    )


@request.command("approve")
@click.argument("request_id", metavar="ID")
@with_core
async def approve(core: Session, request_id: str) -> None:
    """Issue what a request asks for, by the profile as it is now."""
    outcome = await core.requests.approve(core.actor, core.tenant, request_id, dry_run=core.dry_run)
    certificate = outcome.certificate
    output.record(
        {
            "id": request_id,
            "serial": f"{certificate.serial_number:x}",
            "subject": certificate.subject.rfc4514_string(),
            "not_after": certificate.not_valid_after_utc,
            "issued": not core.dry_run,
        },
        name="serial",
    )
    if not core.dry_run:
        output.next_step("the applicant fetches it with his next poll")


@request.command("deny")
@click.argument("request_id", metavar="ID")
@click.option("--comment", default="", help="The applicant is told this.")
@with_core
async def deny(core: Session, request_id: str, comment: str) -> None:
    """Refuse a request for good."""
    row = await core.requests.deny(
        core.actor, core.tenant, request_id, comment=comment, dry_run=core.dry_run
    )
    output.record(describe(row), name="id")


@request.command("comment")
@click.argument("request_id", metavar="ID")
@click.argument("text")
@with_core
async def comment(core: Session, request_id: str, text: str) -> None:
    """Write a remark on a request; the applicant sees it when it is denied."""
    row = await core.requests.comment(core.actor, core.tenant, request_id, text)
    output.record(describe(row), name="id")


def describe(row: RequestRow) -> dict[str, Any]:
    """Return what a list shows of a request."""
    return {
        "id": row.id,
        "state": row.state,
        "endpoint": row.endpoint,
        "subject": row.subject,
        "applicant": row.applicant,
        "peer": row.peer,
        "transaction": row.transaction,
        "comment": row.comment,
        "decided_by": row.decided_by,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
    }
