"""Signed answers in memory, until they age or a status changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Window:
    """The times of answers that were signed in the same second, encoded once."""

    this_update: datetime
    next_update: datetime
    fresh_until: datetime  # signed anew afterwards, long before next_update
    this_update_der: bytes
    next_update_der: bytes
    last_modified: str
    expires: str
    max_age: int | None  # the most that the policy lets HTTP caches keep it


@dataclass(frozen=True, slots=True)
class Answer:
    """One OCSPResponse. ``subject`` is the key under which its status would change."""

    body: bytes
    window: Window
    slug: str
    subject: str


# What a dictionary entry, the objects in it and the index cost beside the octets, measured.
_OVERHEAD = 450


class Answers:
    """A bounded cache of answers by request, with an index by certificate.

    Two generations instead of an exact LRU order: what is asked for moves to the young one,
    and when that is full the old one is dropped. A hit costs one look-up, and nothing is
    stored for the order.
    """

    def __init__(self, octets: int) -> None:
        self._limit = octets // 2
        self._size = 0
        self._young: dict[bytes, Answer] = {}
        self._old: dict[bytes, Answer] = {}
        self._young_keys: dict[str, tuple[bytes, ...]] = {}
        self._old_keys: dict[str, tuple[bytes, ...]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, request_der: bytes) -> Answer | None:
        """Return the answer to exactly these octets."""
        answer = self._young.get(request_der)
        if answer is None:
            answer = self._old.pop(request_der, None)
            if answer is not None:
                self.put(request_der, answer)
        return answer

    def put(self, request_der: bytes, answer: Answer) -> None:
        """Keep an answer."""
        if request_der not in self._young:
            self._size += len(request_der) + len(answer.body) + _OVERHEAD
            keys = self._young_keys.get(answer.subject, ())
            self._young_keys[answer.subject] = (*keys, request_der)
        self._young[request_der] = answer
        if self._size > self._limit:
            self._old, self._old_keys = self._young, self._young_keys
            self._young, self._young_keys = {}, {}
            self._size = 0

    def forget(self, subject: str) -> None:
        """Drop every answer about one certificate."""
        for request_der in self._young_keys.pop(subject, ()):
            answer = self._young.pop(request_der, None)
            if answer is not None:
                self._size -= len(request_der) + len(answer.body) + _OVERHEAD
        for request_der in self._old_keys.pop(subject, ()):
            self._old.pop(request_der, None)

    def clear(self) -> None:
        """Drop everything."""
        self._young, self._old = {}, {}
        self._young_keys, self._old_keys = {}, {}
        self._size = 0
