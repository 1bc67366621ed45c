"""From when to when a certificate is good: profile, issuer and wish (RFC 5280, 4.1.2.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.errors import Fault, FaultCode

if TYPE_CHECKING:
    from tmad.ca.profile import Validity
    from tmad.ca.writing import IssuerFacts

_SECOND: Final = timedelta(seconds=1)
_SHORTEST: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The ends of a period that an applicant wants, to the second: exactly these, or nothing.

    ``asked_at`` is when that was: how far back notBefore may lie is counted from there, since a
    request may wait.
    """

    not_before: datetime | None = None
    not_after: datetime | None = None
    asked_at: datetime


class ValidityRules:
    """Applies what one profile says about validity; ``refuse`` makes the profile's Faults."""

    def __init__(self, rules: Validity, refuse: Callable[..., Fault]) -> None:
        self._rules = rules
        self._refuse = refuse

    def period(
        self, issuer: IssuerFacts, now: datetime, wanted: timedelta | Ends | None
    ) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter, whole seconds, inside the issuer's (shell model)."""
        rules = self._rules
        if isinstance(wanted, Ends):
            start, end = self._exactly(issuer, now, wanted)
        else:
            start = self._start(issuer, now)
            # Both ends belong to the period (RFC 5280, 4.1.2.5).
            end = start + (rules.default if wanted is None else wanted) - _SECOND
        self._check_length(start, end)
        if end > issuer.not_after:
            is_asked_for = isinstance(wanted, Ends) and wanted.not_after is not None
            if is_asked_for or rules.past_issuer == "refuse":
                raise self._refuse(
                    "validity.issuer",
                    "the certificate would outlive its issuer",
                    end=end.isoformat(),
                    issuer=issuer.not_after.isoformat(),
                )
            end = issuer.not_after
        if end <= now:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the issuer's certificate has ended",
                rule="issuer.expired",
                values={"issuer": issuer.not_after.isoformat()},
            )
        return start, end

    def _start(self, issuer: IssuerFacts, at: datetime) -> datetime:
        return max(_second(at) - self._rules.backdate, issuer.not_before)

    def _exactly(
        self, issuer: IssuerFacts, now: datetime, wanted: Ends
    ) -> tuple[datetime, datetime]:
        """Return the ends that are wanted, and ours for one that is not."""
        rules = self._rules
        start = wanted.not_before or self._start(issuer, now)
        if wanted.not_before is None and wanted.not_after is not None:
            # That it begins before now is our doing, so it does not count against who asks.
            start = max(start, min(_second(now), wanted.not_after + _SECOND - rules.max))
        end = wanted.not_after or start + rules.default - _SECOND
        earliest = self._start(issuer, wanted.asked_at)
        if start < earliest:
            raise self._refuse(
                "validity.begin",
                "the period would begin in the past",
                begin=start.isoformat(),
                earliest=earliest.isoformat(),
            )
        if end <= now:
            raise self._refuse("validity.end", "the period is over", end=end.isoformat())
        if start > now:
            # What begins later ends no later than what may be had today.
            self._check_length(_second(now), end)
        return start, end

    def _check_length(self, start: datetime, end: datetime) -> None:
        length = end + _SECOND - start
        if not _SHORTEST <= length <= self._rules.max:
            raise self._refuse(
                "validity.max",
                "the profile does not allow this period",
                wanted=str(length),
                maximum=str(self._rules.max),
            )


def _second(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)
