"""Coverage-guided fuzzing of one target: run.py TARGET [--seconds N]; see docs/fuzzing.md.

Each finding, an exception or a slow input, is told once with its traceback and kept in
tests/fuzz/corpus/TARGET; the run goes on. It ends with status 1 when there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import atheris  # type: ignore[import-untyped]  # ships no stubs

if TYPE_CHECKING:
    from tests.fuzz.coverage.targets import Target

CORPUS = Path(__file__).parents[1] / "corpus"
SLOWEST = 0.050  # seconds of processor time (security.md, G-BAD-3)
MEMORY = 512  # MiB (security.md, G-BAD-1)


class Campaign:
    """One target, called until the time is over."""

    def __init__(self, name: str, target: Target, seconds: float) -> None:
        from tmad.errors import Fault

        self._name = name
        self._fault = Fault
        self._run = target.prepare()
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        self._executions = 0
        self._slowest = 0.0
        self._places: set[str] = set()

    def one(self, data: bytes) -> None:
        """Judge one input."""
        taken = self._call(data)
        if taken > SLOWEST:
            # A shared machine may lose a time slice; a slow input is slow thrice.
            taken = min(taken, self._call(data), self._call(data))
            if taken > SLOWEST:
                self._found("slow", data, f"takes {taken * 1000:.0f} ms")
        self._slowest = max(self._slowest, taken)
        self._executions += 1
        if time.monotonic() > self._end:
            self._finish()

    def _call(self, data: bytes) -> float:
        begin = time.process_time()
        try:
            self._run(data)
        except self._fault:
            pass
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}"
            self._found(place, data, traceback.format_exc())
        return time.process_time() - begin

    def _found(self, place: str, data: bytes, told: str) -> None:
        if place in self._places:
            return
        self._places.add(place)
        folder = CORPUS / self._name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{place.lower()}-{hashlib.sha256(data).hexdigest()[:8]}"
        file.write_bytes(data)
        print(f"FINDING {place}, {len(data)} octets, {file}\n{told}", flush=True)

    def _finish(self) -> None:
        seconds = time.monotonic() - self._begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{self._name}: {self._executions} executions in {seconds:.0f} s, "
            f"{self._executions / seconds:.0f}/s, slowest {self._slowest * 1000:.1f} ms, "
            f"{memory} MiB, {len(self._places)} findings",
            flush=True,
        )
        # libFuzzer would go on.
        os._exit(1 if self._places else 0)


def main() -> None:
    """Fuzz the target that the command line names."""
    with atheris.instrument_imports(include=["tmad"]):
        from tests.fuzz.coverage.targets import TARGETS

    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=60)
    told = parser.parse_args()
    target = TARGETS[told.target]
    folder = Path(tempfile.mkdtemp(prefix="tmad-fuzz-"))
    inputs = folder / "inputs"
    inputs.mkdir()
    for number, seed in enumerate(target.seeds()):
        (inputs / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    kept = CORPUS / told.target
    atheris.Setup(
        [
            sys.argv[0],
            str(inputs),
            *([str(kept)] if kept.is_dir() else []),
            f"-max_len={target.longest}",
            # libFuzzer refuses an empty dictionary.
            *([f"-dict={words}"] if target.words else []),
            f"-rss_limit_mb={MEMORY}",
            "-timeout=10",
            "-verbosity=0",
            f"-artifact_prefix={folder}/",
        ],
        Campaign(told.target, target, told.seconds).one,
    )
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(
        character
        if character.isascii() and character.isprintable() and character not in '"\\'
        else f"\\x{ord(character):02x}"
        for character in word
    )


if __name__ == "__main__":
    main()
