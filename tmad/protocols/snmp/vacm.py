"""What of a snapshot a manager may see: views of the tree (RFC 3415, 2.4 and 3.2).

Everything is read-only, there is one context, and who may ask at all stands in
``identity.snmp_access``; what is left of VACM is the view, compiled once for each snapshot into
ranges of places, so that a walk costs nothing more for it.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right

from tmad.identity.snmp_managers import View
from tmad.protocols.snmp.mib import Snapshot
from tmad.protocols.snmp.values import OID


def covers(view: View, oid: OID) -> bool:
    """Whether a view has a name: the longest subtree that holds it decides."""
    best, is_included = -1, False
    for subtree in view:
        size = len(subtree.oid)
        # Of two equal ones the later counts.
        if size >= best and oid[:size] == subtree.oid:
            best, is_included = size, subtree.is_included
    return is_included


class Window:
    """The part of a snapshot that a view has."""

    __slots__ = ("_ends", "_starts", "snapshot", "view")

    def __init__(self, snapshot: Snapshot, view: View) -> None:
        self.snapshot = snapshot
        self.view = view
        keys = snapshot.keys
        # Between two borders of subtrees all names are in the view, or none.
        borders = {0, len(keys)}
        for subtree in view:
            borders.add(bisect_left(keys, subtree.oid))
            borders.add(bisect_left(keys, (*subtree.oid[:-1], subtree.oid[-1] + 1)))
        self._starts: list[int] = []
        self._ends: list[int] = []
        places = sorted(borders)
        for start, end in itertools.pairwise(places):
            if not covers(view, keys[start]):
                continue
            if self._ends and self._ends[-1] == start:
                self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)

    def has(self, place: int) -> bool:
        """Whether an instance can be seen."""
        at = bisect_right(self._starts, place) - 1
        return at >= 0 and place < self._ends[at]

    def run(self, place: int) -> tuple[int, int]:
        """Return the places that can be seen from ``place`` on up to the next gap; (n, n): none."""
        at = bisect_right(self._ends, place)
        if at == len(self._ends):
            return place, place
        return max(place, self._starts[at]), self._ends[at]

    def has_object(self, oid: OID) -> bool:
        """Whether an object type that can be seen is the beginning of a name (RFC 3416, 4.2.1)."""
        objects = self.snapshot.objects
        at = bisect_right(objects, oid) - 1
        # Object types do not hold each other, so that the nearest one decides.
        return at >= 0 and oid[: len(objects[at])] == objects[at] and covers(self.view, oid)
