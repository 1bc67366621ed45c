"""One-time passwords: HOTP (RFC 4226) and TOTP (RFC 6238), pure.

A "moment" is what a code is made of: the counter of HOTP, the time step of TOTP.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

RESYNC: Final = 100  # moments in which two consecutive codes are looked for
_DRIFT: Final = 10  # steps that a clock may be learned to be wrong by
_MODULO: Final = {6: 10**6, 7: 10**7, 8: 10**8}
# People group digits with these; anything else, a digit of another script too, is no code.
_GROUPING: Final = str.maketrans("", "", " -")


@dataclass(frozen=True, slots=True)
class Windows:
    """How far from where it should be a code is looked for, beside the moment itself.

    ``ahead`` counters of HOTP, after; ``steps`` of TOTP, before and after.
    """

    ahead: int = 10
    steps: int = 1


class Shape(NamedTuple):
    """What must be known of a token to calculate its codes; ``period`` is 0 for HOTP."""

    algorithm: str
    digits: int
    period: int


class Position(NamedTuple):
    """Where a token is: the lowest moment still accepted, and its clock's error in steps."""

    counter: int
    drift: int


class Match(NamedTuple):
    """The moment whose code was presented. ``drift`` is what is believed from now on.

    ``is_replay``: the moment lies before the lowest that is still accepted.
    """

    moment: int
    drift: int
    is_replay: bool


def hotp(seed: bytes, counter: int, digits: int = 6, algorithm: str = "sha1") -> str:
    """Return the code of one moment (RFC 4226, 5.3)."""
    return f"{_value(seed, counter, algorithm) % _MODULO[digits]:0{digits}}"


def step_at(instant: datetime, period: int) -> int:
    """Return the time step of an instant (RFC 6238, 4.2)."""
    return int(instant.timestamp()) // period


def typed_code(text: bytes) -> str | None:
    """Return the digits of a typed code; None for what cannot be one.

    Spaces and dashes do not count, so that no spelling of a code is another code.
    """
    try:
        plain = text.decode("ascii").translate(_GROUPING)
    except UnicodeDecodeError:
        return None
    return plain if plain.isdigit() and 6 <= len(plain) <= 8 else None


def find(
    seed: bytes, shape: Shape, position: Position, code: str, windows: Windows, now: datetime
) -> Match | None:
    """Return the moment in the window that has this code.

    Every moment of the window is calculated and compared, whatever matches. Of a TOTP window
    the past part, too: to tell a code that was used from one that never was.
    """
    if shape.period == 0:
        first = position.counter
        moments = range(first, first + windows.ahead + 1)
        centre = first
    else:
        centre = step_at(now, shape.period) + position.drift
        moments = range(max(0, centre - windows.steps), centre + windows.steps + 1)
    found = _matching(seed, shape, moments, code)
    if not found:
        return None
    # Two moments with the same code happen; the one that can still be used is meant.
    moment = min([m for m in found if m >= position.counter], default=found[-1])
    drift = position.drift
    if shape.period:
        drift = _learned(drift, moment - centre)
    return Match(moment, drift, moment < position.counter)


def find_two(
    seed: bytes, shape: Shape, position: Position, first: str, second: str, now: datetime
) -> Match | None:
    """Return the moment of the second of two consecutive codes (RFC 4226, 7.4).

    Both must be usable still. A clock may be out by RESYNC steps.
    """
    if shape.period == 0:
        start, end = position.counter, position.counter + RESYNC
        believed = 0
    else:
        believed = step_at(now, shape.period)
        start = max(0, position.counter, believed - RESYNC)
        end = believed + RESYNC
    for moment in _matching(seed, shape, range(start, end), first):
        if _matching(seed, shape, (moment + 1,), second):
            drift = moment + 1 - believed if shape.period else 0
            return Match(moment + 1, drift, False)
    return None


def _matching(seed: bytes, shape: Shape, moments: Iterable[int], code: str) -> list[int]:
    if len(code) != shape.digits:
        code = "-" * shape.digits  # nobody's, at the same cost
    algorithm, modulo, digits = shape.algorithm, _MODULO[shape.digits], shape.digits
    return [
        moment
        for moment in moments
        if hmac.compare_digest(f"{_value(seed, moment, algorithm) % modulo:0{digits}}", code)
    ]


def _value(seed: bytes, moment: int, algorithm: str) -> int:
    mac = hmac.digest(seed, moment.to_bytes(8, "big"), algorithm)
    # RFC 4226, 5.3: dynamic truncation; RFC 6238, 1.2 has it for longer MACs as well.
    offset = mac[-1] & 15
    return int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFFFFFF


def _learned(drift: int, offset: int) -> int:
    """Move by one step towards where the code was; a single late entry means little."""
    moved = drift + (offset > 0) - (offset < 0)
    # A resynchronisation may have set more than is learned.
    return moved if abs(moved) <= max(_DRIFT, abs(drift)) else drift
