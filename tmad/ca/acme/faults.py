"""Refusals of ACME: the core's code, and the word that RFC 8555, 6.7 has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias, TypeVar

from tmad.errors import Fault, FaultCode

Name: TypeAlias = tuple[str, str]  # type and value of an identifier
N = TypeVar("N", bound=Name)
T = TypeVar("T")

# A Fault's values hold, under this key, the last part of the problem's type.
PROBLEM: Final = "problem"
_TOLD: Final = 3  # of several, in words; all of them are subproblems


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


def unchangeable(authorization: str, state: str) -> Fault:
    """Return the answer for an authorisation whose state does not allow what is asked."""
    return deny(
        FaultCode.CONFLICT,
        "malformed",
        f"the authorization is {state}",
        "acme.authorization.state",
        authorization=authorization,
        state=state,
    )


class Several(Fault):
    """Names of one request that cannot be had, each for a reason of its own (RFC 8555, 6.7.1)."""

    def __init__(self, parts: Sequence[tuple[Name, Fault]]) -> None:
        faults = [fault for _, fault in parts]
        told = [f"{name[1]}: {fault.detail}" for name, fault in parts[:_TOLD]]
        if len(parts) > _TOLD:
            told.append(f"and {len(parts) - _TOLD} more")
        super().__init__(
            _common([fault.code for fault in faults], FaultCode.REJECTED),
            "; ".join(told),
            retry_after=max([fault.retry_after or 0 for fault in faults]) or None,
            rule=_common([fault.rule for fault in faults], "acme.identifiers"),
            values={
                **(faults[0].values if len(faults) == 1 else {}),
                "identifiers": ", ".join(f"{kind}:{value}" for (kind, value), _ in parts)[:300],
                PROBLEM: _common([fault.values.get(PROBLEM, "") for fault in faults], "compound"),
            },
        )
        self.parts = tuple(parts)


def _common(values: Sequence[T], otherwise: T) -> T:
    return values[0] if len(set(values)) == 1 else otherwise


def for_each(names: Iterable[N], do: Callable[[N], T]) -> list[T]:
    """Do something for each name of a request; refuse all for which it may not be done."""
    done: list[T] = []
    failed: list[tuple[Name, Fault]] = []
    for name in names:
        try:
            done.append(do(name))
        except Fault as fault:
            failed.append((name, fault))
    refuse_all(failed, of=len(done) + len(failed))
    return done


def refuse_all(failed: Sequence[tuple[Name, Fault]], *, of: int) -> None:
    """Raise what was wrong with names of a request that has ``of`` of them, if anything was."""
    if not failed:
        return
    for _, fault in failed:
        if of == 1 or fault.code in (FaultCode.UNAVAILABLE, FaultCode.INTERNAL):
            raise fault  # about the only name, or about none
    raise Several(failed)
