"""Programs that take messages: real servers of other people's, or small ones of ours."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from threading import Thread


class Server:
    """A program that prints what it sees; ``lines`` has it all."""

    def __init__(self, *words: str | Path) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("ready")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str) -> str:
        """Return the first line, from now or before, that begins like this."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if re.match(pattern, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"nothing like {pattern!r} in {self.lines}")

    def seen(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.match(pattern, line)]

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def secret_file(directory: Path, name: str, content: str) -> str:
    directory.mkdir(exist_ok=True, parents=True)
    path = directory / name
    path.write_text(content + "\n")
    path.chmod(0o600)
    return str(path)
