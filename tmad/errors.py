"""The one exception that each protocol translates into its own failure code."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

T = TypeVar("T")


class FaultCode(enum.StrEnum):
    """Why a request failed, in the core's words; each codec's FAULTS maps all of them."""

    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    BAD_ALGORITHM = "bad_algorithm"
    BAD_INTEGRITY = "bad_integrity"
    BAD_TIME = "bad_time"
    BAD_PROOF = "bad_proof"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    REJECTED = "rejected"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


# What may work at the next attempt.
PASSING: Final = frozenset({FaultCode.RATE_LIMITED, FaultCode.UNAVAILABLE, FaultCode.INTERNAL})


class Fault(Exception):  # noqa: N818  a fault is an answer, not necessarily an error of ours
    """A refusal or failure on its way to the client.

    ``detail`` may be shown to the client; ``private`` goes to the log and the journal only.
    ``retry_after`` is in seconds. ``rule`` names the rule that said no and ``values`` holds
    what it compared; both are what ``tmad explain`` shows. ``explain_id`` is set once the
    refusal has been journaled.
    """

    def __init__(
        self,
        code: FaultCode,
        detail: str,
        *,
        private: str = "",
        retry_after: float | None = None,
        rule: str = "",
        values: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.private = private
        self.retry_after = retry_after
        self.rule = rule
        self.values = values or {}
        self.explain_id = ""

    def __str__(self) -> str:
        suffix = f" [{self.explain_id}]" if self.explain_id else ""
        return f"{self.code.value}: {self.detail}{suffix}"


def translate(fault: Fault, by_code: Mapping[FaultCode, T], by_rule: Mapping[str, T]) -> T:
    """Return how a protocol tells a fault: by its rule where it has a word for it, else its code.

    A rule stands for those below it, too: "secret" for "secret.wrong". How what may work at the
    next attempt is told, no rule changes.
    """
    if fault.code not in PASSING:
        rule = fault.rule
        while rule:
            if rule in by_rule:
                return by_rule[rule]
            rule = rule.rpartition(".")[0]
    return by_code[fault.code]
