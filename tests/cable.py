"""A cable out of the machine: a veth pair, whose other end is in a network namespace of its own.

Programs run at both ends; making the pair needs root.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Cable")


def may_make_namespaces() -> bool:
    """Tell whether this user can make a network namespace."""
    return os.geteuid() == 0


class Cable:
    """A cable, and the programs at its ends that :meth:`begin` starts; used as a context."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.token = secrets.token_hex(3)
        self.namespace = f"tmad-{self.token}"
        self.ours, self.theirs = f"tmo{self.token}", f"tmt{self.token}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self) -> None:
        """Start what there is to start, once the cable is plugged in."""

    def __enter__(self: Self) -> Self:
        try:
            self._plug_in()
            self.begin()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tear_down()

    def _plug_in(self) -> None:
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.ours, "type", "veth", "peer", "name", self.theirs,
            "netns", self.namespace)  # fmt: skip
        run("ip", "link", "set", self.ours, "up")
        self.inside("link", "set", self.theirs, "up")
        self.inside("link", "set", "lo", "up")

    def inside(self, *words: str) -> str:
        """Run ``ip`` in the namespace."""
        return run("ip", "-n", self.namespace, *words)

    def _tear_down(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        # Its end of the pair goes with the namespace, and the other end with that.
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.ours], check=False, capture_output=True)

    # -- the programs -----------------------------------------------------------------------

    def configure(self, name: str, text: str) -> Path:
        """Write a program's configuration, which may hold secrets; return where it is."""
        config = self.directory / f"{name}.conf"
        config.write_text(text)
        config.chmod(0o600)
        return config

    def start(self, name: str, *command: str, is_inside: bool = False) -> None:
        """Start a program at one end, whose output becomes its log."""
        prefix = ("ip", "netns", "exec", self.namespace) if is_inside else ()
        with (self.directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*prefix, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program."""
        self._processes[name].send_signal(number)

    def log(self, name: str) -> str:
        """Return what a program has said."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def logs(self) -> str:
        """Return the end of what every program has said."""
        return "\n---\n".join(self.log(name)[-3000:] for name in self._processes)

    def wait(self, is_so: Callable[[], bool], why: str, seconds: float = 10.0) -> float:
        """Wait until something is so; return the seconds that it took."""
        begin = time.monotonic()
        while not is_so():
            if time.monotonic() - begin > seconds:
                raise AssertionError(f"{why} within {seconds} s\n{self.logs()}")
            time.sleep(0.02)
        return time.monotonic() - begin


def run(*command: str) -> str:
    """Run a command that must do what it is told; return its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
