"""Many ``tmad`` commands for one start: each runs in a fork of a process that imported it all.

What is saved is Python's start and the imports, half a second each; settings, keys, database and
reactor are opened anew by every command, as they always are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.daemon import Daemon


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
    """A command line that is warm."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *arguments: str, expect: int | None = 0) -> Done:
        """Run one command; fail on another exit code than expected."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        done = Done(*json.loads(self._process.stdout.readline()))
        if expect is not None and done.code != expect:
            raise AssertionError(
                f"tmad {' '.join(arguments)}: exit {done.code}, not {expect}\n{done.out}{done.err}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        """Return what a command prints as JSON."""
        return self.run(*arguments, "-o", "json").json()


@contextmanager
def commands_of(daemon: Daemon, **environment: str) -> Iterator[Commands]:
    """Open a warm command line for a node."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.commands"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**daemon.environment, "TMAD_CONFIG": str(daemon.config), **environment},
    )  # fmt: skip
    try:
        yield Commands(process)
    finally:
        process.communicate(timeout=10)


def _serve() -> None:
    # What takes long is imported before the first fork.
    import tmad.cli.main
    import tmad.service

    # A reactor from before the fork would share its epoll descriptor with every command.
    assert "twisted.internet.reactor" not in sys.modules
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                code = 70
                try:
                    code = tmad.cli.main.exit_code(json.loads(line))
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)


if __name__ == "__main__":
    _serve()
