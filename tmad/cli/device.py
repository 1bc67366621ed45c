"""``tmad device``: things that hold certificates, blocked as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core

if TYPE_CHECKING:
    from tmad.storage.devices import DeviceRow

_mac = click.option("--mac", help='In any spelling; "" takes it away.')
_serial = click.option("--serial-number", help="Of the thing itself.")
_owner = click.option("--owner", metavar="PERSON", help='Whose it is; "": nobody\'s.')
_description = click.option("--description", help="A line of text.")


@click.group()
def device() -> None:
    """Devices: block one, and no certificate of it gets in."""


@device.command("create")
@click.argument("name")
@_mac
@_serial
@_owner
@_description
@with_core
async def create(core: Session, name: str, **given: str | None) -> None:
    """Add a device; its NAME is what stands in its certificates."""
    from tmad.identity.devices import Particulars

    found = await core.devices.create(
        core.actor, core.tenant, name, Particulars(**given), dry_run=core.dry_run
    )
    output.record(_summary(found))
    output.next_step(f"tmad device block {found.name}   when it is lost")


@device.command("list")
@click.option("--after", default="", metavar="NAME", help="Begin after this name.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@with_core
async def list_(core: Session, after: str, limit: int) -> None:
    """List devices by name."""
    rows = await core.devices.list(core.actor, core.tenant, after=after, limit=limit)
    columns = ("name", "mac", "owner", "state", "description")
    output.rows([_summary(row) for row in rows], columns=columns)
    if len(rows) == limit:
        output.say(f"there may be more: --after {rows[-1].name}")


@device.command("show")
@click.argument("name")
@with_core
async def show(core: Session, name: str) -> None:
    """Show one device."""
    output.record(_summary(await core.devices.show(core.actor, core.tenant, name)))


@device.command("update")
@click.argument("name")
@_mac
@_serial
@_owner
@_description
@with_core
async def update(core: Session, name: str, **given: str | None) -> None:
    """Change what is known of a device; what is not given stays."""
    from tmad.identity.devices import Particulars

    before = await core.devices.show(core.actor, core.tenant, name)
    found = await core.devices.update(
        core.actor, core.tenant, name, Particulars(**given), dry_run=core.dry_run
    )
    if found == before:
        nothing_to_do(f"{found.name} is so already")
    output.record(_summary(found))


@device.command("block")
@click.argument("name")
@with_core
async def block(core: Session, name: str) -> None:
    """Refuse every login of a device from the next one on; open sessions are ended."""
    before = await core.devices.show(core.actor, core.tenant, name)
    if before.blocked_at is not None:
        nothing_to_do(f"{before.name} is blocked")
    await core.devices.block(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"{before.name} {_would(core)}blocked")
    output.next_step(f"tmad device unblock {before.name}   when it is back")


@device.command("unblock")
@click.argument("name")
@with_core
async def unblock(core: Session, name: str) -> None:
    """Let a blocked device log in again."""
    before = await core.devices.show(core.actor, core.tenant, name)
    if before.blocked_at is None:
        nothing_to_do(f"{before.name} is not blocked")
    await core.devices.unblock(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"{before.name} {_would(core)}unblocked")


@device.command("delete")
@click.argument("name")
@with_core
async def delete(core: Session, name: str) -> None:
    """Forget a device: whether its certificates are good is another matter."""
    await core.devices.delete(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"{name} {_would(core)}deleted")


def _summary(found: DeviceRow) -> dict[str, Any]:
    mac = found.mac
    return {
        "name": found.name,
        "mac": None if mac is None else ":".join(mac[at : at + 2] for at in range(0, 12, 2)),
        "serial_number": found.serial_number,
        "owner": found.owner,
        "description": found.description,
        "state": "good" if found.blocked_at is None else "blocked",
        "blocked_at": found.blocked_at,
    }


def _would(core: Session) -> str:
    return "would be " if core.dry_run else ""
