"""What was read from the database and is kept until something is heard that concerns it.

The rule of every cache (docs/decisions/0001-changes-table-instead-of-notify.md): an answer that
comes after the news may be from before it, so it is kept only if nothing was heard since its read
began. Whoever asked may have it all the same: it is as new as the question.

The owner listens to ``Changes``, says ``forget`` for each change that concerns what is kept or
is being read, and catches up before each use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Kept(Generic[_Value]):
    """One value, or None while it has to be read."""

    def __init__(self) -> None:
        self.value: _Value | None = None
        self._heard = 0

    async def fill(self, reading: Awaitable[_Value]) -> _Value:
        """Wait for the value, keep it if it may be kept, and return it."""
        heard = self._heard
        value = await reading
        if heard == self._heard:
            self.value = value
        return value

    def forget(self) -> None:
        """Drop the value, and do not keep the one that is being read."""
        self._heard += 1
        self.value = None


class KeptByKey(Generic[_Key, _Value]):
    """Values by what they were asked by; ``get`` returns None for one that has to be read."""

    def __init__(
        self,
        *,
        largest: int | None = None,
        keeps: Callable[[_Value], bool] = lambda value: True,
    ) -> None:
        """Keep at most the ``largest`` number of values: those that were read last.

        ``keeps`` tells which values are worth it, or may be kept at all.
        """
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._largest = largest
        self._keeps = keeps
        self._heard = 0
        # The dictionary's own method: each packet of a login asks several of these.
        self.get: Callable[[_Key], _Value | None] = self._values.get

    async def fill(self, key: _Key, reading: Awaitable[_Value]) -> _Value:
        """Wait for a value, keep it if it may be kept, and return it.

        None is never kept: strangers may ask for as much that does not exist as they like.
        """
        heard = self._heard
        value = await reading
        if heard == self._heard and value is not None and self._keeps(value):
            self._values[key] = value
            if self._largest is not None and len(self._values) > self._largest:
                self._values.popitem(last=False)
        return value

    def forget(self, key: _Key) -> None:
        """Drop one value, and keep none that is being read: it could be this one."""
        self._heard += 1
        self._values.pop(key, None)

    def forget_where(self, concerns: Callable[[_Key], bool]) -> None:
        """Drop the values whose key ``concerns`` tells, and keep none that is being read."""
        self._heard += 1
        for key in [key for key in self._values if concerns(key)]:
            del self._values[key]

    def forget_all(self) -> None:
        """Drop everything, and keep nothing that is being read."""
        self._heard += 1
        self._values.clear()
