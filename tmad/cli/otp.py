"""``tmad otp``: tokens for one-time passwords."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core
from tmad.cli.files import write_private
from tmad.cli.otp_import import COMMANDS
from tmad.cli.secrets import given_secret

if TYPE_CHECKING:
    from tmad.events import Secret
    from tmad.storage.otp_tokens import TokenRow


@click.group()
def otp() -> None:
    """Tokens: codes that work once."""


for _command in COMMANDS:
    otp.add_command(_command)


@otp.command("create")
@click.argument("person")
@click.option("--kind", type=click.Choice(["totp", "hotp"]), default="totp", show_default=True)
@click.option(
    "--algorithm",
    type=click.Choice(["sha1", "sha256", "sha512"]),
    default="sha1",
    show_default=True,
    help="Some apps know no other than sha1, whatever they are told.",
)
@click.option("--digits", type=click.IntRange(6, 8), default=6, show_default=True)
@click.option("--period", type=click.IntRange(10, 300), default=30, show_default=True)
@click.option("--serial", default="", help="Else one is made up.")
@click.option("--description", default="")
@click.option("--issuer", default="tmad", show_default=True, help="What the app shows above.")
@click.option("--qr/--no-qr", default=True, help="Draw the QR code on the terminal.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="… or into a file.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="… or into this.")
@with_core
async def create(
    core: Session,
    person: str,
    kind: Any,
    algorithm: Any,
    digits: int,
    period: int,
    serial: str,
    description: str,
    issuer: str,
    qr: bool,
    png: Path | None,
    svg: Path | None,
) -> None:
    """Make a token for an app; print its QR code and URI, this one time."""
    from tmad.identity import otpauth

    token, uri = await core.tokens.create(
        core.actor,
        core.tenant,
        person,
        kind=kind,
        algorithm=algorithm,
        digits=digits,
        period=period,
        serial=serial,
        description=description,
        issuer=issuer,
        dry_run=core.dry_run,
    )
    if core.dry_run:
        output.say(f"a token for {token.person} would be made")
        return
    # Whoever has the picture has the token.
    if png is not None:
        write_private(png, otpauth.qr_png(uri))
    if svg is not None:
        write_private(svg, otpauth.qr_svg(uri))
    if qr and output.is_terminal():
        output.say(otpauth.qr_terminal(uri))
    output.record({**_summary(token), "uri": uri.reveal().decode()}, name="serial")
    output.next_step(
        "scan the code with an authenticator app; it is not shown again",
        f"tmad otp activate {token.serial} CODE   or log in with the first code",
    )


@otp.command("list")
@click.option("--person", help="Of one person only.")
@click.option("--state", type=click.Choice(["new", "active", "disabled"]))
@click.option("--in-stock", is_flag=True, help="Those that nobody has.")
@click.option("--after", default="", metavar="SERIAL", help="Begin after this one.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@with_core
async def list_(
    core: Session, person: str | None, state: str | None, in_stock: bool, after: str, limit: int
) -> None:
    """List tokens by serial number, never their seeds."""
    rows = await core.tokens.list(
        core.actor,
        core.tenant,
        person=person,
        state=state,
        in_stock=in_stock,
        after=after,
        limit=limit,
    )
    columns = ("serial", "person", "kind", "digits", "state", "used_at", "description")
    output.rows([_summary(row) for row in rows], columns=columns, name="serial")
    if len(rows) == limit:
        output.say(f"there may be more: --after {rows[-1].serial}")


@otp.command("show")
@click.argument("serial")
@with_core
async def show(core: Session, serial: str) -> None:
    """Show one token and its failures."""
    standing = await core.tokens.show(core.actor, core.tenant, serial)
    token = standing.of
    output.record(
        {
            **_summary(token),
            "counter": token.counter,
            "drift_steps": token.drift,
            "failures": standing.failures,
            "locked_until": standing.locked_until,
            "created_at": token.created_at,
            "activated_at": token.activated_at,
        },
        name="serial",
    )


@otp.command("assign")
@click.argument("serial")
@click.argument("person")
@click.option("--needs-code", is_flag=True, help="New until one valid code was seen.")
@with_core
async def assign(core: Session, serial: str, person: str, needs_code: bool) -> None:
    """Give a token from the stock to a person."""
    token = await core.tokens.assign(
        core.actor, core.tenant, serial, person, needs_code=needs_code, dry_run=core.dry_run
    )
    output.record(_summary(token), name="serial")


@otp.command("unassign")
@click.argument("serial")
@with_core
async def unassign(core: Session, serial: str) -> None:
    """Put a token back into stock."""
    await core.tokens.unassign(core.actor, core.tenant, serial, dry_run=core.dry_run)
    output.say(f"the token {serial} {_would(core)}back in stock")


@otp.command("activate")
@click.argument("serial")
@click.argument("code")
@with_core
async def activate(core: Session, serial: str, code: str) -> None:
    """Show by one valid code that a new token works."""
    token = await core.tokens.activate(
        core.actor, core.tenant, serial, _secret(code), dry_run=core.dry_run
    )
    output.say(f"the token {token.serial} {_would(core)}active")


@otp.command("resync")
@click.argument("serial")
@click.argument("first")
@click.argument("second")
@with_core
async def resync(core: Session, serial: str, first: str, second: str) -> None:
    """Find a token that has run away, by two codes that follow one another."""
    token = await core.tokens.resync(
        core.actor,
        core.tenant,
        serial,
        _secret(first),
        _secret(second),
        dry_run=core.dry_run,
    )
    where = f"{token.drift} steps off" if token.period else f"at counter {token.counter}"
    output.say(f"the token {token.serial} {_would(core)}found: {where}")


@otp.command("set-pin")
@click.argument("serial")
@click.option("--pin-file", type=click.File("rb"), help="Take it from a file; -: the input.")
@with_core
async def set_pin(core: Session, serial: str, pin_file: BinaryIO | None) -> None:
    """Set the PIN that is typed in front of the code (login mode pin-otp)."""
    pin = given_secret(pin_file, "PIN", "--pin-file")
    await core.tokens.set_pin(core.actor, core.tenant, serial, pin, dry_run=core.dry_run)
    output.say(f"the PIN of {serial} {_would(core)}set")


@otp.command("remove-pin")
@click.argument("serial")
@with_core
async def remove_pin(core: Session, serial: str) -> None:
    """Leave a token without a PIN."""
    await core.tokens.set_pin(core.actor, core.tenant, serial, None, dry_run=core.dry_run)
    output.say(f"the PIN of {serial} {_would(core)}removed")


@otp.command("disable")
@click.argument("serial")
@with_core
async def disable(core: Session, serial: str) -> None:
    """Accept no code of a token any more."""
    await core.tokens.disable(core.actor, core.tenant, serial, dry_run=core.dry_run)
    output.say(f"the token {serial} {_would(core)}disabled")


@otp.command("enable")
@click.argument("serial")
@with_core
async def enable(core: Session, serial: str) -> None:
    """Accept the codes of a disabled token again."""
    await core.tokens.enable(core.actor, core.tenant, serial, dry_run=core.dry_run)
    output.say(f"the token {serial} {_would(core)}enabled")


@otp.command("unlock")
@click.argument("serial")
@with_core
async def unlock(core: Session, serial: str) -> None:
    """Forget the failures of a token."""
    if not await core.tokens.unlock(core.actor, core.tenant, serial, dry_run=core.dry_run):
        nothing_to_do(f"{serial} has not failed")
    output.say(f"the token {serial} {_would(core)}unlocked")


@otp.command("delete")
@click.argument("serial")
@with_core
async def delete(core: Session, serial: str) -> None:
    """Remove a token with its seed."""
    await core.tokens.delete(core.actor, core.tenant, serial, dry_run=core.dry_run)
    output.say(f"the token {serial} {_would(core)}deleted")


def _summary(token: TokenRow) -> dict[str, Any]:
    return {
        "serial": token.serial,
        "person": token.person,
        "kind": token.kind,
        "algorithm": token.algorithm,
        "digits": token.digits,
        "period": token.period or None,
        "state": token.state,
        "has_pin": token.pin_hash is not None,
        "used_at": token.used_at,
        "description": token.description,
    }


def _secret(code: str) -> Secret:
    # On the command line it may be: a code works once.
    from tmad.events import Secret

    return Secret(code)


def _would(core: Session) -> str:
    return "would be " if core.dry_run else ""
