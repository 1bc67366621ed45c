"""The parts of ``tmad otp`` that deal with files, pictures, paper and gateways."""

from __future__ import annotations

import binascii
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, usage, with_core

if TYPE_CHECKING:
    from tmad.identity.tokenfiles import TokenFile


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--preview", is_flag=True, help="Show what the file holds, import nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pskc", "csv", "yubico", "feitian", "safenet"]),
    help="If it is not recognised.",
)
@click.option("--type", "kind", type=click.Choice(["hotp", "totp"]), help="If the file is silent.")
@click.option("--digits", type=click.IntRange(6, 8), help="If the file is silent; else 6.")
@click.option("--period", type=click.IntRange(10, 300), help="Seconds; if silent, 30.")
@click.option(
    "--algorithm", type=click.Choice(["sha1", "sha256", "sha512"]), help="If silent, sha1."
)
@click.option(
    "--encoding",
    type=click.Choice(["hex", "base32", "base64"]),
    help="Of the seeds in a list; else what fits all of them.",
)
@click.option("--key-file", type=click.File("rb"), help="The key that opens a PSKC file.")
@click.option("--passphrase-file", type=click.File("rb"), help="The passphrase that opens one.")
@click.option("--expired-too", is_flag=True, help="Also tokens whose policy in the file ended.")
@click.option("--skip-wrong", is_flag=True, help="Leave out what is wrong instead of refusing all.")
@with_core
async def import_(
    core: Session,
    file: BinaryIO,
    preview: bool,
    form: Any,
    kind: Any,
    digits: int | None,
    period: int | None,
    algorithm: str | None,
    encoding: Any,
    key_file: BinaryIO | None,
    passphrase_file: BinaryIO | None,
    expired_too: bool,
    skip_wrong: bool,
) -> None:
    """Import hardware tokens: PSKC (RFC 6030), CSV, and the lists of Yubico, Feitian, SafeNet.

    Look at it with --preview first. A list has a header, or the columns
    serial,secret,type,digits,period,counter. Delete the file afterwards: it holds the seeds.
    """
    from tmad.events import Secret, utc_now
    from tmad.identity import tokenfiles

    data = file.read(tokenfiles.LARGEST + 1)
    passphrase = passphrase_file.read().rstrip(b"\r\n") if passphrase_file else None
    wishes = tokenfiles.Wishes(
        format=form,
        kind=kind,
        digits=digits,
        period=period,
        algorithm=algorithm or "",
        encoding=encoding,
        key=Secret(_key(key_file.read(1_000))) if key_file else None,
        passphrase=None if passphrase is None else Secret(passphrase),
        expired_too=expired_too,
    )
    found = tokenfiles.read(data, utc_now(), wishes)
    if preview:
        _show(found)
        return
    if not skip_wrong:
        found.require_clean()
    done = await core.tokens.import_(core.actor, core.tenant, found.seeds, dry_run=core.dry_run)
    for serial in done.present:
        output.say(f"{serial}: is here already, left as it is")
    for serial, why in done.refused:
        output.say(f"{serial}: refused: {output.visible(why)}")
    for mistake in found.mistakes:
        output.say(f"left out: {output.visible(str(mistake))}")
    if not done.added:
        nothing_to_do("no token of the file is new")
    would = "would be " if core.dry_run else ""
    output.say(f"{len(done.added)} tokens {would}imported ({found.format})")
    output.next_step(
        "tmad otp assign SERIAL PERSON   for tokens in stock",
        "delete the file: whoever has it can make every code",
    )


@click.command("qr")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--png", type=click.Path(path_type=Path), help="Write a PNG image.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write an SVG image.")
def qr(file: BinaryIO, png: Path | None, svg: Path | None) -> None:
    """Draw an otpauth URI, read from FILE or standard input, as a QR code.

    Without --png and --svg it appears in the terminal. The picture is as secret as the URI.
    """
    from tmad.cli.files import write_private
    from tmad.events import Secret
    from tmad.identity import otpauth

    text = file.read(10_000).strip()
    if not re.fullmatch(rb"otpauth://(totp|hotp)/[!-~]+", text):
        usage("what was read is no otpauth URI", "tmad otp create prints one")
    uri = Secret(text)
    try:
        if png is not None:
            write_private(png, otpauth.qr_png(uri))
        if svg is not None:
            write_private(svg, otpauth.qr_svg(uri))
    except FileExistsError as error:
        usage(f"{error.filename} exists; it is never overwritten")
    if png is None and svg is None:
        click.echo(otpauth.qr_terminal(uri))
    else:
        output.next_step("show it to the person once, then delete it")


@click.command("emergency")
@click.argument("person")
@click.option("--count", "action", flag_value="count", help="Only tell how many are left.")
@click.option("--revoke", "action", flag_value="revoke", help="Make them void, print none.")
@with_core
async def emergency(core: Session, person: str, action: str | None) -> None:
    """Make ten emergency codes for PERSON and print them, this one time.

    Each is good for one login instead of a token. Earlier ones become void.
    """
    from tmad.identity.codes import grouped

    if action == "count":
        left = await core.codes.count_emergency(core.actor, core.tenant, person)
        output.record({"person": person, "left": left}, name="left")
        return
    if action == "revoke":
        voided = await core.codes.revoke_emergency(
            core.actor, core.tenant, person, dry_run=core.dry_run
        )
        if not voided:
            nothing_to_do(f"{person} had no emergency codes")
        output.say(f"{voided} emergency codes {'would be' if core.dry_run else 'are'} void")
        return
    codes = await core.codes.make_emergency(core.actor, core.tenant, person, dry_run=core.dry_run)
    if core.dry_run:
        output.say(f"{len(codes)} emergency codes would be made; earlier ones would become void")
        return
    output.rows(({"code": grouped(code)} for code in codes), name="code")
    output.next_step(
        "print them for the person; they are not shown again",
        f"tmad otp emergency {person} --revoke   if the paper gets lost",
    )


@click.command("test-delivery")
@click.argument("kind", type=click.Choice(["sms", "mail"]))
@click.argument("to")
@with_core
async def test_delivery(core: Session, kind: Literal["sms", "mail"], to: str) -> None:
    """Send a test message by SMS or mail TO a number or an address, and wait for the gateway."""
    if core.dry_run:
        output.say(f"a {kind} would be sent")
        return
    reference = await core.codes.test_delivery(core.actor, core.tenant, kind, to)
    shown = f" as {output.visible(reference)}" if reference else ""
    output.say(f"the gateway took the message{shown}")
    output.next_step("look whether it arrives")


COMMANDS = (import_, qr, emergency, test_delivery)


def _show(found: TokenFile) -> None:
    output.rows(
        (
            {
                "serial": seed.serial,
                "type": seed.kind,
                "algorithm": seed.algorithm,
                "digits": seed.digits,
                "period": seed.period or None,
                "counter": seed.counter,
                "seed_bits": len(seed.seed.reveal()) * 8,
                "person": seed.person,
            }
            for seed in found.seeds
        ),
        name="serial",
    )
    for note in found.notes:
        output.say(f"note: {output.visible(note)}")
    for mistake in found.mistakes:
        output.say(f"wrong: {output.visible(str(mistake))}")
    output.say(
        f"{len(found.seeds)} tokens read as {found.format}, {len(found.mistakes)} wrong;"
        " nothing was imported"
    )


def _key(content: bytes) -> bytes:
    """Return a key that is written in hexadecimal, or as it is."""
    # Hexadecimal first: 32 octets that are all digits of it are a key of 16, not one by chance.
    plain = re.sub(rb"[\s:-]", b"", content).removeprefix(b"0x")
    key = binascii.unhexlify(plain) if re.fullmatch(rb"([0-9A-Fa-f]{2})+", plain) else content
    if len(key) not in (16, 24, 32):
        usage("the key file must hold 16, 24 or 32 octets, as they are or in hexadecimal")
    return key
