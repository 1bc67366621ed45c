"""How a row changed, in lines for the journal and for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime


def difference(old: object | None, new: object | None, names: Iterable[str]) -> list[str]:
    """Return a line for each of these attributes that differs: "~ mail: - -> a@example.test"."""
    lines = []
    for name in names:
        before, after = (_text(getattr(row, name)) if row else "" for row in (old, new))
        if before != after:
            lines.append(f"~ {name}: {before or '-'} -> {after or '-'}")
    return lines


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
