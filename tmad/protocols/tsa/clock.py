"""Whether the time may be certified now (RFC 3161, 2.1: a trustworthy source of time)."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.hostclock import kernel_bound

_log = Logger()


class TrustedTime:
    """The wall clock, watched: by the kernel's word, and against the time since boot.

    The time since boot is slowed down and sped up with the wall clock, but nobody sets it: what
    it shows is a step. One that is larger than the accuracy is believed only when the kernel says
    that the clock is kept right; else no time is given, until it says so or the process is
    started again.
    """

    def __init__(
        self,
        now: Clock,
        *,
        running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        bound: Callable[[], float | None] = kernel_bound,
    ) -> None:
        """``bound`` returns by how many seconds the clock may be wrong, None if nobody knows."""
        self._now = now
        self._running = running
        self._bound = bound
        self._booted = self._boot_instant()
        self._trouble = ""

    def check(self, accuracy: float, *, is_vouched: bool) -> float:
        """Raise Fault(BAD_TIME) unless the clock can be right to ``accuracy`` seconds.

        ``is_vouched``: an administrator answers for the clock, the kernel need not. Return a mark:
        as long as it stays the same, nobody has set the clock by more than that.
        """
        bound = self._bound()
        stepped = self._boot_instant() - self._booted
        trouble = ""
        if abs(stepped) > accuracy:
            if bound is None:
                trouble = "the clock has been set, and is not synchronised"
            else:
                _log.warn("the clock was set by {seconds} s", seconds=round(stepped, 6))
                self._booted += stepped
        if not trouble and not is_vouched:
            if bound is None:
                trouble = "the clock is not synchronised"
            elif bound > accuracy:
                trouble = "the clock may be wrong by more than the accuracy that is promised"
        self._note(trouble, bound, stepped)
        if trouble:
            raise Fault(
                FaultCode.BAD_TIME,
                trouble,
                rule="tsa.clock",
                values={"bound": str(bound), "accuracy": str(accuracy)},
            )
        return self._booted

    def _note(self, trouble: str, bound: float | None, stepped: float) -> None:
        if trouble and trouble != self._trouble:
            _log.error(
                "no time-stamps: {trouble} (bound {bound} s, set by {stepped} s)",
                trouble=trouble,
                bound=bound,
                stepped=round(stepped, 6),
            )
        elif self._trouble and not trouble:
            _log.info("time-stamps are given again")
        self._trouble = trouble

    def _boot_instant(self) -> float:
        return self._now().timestamp() - self._running()
