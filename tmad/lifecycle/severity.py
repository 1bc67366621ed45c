"""How grave what happened is, in syslog's words (RFC 5424, 6.2.1), and how it ended."""

from __future__ import annotations

import enum
import json
from functools import lru_cache
from typing import Final


class Severity(enum.IntEnum):
    """Syslog's severities: the lower, the graver."""

    EMERGENCY = 0
    ALERT = 1
    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


_ALARM: Final = "alarm.raised"  # tmad/lifecycle/alarms.py
# Kinds are "noun.verb": the last word says how it went, whatever noun and protocol it was.
_VERBS: Final = {
    Severity.CRITICAL: ("broken", "lost"),
    Severity.ERROR: ("stale", "expired", "unavailable"),
    Severity.WARNING: (
        "refused", "failed", "denied", "locked", "limited", "insecure", "raised", "expiring",
        "voided", "unreachable",
    ),
    Severity.NOTICE: (
        "created", "changed", "deleted", "removed", "revoked", "held", "released", "blocked",
        "unblocked", "disabled", "enabled", "approved", "imported", "withdrawn", "set", "reset",
        "signed", "reached", "unlearned", "cleared",
    ),
}  # fmt: skip
_FAILURES: Final = frozenset(
    {"refused", "failed", "denied", "locked", "limited", "unavailable", "unreachable", "lost"}
)
_BY_VERB: Final = {verb: severity for severity, verbs in _VERBS.items() for verb in verbs}


def _verb(kind: str) -> str:
    return kind.rpartition(".")[2].rpartition("-")[2]


@lru_cache(maxsize=1_024)
def severity_of(kind: str) -> Severity:
    """Return the severity of a kind of event; a kind that is not known is information."""
    return _BY_VERB.get(_verb(kind), Severity.INFO)


def severity_in(kind: str, data: str) -> Severity:
    """Return the severity of an event; of an alarm that which its ``data`` (JSON) says."""
    if kind != _ALARM:
        return severity_of(kind)
    try:
        return Severity[json.loads(data)["severity"].upper()]
    except (ValueError, LookupError, TypeError, AttributeError):
        return severity_of(kind)


@lru_cache(maxsize=1_024)
def outcome_of(kind: str) -> str:
    """Return "failure" for what somebody wanted and did not get, else "success"."""
    return "failure" if _verb(kind) in _FAILURES else "success"
