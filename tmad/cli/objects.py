"""The verbs that every kind of managed object shares: list, show, set, history, delete."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import click

from tmad.cli import output
from tmad.cli.context import Session, nothing_to_do, usage, with_core


def describe(stored: Any) -> dict[str, Any]:
    """Return what a person sees of one object: its name, its revision, its document."""
    return {
        "name": stored.name,
        "revision": stored.revision,
        "updated_at": stored.updated_at,
        **stored.document.model_dump(mode="json"),
    }


def show_change(core: Session, change: Any) -> None:
    """Print what a change did, or would do; end with exit code 3 when it is nothing."""
    stored = change.stored
    if change.action == "unchanged":
        nothing_to_do(f"{stored.kind} {stored.name} is so already")
    would = "would be " if core.dry_run else ""
    output.say(f"{stored.kind} {stored.name} {would}{change.action}")
    if change.action != "deleted":
        for line in change.difference.splitlines():
            output.say(f"  {output.visible(line)}")
        warn(stored)


def warn(stored: Any) -> None:
    """Say what is dangerous about a document that was just written."""
    if stored.kind == "endpoint" and stored.document.challenge.static:
        # VU#971035; whatever uses this permission also leaves a warning in the journal.
        output.say(
            f"warning: {stored.name} allows static secrets; whoever reads one can enrol as"
            " anyone the profile allows"
        )


def attach(
    group: click.Group,
    kind: str,
    *,
    columns: tuple[str, ...],
    where: Callable[[Session], str] = lambda core: core.tenant,
    named: Callable[[str], str] = lambda name: name,
) -> None:
    """Give a noun the verbs of its kind.

    ``where`` says in which tenant its objects lie, ``named`` turns what a person types into the
    object's name.
    """

    @group.command("list")
    @click.option("--after", default="", metavar="NAME", help="Begin after this name.")
    @click.option("--limit", default=500, show_default=True, type=click.IntRange(1, 500))
    @with_core
    async def list_(core: Session, after: str, limit: int) -> None:
        """List them by name."""
        found = await core.objects.list(core.actor, where(core), kind, after=after, limit=limit)
        output.rows((describe(stored) for stored in found), columns=("name", *columns))

    @group.command("show")
    @click.argument("name")
    @with_core
    async def show(core: Session, name: str) -> None:
        """Show all that is set, defaults included."""
        output.record(describe(await core.objects.get(core.actor, where(core), kind, named(name))))

    @group.command("set")
    @click.argument("name")
    @click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
    @with_core
    async def set_(core: Session, name: str, settings: tuple[str, ...]) -> None:
        """Change settings: a dotted KEY and a VALUE in TOML (plain words are text).

        KEY= alone puts the default back.
        """
        from tmad import documents

        stored = await core.objects.get(core.actor, where(core), kind, named(name))
        document = documents.plain(stored.document)
        for setting in settings:
            assign(document, setting)
        change = await core.objects.put(
            core.actor,
            where(core),
            kind,
            stored.name,
            document,
            expect=stored.revision,
            dry_run=core.dry_run,
        )
        show_change(core, change)

    @group.command("history")
    @click.argument("name")
    @with_core
    async def history(core: Session, name: str) -> None:
        """Show every revision: who changed what and when, newest first."""
        found = await core.objects.revisions(core.actor, where(core), kind, named(name))
        output.rows(
            (
                {
                    "revision": revision.revision,
                    "at": revision.at,
                    "actor": revision.actor,
                    "difference": revision.difference.splitlines(),
                }
                for revision in found
            ),
            name="revision",
        )

    @group.command("delete")
    @click.argument("name")
    @with_core
    async def delete(core: Session, name: str) -> None:
        """Delete one that nothing else names; its history stays."""
        change = await core.objects.delete(
            core.actor, where(core), kind, named(name), dry_run=core.dry_run
        )
        show_change(core, change)


def assign(document: dict[str, Any], setting: str) -> None:
    """Put KEY=VALUE into a document."""
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        usage(f"{setting!r} is not KEY=VALUE")
    *path, last = key.split(".")
    place = document
    for part in path:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            usage(f"{part} in {key!r} holds no further settings")
        place = inner
    if text:
        place[last] = value(text)
    else:
        place.pop(last, None)


def value(text: str) -> Any:
    """Read a TOML value; what is none is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
