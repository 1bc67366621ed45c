"""Questions about people and devices, as values that stand for SQL and never hold any.

What a condition lets through may be more than is wanted, never less: who asks looks at each row
again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Same:
    """A column is this value."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Like:
    """A column begins with, contains in this order, and ends with these pieces."""

    column: str
    initial: str
    middle: tuple[str, ...]
    final: str


@dataclass(frozen=True, slots=True)
class Filled:
    """A column is not empty; or, with ``is_empty``, it is."""

    column: str
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class Holds:
    """Somebody holds a certificate of his own that is valid now."""


@dataclass(frozen=True, slots=True)
class Both:
    """Each of these is so; of none at all, everything is."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of these is so; of none at all, nothing is."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Same | Like | Filled | Holds | Both | Either

EVERYTHING: Final = Both(())
NOTHING: Final = Either(())
