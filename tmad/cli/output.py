"""How a command answers: tables for people, JSON, YAML, CSV and bare names for scripts."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from tmad.cli.options import options

FORMATS = ("table", "json", "yaml", "csv", "name")

Record = Mapping[str, Any]


def rows(records: Iterable[Record], *, columns: Sequence[str] = (), name: str = "name") -> None:
    """Print many records in the format that was asked for.

    ``columns`` chooses and orders what a table shows (default: what the first record has);
    the other formats show everything. ``name`` is the key that ``-o name`` prints.
    """
    found = [plain(record) for record in records]
    match options().format:
        case "json":
            click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        case "yaml":
            click.echo("\n".join(_yaml_list(found)) if found else "[]")
        case "csv":
            click.echo(_csv(found, columns), nl=False)
        case "name":
            for record in found:
                click.echo(visible(record[name]))
        case _:
            _table(found, columns or (list(found[0]) if found else ()))


def record(item: Record, *, name: str = "name") -> None:
    """Print one record: a list of keys and values for people."""
    found = plain(item)
    match options().format:
        case "json":
            click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        case "yaml":
            click.echo("\n".join(_yaml(found)))
        case "csv":
            click.echo(_csv([found], ()), nl=False)
        case "name":
            click.echo(visible(found[name]))
        case _:
            flat = list(_flat(found))
            width = max((len(key) for key, _ in flat), default=0)
            for key, value in flat:
                click.echo(f"{key:{width}}  {_cell(value)}".rstrip())


def say(text: str) -> None:
    """Tell a person something; scripts that asked for data do not see it."""
    # On standard error when the output is data, so that it can still be piped.
    click.echo(text, err=options().format != "table")


def next_step(*lines: str) -> None:
    """Tell a person what to do now, after a change."""
    for number, line in enumerate(lines):
        say(f"{'next  ' if number == 0 else '      '}{line}")


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can say it: instants in ISO 8601, octets in hex."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return str(value)
        case datetime():
            return value.isoformat(timespec="seconds").replace("+00:00", "Z")
        case bytes():
            return value.hex()
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case Iterable():
            return [plain(inner) for inner in value]
    return str(value)


def visible(value: Any) -> str:
    """Return text whose control characters cannot steer a terminal: names come from strangers."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_terminal() -> bool:
    """Tell whether a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _table(found: Sequence[Record], columns: Sequence[str]) -> None:
    if not found:
        click.echo("none", err=True)
        return
    lines = [[column.replace("_", " ").upper() for column in columns]]
    lines += [[_cell(item.get(column)) for column in columns] for item in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(_cell(inner) for inner in value) or "-"
        case dict():
            return visible(value)
    return visible(value if isinstance(value, str) else str(value))


def _flat(item: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in item.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _csv(found: Sequence[Record], columns: Sequence[str]) -> str:
    flat = [dict(_flat(item)) for item in found]
    keys = list(columns) or list(dict.fromkeys(key for item in flat for key in item))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    for item in flat:
        writer.writerow([_csv_cell(item.get(key)) for key in keys])
    return text.getvalue()


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A spreadsheet would run a name that begins like a formula.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Write YAML 1.2 in block style; every scalar is JSON, which YAML 1.2 contains."""
    for key, inner in value.items():
        name = f"{indent}{json.dumps(key, ensure_ascii=False)}:"
        if isinstance(inner, dict) and inner:
            yield name
            yield from _yaml(inner, indent + "  ")
        elif isinstance(inner, list) and inner:
            yield name
            yield from _yaml_list(inner, indent + "  ")
        else:
            yield f"{name} {json.dumps(inner, ensure_ascii=False)}"


def _yaml_list(items: Sequence[Any], indent: str = "") -> Iterator[str]:
    for item in items:
        if isinstance(item, dict) and item:
            first, *rest = _yaml(item, indent + "  ")
            yield f"{indent}- {first.strip()}"
            yield from rest
        else:
            yield f"{indent}- {json.dumps(item, ensure_ascii=False)}"
