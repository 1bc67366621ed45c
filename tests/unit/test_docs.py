"""The documentation is true: its links lead somewhere and its commands exist."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import pytest
from pydantic import BaseModel

from tmad.ca.accounts import ACTIVE_DIRECTORY
from tmad.ca.authority import AuthorityDocument
from tmad.ca.directory import DirectoryDocument
from tmad.ca.endpoint import EndpointDocument
from tmad.ca.profile import ProfileDocument
from tmad.cli.main import NOUNS, cli
from tmad.config import NodeSettings
from tmad.daemon import section_models
from tmad.lifecycle.log_collectors import LogCollectorDocument
from tmad.lifecycle.notification import NotificationDocument
from tmad.lifecycle.snmp_targets import SNMPTargetDocument
from tmad.network.anchor import TrustAnchorDocument
from tmad.network.clients import RadiusClientDocument
from tmad.service import installed

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target, place in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text("utf-8")):
        found = page.parent / target if target else page
        assert found.exists(), f"{name}: {target}"
        assert not place or place in headings(found), f"{name}: {target}{place}"


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_a_node_are_taken(name: str, tmp_path: Path) -> None:
    file = tmp_path / "tmad.toml"
    for block in re.findall(r"```toml\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL):
        if NodeSettings.model_fields.keys() & tomllib.loads(block).keys():
            file.write_text(block)
            NodeSettings.load(file, section_models())


def headings(page: Path) -> list[str]:
    """Return what leads to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return [
        "#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    ]


def test_every_page_is_found_from_the_first_one() -> None:
    first = (ROOT / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name}" in first, f"README.md does not name docs/{page.name}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    for line in commands(ROOT / name):
        check(shlex.split(line, comments=True)[1:], f"{name}: {line}")
    for line in mentions(ROOT / name):
        check(shlex.split(line)[1:], f"{name}: {line}", is_whole=False)


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_objects_exist(name: str, models: dict[str, list[type[BaseModel]]]) -> None:
    for line in (*commands(ROOT / name), *mentions(ROOT / name)):
        for noun, key in settings(shlex.split(line, comments=True)[1:]):
            known = any(has(model, key.split(".")) for model in models[noun])
            assert known or "NAME" in key or "KEY" in key, f"{name}: {line}: {key}"


def settings(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the noun and the key of each KEY=VALUE in a command."""
    is_set = words[1:2] == ["set"]
    for before, word in itertools.pairwise(words):
        if before == "--set" or (is_set and "=" in word and not word.startswith("-")):
            key = word.partition("=")[0]
            is_option = words[0] == "endpoint" and key.startswith("options.")
            yield ("options", key.removeprefix("options.")) if is_option else (words[0], key)


@pytest.fixture(scope="module")
def models() -> dict[str, list[type[BaseModel]]]:
    """Return what a setting of each noun, or an endpoint's option, can be part of."""
    options = [plugin.load().EndpointOptions for plugin in installed().values()]
    return {
        "active-directory": [ACTIVE_DIRECTORY.model],
        "ca": [AuthorityDocument],
        "directory": [DirectoryDocument],
        "endpoint": [EndpointDocument],
        "options": [model for model in options if model is not None],
        "log-collector": [LogCollectorDocument],
        "notification": [NotificationDocument],
        "profile": [ProfileDocument],
        "radius-client": [RadiusClientDocument],
        "snmp-target": [SNMPTargetDocument],
        "trust-anchor": [TrustAnchorDocument],
    }


def has(kind: Any, path: list[str]) -> bool:
    """Tell whether a dotted key leads to a field; below a mapping anything may be."""
    if not path or get_origin(kind) in (dict, Mapping):
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(path[0])
        return field is not None and has(field.annotation, path[1:])
    return any(has(each, path) for each in get_args(kind))


def test_the_tests_that_are_named_exist() -> None:
    """A claim that names the test that shows it must name one that is there."""
    sources = [*(ROOT / "tests").rglob("test_*.py")]
    present = set()
    for source in sources:
        present |= set(re.findall(r"^ *def (test_\w+)\(", source.read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        for line in page.read_text("utf-8").splitlines():
            if line.startswith("|"):
                for name in re.findall(r"`(test_\w+)`", line):
                    assert name in present, f"{page.name}: {name}"


def commands(page: Path) -> Iterator[str]:
    """Yield each tmad command of a page's shell blocks, continuation lines joined."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ").strip()
            if line.startswith("tmad "):
                yield re.split(r"\s[|>&]", line)[0]


def mentions(page: Path) -> Iterator[str]:
    """Yield what a page says of tmad commands in its sentences; "…" stands for more."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for found in re.findall(r"`(tmad [a-z][^`]*)`", text):
        if "…" not in found:
            yield found.replace("\n", " ")


def check(words: list[str], where: str, *, is_whole: bool = True) -> None:
    """Follow a command through the command line's own tree; every option must be known.

    Of one that is not whole, a noun alone is enough, and an option without its value.
    """
    context = click.Context(cli)
    command: click.Command = cli
    while words:
        options = {
            text: parameter
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for text in (*parameter.opts, *parameter.secondary_opts)
        }
        word = words.pop(0)
        if word.startswith("-"):
            option = options.get(word.split("=")[0])
            assert option is not None, f"{where}: no option {word}"
            if not option.is_flag:
                _, has_value, value = word.partition("=")
                assert has_value or words or not is_whole, f"{where}: {word} wants a value"
                if has_value or words:
                    check_value(option, value if has_value else words.pop(0), where)
        elif isinstance(command, click.Group):
            inside = command.get_command(context, word)
            assert inside is not None, f"{where}: no command {word}"
            command = inside
    if is_whole:
        is_verb = not isinstance(command, click.Group) or command is cli
        assert is_verb, f"{where}: a verb is missing"


def check_value(option: click.Option, value: str, where: str) -> None:
    """Let an option judge its value, unless that stands for something or is looked for outside."""
    if value.isupper() or "$" in value or isinstance(option.type, click.Path | click.File):
        return
    try:
        option.type.convert(value, option, None)
    except click.BadParameter as refusal:
        pytest.fail(f"{where}: {refusal.format_message()}")


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_of_the_overview_can_be_loaded(noun: str) -> None:
    command = cli.get_command(click.Context(cli), noun)
    assert command is not None
    assert command.help or command.short_help
