"""``tmad grant``: who may do what."""

from __future__ import annotations

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core


@click.group()
def grant() -> None:
    """Grants: who may do what in a tenant."""


@grant.command("create")
@click.argument("name")
@click.option("--subject", required=True, help='Whose it is: "person:alice".')
@click.option(
    "--role",
    required=True,
    type=click.Choice(["administrator", "operator", "approver", "auditor"]),
)
@click.option("--description", default="")
@with_core
async def create(core: Session, name: str, subject: str, role: str, description: str) -> None:
    """Give somebody a role in this tenant."""
    change = await core.objects.put(
        core.actor,
        core.tenant,
        "grant",
        name,
        {"subject": subject, "role": role, "description": description},
        expect=0,
        dry_run=core.dry_run,
    )
    objects.show_change(core, change)
    output.next_step(f"tmad grant check {subject}", f"tmad --as {subject} cert list")


@grant.command("check")
@click.argument("subject")
@with_core
async def check(core: Session, subject: str) -> None:
    """Show what a subject may do, tenant by tenant, and through which role."""
    from tmad.identity.access import ROLES, require

    require(core.actor, "grant.read", core.tenant)
    actor = await core.objects.actor(subject)
    output.rows(
        (
            {"tenant": held.tenant, "role": held.role, "permissions": sorted(ROLES[held.role])}
            for held in actor.grants
            if held.tenant == core.tenant
        ),
        name="role",
    )


objects.attach(grant, "grant", columns=("subject", "role", "description"))
