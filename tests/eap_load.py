"""The load generator of the benchmarks (benchmarks/eap_load.c): compiled, run and read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SOURCE = Path(__file__).parents[1] / "benchmarks" / "eap_load.c"


@dataclass(frozen=True, slots=True)
class Report:
    """What it found: logins, and how many packets they took."""

    accepted: int
    seconds: float
    refused: int
    resumed: int
    requests: int
    retransmissions: int
    median: float  # milliseconds
    p95: float

    @property
    def rate(self) -> float:
        """Return the accepted logins a second."""
        return self.accepted / self.seconds


class Generator:
    """Many devices that log in, with their files in ``directory``.

    It verifies every answer and compares the keys; a server that does not stand the test makes
    it give up, which is an AssertionError here.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._program = directory / "eap_load"
        compiler = shutil.which("cc")
        assert compiler, "cc is missing (Debian: gcc, libssl-dev)"
        subprocess.run(
            [compiler, "-O2", "-o", self._program, _SOURCE, "-lssl", "-lcrypto"], check=True
        )

    def lines(self, name: str, pairs: Sequence[tuple[object, object]]) -> Path:
        """Write who logs in: certificate and key file, or name and password, a line each."""
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text("".join(f"{one} {other}\n" for one, other in pairs))
        return path

    def run(
        self,
        port: int,
        secret: str,
        who: Path,
        *,
        count: int,
        mode: Literal["full", "resume", "pap"] = "full",
        version: str = "1.3",
        authority: Path | None = None,
        parallel: int = 16,
        begin: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
    ) -> Report:
        """Log in ``count`` times; ``begin`` and ``end`` are called around what is measured."""
        with subprocess.Popen(
            [self._program, "127.0.0.1", str(port), secret, mode, version, who,
             authority or "-", str(count), str(parallel)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() == "ready\n":
                begin()
                process.stdin.write("\n")
                process.stdin.flush()
                words = process.stdout.readline().split()
                end()
                if len(words) == 8:
                    return Report(
                        int(words[0]), float(words[1]), *(int(word) for word in words[2:6]),
                        float(words[6]), float(words[7]),
                    )  # fmt: skip
            raise AssertionError(f"the load generator gave up: {process.stderr.read()}")
