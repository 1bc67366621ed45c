"""``tmad tenant``: whose objects are invisible to others."""

from __future__ import annotations

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, with_core

_EVERY = "*"


@click.group()
def tenant() -> None:
    """Tenants: whose objects are invisible to others."""


@tenant.command("create")
@click.argument("name")
@click.option("--description", default="")
@with_core
async def create(core: Session, name: str, description: str) -> None:
    """Make a tenant."""
    change = await core.objects.put(
        core.actor,
        _EVERY,
        "tenant",
        name,
        {"description": description},
        expect=0,
        dry_run=core.dry_run,
    )
    objects.show_change(core, change)
    output.next_step(
        f"tmad ca create root --tenant {name}   (--help shows what it needs)",
        f"tmad profile preset --all --tenant {name}",
    )


objects.attach(tenant, "tenant", columns=("description", "revision"), where=lambda core: _EVERY)
