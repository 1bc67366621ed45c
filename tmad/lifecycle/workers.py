"""What the identical workers of a node tell each other of themselves, in files of data/run.

A counter belongs to one process; what an operator is shown is the sum over all of a node. A
worker that takes a dead one's place goes on with its counters, so that the sum never falls while
the daemon runs. The command line reads the same files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

# Outcomes are HTTP statuses or words of a protocol's own; these words mean a failure of ours or
# something that was thrown away, and these a "no".
_FAILED = ("dropped", "failed", "error", "protocol-error", "unavailable", "busy")
_REFUSED = ("reject", "refused", "denied", "unauthenticated", "forbidden")

_FRESH = timedelta(seconds=45)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The counters of one door since the daemon's start.

    ``buckets`` are the numbers of requests by observe.BUCKETS, the last one without a bound.
    """

    protocol: str
    door: str
    outcomes: Mapping[str, int]
    buckets: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """Every request, whatever became of it."""
        return sum(self.outcomes.values())

    @property
    def failures(self) -> int:
        """Requests that got no proper answer: server errors, and what was dropped."""
        return sum(number for word, number in self.outcomes.items() if _is_failure(word))

    @property
    def refusals(self) -> int:
        """Requests that were answered with a no."""
        return sum(number for word, number in self.outcomes.items() if _is_refusal(word))

    def percentile(self, share: float, bounds: tuple[float, ...]) -> float | None:
        """Return the bound in seconds below which this share of the timed requests stayed.

        None when nothing was timed; infinity when the last bound was not enough.
        """
        total = sum(self.buckets)
        reached = 0
        for bound, number in zip((*bounds, float("inf")), self.buckets, strict=False):
            reached += number
            if total and reached >= share * total:
                return bound
        return None

    def plus(self, other: Door) -> Door:
        """Return the sum of both."""
        outcomes = dict(self.outcomes)
        for word, number in other.outcomes.items():
            outcomes[word] = outcomes.get(word, 0) + number
        longer, shorter = sorted((self.buckets, other.buckets), key=len, reverse=True)
        padded = (*shorter, *(0,) * (len(longer) - len(shorter)))
        return replace(
            self,
            outcomes=outcomes,
            buckets=tuple(a + b for a, b in zip(longer, padded, strict=True)),
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process of this node; ``run`` is the same for all that one supervisor started."""

    index: int
    run: str
    pid: int
    started_at: datetime
    sampled_at: datetime
    lag: float  # how late the reactor was, seconds
    connections: int
    waiting: Mapping[str, int] = field(default_factory=dict)  # jobs by queue
    doors: tuple[Door, ...] = ()

    def is_fresh(self, now: datetime) -> bool:
        """Tell whether it has said something of itself lately."""
        return now - self.sampled_at < _FRESH


class Board:
    """The files in which the workers of one node keep their figures."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before: dict[int, tuple[Door, ...]] = {}

    def write(self, worker: Worker) -> Worker:
        """Publish a worker's figures, added to those of the one whose place it has taken."""
        before = self._before.get(worker.index)
        if before is None:
            last = self._read(self._path(worker.index))
            is_heir = last is not None and last.run == worker.run and last.pid != worker.pid
            before = last.doors if last is not None and is_heir else ()
            self._before[worker.index] = before
        whole = replace(worker, doors=summed((*before, *worker.doors)))
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(worker.index)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(_plain(whole)), encoding="ascii")
        os.replace(draft, path)
        return whole

    def read(self) -> tuple[Worker, ...]:
        """Return what every worker has said last, by index; what cannot be read is left out."""
        found = [self._read(path) for path in sorted(self._directory.glob("figures-*.json"))]
        return tuple(sorted((w for w in found if w is not None), key=lambda w: w.index))

    def _path(self, index: int) -> Path:
        return self._directory / f"figures-{index}.json"

    def _read(self, path: Path) -> Worker | None:
        try:
            data = json.loads(path.read_bytes())
            doors = tuple(
                Door(**{**door, "buckets": tuple(door["buckets"])}) for door in data.pop("doors")
            )
            started_at = datetime.fromtimestamp(data.pop("started_at"), UTC)
            sampled_at = datetime.fromtimestamp(data.pop("sampled_at"), UTC)
            return Worker(started_at=started_at, sampled_at=sampled_at, doors=doors, **data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # Of another version, or half gone with the disk: it is written anew in seconds.
            return None


def summed(doors: Iterable[Door]) -> tuple[Door, ...]:
    """Return each door once, with the sum of its counters, by protocol and door."""
    found: dict[tuple[str, str], Door] = {}
    for door in doors:
        key = (door.protocol, door.door)
        found[key] = found[key].plus(door) if key in found else door
    return tuple(found[key] for key in sorted(found))


def _plain(worker: Worker) -> dict[str, object]:
    return asdict(worker) | {
        "started_at": worker.started_at.timestamp(),
        "sampled_at": worker.sampled_at.timestamp(),
    }


def _is_failure(word: str) -> bool:
    return word.startswith("5") if word.isdigit() else word.startswith(_FAILED)


def _is_refusal(word: str) -> bool:
    return word.startswith("4") if word.isdigit() else word.startswith(_REFUSED)
