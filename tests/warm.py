"""``tmad`` commands that start warm: each runs in a fork of a process that imported it all.

What is saved is Python's start and the imports, a second each and hundreds of times a run;
settings, keys, database and reactor are opened anew by every command, as they always are.
The daemon is one of these commands. A supervisor's workers are started as they always are.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What Python or the loader reads when a process starts: these need a start of their own.
_COLD = ("PYTHON", "LD_", "FAKETIME", "COVERAGE")


class Forked:
    """A process that was started warm, as subprocess.Popen shows one."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.returncode is None and self._ended.exists():
            self.returncode = int(self._ended.read_text())
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end; raise subprocess.TimeoutExpired."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("tmad", timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """One warm process of this test process, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._ends = tempfile.mkdtemp(prefix="tmad-ends-")
        atexit.register(shutil.rmtree, self._ends, ignore_errors=True)
        self._socket = f"{self._ends}/socket"
        self._started = 0

    def start(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path
    ) -> Forked | subprocess.Popen[bytes]:
        """Start one command in a session of its own; what it prints goes to ``log``."""
        if _needs_start(environment):
            with log.open("ab") as file:
                return subprocess.Popen(
                    [sys.executable, "-m", "tmad.cli.main", *arguments],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                    env=environment,
                )  # fmt: skip
        with self._lock:
            self._started += 1
            ended = Path(self._ends) / str(self._started)
            how = {"log": str(log), "ended": str(ended), "in": str(Path.cwd())}
            return Forked(self._ask(arguments, environment, how), ended)

    def shell(self) -> str:
        """Return lines for bash after which ``tmad`` is a command that starts warm."""
        with self._lock:
            self._begin()
        client = Path(__file__).with_name("warm_client.py")
        words = shlex.join([sys.executable, "-IS", str(client), self._socket])
        return f'tmad() {{ {words} "$@"; }}\nset -euo pipefail\n'

    def run(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        text: str | None = None,
        directory: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command as subprocess.run would, with its output captured."""
        where = directory or Path.cwd()
        if _needs_start(environment) or not self._lock.acquire(blocking=False):
            return subprocess.run(
                [sys.executable, "-m", "tmad.cli.main", *arguments],
                capture_output=True, text=True, input=text, timeout=60, check=False,
                env=environment, cwd=where,
            )  # fmt: skip
        try:
            answer = self._ask(arguments, environment, {"text": text or "", "in": str(where)})
        finally:
            self._lock.release()
        return subprocess.CompletedProcess(["tmad", *arguments], *answer)

    def _ask(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], how: dict[str, str]
    ) -> Any:
        try:
            return self._answer(json.dumps([arguments, dict(environment), how]))
        except BaseException:
            # It may still be busy: nobody else must get this command's answer.
            self._end()
            raise

    def _begin(self) -> subprocess.Popen[str]:
        if self._process is None:
            # Bound here, so that a client may call while the process still imports.
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(self._socket)
                listener.listen()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.warm", str(listener.fileno())],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    start_new_session=True, pass_fds=[listener.fileno()],
                )  # fmt: skip
        return self._process

    def _answer(self, request: str) -> Any:
        process = self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], 70)
        line = process.stdout.readline() if ready else ""
        if not line:
            raise AssertionError(f"no answer to {request[:200]}")
        return json.loads(line)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            os.unlink(self._socket)


COMMANDS = Warm()


def _needs_start(environment: Mapping[str, str]) -> bool:
    names = {name for name in {*environment, *os.environ} if name.startswith(_COLD)}
    return any(environment.get(name) != os.environ.get(name) for name in names)


def _serve(listener: socket.socket) -> None:
    command = _import_everything()
    answers = os.dup(1)
    while True:
        ready, _, _ = select.select([sys.stdin, listener], [], [])
        if listener in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                _call(connection, command)
            connection.close()
        if sys.stdin not in ready:
            continue
        line = sys.stdin.readline()
        if not line:
            return
        arguments, environment, how = json.loads(line)
        run = functools.partial(_run, command, arguments, environment, how["in"])
        if "log" in how:
            if os.fork() == 0:
                _mind(how, answers, run)
        else:
            os.write(answers, json.dumps(_captured(how["text"], answers, run)).encode() + b"\n")


def _captured(text: str, answers: int, run: Callable[[], int]) -> list[Any]:
    """Run a command in a fork; return its exit code, its output and its complaints."""
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(text.encode())
        given.seek(0)
        child = os.fork()
        if child == 0:
            os.close(answers)
            for number, file in enumerate((given, out, err)):
                os.dup2(file.fileno(), number)
            os._exit(run())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return [os.waitstatus_to_exitcode(status), *texts]


def _call(connection: socket.socket, command: Any) -> None:
    """Run a command with the files of whoever called; tell how it ended."""
    try:
        request, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        child = os.fork()
        if child == 0:
            connection.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            os._exit(_run(command, *json.loads(request)))
        _, status = os.waitpid(child, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _import_everything() -> Any:
    """Import before the first fork what takes long; return the command line."""
    import tmad.cli.main
    import tmad.service

    ours = [found.name for found in pkgutil.walk_packages(tmad.__path__, "tmad.")]
    others = ["alembic.command", "badkeys.allkeys", "twisted.internet.epollreactor"]
    for module in [name for name in ours if ".migrations." not in name] + others:
        # What one module lacks is told by the command that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    tmad.service.installed()
    # A reactor from before the fork would share its epoll descriptor with every command.
    assert "twisted.internet.reactor" not in sys.modules
    # No collection in a fork copies what it shares with this process.
    gc.collect()
    gc.freeze()
    return tmad.cli.main.exit_code


def _mind(how: dict[str, str], answers: int, command: Callable[[], int]) -> None:
    """Fork once more, for a command that goes on; tell its process id now and its end later."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.write(answers, f"{os.getpid()}\n".encode())
        os.close(answers)
        _redirect(how["log"])
        os._exit(command())
    os.close(answers)
    _redirect(os.devnull)
    _, status = os.waitpid(child, 0)
    ended = Path(how["ended"])
    scratch = ended.with_suffix(".new")
    try:
        scratch.write_text(str(os.waitstatus_to_exitcode(status)))
        scratch.rename(ended)
    finally:
        os._exit(0)


def _redirect(output: str) -> None:
    with open(os.devnull, "rb") as given, open(output, "ab") as file:
        os.dup2(given.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


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
    _serve(socket.socket(fileno=int(sys.argv[1])))
