"""Many ``tmad`` commands on one node, also with an environment of their own (tests/warm.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.daemon import Daemon
from tests.warm import COMMANDS


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return what the command printed with ``-o json``."""
        return json.loads(self.out)


class Commands:
    """A command line of one node."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def run(self, *arguments: str, expect: int | None = 0) -> Done:
        """Run one command; fail on another exit code than expected."""
        ended = COMMANDS.run(arguments, self._environment)
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        if expect is not None and done.code != expect:
            raise AssertionError(
                f"tmad {' '.join(arguments)}: exit {done.code}, not {expect}\n{done.out}{done.err}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        """Return what a command prints as JSON."""
        return self.run(*arguments, "-o", "json").json()


def commands_of(daemon: Daemon, **environment: str) -> Commands:
    """Return a command line for a node."""
    return Commands({**daemon.environment, "TMAD_CONFIG": str(daemon.config), **environment})
