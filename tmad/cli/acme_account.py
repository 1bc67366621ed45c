"""``tmad acme-account`` and ``tmad acme-order``: what ACME clients have and ask for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core

if TYPE_CHECKING:
    from tmad.ca.acme.states import Order
    from tmad.storage.acme import Account, Authorization


@click.group("acme-account")
def acme_account() -> None:
    """ACME accounts: list, show, deactivate."""


@acme_account.command("list")
@click.option("--endpoint", metavar="acme/LABEL")
@click.option("--after", default="", metavar="ID", help="Begin after this id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@with_core
async def list_(core: Session, endpoint: str | None, after: str, limit: int) -> None:
    """List accounts, oldest first."""
    found = await core.services.acme.list_accounts(
        core.actor, core.tenant, endpoint, after=after, limit=limit
    )
    output.rows(
        (describe(each) for each in found),
        columns=("id", "endpoint", "state", "contacts", "secret", "created_at"),
        name="id",
    )


@acme_account.command("show")
@click.argument("account_id", metavar="ID")
@with_core
async def show(core: Session, account_id: str) -> None:
    """Show an account: its key, its contacts, and the secret that bound it."""
    found = await core.services.acme.show_account(core.actor, core.tenant, account_id)
    output.record(
        {
            **describe(found),
            "thumbprint": found.thumbprint,
            "agreed_at": found.agreed_at,
            "peer": found.peer,
            "updated_at": found.updated_at,
        },
        name="id",
    )


@acme_account.command("deactivate")
@click.argument("account_id", metavar="ID")
@with_core
async def deactivate(core: Session, account_id: str) -> None:
    """Close an account for good; nothing that it has shown counts any more."""
    if not await core.services.acme.deactivate_account(
        core.actor, core.tenant, account_id, dry_run=core.dry_run
    ):
        nothing_to_do(f"account {account_id} was closed before")
    output.say(f"account {account_id} {'would be ' if core.dry_run else ''}closed")
    output.next_step(
        "its certificates stay good: tmad acme-order list and tmad cert revoke end them"
    )


@click.group("acme-order")
def acme_order() -> None:
    """ACME orders: what accounts have asked for, and how far they got."""


@acme_order.command("list")
@click.option("--account", metavar="ID", help="Of this account only.")
@click.option("--after", default="", metavar="ID", help="Begin after this id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@with_core
async def list_orders(core: Session, account: str | None, after: str, limit: int) -> None:
    """List orders as they are now, oldest first."""
    found = await core.services.acme.list_orders(
        core.actor, core.tenant, account, after=after, limit=limit
    )
    output.rows(
        (describe_order(each) for each in found),
        columns=("id", "endpoint", "account", "state", "names", "created_at"),
        name="id",
    )


@acme_order.command("show")
@click.argument("order_id", metavar="ID")
@with_core
async def show_order(core: Session, order_id: str) -> None:
    """Show an order, and for each of its names how it was or was not validated."""
    found, authorizations = await core.services.acme.show_order(core.actor, core.tenant, order_id)
    output.record(
        {
            **describe_order(found),
            "expires_at": found.row.expires_at,
            "not_before": found.row.not_before,
            "not_after": found.row.not_after,
            "replaces": found.row.replaces,
            "error": found.error,
            "authorizations": [describe_authorization(each) for each in authorizations],
        },
        name="id",
    )


def describe(account: Account) -> dict[str, Any]:
    """Return what a list shows of an account."""
    return {
        "id": account.id,
        "endpoint": account.endpoint,
        "state": account.state,
        "contacts": json.loads(account.contacts),
        "secret": account.secret_id,
        "created_at": account.created_at,
    }


def describe_order(order: Order) -> dict[str, Any]:
    """Return what a list shows of an order."""
    row = order.row
    return {
        "id": row.id,
        "endpoint": row.endpoint,
        "account": row.account,
        "state": order.state,
        "names": [f"{kind}:{value}" for kind, value in row.identifiers],
        "profile": row.profile,
        "certificate": order.certificate_id,
        "request": order.request_id,
        "created_at": row.created_at,
    }


def describe_authorization(found: Authorization) -> dict[str, Any]:
    """Return what is known of one name of an order."""
    wildcard = "*." if found.is_wildcard else ""
    return {
        "id": found.id,
        "name": f"{found.type}:{wildcard}{found.value}",
        "state": found.state,
        "challenge": found.challenge,
        "attempts": found.attempts,
        "error": None if found.error is None else json.loads(found.error),
        "record": None if found.record is None else json.loads(found.record),
        "expires_at": found.expires_at,
    }
