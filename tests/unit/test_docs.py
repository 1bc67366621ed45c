"""The documentation is true: its links lead somewhere and its commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tmad.cli.main import NOUNS, cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    for line in commands(ROOT / name):
        check(shlex.split(line, comments=True)[1:], f"{name}: {line}")


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


def check(words: list[str], where: str) -> None:
    """Follow a command through the command line's own tree; every option must be known."""
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
            if not option.is_flag and "=" not in word:
                assert words, f"{where}: {word} wants a value"
                words.pop(0)
        elif isinstance(command, click.Group):
            inside = command.get_command(context, word)
            assert inside is not None, f"{where}: no command {word}"
            command = inside
    assert not isinstance(command, click.Group) or command is cli, f"{where}: a verb is missing"


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_of_the_overview_can_be_loaded(noun: str) -> None:
    command = cli.get_command(click.Context(cli), noun)
    assert command is not None
    assert command.help or command.short_help
