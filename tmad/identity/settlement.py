"""The transaction that settles logins: locks are looked at, codes used up, failures counted.

Logins of one moment share it. Those against which nothing is known yet are looked at and used up
all at once; each of the others goes its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity import lockout
from tmad.identity import tokens as token_names
from tmad.identity.factors import Attempt, Evidence
from tmad.identity.lockout import Lockout, Subjects
from tmad.storage import otp_tokens, people
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.identity.login import SentCodes


class Sequel(NamedTuple):
    """What is written in the transaction that accepts a login, for all of one kind at once."""

    write: Callable[[Connection, Sequence[Any]], object]
    entry: Any


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True)
class Case:
    """One login to be settled."""

    attempt: Attempt
    evidence: Evidence
    sequel: Sequel | None = None


@dataclass(slots=True)
class Outcome:
    """The decision: accepted without a ``rule``."""

    rule: str
    person: PersonRow | None = None
    factor: str = ""  # how the code was accepted that ``Evidence.kinds`` allowed
    locked: tuple[str, ...] = ()


class Settlement:
    """Settles logins, inside the caller's transaction."""

    def __init__(self, codes: SentCodes | None, now: Clock) -> None:
        self._codes = codes
        self._now = now

    def settle(self, connection: Connection, cases: Sequence[Case]) -> list[Outcome]:
        """Decide, and make it so. A refusal is returned: an exception would undo its count."""
        now = self._now()
        # All of them before anything else: two transactions never wait for each other.
        lockout.hold(connection, [(case.attempt.tenant, subjects_of(case)) for case in cases])
        outcomes: list[Outcome | None] = [None] * len(cases)
        for tenant, numbers in _together(cases).items():
            if len(numbers) > 1:
                self._settle_together(connection, tenant, cases, numbers, outcomes, now)
        settled = [
            self._settle_alone(connection, case, now) if outcome is None else outcome
            for case, outcome in zip(cases, outcomes, strict=True)
        ]
        _write_sequels(connection, cases, settled)
        return settled

    def _settle_together(
        self,
        connection: Connection,
        tenant: str,
        cases: Sequence[Case],
        numbers: Sequence[int],
        outcomes: list[Outcome | None],
        now: datetime,
    ) -> None:
        """Accept those against which there is nothing; leave the others as they are."""
        subjects = {number: subjects_of(cases[number]) for number in numbers}
        before = lockout.failures_of(connection, tenant, list(subjects.values()))
        names = [case.attempt.key for case in map(cases.__getitem__, numbers)]
        standings = people.standings(connection, tenant, names)
        advances: list[otp_tokens.Advance] = []
        for number in numbers:
            case = cases[number]
            person = people.with_standing(case.attempt.person, standings)
            guard = Lockout(connection, tenant, subjects[number], case.attempt.rules.lock, before)
            if guard.obstacle(now) or _obstacle(case, person, now):
                continue
            if case.evidence.hit is not None:
                advances.append(token_names.advance_of(case.evidence.hit, now))
            guard.succeed()
            outcomes[number] = Outcome("", person)
        if otp_tokens.advance_all(connection, advances) != len(advances):
            # Somebody else has used one of the codes: the transaction is undone, and each login
            # tried alone, which tells whose it was.
            raise Fault(FaultCode.CONFLICT, "a code was used meanwhile", rule="otp.replayed")

    def _settle_alone(self, connection: Connection, case: Case, now: datetime) -> Outcome:
        attempt, evidence = case.attempt, case.evidence
        guard = Lockout(connection, attempt.tenant, subjects_of(case), attempt.rules.lock)
        obstacle = guard.obstacle(now)
        # Read again: whoever was disabled while the password was checked is disabled.
        person = attempt.person and people.as_now(connection, attempt.person)
        rule = obstacle or _obstacle(case, person, now)
        factor = ""
        if not rule and evidence.is_final:
            rule, factor = self._use_up(connection, attempt, evidence, now)
        if rule:
            return Outcome(rule, locked=guard.fail(now, obstacle))
        if evidence.is_final:
            guard.succeed()
        return Outcome("", person, factor)

    def _use_up(
        self, connection: Connection, attempt: Attempt, evidence: Evidence, now: datetime
    ) -> tuple[str, str]:
        """Use the code up that makes the login; return the rule against it, or how it counts."""
        if evidence.hit is not None:
            advance = token_names.advance_of(evidence.hit, now)
            is_used = otp_tokens.advance_all(connection, [advance]) == 1
            return ("" if is_used else "otp.replayed"), ""
        if evidence.code is None:
            return ("otp.wrong" if evidence.needs_token else ""), ""
        for kind in evidence.kinds:
            if self._codes is not None and self._codes.verify_in(
                connection, attempt.tenant, attempt.key, kind, evidence.code, now
            ):
                return "", kind
        return "login.code", ""

    def obstacle_in(self, connection: Connection, attempt: Attempt) -> str:
        """Return the rule by which somebody cannot log in just now, whatever is presented."""
        now = self._now()
        subjects = subjects_of(Case(attempt, Evidence(factors=())))
        guard = Lockout(connection, attempt.tenant, subjects, attempt.rules.lock)
        return guard.obstacle(now) or closed(attempt.person, now)


def _together(cases: Sequence[Case]) -> dict[str, list[int]]:
    """Return the numbers of cases that nothing is known against yet, by their tenant.

    Of one person the first one: what follows is settled after it.
    """
    found: dict[str, list[int]] = {}
    seen: set[tuple[str, str]] = set()
    for number, case in enumerate(cases):
        attempt, evidence = case.attempt, case.evidence
        key = (attempt.tenant, attempt.key)
        is_ready = evidence.is_final and not evidence.mistake and evidence.code is None
        has_proof = evidence.hit is not None or not evidence.needs_token
        if attempt.person is not None and is_ready and has_proof and key not in seen:
            found.setdefault(attempt.tenant, []).append(number)
        seen.add(key)
    return found


def _write_sequels(
    connection: Connection, cases: Iterable[Case], outcomes: Iterable[Outcome]
) -> None:
    kinds: dict[Callable[[Connection, Sequence[Any]], object], list[Any]] = {}
    for case, outcome in zip(cases, outcomes, strict=True):
        if case.sequel is not None and not outcome.rule:
            kinds.setdefault(case.sequel.write, []).append(case.sequel.entry)
    for write, entries in kinds.items():
        write(connection, entries)


def subjects_of(case: Case) -> Subjects:
    """Return whose failures count."""
    attempt, evidence = case.attempt, case.evidence
    tried: tuple[str, ...] | None = None
    token = ""
    if evidence.needs_token:
        tried = tuple(map(token_names.subject, attempt.tokens))
        token = token_names.subject(evidence.hit.token) if evidence.hit else "".join(tried[:1])
    return Subjects.of(
        attempt.key,
        is_known=attempt.person is not None,
        tokens=tried,
        token=token,
        source=attempt.source,
    )


def closed(person: PersonRow | None, now: datetime) -> str:
    """Return the rule by which an account lets nobody in, or ""."""
    if person is None:
        return "login.unknown"
    if person.disabled_at is not None:
        return "login.disabled"
    return "" if person.is_usable(now) else "login.expired"


def _obstacle(case: Case, person: PersonRow | None, now: datetime) -> str:
    """Return the rule against a login by somebody who is like that now, or ""."""
    rule = closed(person, now) or case.evidence.mistake
    judged = case.attempt.person
    if not rule and judged and person and judged.password_at != person.password_at:
        return "login.password"
    return rule
