"""Lengths of time as people write them: 30m, 24h, 90d, 12w, 10y."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click

_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}
_EXAMPLES = {"m": "30m", "h": "24h", "d": "90d", "w": "12w", "y": "10y"}


class Lifetime(click.ParamType[timedelta]):
    """A number and one of the ``units``; a year has 365 days."""

    name = "time"

    def __init__(self, units: str) -> None:
        self._units = units

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(rf"([1-9][0-9]{{0,5}})([{self._units}])", value)
        if found is None:
            examples = ", ".join(_EXAMPLES[unit] for unit in self._units)
            self.fail(f"{value!r} is not a time such as {examples}", param, ctx)
        return int(found[1]) * _UNITS[found[2]]
