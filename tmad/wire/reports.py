"""What an agent reports of a certificate that it keeps, and the answer: JSON of a fixed shape.

Report: ``id`` (16 hex digits), ``host``, ``label``, ``version``, ``source``, ``state``,
``served``, ``error`` (text), ``renew_at`` (ISO 8601, or empty). Answer: ``status``, ``window``
(``start`` and ``end``, or null), ``again_seconds``. Members that are not known are ignored, so
that either side can be the newer one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from tmad.errors import Fault, FaultCode

LONGEST: Final = 8_192  # octets, either way
_ID: Final = re.compile(r"[0-9a-f]{16}")
_STATES: Final = frozenset({"good", "waiting", "failing", "withdrawn"})
_SOURCES: Final = frozenset({"est", "acme", "scep"})
_SERVED: Final = frozenset({"same", "other", "unreachable", ""})
_TEXTS: Final = {"host": 253, "label": 63, "version": 40, "error": 500}  # characters
_SHORTEST_PAUSE: Final = 60.0  # seconds
_LONGEST_PAUSE: Final = 30 * 86_400.0
_AGAIN: Final = 6 * 3_600.0

Condition = Literal["good", "revoked", "hold", "expired", "withdrawn"]
_CONDITIONS: Final = frozenset({"good", "revoked", "hold", "expired", "withdrawn"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an agent says; ``id`` is of its own choice and stays the same for ever."""

    id: str
    host: str
    label: str
    version: str
    source: str
    state: str
    served: str
    error: str
    renew_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is said of the certificate that the report came with.

    ``window`` is when to renew it, None unless it is good; ``again_seconds`` after which to ask
    again.
    """

    status: Condition
    window: tuple[datetime, datetime] | None
    again_seconds: float = _AGAIN


def encode_report(report: Report) -> bytes:
    """Return a report as JSON; text is cut to what the other side takes."""
    texts = {name: line(getattr(report, name), longest) for name, longest in _TEXTS.items()}
    at = "" if report.renew_at is None else _iso(report.renew_at)
    rest = {name: getattr(report, name) for name in ("id", "source", "state", "served")}
    return json.dumps({**rest, **texts, "renew_at": at}, separators=(",", ":")).encode()


def decode_report(body: bytes) -> Report:
    """Read a report; Fault(MALFORMED) that says what is wrong."""
    found = _object(body, "the report")
    if not _ID.fullmatch(_text(found, "id", 16)):
        raise _malformed("the report", "id is not 16 lower-case hexadecimal digits")
    texts = {name: _text(found, name, longest) for name, longest in _TEXTS.items()}
    at = _text(found, "renew_at", 40)
    return Report(
        id=found["id"],
        source=_word(found, "source", _SOURCES),
        state=_word(found, "state", _STATES),
        served=_word(found, "served", _SERVED),
        renew_at=_instant(at, "the report") if at else None,
        **texts,
    )


def encode_advice(advice: Advice) -> bytes:
    """Return the answer as JSON."""
    span = None
    if advice.window is not None:
        start, end = advice.window
        span = {"start": _iso(start), "end": _iso(end)}
    answer = {"status": advice.status, "window": span, "again_seconds": advice.again_seconds}
    return json.dumps(answer, separators=(",", ":")).encode()


def decode_advice(body: bytes) -> Advice:
    """Read the answer; Fault(MALFORMED)."""
    what = "the server's answer to the report"
    found = _object(body, what)
    status, seconds = found.get("status"), found.get("again_seconds", _AGAIN)
    if not isinstance(status, str) or status not in _CONDITIONS:
        raise _malformed(what, "status")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:
        raise _malformed(what, "again_seconds")
    return Advice(
        status=cast("Condition", status),
        window=_window(found.get("window"), what),
        again_seconds=float(min(max(seconds, _SHORTEST_PAUSE), _LONGEST_PAUSE)),
    )


def line(text: str, longest: int) -> str:
    """Return text as one printable line."""
    return "".join(c if c.isprintable() else " " for c in text)[:longest]


def _window(found: Any, what: str) -> tuple[datetime, datetime] | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise _malformed(what, "window")
    start, end = (_instant(found.get(name), what) for name in ("start", "end"))
    if end <= start:
        raise _malformed(what, "the window ends before it begins")
    return start, end


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        if len(body) > LONGEST:
            raise ValueError
        found = json.loads(body, object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise _malformed(what, "it is no short JSON with each member once") from None
    if not isinstance(found, dict):
        raise _malformed(what, "it is no JSON object")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _text(found: dict[str, Any], name: str, longest: int) -> str:
    value = found.get(name, "")
    # What is shown in a terminal and stored in a database is a line of text.
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise _malformed("the report", f"{name} is not a line of at most {longest} characters")
    return value


def _word(found: dict[str, Any], name: str, known: frozenset[str]) -> str:
    value = found.get(name, "")
    if not isinstance(value, str) or value not in known:
        raise _malformed("the report", f"{name} is none of {', '.join(sorted(known))}")
    return value


def _instant(text: Any, what: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None or not 2000 <= found.year <= 9000:
            raise ValueError(text)
        return found.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise _malformed(what, "an instant has a date, a time and a time zone") from None


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _malformed(what: str, why: str) -> Fault:
    return Fault(FaultCode.MALFORMED, f"{what} cannot be read: {why}", rule="agent.report")
