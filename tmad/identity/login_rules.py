"""What a policy says about logins by password and code: documents, as pydantic models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from tmad.identity import otp

Mode: TypeAlias = Literal[
    "password",
    "otp",
    "pin-otp",
    "password-otp",
    "password-then-otp",
    "password-then-sms",
    "password-then-mail",
]


class LockRules(BaseModel):
    """When failed logins lock a person or a token, and when a source has to wait."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    failures: int = Field(
        default=10, ge=1, le=1_000, description="In a row, that lock a person or a token."
    )
    minutes: int = Field(
        default=15, ge=0, le=10_080, description="Of a lock; 0: until an administrator ends it."
    )
    source_failures: int = Field(
        default=600,
        ge=0,
        le=1_000_000,
        description="From one source, after which it must wait; 0: without limit.",
    )
    source_minutes: int = Field(
        default=10, ge=1, le=1_440, description="In which those count, and of the wait."
    )


class GroupMode(BaseModel):
    """Another mode for the members of some groups."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: tuple[str, ...] = Field(min_length=1, max_length=100, description="Any of these.")
    mode: Mode = Field(description="What their members must present.")


class LoginRules(BaseModel):
    """What people must present, and what happens to those who cannot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = Field(
        default="password",
        description="password; otp; pin-otp and password-otp in one field; password-then-otp,"
        " password-then-sms and password-then-mail by a challenge.",
    )
    by_group: tuple[GroupMode, ...] = Field(
        default=(),
        max_length=100,
        description="Other modes for members of groups; the first that fits holds.",
    )
    realms: tuple[str, ...] = Field(
        default=(), max_length=100, description="name@REALM and REALM\\name mean the name alone."
    )
    emergency_codes: bool = Field(
        default=False, description="Accept a printed code where a one-time code stands alone."
    )
    ahead: int = Field(
        default=10, ge=0, le=100, description="Counters that an HOTP token may be ahead."
    )
    steps: int = Field(
        default=1, ge=0, le=10, description="Time steps that a TOTP token may be off, each way."
    )
    tries: int = Field(default=1, ge=1, le=3, description="Answers to one challenge.")
    always_challenge: bool = Field(
        default=False,
        description="Ask for the code after a wrong password as well: nobody can try passwords"
        " without having a code. Nothing is sent then.",
    )
    prompt: str = Field(
        default="Enter the code:", min_length=1, max_length=200, description="The challenge."
    )
    lock: LockRules = Field(default=LockRules())

    def of_member(self, groups: Iterable[str]) -> LoginRules:
        """Return the rules for somebody who is in these groups."""
        mine = {group.casefold() for group in groups}
        for rule in self.by_group:
            if any(group.casefold() in mine for group in rule.groups):
                return self.model_copy(update={"mode": rule.mode})
        return self

    @property
    def windows(self) -> otp.Windows:
        """Where codes are looked for."""
        return otp.Windows(self.ahead, self.steps)
