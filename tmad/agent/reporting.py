"""Telling the server how a certificate is, and hearing what it says about it.

``POST …/agent/report`` over mutual TLS with the certificate itself; JSON both ways.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from tmad.agent.source import Window, refused
from tmad.agent.transport import Trust, ask
from tmad.errors import Fault, FaultCode

_LONGEST: Final = 16_384
_STATUS: Final = frozenset({"good", "revoked", "hold", "expired", "withdrawn"})
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the server gets to know; instants are ISO 8601 in UTC."""

    id: str
    host: str
    label: str
    version: str
    source: str
    state: str
    served: str
    error: str
    renew_at: str

    def encode(self) -> bytes:
        """Return the report as JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def send(url: str, trust: Trust, report: Report) -> Window:
    """Send a report; return what the server says about the certificate.

    Fault(UNAVAILABLE), Fault(FORBIDDEN), Fault(MALFORMED).
    """
    answer = ask(
        "POST", f"{url.rstrip('/')}/report", trust, body=report.encode(),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    if answer.status != 200:
        raise refused("the report", answer.status, answer.text)
    return decode_advice(answer.body)


def decode_advice(body: bytes) -> Window:
    """Read the server's answer; Fault(MALFORMED)."""
    try:
        if len(body) > _LONGEST:
            raise ValueError("too long")
        found = json.loads(body)
        status = found["status"]
        if status not in _STATUS:
            raise ValueError("status")
        seconds = float(found.get("again_seconds", _DAY))
        if not 60.0 <= seconds <= 30 * _DAY:
            raise ValueError("again_seconds")
        window = found.get("window") or {}
        start, end = _instant(window.get("start")), _instant(window.get("end"))
        if (start is None) != (end is None) or (start and end and end <= start):
            raise ValueError("window")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Fault(
            FaultCode.MALFORMED, "the server's answer to the report cannot be read",
            private=type(error).__name__, rule="agent.advice",
        ) from None  # fmt: skip
    return Window(start, end, seconds, status)


def _instant(text: Any) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("an instant without a time zone")
    return found
