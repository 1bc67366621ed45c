"""The objects that the agent shows: an immutable snapshot, taken anew every few seconds.

A walk asks the snapshot and nobody else (no SQL, no file); a refresh works in slices of a few
milliseconds, so that whoever else wants the reactor has it in between.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from twisted.internet.task import deferLater
from twisted.logger import Logger

from tmad.protocols.snmp.values import OID, Value, encode_oid

log = Logger()

# One instance: its object type (a column, or a scalar without the 0), its index, its value.
Item: TypeAlias = tuple[OID, OID, Value]
# One part of the tree; called for each snapshot.
Group: TypeAlias = Callable[[], Iterable[Item]]

SCALAR: OID = (0,)

# How long one slice of a refresh may take, seconds; and how many objects it takes to look.
_SLICE = 0.004
_STEP = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything there is, in the order of a walk (RFC 3416, 4.2.2)."""

    keys: list[OID]
    values: list[Value]
    names: list[bytes]  # the keys as they stand in a message
    positions: dict[bytes, int]  # name -> place
    objects: tuple[OID, ...]  # the object types, sorted

    @classmethod
    def of(cls, items: Iterable[Item]) -> Snapshot:
        """Return a snapshot of these instances; of two with one name the first one counts."""
        return _joined([(kind + index, kind, value) for kind, index, value in items])

    def get(self, oid: OID) -> Value | None:
        """Return the instance with this name."""
        place = self.positions.get(encode_oid(oid))
        return None if place is None else self.values[place]

    def next(self, oid: OID) -> tuple[OID, Value] | None:
        """Return the first instance after this name."""
        place = bisect_right(self.keys, oid)
        return None if place == len(self.keys) else (self.keys[place], self.values[place])

    def below(self, subtree: OID) -> Snapshot:
        """Return the part of it below ``subtree``, for a master agent that asks for no more."""
        depth = len(subtree)
        return Snapshot.of(
            (kind, key[len(kind) :], value)
            for kind in self.objects
            if kind[:depth] == subtree
            for key, value in self._instances(kind)
        )

    def _instances(self, kind: OID) -> Iterator[tuple[OID, Value]]:
        place = bisect_right(self.keys, kind)
        while place < len(self.keys) and self.keys[place][: len(kind)] == kind:
            yield self.keys[place], self.values[place]
            place += 1


EMPTY = Snapshot([], [], [], {}, ())


def scalar(kind: OID, value: Value) -> Item:
    """Return the one instance of a scalar."""
    return kind, SCALAR, value


def table(entry: OID, rows: Sequence[tuple[OID, Mapping[int, Value]]]) -> Iterator[Item]:
    """Iterate over a table by columns; a row is its index and its values by column number."""
    columns = sorted({column for _, row in rows for column in row})
    for column in columns:
        kind = (*entry, column)
        for index, row in rows:
            if (value := row.get(column)) is not None:
                yield kind, index, value


def text_index(text: str) -> OID:
    """Return a text of varying length as part of an index (RFC 2578, 7.7)."""
    octets = text.encode()
    return (len(octets), *octets)


class View:
    """The newest snapshot of all groups; ``snapshot`` is replaced, never changed."""

    def __init__(
        self,
        groups: Sequence[Group],
        reactor: Any,
        *,
        seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._groups = tuple(groups)
        self._reactor = reactor
        self._seconds = seconds
        self._listeners: list[Callable[[Snapshot], object]] = []
        self.snapshot = EMPTY

    def listen(self, callback: Callable[[Snapshot], object]) -> None:
        """Call ``callback`` with each new snapshot."""
        self._listeners.append(callback)

    async def refresh(self) -> None:
        """Take a new snapshot; a group that fails is left out of it, and that is logged."""
        found: list[tuple[OID, OID, Value]] = []
        begin = self._seconds()
        for group in self._groups:
            items = iter(self._of(group))
            while step := _take(items, _STEP):
                found += step
                if self._seconds() - begin > _SLICE:
                    await deferLater(self._reactor, 0)
                    begin = self._seconds()
        if self._seconds() - begin > _SLICE / 2:
            await deferLater(self._reactor, 0)
        self.snapshot = _joined(found)
        for listener in self._listeners:
            listener(self.snapshot)

    def _of(self, group: Group) -> Iterator[Item]:
        try:
            yield from group()
        except Exception:
            # What one group reads of the machine must not take the others away.
            log.failure("a part of the MIB could not be read")


def _take(items: Iterator[Item], most: int) -> list[tuple[OID, OID, Value]]:
    taken = []
    for kind, index, value in items:
        taken.append((kind + index, kind, value))
        if len(taken) == most:
            break
    return taken


def _joined(found: list[tuple[OID, OID, Value]]) -> Snapshot:
    found.sort(key=lambda item: item[0])
    keys: list[OID] = []
    values: list[Value] = []
    kinds: set[OID] = set()
    for key, kind, value in found:
        if keys and keys[-1] == key:
            continue
        keys.append(key)
        values.append(value)
        kinds.add(kind)
    names = [encode_oid(key) for key in keys]
    positions = {name: place for place, name in enumerate(names)}
    return Snapshot(keys, values, names, positions, tuple(sorted(kinds)))
