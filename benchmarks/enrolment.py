"""Durable enrolments a second through each protocol, beside the pipeline without one.

Runs the scripts of the protocols in turn, so that all of them see the same machine, and prints
the medians: the rate, the daemon's CPU for each enrolment, and that as a multiple of the
pipeline's own. The clients of the scripts share the machine with the daemon; on one that does
other things as well, only the CPU means something.

    python -m benchmarks.enrolment [--rounds 3] [--count 1000] [--workers 1] [--only est]
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Path(NamedTuple):
    """One script, and how many of the enrolments that were asked for it shall make."""

    name: str
    script: str
    share: float = 1.0
    options: tuple[str, ...] = ()
    has_workers: bool = True


_PIPELINE = "pipeline"
_PATHS = (
    Path(_PIPELINE, "pipeline", has_workers=False, options=("--at-once", "32")),
    Path("EST", "est"),
    Path("CMP, ir and certConf, shared secret", "cmp"),
    Path("CMP, ir and certConf, signed", "cmp", options=("--how", "signed")),
    Path("SCEP, RSA-2048", "scep", share=0.3),  # each of its messages takes a key
    Path("CMC", "cmc"),
    Path("ACME", "acme", share=0.5),
)
# A title line, where a script has several figures; then the rate and the CPU.
_FIGURES = re.compile(
    r"(?:^(?P<title>[^\s\d][^\n]*)\n)?"
    r"^ *(?P<rate>\d+) (?:enrolments|certificates)/s[^\n]*\n *(?P<cpu>\d+) µs",
    re.M,
)


class Figures(NamedTuple):
    """What one run of a script gave."""

    rate: float
    cpu: float  # µs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="Name of a script.")
    options = parser.parse_args()
    found: defaultdict[str, list[Figures]] = defaultdict(list)
    paths = [path for path in _PATHS if is_wanted(path, options.only)]
    for _ in range(options.rounds):
        for path in paths:
            for name, figures in measured(path, options):
                found[name].append(figures)
    show(found)


def is_wanted(path: Path, only: list[str]) -> bool:
    """Tell whether a script is there and asked for; the pipeline always is."""
    is_there = importlib.util.find_spec(f"benchmarks.{path.script}") is not None
    return is_there and (not only or path.script in (*only, _PIPELINE))


def measured(path: Path, options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """Run one script; yield what it measured."""
    words = ["--count", str(max(50, int(options.count * path.share))), *path.options]
    if path.has_workers:
        words += ["--workers", str(options.workers)]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{path.script}", *words], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{path.script}: {done.stdout}{done.stderr}")
    for match in _FIGURES.finditer(done.stdout):
        title = match["title"] and re.split(r" {2,}|\(", match["title"])[0].strip()
        name = f"{path.name}, {title}" if title else path.name
        yield name, Figures(float(match["rate"]), float(match["cpu"]))


def show(found: dict[str, list[Figures]]) -> None:
    """Print the medians, and the CPU as a multiple of the pipeline's in the same round."""
    own = [figures.cpu for figures in found[_PIPELINE]]
    print(f"{'':44} {'a second':>10} {'µs CPU':>8} {'÷ pipeline':>11}")
    for name, several in found.items():
        ratio = statistics.median(
            figures.cpu / cpu for figures, cpu in zip(several, own, strict=True)
        )
        rate = statistics.median(figures.rate for figures in several)
        cpu = statistics.median(figures.cpu for figures in several)
        print(f"{name:44} {rate:10.0f} {cpu:8.0f} {ratio:11.2f}")


if __name__ == "__main__":
    main()
