"""Refusals of ACME: the core's code, and the word that RFC 8555, 6.7 has for it."""

from __future__ import annotations

from typing import Final

from tmad.errors import Fault, FaultCode

# A Fault's values hold, under this key, the last part of the problem's type.
PROBLEM: Final = "problem"


def deny(
    code: FaultCode,
    problem: str,
    detail: str,
    rule: str,
    **values: str,
) -> Fault:
    """Return a Fault that says which ACME problem it is; ``rule`` begins with "acme."."""
    return Fault(
        code,
        detail,
        rule=rule,
        values={PROBLEM: problem, **{name: text[:300] for name, text in values.items()}},
    )


def absent(what: str) -> Fault:
    """Return the one answer for what is not there and for what belongs to others."""
    return deny(
        FaultCode.NOT_FOUND, "malformed", f"there is no such {what}", "acme.absent", what=what
    )
