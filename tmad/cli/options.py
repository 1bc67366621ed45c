"""What every command understands: where the settings are, for which tenant, in which format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click


@dataclass(slots=True)
class Options:
    """The common options of one call, from the left of the noun or the right of the verb."""

    config: str = ""
    tenant: str = "default"
    format: str = "table"
    dry_run: bool = False
    acting: str = ""


def options() -> Options:
    """Return the options of the running command."""
    found = click.get_current_context().find_object(Options)
    assert found is not None, "tmad.cli.main makes the options"
    return found


def _keep(attribute: str) -> Any:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            setattr(context.ensure_object(Options), attribute, value)

    return keep


def common() -> Iterator[click.Option]:
    """Yield the options that stand at the root and at every verb."""
    formats = click.Choice(["table", "json", "yaml", "csv", "name"])
    shared: dict[str, Any] = {"expose_value": False}
    yield click.Option(
        ["-o", "--output"], type=formats, callback=_keep("format"), help="How to answer.", **shared
    )
    yield click.Option(
        ["--dry-run"],
        is_flag=True,
        callback=_keep("dry_run"),
        help="Show what would happen, change nothing.",
        **shared,
    )
    yield click.Option(
        ["--config"],
        type=click.Path(dir_okay=False),
        metavar="FILE",
        callback=_keep("config"),
        help="Node settings; else $TMAD_CONFIG, ./tmad.toml, the system's.",
        **shared,
    )
    yield click.Option(
        ["--tenant"], metavar="NAME", callback=_keep("tenant"), help="Default: default.", **shared
    )
    yield click.Option(
        ["--as", "acting"],
        metavar="SUBJECT",
        callback=_keep("acting"),
        help="Act with the grants of this subject instead of all rights.",
        **shared,
    )


def equip(command: click.Command) -> click.Command:
    """Give the common options to a verb, or to every verb of a noun."""
    if isinstance(command, click.Group):
        for verb in command.commands.values():
            equip(verb)
    else:
        taken = {text for parameter in command.params for text in parameter.opts}
        command.params += [option for option in common() if not taken & set(option.opts)]
    return command
