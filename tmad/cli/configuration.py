"""``tmad export`` and ``tmad apply``: all managed objects as one TOML file."""

from __future__ import annotations

from typing import BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, nothing_to_do, with_core


@click.command()
@click.option("--all-tenants", "every", is_flag=True, help="Every tenant, not only --tenant.")
@with_core
async def export(core: Session, every: bool) -> None:
    """Write tenants, authorities, profiles, grants and endpoints as TOML.

    The text is stable: unchanged objects are unchanged text. It holds no secrets.
    """
    text = await core.objects.export(core.actor, None if every else core.tenant)
    click.echo(text, nl=False)


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--all-tenants", "every", is_flag=True, help="The file may name any tenant.")
@click.option("--prune", is_flag=True, help="Delete what the named tenants have beyond it.")
@with_core
async def apply(core: Session, file: BinaryIO, every: bool, prune: bool) -> None:
    """Bring the managed objects to what FILE says ("-": standard input), all of it or nothing."""
    changes = await core.objects.apply(
        core.actor,
        None if every else core.tenant,
        file.read(),
        dry_run=core.dry_run,
        prune=prune,
    )
    done = [change for change in changes if change.action != "unchanged"]
    if not done:
        nothing_to_do(f"{len(changes)} objects are so already")
    output.rows(
        (
            {
                "action": change.action,
                "tenant": change.stored.tenant,
                "kind": change.stored.kind,
                "name": change.stored.name,
                "revision": change.stored.revision,
                "difference": change.difference.splitlines(),
            }
            for change in done
        ),
        columns=("action", "tenant", "kind", "name", "difference"),
    )
    for change in done:
        if change.action != "deleted":
            objects.warn(change.stored)
    if core.dry_run:
        output.say("dry run: nothing was changed")
        output.next_step("tmad apply FILE")
    else:
        output.next_step("tmad export", "tmad audit tail")
