"""People, tokens and logins on one database, as every test of them needs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from tests.support import Clock, drive
from tmad.config import PasswordSection
from tmad.errors import Fault, FaultCode
from tmad.events import Event, Secret
from tmad.identity import otp
from tmad.identity.actors import Actor
from tmad.identity.devices import Devices
from tmad.identity.login import Accepted, LoginRules, Logins, Prompt, Purpose
from tmad.identity.passwords import Passwords
from tmad.identity.people import Details, People
from tmad.identity.tokens import Tokens
from tmad.identity.tokenseed import token_seed
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.otp_tokens import TokenRow

ADMIN = Actor.administrator("local:test")
PUBLIC = "login refused"
# The smallest that the settings allow: tests hash often.
CHEAP = PasswordSection(memory_kib=8_192, iterations=1)
# RFC 4226, appendix D.
SEED = b"12345678901234567890"


class Notes:
    """A journal that keeps what was written to it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refused: list[Fault] = []

    def append(self, connection: object, *events: Event) -> None:
        self.events += events

    async def write(self, *events: Event) -> None:
        self.events += events

    async def refuse(self, fault: Fault, **about: Any) -> str:
        self.refused.append(fault)
        fault.explain_id = f"TEST-{len(self.refused):04}"
        return fault.explain_id

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class LoginWorld:
    """One process; ``database`` may be shared with another world."""

    def __init__(
        self,
        database: Database | None = None,
        *,
        clock: Clock | None = None,
        journal: Any = None,
        reactor: Any = None,
        codes: Any = None,
        settings: PasswordSection = CHEAP,
    ) -> None:
        self.clock = clock or Clock()
        self.database = database or Database.in_memory(clock=self.clock)
        self.journal: Any = journal or Notes()
        self.seal = Seal(b"k" * 32)
        self.passwords = Passwords(self.seal, settings, reactor)
        shared = (self.database, self.journal, self.passwords, self.seal, self.clock)
        self.people = People(*shared)
        self.tokens = Tokens(*shared)
        self.devices = Devices(self.database, self.journal, self.clock)
        self.clock_is_wrong = False
        self.later: list[Coroutine[Any, Any, object]] = []
        self.logins = Logins(
            self.database,
            self.journal,
            self.passwords,
            self.tokens,
            self.seal,
            self.clock,
            changes=Changes(self.database),
            codes=codes,
            later=self.later.append,
            clock_is_wrong=lambda: self.clock_is_wrong,
        )

    async def person(self, name: str = "bob", password: str = "", **details: Any) -> None:
        """Add somebody, with a password if one is given."""
        await self.people.create(ADMIN, "default", name, Details(**details))
        if password:
            await self.people.set_password(ADMIN, "default", name, Secret(password))

    async def token(
        self,
        person: str | None = "bob",
        *,
        serial: str = "T1",
        kind: str = "hotp",
        seed: bytes = SEED,
        **options: Any,
    ) -> TokenRow:
        """Take over a token with a known seed."""
        made = token_seed(serial=serial, kind=kind, seed=seed, person=person or "", **options)
        done = await self.tokens.import_(ADMIN, "default", [made])
        assert done.added == (serial,), done
        return (await self.tokens.show(ADMIN, "default", serial)).of

    async def login(
        self,
        typed: str | bytes,
        name: str = "bob",
        *,
        mode: Any = "otp",
        source: str = "192.0.2.1",
        rules: LoginRules | None = None,
        purpose: Purpose | None = None,
        **options: Any,
    ) -> Accepted | Prompt:
        """Present something beside a name."""
        return await self.logins.begin(
            tenant="default",
            name=name,
            password=Secret(typed),
            rules=rules or LoginRules(mode=mode, **options),
            source=source,
            via="radius/test",
            purpose=purpose,
        )

    async def answer(self, prompt: Accepted | Prompt, typed: str) -> Accepted | Prompt:
        """Present the answer to a challenge."""
        assert isinstance(prompt, Prompt)
        return await self.logins.answer(
            prompt, Secret(typed), source="192.0.2.1", via="radius/test"
        )

    def do_later(self) -> None:
        """Do what nobody waits for."""
        while self.later:
            drive(self.later.pop(0))

    def totp(self, seed: bytes = SEED, *, steps: int = 0, period: int = 30, **shape: Any) -> str:
        """Return what a token shows now, or so many steps from now."""
        return otp.hotp(seed, otp.step_at(self.clock(), period) + steps, **shape)

    def allowed(self, coroutine: Any) -> Accepted:
        """Run a login that must succeed."""
        outcome = drive(coroutine)
        assert isinstance(outcome, Accepted)
        return outcome

    def refused(self, coroutine: Any) -> str:
        """Run a login that must be refused, in the one public way; return the true reason."""
        with pytest.raises(Fault) as caught:
            drive(coroutine)
        fault = caught.value
        assert (fault.code, fault.detail) == (FaultCode.UNAUTHENTICATED, PUBLIC)
        return fault.rule


def hotp(counter: int, seed: bytes = SEED, **shape: Any) -> str:
    """Return a code of a counter."""
    return otp.hotp(seed, counter, **shape)
