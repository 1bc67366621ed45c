"""What people present: each factor of an answer is evaluated, whatever the others came to.

Nothing is decided here and nothing changed; tmad/identity/login.py does that with the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from tmad.events import Clock, Secret
from tmad.identity import naming, otp
from tmad.identity import people as persons
from tmad.identity import tokens as token_names
from tmad.identity.login_rules import LoginRules
from tmad.identity.passwords import Passwords
from tmad.identity.tokens import Hit, Tokens
from tmad.storage.otp_tokens import TokenRow
from tmad.storage.people import PersonRow

Stage: TypeAlias = Literal["otp", "sms", "mail"]
CodeKind: TypeAlias = Literal["sms", "mail", "emergency"]

# What is asked for after a right password.
STAGES: Final[Mapping[str, Stage]] = {
    "password-then-otp": "otp",
    "password-then-sms": "sms",
    "password-then-mail": "mail",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One login: who it says it is, and whom that means."""

    tenant: str
    name: str
    rules: LoginRules
    source: str
    via: str
    began: float  # by the monotonic clock
    person: PersonRow | None
    tokens: tuple[TokenRow, ...]

    @property
    def key(self) -> str:
        """The name that counts: the person's own, or what a stranger typed."""
        if self.person is not None:
            return self.person.name
        return naming.spellings(self.name, self.rules.realms)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the factors of one answer came to, before anything is decided."""

    factors: tuple[str, ...]
    mistake: str = ""  # the rule that says no, where one of them was wrong
    password: Secret | None = None  # that was right, if the whole login is
    needs_token: bool = False
    hit: Hit | None = None
    code: Secret | None = None  # to be used up in the transaction, as one of these:
    kinds: tuple[CodeKind, ...] = ()
    is_final: bool = True  # or one half, to be followed by a code


class Factors:
    """Evaluates what each mode of login asks for."""

    def __init__(
        self,
        checks: Passwords,
        tokens: Tokens,
        now: Clock,
        clock_is_wrong: Callable[[], bool],
    ) -> None:
        self._passwords = checks
        self._tokens = tokens
        self._now = now
        self._clock_is_wrong = clock_is_wrong

    async def of(self, attempt: Attempt, typed: Secret) -> Evidence:
        """Evaluate what was typed first, beside the name."""
        match attempt.rules.mode:
            case "password":
                return await self._by_password(attempt, typed)
            case "otp":
                return self.of_code(attempt, typed)
            case "pin-otp":
                return await self._by_pin_and_code(attempt, typed)
            case "password-otp":
                return await self._by_password_and_code(attempt, typed)
        return replace(await self._by_password(attempt, typed), is_final=False)

    async def _by_password(self, attempt: Attempt, password: Secret) -> Evidence:
        mistake = await self._password_mistake(attempt, password)
        return Evidence(factors=("password",), password=password, mistake=mistake)

    def of_code(self, attempt: Attempt, code: Secret, stage: Stage = "otp") -> Evidence:
        """Evaluate a code that stands alone; one that was sent is left to the decision."""
        kinds: tuple[CodeKind, ...] = ("emergency",) if attempt.rules.emergency_codes else ()
        if stage != "otp":
            return Evidence(factors=(), code=code, kinds=(stage, *kinds))
        hit = self._hit(attempt, code.reveal())
        if hit is None and kinds and otp.typed_code(code.reveal()) is None:
            return Evidence(factors=(), code=code, kinds=kinds)
        return Evidence(
            factors=("otp",), needs_token=True, hit=hit, mistake=self._code_mistake(attempt, hit)
        )

    async def _by_pin_and_code(self, attempt: Attempt, typed: Secret) -> Evidence:
        hit, pin = self._split(attempt, typed.reveal())
        token = hit.token if hit else self._tokens.nobodys
        is_right = await self._passwords.is_right(
            token_names.about_pin(token), Secret(pin), token.pin_hash
        )
        mistake = self._code_mistake(attempt, hit)
        if not mistake and not is_right:
            mistake = "otp.no-pin" if token.pin_hash is None else "otp.pin"
        return Evidence(factors=("pin", "otp"), needs_token=True, hit=hit, mistake=mistake)

    async def _by_password_and_code(self, attempt: Attempt, typed: Secret) -> Evidence:
        hit, password = self._split(attempt, typed.reveal())
        wrong = await self._password_mistake(attempt, Secret(password))
        return Evidence(
            factors=("password", "otp"),
            password=Secret(password),
            needs_token=True,
            hit=hit,
            mistake=wrong or self._code_mistake(attempt, hit),
        )

    async def _password_mistake(self, attempt: Attempt, password: Secret) -> str:
        person = attempt.person
        stored = person.password_hash if person else None
        about = persons.about(attempt.tenant, attempt.key)
        if await self._passwords.is_right(about, password, stored):
            return ""
        return "login.password" if stored else "login.no-password"

    def _split(self, attempt: Attempt, typed: bytes) -> tuple[Hit | None, bytes]:
        """Part what was typed in one field: the last digits are some token's code.

        Without a hit, at the length of most tokens: something has to be tried as the rest.
        """
        hits = []
        for digits in sorted({token.digits for token in attempt.tokens}):
            of_length = tuple(t for t in attempt.tokens if t.digits == digits)
            hit = self._hit(replace(attempt, tokens=of_length), typed[-digits:])
            if hit is not None:
                hits.append(hit)
        if not hits:
            return None, typed[:-6]
        best = min(hits, key=lambda hit: hit.match.is_replay)
        return best, typed[: -best.token.digits]

    def _hit(self, attempt: Attempt, code: bytes) -> Hit | None:
        tokens = attempt.tokens or (self._tokens.nobodys,)
        hit = self._tokens.find_hit(tokens, code, attempt.rules.windows, self._now())
        return hit if attempt.tokens else None

    def _code_mistake(self, attempt: Attempt, hit: Hit | None) -> str:
        if hit is None:
            return "otp.wrong" if attempt.tokens else "otp.none"
        if hit.token.period and self._clock_is_wrong():
            return "otp.clock"
        return "otp.replayed" if hit.match.is_replay else ""
