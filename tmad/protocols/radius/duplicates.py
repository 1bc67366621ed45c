"""Requests that arrive again: answered once, and again with the same octets (RFC 5080, 2.2.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

_CLEAN_SECONDS: Final = 1.0  # the oldest entry is looked at no more often: it is in no cache


@dataclass(slots=True, eq=False)
class Entry:
    """One request; ``reply`` is None while it is being answered (R-20)."""

    authenticator: bytes
    reply: bytes | None
    expires: float


class Duplicates:
    """The requests of the last seconds, by where they came from and their identifier."""

    def __init__(
        self, seconds: Callable[[], float], *, window: float = 10.0, maximum: int = 20_000
    ) -> None:
        self._seconds = seconds
        self._window = window
        self._maximum = maximum
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._clean_at = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def note(
        self, key: Hashable, authenticator: bytes, patience: float = 30.0
    ) -> tuple[Entry, bool]:
        """Return a request's entry, and whether it is a new one (R-21, R-22).

        Whatever else was under its key is over (R-23).
        """
        now = self._seconds()
        entries = self._entries
        entry = entries.get(key)
        if entry is not None:
            if entry.authenticator == authenticator and entry.expires > now:
                return entry, False
            del entries[key]
        if now >= self._clean_at or len(entries) >= self._maximum:
            self._clean(now)
        entry = entries[key] = Entry(authenticator, None, now + patience)
        return entry, True

    def _clean(self, now: float) -> None:
        """Forget what has expired, and the oldest where there is no room for one more."""
        entries = self._entries
        while entries and (
            len(entries) >= self._maximum or next(iter(entries.values())).expires <= now
        ):
            entries.popitem(last=False)
        self._clean_at = now + _CLEAN_SECONDS

    def finish(self, key: Hashable, entry: Entry, reply: bytes) -> bool:
        """Keep the answer; tell whether it is still wanted (R-23, R-24)."""
        if self._entries.get(key) is not entry:
            return False
        entry.reply = reply
        entry.expires = self._seconds() + self._window
        self._entries.move_to_end(key)
        return True

    def forget(self, key: Hashable, entry: Entry) -> None:
        """Drop a request that gets no answer: if it comes again it is a new one."""
        if self._entries.get(key) is entry:
            del self._entries[key]
