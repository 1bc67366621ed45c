"""``tmad profile``: what a kind of certificate looks like."""

from __future__ import annotations

from typing import BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import Session, nothing_to_do, usage, with_core


@click.group()
def profile() -> None:
    """Profiles: what a kind of certificate looks like."""


@profile.command("import")
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@with_core
async def import_(core: Session, name: str, file: BinaryIO) -> None:
    """Create or replace a profile by what a TOML file says."""
    from tmad import documents

    change = await core.objects.put(
        core.actor,
        core.tenant,
        "profile",
        name,
        documents.from_toml(file.read()),
        dry_run=core.dry_run,
    )
    objects.show_change(core, change)
    output.next_step(f"tmad endpoint create scep LABEL --ca CA --profile {name}")


@profile.command("presets")
def presets() -> None:
    """List the profiles that tmad brings along."""
    from tmad.cli import shipped

    output.rows(({"name": name, "file": str(path)} for name, path in shipped.profiles().items()))


@profile.command("preset")
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@with_core
async def preset(core: Session, names: tuple[str, ...], every: bool) -> None:
    """Add profiles that tmad brings along; one that exists is left alone."""
    from tmad import documents
    from tmad.cli import shipped

    known = shipped.profiles()
    if strangers := sorted(set(names) - set(known)):
        usage(f"there is no preset {strangers[0]!r}{documents.nearest(strangers[0], list(known))}")
    if not names and not every:
        usage("which presets?", "tmad profile presets lists them; --all takes all")
    present = {
        stored.name
        for stored in await core.objects.list(core.actor, core.tenant, "profile", limit=500)
    }
    wanted = [name for name in (known if every else names) if name not in present]
    if not wanted:
        nothing_to_do("they are there already")
    for name in wanted:
        change = await core.objects.put(
            core.actor,
            core.tenant,
            "profile",
            name,
            shipped.document(known[name]),
            dry_run=core.dry_run,
        )
        output.say(f"profile {name} {'would be ' if core.dry_run else ''}{change.action}")
    output.next_step(f"tmad endpoint create scep LABEL --ca CA --profile {wanted[0]}")


objects.attach(profile, "profile", columns=("revision", "description"))
