"""``tmad`` commands that start warm: each runs in a fork of a process that imported it all.

What is saved is Python's start and the imports, half a second each and hundreds of times a run;
settings, keys, database and reactor are opened anew by every command, as they always are.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

# What Python or the loader reads when a process starts: these need a start of their own.
_COLD = ("PYTHON", "LD_", "FAKETIME", "COVERAGE")


class Warm:
    """One warm process of this test process, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], text: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command as subprocess.run would, with its output captured."""
        if _needs_start(environment) or not self._lock.acquire(blocking=False):
            return subprocess.run(
                [sys.executable, "-m", "tmad.cli.main", *arguments],
                capture_output=True, text=True, input=text, timeout=60, check=False,
                env=environment,
            )  # fmt: skip
        try:
            return self._ask(arguments, environment, text)
        except BaseException:
            # It may still be busy: nobody else must get this command's answer.
            self._end()
            raise
        finally:
            self._lock.release()

    def _ask(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], text: str | None
    ) -> subprocess.CompletedProcess[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([arguments, dict(environment), os.getcwd(), text]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], 70)
        line = process.stdout.readline() if ready else ""
        if not line:
            raise AssertionError(f"tmad {' '.join(arguments)}: no answer")
        return subprocess.CompletedProcess(["tmad", *arguments], *json.loads(line))

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


COMMANDS = Warm()


def _needs_start(environment: Mapping[str, str]) -> bool:
    names = {name for name in {*environment, *os.environ} if name.startswith(_COLD)}
    return any(environment.get(name) != os.environ.get(name) for name in names)


def _serve() -> None:
    # What takes long is imported before the first fork.
    import tmad.cli.main
    import tmad.service

    # A reactor from before the fork would share its epoll descriptor with every command.
    assert "twisted.internet.reactor" not in sys.modules
    answers = os.dup(1)
    for line in sys.stdin:
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            arguments, environment, directory, text = json.loads(line)
            given.write((text or "").encode())
            given.seek(0)
            child = os.fork()
            if child == 0:
                os.close(answers)
                for number, file in enumerate((given, out, err)):
                    os.dup2(file.fileno(), number)
                os._exit(_run(tmad.cli.main.exit_code, arguments, environment, directory))
            _, status = os.waitpid(child, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        answer = json.dumps([os.waitstatus_to_exitcode(status), *texts])
        os.write(answers, answer.encode() + b"\n")


def _run(command: Any, arguments: list[str], environment: dict[str, str], directory: str) -> int:
    code = 70
    try:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  for this process
        code = int(command(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    return code


if __name__ == "__main__":
    _serve()
