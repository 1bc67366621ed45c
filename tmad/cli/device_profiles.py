"""``tmad endpoint profile``: what brings a device to an endpoint, as a file or as a link."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core
from tmad.cli.files import write_private
from tmad.cli.times import Lifetime

if TYPE_CHECKING:
    from tmad.ca.device_profiles.wish import Wish

PLATFORMS = (
    "apple", "android", "passpoint", "networkmanager", "wpa", "shell", "windows", "powershell",
)  # fmt: skip


def _new_file(context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a file that is there before anything is made for it."""
    if value is not None and value.exists():
        raise click.BadParameter(f"{value} exists", context, option)
    return value


@click.command("profile")
@click.argument("name", metavar="PROTOCOL/LABEL")
@click.option("--platform", required=True, type=click.Choice(PLATFORMS))
@click.option(
    "--subject", "subject", multiple=True, required=True, metavar="CN=NAME",
    help="Of the device's certificate; may be repeated.",
)  # fmt: skip
@click.option("--name", "names", multiple=True, metavar="dns:NAME", help="… and its other names.")
@click.option("--ssid", help="Join this Wi-Fi, instead of those of the endpoint.")
@click.option("--hidden", is_flag=True, help="The Wi-Fi does not say its name by itself.")
@click.option(
    "--security", type=click.Choice(["wpa2", "wpa3", "wpa3-192"]), default="wpa2", show_default=True
)
@click.option(
    "--radius-server", "servers", multiple=True, metavar="DNS-NAME",
    help="In the RADIUS server's certificate (default: this node's host); may be repeated.",
)  # fmt: skip
@click.option("--passpoint", default="", metavar="DOMAIN", help="The Wi-Fi's home provider.")
@click.option("--directory", default="", help="Where certificate and key lie on the device.")
@click.option("--lifetime", type=Lifetime("mhd"), help="30m, 24h, 7d; else what the endpoint says.")
@click.option("--link", is_flag=True, help="Print an address that hands it out once, and its QR.")
@click.option(
    "--qr-svg", type=click.Path(path_type=Path), callback=_new_file, help="The QR as a file."
)
@click.option(
    "--out", type=click.Path(path_type=Path), callback=_new_file, help="Write it to this new file."
)
@with_core
async def profile(
    core: Session,
    name: str,
    platform: str,
    subject: tuple[str, ...],
    names: tuple[str, ...],
    ssid: str | None,
    hidden: bool,
    security: str,
    servers: tuple[str, ...],
    passpoint: str,
    directory: str,
    lifetime: timedelta | None,
    link: bool,
    qr_svg: Path | None,
    out: Path | None,
) -> None:
    """Make a configuration profile for one device.

    It holds a one-time secret for exactly these names, or the certificate with its key: whoever
    has it can become the device. Without --out it goes to the standard output.
    """
    from tmad import documents
    from tmad.ca.device_profiles.wish import Wish

    if link and out:
        raise click.UsageError("--link hands it out later; --out writes it now")
    if qr_svg and not link:
        raise click.UsageError("--qr-svg shows a link: add --link")
    if ssid is None and (hidden or servers or passpoint):
        raise click.UsageError("--hidden, --radius-server and --passpoint are about --ssid")
    wifi = []
    if ssid is not None:
        network = {"ssid": ssid, "hidden": hidden, "security": security, "passpoint": passpoint}
        wifi = [{**network, "servers": list(servers)}]
    wish = documents.parse(
        Wish,
        {"subject": list(subject), "names": list(names), "wifi": wifi, "directory": directory},
    )
    if link:
        await _link(core, name, platform, wish, lifetime, qr_svg)
    else:
        await _make(core, name, platform, wish, lifetime, out)


async def _make(
    core: Session,
    name: str,
    platform: str,
    wish: Wish,
    lifetime: timedelta | None,
    out: Path | None,
) -> None:
    made = await core.services.device_profiles.make(
        core.actor, core.tenant, name, platform, wish, lifetime=lifetime, dry_run=core.dry_run
    )
    if core.dry_run or made.content is None:
        output.say(f"a profile for {made.platform.title} would be made")
        return
    if out is None:
        sys.stdout.buffer.write(made.content.reveal())
        return
    write_private(out, made.content.reveal())
    output.record(
        {
            "file": str(out),
            "platform": platform,
            "secret_id": made.secret_id,
            "expires_at": made.expires_at,
        },
        name="file",
    )
    steps = ["bring it to the device by a way that nobody else reads, then delete it"]
    if made.secret_id is not None:
        steps.append(f"tmad enroll-secret revoke {made.secret_id}   if it gets lost")
    output.next_step(*steps)


async def _link(
    core: Session,
    name: str,
    platform: str,
    wish: Wish,
    lifetime: timedelta | None,
    qr_svg: Path | None,
) -> None:
    from tmad.identity import otpauth

    row, address = await core.services.device_profiles.link(
        core.actor, core.tenant, name, platform, wish, lifetime=lifetime, dry_run=core.dry_run
    )
    if core.dry_run:
        output.say(f"a link to a profile for {platform} would be made")
        return
    output.record(
        {"id": row.id, "link": address.reveal().decode(), "expires_at": row.expires_at},
        name="link",
    )
    if qr_svg is not None:
        write_private(qr_svg, otpauth.qr_svg(address))
    elif output.is_terminal():
        output.say(otpauth.qr_terminal(address))
    output.next_step(
        "open it on the device, once; it is not shown again",
        f"tmad endpoint withdraw-link {row.id}   if it gets lost",
    )


@click.command("links")
@click.argument("name", metavar="[PROTOCOL/LABEL]", required=False)
@click.option("--after", default="", metavar="ID", help="Begin after this id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@with_core
async def links(core: Session, name: str | None, after: str, limit: int) -> None:
    """List the links to profiles, oldest first, never what opens them."""
    from tmad.events import utc_now

    now = utc_now()
    found = await core.services.device_profiles.links(
        core.actor, core.tenant, name, after=after, limit=limit
    )
    output.rows(
        (
            {
                "id": row.id,
                "endpoint": row.endpoint,
                "platform": row.platform,
                "state": _state(row, now),
                "wish": row.wish,
                "secret_id": row.secret_id,
                "expires_at": row.expires_at,
                "opened_at": row.opened_at,
                "opened_by": row.opened_by,
                "created_by": row.created_by,
                "created_at": row.created_at,
            }
            for row in found
        ),
        columns=("id", "endpoint", "platform", "state", "expires_at", "opened_by", "wish"),
        name="id",
    )


@click.command("withdraw-link")
@click.argument("link_id", metavar="ID")
@with_core
async def withdraw_link(core: Session, link_id: str) -> None:
    """Make a link unusable at once, and the secret behind it."""
    changed = await core.services.device_profiles.revoke(
        core.actor, core.tenant, link_id, dry_run=core.dry_run
    )
    if not changed:
        nothing_to_do(f"link {link_id} was withdrawn, or opened and used")
    output.say(f"link {link_id} {'would be ' if core.dry_run else ''}withdrawn")


def _state(row: Any, now: Any) -> str:
    if row.revoked_at is not None:
        return "withdrawn"
    if row.opened_at is not None:
        return "opened"
    return "expired" if row.expires_at <= now else "good"
