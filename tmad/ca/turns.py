"""One at a time, among the coroutines of one process."""

from __future__ import annotations

from collections import deque
from types import TracebackType

from twisted.internet.defer import Deferred


class Turns:
    """A lock: ``async with turns:``, in the order in which the callers came.

    Twisted's DeferredLock resumes the next waiter from within the release of the one before,
    so that a thousand waiters that have nothing to wait for are a thousand calls deep. Here
    they are resumed one after the other.
    """

    def __init__(self) -> None:
        self._waiting: deque[Deferred[None]] = deque()
        self._is_taken = False
        self._is_handing_on = False

    @property
    def is_taken(self) -> bool:
        """Whether somebody has the turn just now."""
        return self._is_taken

    async def __aenter__(self) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        await turn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_taken = False
        if self._is_handing_on:
            return  # the loop below, further down the stack, goes on
        self._is_handing_on = True
        try:
            while self._waiting and not self._is_taken:
                self._is_taken = True
                self._waiting.popleft().callback(None)
        finally:
            self._is_handing_on = False
