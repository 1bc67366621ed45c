"""Notifications as documents: which records of the journal somebody wants to hear of, and how.

A notification hears of its own tenant's records only. Patterns know one sign, *, for any text.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from tmad.lifecycle.severity import Severity, severity_in
from tmad.managed.catalogue import Kind
from tmad.network import fetch
from tmad.storage import deliveries as rows
from tmad.storage.journal import Record
from tmad.wire import parsing

if TYPE_CHECKING:
    from sqlalchemy import Connection

KIND: Final = "notification"
IN_URL: Final = "{{secret}}"
FAILED: Final = "notification.failed"  # the record that a message was given up

NAMES: Final = (
    "summary",
    "events",
    "count",
    "kind",
    "object",
    "actor",
    "explain",
    "at",
    "tenant",
    "node",
    "notification",
)
_PLACEHOLDER: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_ADDRESS: Final = re.compile(r"[!#-'*+./0-9=?A-Z^_`a-z{|}~-]{1,64}@[^\s@<>\"\\]{1,253}")
_LOOPBACK: Final = re.compile(r"http://(127\.0\.0\.1|\[::1\]|localhost)[:/]")
_MOST_OCTETS: Final = 65_536  # of certificates

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
KindPattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*.-]{1,100}$")]


class When(BaseModel):
    """Which records count: everything that is given must fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: tuple[KindPattern, ...] = Field(
        min_length=1,
        max_length=50,
        description='Kinds of record: "certificate.revoked", "alarm.*", "*".',
    )
    unless: tuple[KindPattern, ...] = Field(
        default=(), max_length=50, description="Kinds left out of them."
    )
    severity: Literal["", "critical", "error", "warning", "notice"] = Field(
        default="", description="At least this grave. Empty: whatever it is."
    )
    actors: tuple[Pattern, ...] = Field(
        default=(), max_length=50, description='Who did it: "person:*". Empty: anybody.'
    )
    objects: tuple[Pattern, ...] = Field(
        default=(), max_length=50, description="What it happened to. Empty: anything."
    )
    data: Mapping[str, Pattern] = Field(
        default={},
        max_length=20,
        description='What the record must say: { profile = "tls-*" }.',
    )


class Mail(BaseModel):
    """A message to mailboxes; how mail leaves stands in [delivery.mail] of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: tuple[str, ...] = Field(min_length=1, max_length=20, description="Mail addresses.")
    subject: str = Field(default="[tmad] {{summary}}", min_length=1, max_length=200)
    text: str = Field(
        default="{{events}}\n\n-- \n{{notification}} of {{tenant}}, sent by tmad on {{node}}\n",
        min_length=1,
        max_length=10_000,
        description="{{events}} is the list of what happened; docs/notifications.md has the rest.",
    )

    @field_validator("to")
    @classmethod
    def _addresses(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        for address in to:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f"{address!r} is not a mail address")
        return to

    @field_validator("subject", "text")
    @classmethod
    def _placeholders_are_known(cls, template: str) -> str:
        for name in _PLACEHOLDER.findall(template):
            if name not in NAMES:
                raise ValueError(f"{{{{{name}}}}} is not known; {', '.join(NAMES)} are")
        return template

    @field_validator("subject")
    @classmethod
    def _subject_is_one_line(cls, subject: str) -> str:
        if not subject.isprintable():
            raise ValueError("must be one printable line")
        return subject


class Hook(BaseModel):
    """A signed POST to a service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        max_length=2_000,
        description="Where to; http only on this machine. May hold {{secret}} after the host.",
    )
    secret: str = Field(
        default="",
        description="Sealed, for {{secret}} in the URL; `tmad notification secret` sets it.",
    )
    key: str = Field(
        default="",
        description="Sealed key that signs; `tmad notification secret` sets it. Empty: unsigned.",
    )
    format: Literal["json", "chat"] = Field(
        default="json",
        description="json says everything; chat is one text, as Slack and Mattermost take it.",
    )
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    authorities: str = Field(
        default="",
        max_length=_MOST_OCTETS,
        description="CA certificates (PEM) its TLS certificate may come from. Empty: this "
        "machine's.",
    )

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str) -> str:
        if IN_URL in "/".join(url.split("/", 3)[:3]):
            raise ValueError(f"{IN_URL} may stand after the host only")
        if (mistake := fetch.mistake(url.replace(IN_URL, "x"))) is not None:
            raise ValueError(mistake)
        if not url.startswith("https://") and not _LOOPBACK.match(f"{url}/"):
            raise ValueError("http is for this machine only; use https")
        return url

    @field_validator("key", "secret")
    @classmethod
    def _secrets_are_sealed(cls, sealed: str) -> str:
        try:
            b64decode(sealed, validate=True)
        except ValueError:
            raise ValueError("must be sealed; tmad notification secret does it") from None
        return sealed

    @field_validator("authorities")
    @classmethod
    def _authorities_are_certificates(cls, pem: str) -> str:
        if pem:
            try:
                parsing.certificates(pem.encode())
            except ValueError as error:
                raise ValueError(f"not PEM certificates: {error}") from None
        return pem

    @model_validator(mode="after")
    def _secret_has_its_place(self) -> Hook:
        if (IN_URL in self.url) != bool(self.secret):
            raise ValueError(f"{IN_URL} in the url and a secret belong together")
        return self


class NotificationDocument(BaseModel):
    """Who is told of what, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(default="", max_length=500)
    enabled: bool = True
    when: When
    mail: Mail | None = None
    webhook: Hook | None = None
    digest_minutes: int = Field(
        default=0, ge=0, le=10_080, description="Gather this long into one message; 0: at once."
    )
    per_hour: int = Field(
        default=20,
        ge=1,
        le=1_000,
        description="Messages in any hour; what is more goes into one digest.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> NotificationDocument:
        if (self.mail is None) == (self.webhook is None):
            raise ValueError("mail or webhook: one of them must be given")
        return self

    @property
    def way(self) -> Literal["mail", "webhook"]:
        """How it goes out."""
        return "webhook" if self.mail is None else "mail"


def kind() -> Kind:
    """Return the managed kind "notification"; with one goes what it has not sent yet."""

    def forget(connection: Connection, tenant: str, name: str, document: Any) -> None:
        now = connection.info["tmad.now"]()
        rows.give_up(connection, tenant, name, "the notification was deleted", now)

    return Kind(name=KIND, model=NotificationDocument, check_delete=forget)


@dataclass(frozen=True, slots=True)
class Rule:
    """One notification, ready to be asked about records; ``since`` is when it was created."""

    tenant: str
    name: str
    document: NotificationDocument
    since: datetime

    def hears(self, tenant: str, kind: str) -> bool:
        """Tell whether any record of a kind and tenant can be told of."""
        when = self.document.when
        return (
            self.document.enabled
            and tenant == self.tenant
            and _fits(when.events, kind)
            and not _fits(when.unless, kind)
        )

    def wants(self, record: Record) -> bool:
        """Tell whether a record is to be told of that the rule hears."""
        when = self.document.when
        if record.at < self.since:
            return False
        if record.kind == FAILED and not self._may_tell_of_failure(record):
            return False
        return (
            (not when.severity or self._is_grave(record))
            and (not when.actors or _fits(when.actors, record.actor))
            and (not when.objects or _fits(when.objects, record.object))
            and (not when.data or _says(record, when.data))
        )

    def _is_grave(self, record: Record) -> bool:
        least = Severity[self.document.when.severity.upper()]
        return severity_in(record.kind, record.data) <= least

    def _may_tell_of_failure(self, record: Record) -> bool:
        # A notification that fails must not be told to itself, nor to whoever wants just all.
        named = any(pattern.startswith("notification.") for pattern in self.document.when.events)
        return named and record.object != f"{KIND}/{self.name}"


def matches(pattern: str, text: str) -> bool:
    """Tell whether a text fits a pattern, in time that grows with the two lengths' product."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    last = rest.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    place, end = len(first), len(text) - len(last)
    for part in rest:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _fits(patterns: Iterable[str], text: str) -> bool:
    return any(matches(pattern, text) for pattern in patterns)


def _says(record: Record, wanted: Mapping[str, str]) -> bool:
    data = json.loads(record.data)
    return all(
        key in data and any(matches(pattern, text) for text in _texts(data[key]))
        for key, pattern in wanted.items()
    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value if isinstance(value, str) else json.dumps(value)]
