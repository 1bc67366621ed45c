"""Secrets that a person gives to a command: from a file, or typed without being seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from tmad.cli import output
from tmad.cli.context import usage

if TYPE_CHECKING:
    from tmad.events import Secret


def given_secret(file: BinaryIO | None, what: str, option: str) -> Secret:
    """Return what ``file`` holds, or what is typed twice; a usage error without either.

    Never from an argument: those are in the shell's history and in the process list.
    """
    from tmad.events import Secret

    if file is not None:
        # An editor's newline at the end is not part of it.
        return Secret(file.read(4_096).rstrip(b"\r\n"))
    if not output.is_terminal():
        usage(f"there is nobody to ask for the {what}", f"use {option} FILE, or - for the input")
    return Secret(click.prompt(what.capitalize(), hide_input=True, confirmation_prompt=True))
