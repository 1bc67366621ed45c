"""``tmad user``: people who log in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, with_core
from tmad.cli.secrets import given_secret

if TYPE_CHECKING:
    from tmad.storage.people import PersonRow

_until = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_full_name = click.option("--full-name", help="As it is written to people.")
_mail = click.option("--mail", help='E-mail address; "" takes it away.')
_phone = click.option("--phone", help='With its country code: +49…; "" takes it away.')
_password_file = click.option(
    "--password-file", type=click.File("rb"), help="Take the password from a file; -: the input."
)
_mschap = click.option(
    "--allow-mschap",
    is_flag=True,
    help="Keep the NT hash too, for MSCHAPv2: whoever steals it can log in.",
)


@click.group()
def user() -> None:
    """People: local accounts, their passwords and groups."""


@user.command("create")
@click.argument("name")
@_full_name
@_mail
@_phone
@click.option("--group", "groups", multiple=True, help="May be given several times.")
@click.option("--until", type=_until, help="The account ends then (UTC).")
@_password_file
@click.option("--generate", is_flag=True, help="Make a random password and print it, once.")
@_mschap
@with_core
async def create(
    core: Session,
    name: str,
    full_name: str | None,
    mail: str | None,
    phone: str | None,
    groups: tuple[str, ...],
    until: datetime | None,
    password_file: BinaryIO | None,
    generate: bool,
    allow_mschap: bool,
) -> None:
    """Add a person; without a password it can log in by code or certificate only."""
    from tmad.identity.people import Details

    given = given_secret(password_file, "password", "--password-file") if password_file else None
    person = await core.people.create(
        core.actor,
        core.tenant,
        name,
        Details(full_name=full_name, mail=mail, phone=phone, groups=groups),
        valid_until=_utc(until),
        dry_run=core.dry_run,
    )
    if core.dry_run:
        output.say(f"{person.name} would be added")
        return
    record = _summary(person)
    if given or generate:
        password = await core.people.set_password(
            core.actor, core.tenant, person.name, given, allow_mschap=allow_mschap
        )
        record["has_password"] = True
        if given is None:
            record["password"] = password.reveal().decode()
    output.record(record)
    output.next_step(
        f"tmad otp create {person.name}   for one-time codes",
        f"tmad user set-password {person.name}   for a password",
    )


@user.command("list")
@click.option("--after", default="", metavar="NAME", help="Begin after this name.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@with_core
async def list_(core: Session, after: str, limit: int) -> None:
    """List people by name."""
    rows = await core.people.list(core.actor, core.tenant, after=after, limit=limit)
    output.rows(
        [_summary(row) for row in rows],
        columns=("name", "full_name", "mail", "groups", "state", "has_password"),
    )
    if len(rows) == limit:
        output.say(f"there may be more: --after {rows[-1].name}")


@user.command("show")
@click.argument("name")
@with_core
async def show(core: Session, name: str) -> None:
    """Show one person: account, tokens, failed logins."""
    standing = await core.people.show(core.actor, core.tenant, name)
    tokens = await core.tokens.list(core.actor, core.tenant, person=name)
    output.record(
        {
            **_summary(standing.of),
            "password_at": standing.of.password_at,
            "mschap": standing.of.nt_hash is not None,
            "failures": standing.failures,
            "locked_until": standing.locked_until,
            "tokens": [f"{token.serial} ({token.state})" for token in tokens],
            "created_at": standing.of.created_at,
            "updated_at": standing.of.updated_at,
        }
    )


@user.command("update")
@click.argument("name")
@_full_name
@_mail
@_phone
@click.option("--group", "groups", multiple=True, help="All groups; else they stay.")
@click.option("--join", multiple=True, metavar="GROUP", help="One group more.")
@click.option("--leave", multiple=True, metavar="GROUP", help="One group less.")
@with_core
async def update(
    core: Session,
    name: str,
    full_name: str | None,
    mail: str | None,
    phone: str | None,
    groups: tuple[str, ...],
    join: tuple[str, ...],
    leave: tuple[str, ...],
) -> None:
    """Change what is known of a person; what is not given stays."""
    from tmad.identity.people import Details

    details = Details(full_name=full_name, mail=mail, phone=phone, groups=groups or None)
    before = (await core.people.show(core.actor, core.tenant, name)).of
    person = before
    if details.given():
        person = await core.people.update(
            core.actor, core.tenant, name, details, dry_run=core.dry_run
        )
    if join or leave:
        person = await core.people.change_groups(
            core.actor, core.tenant, name, add=join, remove=leave, dry_run=core.dry_run
        )
    if person == before:
        nothing_to_do(f"{person.name} is so already")
    output.record(_summary(person))


@user.command("set-password")
@click.argument("name")
@_password_file
@click.option("--generate", is_flag=True, help="Make a random one and print it, once.")
@_mschap
@with_core
async def set_password(
    core: Session, name: str, password_file: BinaryIO | None, generate: bool, allow_mschap: bool
) -> None:
    """Set a password: typed, from a file, or a random one."""
    given = None if generate else given_secret(password_file, "password", "--password-file")
    password = await core.people.set_password(
        core.actor, core.tenant, name, given, allow_mschap=allow_mschap, dry_run=core.dry_run
    )
    if core.dry_run:
        output.say(f"the password of {name} would be set")
    elif given is None:
        output.record({"name": name, "password": password.reveal().decode()}, name="password")
    else:
        output.say(f"the password of {name} is set")


@user.command("remove-password")
@click.argument("name")
@with_core
async def remove_password(core: Session, name: str) -> None:
    """Leave a person without a password."""
    await core.people.remove_password(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"the password of {name} {_would(core)}removed")


@user.command("disable")
@click.argument("name")
@with_core
async def disable(core: Session, name: str) -> None:
    """Refuse every login of a person from the next one on; open sessions are ended."""
    before = await core.people.show(core.actor, core.tenant, name)
    if before.of.disabled_at is not None:
        nothing_to_do(f"{before.of.name} is disabled")
    await core.people.disable(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"{before.of.name} {_would(core)}disabled")
    output.next_step(f"tmad user enable {before.of.name}   to let him in again")


@user.command("enable")
@click.argument("name")
@with_core
async def enable(core: Session, name: str) -> None:
    """Let a disabled person log in again."""
    before = await core.people.show(core.actor, core.tenant, name)
    if before.of.disabled_at is None:
        nothing_to_do(f"{before.of.name} is enabled")
    await core.people.enable(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"{before.of.name} {_would(core)}enabled")


@user.command("set-end")
@click.argument("name")
@click.argument("until", type=_until, required=False)
@click.option("--never", is_flag=True, help="The account does not end.")
@with_core
async def set_end(core: Session, name: str, until: datetime | None, never: bool) -> None:
    """Say until when a person may log in (UTC)."""
    from tmad.cli.context import usage

    if (until is None) != never:
        usage("give an instant or --never")
    person = await core.people.set_end(
        core.actor, core.tenant, name, _utc(until), dry_run=core.dry_run
    )
    output.record(_summary(person))


@user.command("unlock")
@click.argument("name")
@with_core
async def unlock(core: Session, name: str) -> None:
    """Forget the failed logins of a person."""
    if not await core.people.unlock(core.actor, core.tenant, name, dry_run=core.dry_run):
        nothing_to_do(f"{name} has not failed")
    output.say(f"{name} {_would(core)}unlocked")


@user.command("delete")
@click.argument("name")
@with_core
async def delete(core: Session, name: str) -> None:
    """Remove a person; its tokens go back into stock."""
    tokens = await core.people.delete(core.actor, core.tenant, name, dry_run=core.dry_run)
    output.say(f"{name} {_would(core)}deleted, {tokens} tokens back in stock")


def _summary(person: PersonRow) -> dict[str, Any]:
    now = datetime.now(UTC)
    state = "disabled" if person.disabled_at else "good" if person.is_usable(now) else "ended"
    return {
        "name": person.name,
        "full_name": person.full_name,
        "mail": person.mail,
        "phone": person.phone,
        "groups": list(person.groups),
        "state": state,
        "valid_until": person.valid_until,
        "has_password": person.password_hash is not None,
        "source": person.source,
    }


def _would(core: Session) -> str:
    return "would be " if core.dry_run else ""


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.replace(tzinfo=UTC)
