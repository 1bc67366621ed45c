"""Logins of people by password, PIN, one-time password and codes that are sent to them.

Whatever is wrong, the client hears one sentence after the same work; the rule that said no goes
to the journal. All factors of an answer are evaluated before anything is decided, and the
decision is one transaction: locks are looked at, the code is used up, or the failure is counted.
Nothing that succeeded is remembered: the next login is judged anew.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event, Secret
from tmad.identity import lockout, naming
from tmad.identity import people as persons
from tmad.identity.access import Records
from tmad.identity.factors import STAGES, Attempt, CodeKind, Evidence, Factors, Stage
from tmad.identity.login_rules import LoginRules
from tmad.identity.passwords import Passwords
from tmad.identity.settlement import Case, Outcome, Sequel, Settlement
from tmad.identity.tokens import MOST, Tokens
from tmad.signer.seal import Seal
from tmad.storage import otp_tokens, people
from tmad.storage.batches import Batches
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey
from tmad.storage.otp_tokens import TokenRow
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from twisted.internet.defer import Deferred

__all__ = ["Accepted", "LoginRules", "Logins", "Prompt", "SentCodes"]

REFUSED: Final = "login refused"
_PROMPT_LIVES: Final = timedelta(minutes=5)
# A code that was mistyped may be typed again, where tries are left.
_ANOTHER_TRY: Final = frozenset({"otp.wrong", "otp.replayed", "login.code"})
_FORGOTTEN: Final = timedelta(days=2)  # longer than a source may have to wait
_TICK: Final = 0.05  # seconds
_NOTED_EACH: Final = timedelta(minutes=1)
_NOTED_SOURCES: Final = 10_000
_KEPT: Final = 4_096  # people that log in by a name, as their rows are now


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A person who has shown all that was asked for: "password", "otp", "pin", "sms", …"""

    person: PersonRow
    factors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What to ask next. The caller keeps it, and gives it back once."""

    text: str
    tenant: str
    name: str  # as it was typed
    rules: LoginRules
    stage: Stage
    tries_left: int
    expires_at: datetime
    password_is_right: bool = field(repr=False)
    password_at: datetime | None  # of the password that was judged


class SentCodes(Protocol):
    """The part of tmad/identity/codes.py that logins need."""

    async def send_login_code(self, person: PersonRow, kind: Literal["sms", "mail"]) -> str: ...

    def verify_in(
        self,
        connection: Connection,
        tenant: str,
        person: str,
        kind: CodeKind,
        code: Secret,
        now: datetime,
    ) -> bool: ...


class Purpose(Protocol):
    """What somebody logs in for."""

    async def weigh(self, person: PersonRow) -> Sequel | None:
        """Return what is written down if the login is accepted, in the same transaction."""


class Logins:
    """Judges the logins of people.

    ``later`` runs what nobody waits for, when the present answer is out. ``clock_is_wrong``
    tells that time steps mean nothing just now (O-23). ``pause`` lets seconds go by.
    """

    def __init__(
        self,
        database: Database,
        journal: Records,
        checks: Passwords,
        tokens: Tokens,
        seal: Seal,
        now: Clock,
        *,
        changes: Changes,
        codes: SentCodes | None = None,
        later: Callable[[Coroutine[Deferred[Any], Any, object]], object],
        clock_is_wrong: Callable[[], bool] = lambda: False,
        pause: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        self.journal = journal
        self._database = database
        self._settlement = Settlement(codes, now)
        self._settlements = Batches(database, self._settlement.settle)
        self._passwords = checks
        self._tokens = tokens
        self._seal = seal
        self._now = now
        self._codes = codes
        self._later = later
        self._factors = Factors(checks, tokens, now, clock_is_wrong)
        self._pause = pause
        self._noted: dict[tuple[str, str], datetime] = {}
        self._changes = changes
        self._people: KeptByKey[tuple[str, tuple[str, ...]], PersonRow | None]
        self._people = KeptByKey(largest=_KEPT)
        changes.listen(people.TOPIC, self._forget)

    async def begin(
        self,
        *,
        tenant: str,
        name: str,
        password: Secret,
        rules: LoginRules,
        source: str,
        via: str,
        purpose: Purpose | None = None,
    ) -> Accepted | Prompt:
        """Judge a name and what was typed beside it, or ask for the code that is missing.

        ``source`` is whose failures are counted together (a NAS, an address); ``via`` the door;
        ``purpose`` what is to be written down with an accepted login.
        Every refusal is Fault(UNAUTHENTICATED) with the same text.
        """
        attempt = await self._attempt(tenant, name, rules, source, via)
        evidence = await self._factors.of(attempt, password)
        if evidence.is_final:
            return await self._decide(attempt, evidence, purpose)
        return await self._challenge(attempt, evidence)

    async def answer(
        self,
        prompt: Prompt,
        code: Secret,
        *,
        source: str,
        via: str,
        purpose: Purpose | None = None,
    ) -> Accepted | Prompt:
        """Judge the answer to a challenge; another challenge while tries are left."""
        attempt = await self._attempt(prompt.tenant, prompt.name, prompt.rules, source, via)
        evidence = self._factors.of_code(attempt, code, prompt.stage)
        known = attempt.person
        is_same = known is not None and known.password_at == prompt.password_at
        mistake = "" if prompt.password_is_right and is_same else "login.password"
        is_late = self._now() >= prompt.expires_at
        if is_late:
            mistake = "login.prompt-expired"
        evidence = replace(
            evidence,
            factors=("password", *evidence.factors),
            mistake=mistake or evidence.mistake,
        )
        outcome = await self._settle(attempt, evidence, purpose)
        # Where a wrong password is asked for a code as well, every mistake looks the same.
        is_open = outcome.rule in _ANOTHER_TRY or prompt.rules.always_challenge
        if outcome.rule and is_open and not is_late and prompt.tries_left > 1:
            await self._refusal(attempt, outcome.rule)
            return replace(prompt, tries_left=prompt.tries_left - 1)
        return await self._conclude(attempt, evidence, outcome)

    # -- upkeep -------------------------------------------------------------------------------

    async def prune(self) -> int:
        """Forget the failures of sources and of nobodies that began two days ago."""
        return await self._database.write(lockout.prune, self._now() - _FORGOTTEN)

    # -- MSCHAPv2, whose method checks the answer itself --------------------------------------

    async def nt_hash(self, tenant: str, name: str, rules: LoginRules) -> Secret | None:
        """Return the NT hash of a person's password, where it was kept and one factor is enough.

        Whoever asks reports by ``conclude_mschap`` what the answer was, right or wrong.
        """
        return self._nt_hash_of(await self._attempt(tenant, name, rules, "", ""))

    def _nt_hash_of(self, attempt: Attempt) -> Secret | None:
        person = attempt.person
        if attempt.rules.mode != "password" or person is None or person.nt_hash is None:
            return None
        about = persons.about_nt_hash(attempt.tenant, person.name)
        return self._seal.open(person.nt_hash, about=about)

    async def conclude_mschap(
        self,
        *,
        tenant: str,
        name: str,
        nt_hash: Secret | None,
        rules: LoginRules,
        source: str,
        via: str,
    ) -> Accepted:
        """Judge a login whose MSCHAPv2 response was right by this hash; None: it was wrong.

        The client's last word may come long after its response: the password must still be the
        one that was shown.
        """
        attempt = await self._attempt(tenant, name, rules, source, via)
        known = None if nt_hash is None else self._nt_hash_of(attempt)
        is_enough = (
            nt_hash is not None
            and known is not None
            and hmac.compare_digest(known.reveal(), nt_hash.reveal())
        )
        evidence = Evidence(factors=("mschap",), mistake="" if is_enough else "login.password")
        return await self._decide(attempt, evidence)

    # -- the decision -------------------------------------------------------------------------

    async def _attempt(
        self, tenant: str, name: str, rules: LoginRules, source: str, via: str
    ) -> Attempt:
        began = time.monotonic()
        spellings = naming.spellings(name, rules.realms)
        person = await self._named(tenant, spellings)
        holder = person.name if person else spellings[-1]
        tokens = await self._database.lookup(_usable_tokens, tenant, holder)
        return Attempt(
            tenant=tenant,
            name=name,
            rules=rules.of_member(person.groups) if person and rules.by_group else rules,
            source=source,
            via=via,
            began=began,
            person=person,
            tokens=tokens,
        )

    async def _named(self, tenant: str, spellings: tuple[str, ...]) -> PersonRow | None:
        """Return whom a typed name means; the transaction looks once more how that one stands."""
        await self._changes.catch_up()
        person = self._people.get((tenant, spellings))
        if person is None:
            reading = self._database.lookup(_find, tenant, spellings)
            person = await self._people.fill((tenant, spellings), reading)
        return person

    def _forget(self, key: str) -> None:
        tenant = key.partition("/")[0]
        self._people.forget_where(lambda each: key == "*" or each[0] == tenant)

    async def _decide(
        self, attempt: Attempt, evidence: Evidence, purpose: Purpose | None = None
    ) -> Accepted:
        outcome = await self._settle(attempt, evidence, purpose)
        return await self._conclude(attempt, evidence, outcome)

    async def _conclude(self, attempt: Attempt, evidence: Evidence, outcome: Outcome) -> Accepted:
        if outcome.rule or outcome.person is None:
            raise await self._refusal(attempt, outcome.rule)
        if evidence.password is not None:
            self._renew_hash(outcome.person, evidence.password)
        factors = (*evidence.factors, *([outcome.factor] if outcome.factor else []))
        return Accepted(person=outcome.person, factors=factors)

    def _renew_hash(self, person: PersonRow, password: Secret) -> None:
        """Hash a right password anew where the settings want another cost by now."""
        stored = person.password_hash
        if stored is not None and self._passwords.is_outdated(stored):
            self._later(self._rehash(person, stored, password))

    async def _rehash(self, person: PersonRow, stored: str, password: Secret) -> None:
        about = persons.about(person.tenant, person.name)
        renewed = await self._passwords.hash(about, password)
        await self._database.write(people.rehash, person.tenant, person.name, stored, renewed)

    async def _challenge(self, attempt: Attempt, evidence: Evidence) -> Prompt:
        """Ask for the second half, if the first was right or if that must not be seen."""
        rules = attempt.rules
        if not rules.always_challenge:
            outcome = await self._settle(attempt, evidence)
            if outcome.rule:
                raise await self._refusal(attempt, outcome.rule)
        stage = STAGES[rules.mode]
        if stage != "otp" and not evidence.mistake:
            # Nobody waits for it: a NAS does not for long, and time would tell (O-05, O-03).
            self._later(self._send(attempt, stage))
        return Prompt(
            text=rules.prompt,
            tenant=attempt.tenant,
            name=attempt.name,
            rules=rules,
            stage=stage,
            tries_left=rules.tries,
            expires_at=self._now() + _PROMPT_LIVES,
            password_is_right=not evidence.mistake,
            password_at=attempt.person.password_at if attempt.person else None,
        )

    async def _send(self, attempt: Attempt, kind: Literal["sms", "mail"]) -> None:
        """Send a code to somebody who may log in just now; journal why it is not sent."""
        if attempt.person is None or self._codes is None:
            return
        rule = await self._database.write(self._settlement.obstacle_in, attempt)
        if rule:
            return
        try:
            await self._codes.send_login_code(attempt.person, kind)
        except Fault as fault:
            await self.journal.refuse(
                fault,
                tenant=attempt.tenant,
                actor=attempt.via,
                object=persons.subject(attempt.key),
                data={"login": attempt.rules.mode},
            )

    async def _settle(
        self, attempt: Attempt, evidence: Evidence, purpose: Purpose | None = None
    ) -> Outcome:
        case = Case(attempt, evidence)
        is_right = evidence.is_final and not evidence.mistake
        if purpose is not None and is_right and attempt.person is not None:
            case.sequel = await purpose.weigh(attempt.person)
        outcome = await self._settlements.add(case)
        for subject in outcome.locked:
            await self._note_lock(attempt, subject)
        return outcome

    # -- what is written down -----------------------------------------------------------------

    async def _refusal(self, attempt: Attempt, rule: str) -> Fault:
        """Return the one public refusal, journaled with its true reason."""
        fault = Fault(
            FaultCode.UNAUTHENTICATED,
            REFUSED,
            private=rule,
            rule=rule,
            values={
                "name": attempt.name[:128],
                "person": attempt.person.name if attempt.person else "",
                "mode": attempt.rules.mode,
                "source": attempt.source,
            },
        )
        if self._is_worth_noting(rule, attempt):
            await self.journal.refuse(
                fault,
                tenant=attempt.tenant,
                actor=attempt.via,
                object=persons.subject(attempt.key),
                data={"login": attempt.rules.mode},
            )
        await self._wait_for_tick(attempt)
        return fault

    async def _wait_for_tick(self, attempt: Attempt) -> None:
        """Refuse at one of few instants: the microseconds that a row more costs do not show."""
        if self._pause is not None:
            elapsed = time.monotonic() - attempt.began
            await self._pause(_TICK - elapsed % _TICK)

    def _is_worth_noting(self, rule: str, attempt: Attempt) -> bool:
        """A source that has to wait and goes on is noted once a minute, not each time."""
        if rule != "login.source":
            return True
        now = self._now()
        key = (attempt.tenant, attempt.source)
        if now - self._noted.get(key, now - _NOTED_EACH) < _NOTED_EACH:
            return False
        if len(self._noted) >= _NOTED_SOURCES:
            self._noted.clear()
        self._noted[key] = now
        return True

    async def _note_lock(self, attempt: Attempt, subject: str) -> None:
        lock = attempt.rules.lock
        is_source = subject.startswith("source:")
        data: dict[str, JSON] = {
            "failures": lock.source_failures if is_source else lock.failures,
            "minutes": lock.source_minutes if is_source else lock.minutes,
            "source": attempt.source,
        }
        await self.journal.write(
            Event(
                kind="login.locked",
                tenant=attempt.tenant,
                actor=attempt.via,
                object=subject,
                data=data,
            )
        )


def _find(connection: Connection, tenant: str, spellings: tuple[str, ...]) -> PersonRow | None:
    found = (people.by_name(connection, tenant, name) for name in spellings)
    person = next(filter(None, found), None)
    if person is None and "@" in spellings[0]:
        person = people.by_mail(connection, tenant, spellings[0])
    return person


def _usable_tokens(connection: Connection, tenant: str, person: str) -> tuple[TokenRow, ...]:
    tokens = otp_tokens.find_by_person(connection, tenant, person, MOST)
    return tuple([token for token in tokens if token.state != "disabled"])
