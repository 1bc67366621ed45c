"""Whether this machine's clock can be right: time steps mean nothing by a wrong one.

Nobody here asks the network for the time. What can be seen is a jump: the wall clock against
the time since boot, which nobody sets. Who jumps by more than a minute is believed only once the
kernel says that the clock is disciplined (adjtimex(2): NTP or PTP keeps it).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from tmad.events import Clock

log = Logger()

_BEARABLE: Final = 60.0  # seconds
_TIMEX_OCTETS: Final = 512  # more than struct timex has anywhere
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_LEAP_SECOND: Final = 3  # TIME_OOP


class HostClock:
    """Compares the wall clock with the time since boot, from the moment it is made."""

    def __init__(
        self,
        now: Clock,
        *,
        running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        is_disciplined: Callable[[], bool] | None = None,
    ) -> None:
        self._now = now
        self._running = running
        self._is_disciplined = is_disciplined or kernel_disciplines
        self._booted = self._boot_instant()
        self._was_wrong = False

    def is_wrong(self) -> bool:
        """Tell whether the clock has jumped by more than a minute and nobody vouches for it."""
        jumped = abs(self._boot_instant() - self._booted)
        if jumped > _BEARABLE and self._is_disciplined():
            self._booted = self._boot_instant()
            jumped = 0.0
        wrong = jumped > _BEARABLE
        if wrong and not self._was_wrong:
            log.error(
                "the clock has jumped by {seconds} s and is not synchronised: no time-based"
                " code is accepted until it is, or until a restart",
                seconds=round(jumped),
            )
        elif self._was_wrong and not wrong:
            log.info("the clock is believed again")
        self._was_wrong = wrong
        return wrong

    def _boot_instant(self) -> float:
        return self._now().timestamp() - self._running()


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_byte * _TIMEX_OCTETS),
    )


def _ask_kernel() -> tuple[int, int]:
    """Return the state of the clock and the most that it can be off, in microseconds."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return _TIME_ERROR, 0
    # Zeroed, its `modes` say: change nothing.
    timex = _Timex()
    state: int = adjtimex(ctypes.byref(timex))
    return state, timex.maxerror


def kernel_disciplines() -> bool:
    """Tell whether the kernel says that something keeps its clock right; False if it cannot."""
    return 0 <= _ask_kernel()[0] < _TIME_ERROR


def kernel_bound() -> float | None:
    """Return by how many seconds the clock may be wrong at most, as the kernel says.

    None: nothing keeps it right, the kernel does not tell, or a leap second goes by.
    """
    state, microseconds = _ask_kernel()
    if not 0 <= state < _TIME_ERROR or state == _LEAP_SECOND:
        return None
    return microseconds / 1e6
