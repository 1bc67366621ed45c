"""Values that every layer shares: what happened, when, and text that must not be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the wall clock as an aware UTC datetime."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, on its way into the journal.

    ``kind`` is ``noun.verb`` in the past tense ("certificate.issued", "request.refused").
    ``object`` is the id of what it happened to, ``trace`` the explain id where there is one.
    ``data`` is JSON without secrets; it is hashed, so keep it small and stable.
    """

    kind: str
    tenant: str
    actor: str
    object: str = ""
    trace: str = ""
    data: Mapping[str, JSON] = field(default_factory=dict)


class Secret:
    """Bytes that never show in a repr, a log line or an error."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> bytes:
        """Return the bytes themselves; call it only where they are used."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret()"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never pickled")
