"""The objects that the agent shows: an immutable snapshot, taken anew every few seconds.

A walk asks the snapshot and nobody else (no SQL, no file); a refresh works in slices of a few
milliseconds, so that whoever else wants the reactor has it in between.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
        draft = _Draft()
        draft.add(sorted(_named(items), key=_key))
        return draft.finish()

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


def table(entry: OID, rows: Iterable[tuple[OID, Mapping[int, Value]]]) -> Iterator[Item]:
    """Iterate over a table; a row is its index and its values by column number.

    Row by row, so that rows may be made one after the other; a snapshot sorts them by columns.
    """
    kinds: dict[int, OID] = {}
    for index, row in rows:
        for column, value in row.items():
            kind = kinds.get(column)
            if kind is None:
                kind = kinds[column] = (*entry, column)
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
        found: list[_Named] = []
        begin = self._seconds()
        for group in self._groups:
            items = _named(self._of(group))
            while step := list(islice(items, _STEP)):
                found += step
                begin = await self._breathe(begin)
        found.sort(key=_key)
        draft = _Draft()
        for start in range(0, len(found), _STEP):
            draft.add(found[start : start + _STEP])
            begin = await self._breathe(begin)
        self.snapshot = draft.finish()
        for listener in self._listeners:
            listener(self.snapshot)

    async def _breathe(self, begin: float) -> float:
        """Let others have the reactor if this slice is over; return when the next one began."""
        if self._seconds() - begin <= _SLICE:
            return begin
        await deferLater(self._reactor, 0)
        return self._seconds()

    def _of(self, group: Group) -> Iterator[Item]:
        try:
            yield from group()
        except Exception:
            # What one group reads of the machine must not take the others away.
            log.failure("a part of the MIB could not be read")


# An instance's whole name, its object type, its value.
_Named: TypeAlias = tuple[OID, OID, Value]


def _named(items: Iterable[Item]) -> Iterator[_Named]:
    return ((kind + index, kind, value) for kind, index, value in items)


def _key(item: _Named) -> OID:
    return item[0]


class _Draft:
    """A snapshot in the making, from sorted instances."""

    def __init__(self) -> None:
        self._keys: list[OID] = []
        self._values: list[Value] = []
        self._names: list[bytes] = []
        self._kinds: set[OID] = set()

    def add(self, items: Iterable[_Named]) -> None:
        """Add the next instances."""
        keys, values, names, kinds = self._keys, self._values, self._names, self._kinds
        last = keys[-1] if keys else None
        for key, kind, value in items:
            if key != last:
                keys.append(key)
                values.append(value)
                names.append(encode_oid(key))
                kinds.add(kind)
                last = key

    def finish(self) -> Snapshot:
        """Return it."""
        positions = dict(zip(self._names, range(len(self._names)), strict=True))
        return Snapshot(
            self._keys, self._values, self._names, positions, tuple(sorted(self._kinds))
        )
