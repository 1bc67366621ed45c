"""Challenges that an outside service validates: Jamf, Intune, or something home-made.

The question is one JSON object by POST, signed with a key that both sides know::

    {"endpoint": "scep/phones", "transaction": "…", "subject": "CN=…", "names": ["dns:…"],
     "csr": "-----BEGIN CERTIFICATE REQUEST-----…", "challenge": "…"}

    X-Tmad-Signature: t=1764000000,v1=HEX      HMAC-SHA-256 over "1764000000." and the body

The answer is 200 with ``{"allow": true}`` or ``{"allow": false, "reason": "…"}``. Anything
else means that nobody knows: the request is neither granted nor refused, but told to come back.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.credentials import refusal
from tmad.identity.httpclient import FAILURES, ask, verifying_agent
from tmad.signer.seal import Seal

_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,60}")
_URL: Final = re.compile(r"(https?)://(\[[0-9a-fA-F:]+\]|[^/:@\s]+)(:\d+)?(/[^\s#]*)?")


class Webhook(BaseModel):
    """Where and how one endpoint asks whether a challenge is good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="Where the question is posted; http only on this machine.")
    key: str = Field(
        default="",
        description="Sealed key that signs the question; `tmad endpoint webhook-key` sets it.",
    )
    header: str = Field(default="X-Tmad-Signature", description="That carries the signature.")
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    ca_file: str = Field(
        default="", description="PEM file of the authorities trusted for its TLS certificate."
    )

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str) -> str:
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError("must be an http or https URL without user, password and fragment")
        # A challenge in the clear may travel inside this machine only.
        if found[1] == "http" and found[2] not in ("127.0.0.1", "[::1]", "localhost"):
            raise ValueError("http is for this machine only; use https")
        return url

    @field_validator("key")
    @classmethod
    def _key_is_sealed(cls, key: str) -> str:
        try:
            b64decode(key, validate=True)
        except ValueError:
            raise ValueError("must be a sealed key; tmad endpoint webhook-key makes it") from None
        return key

    @field_validator("header")
    @classmethod
    def _header_is_a_token(cls, header: str) -> str:
        if not _HEADER.fullmatch(header):
            raise ValueError("must be a header name")
        return header


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the outside service learns of one request."""

    endpoint: str
    transaction: str
    subject: str
    names: tuple[str, ...]
    csr_pem: str
    challenge: Secret


class _Answer(BaseModel):
    allow: StrictBool
    reason: str = Field(default="", max_length=1000)


AgentMaker = Callable[[IReactorTime, Webhook], IAgent]


class Webhooks:
    """Asks the outside services."""

    def __init__(
        self,
        reactor: IReactorTime,
        seal: Seal,
        now: Clock,
        *,
        agent: AgentMaker | None = None,
    ) -> None:
        self._reactor = reactor
        self._seal = seal
        self._now = now
        self._agent = agent or _verifying_agent

    async def check(self, webhook: Webhook, question: Question) -> str:
        """Return the reason with which the service allows the request.

        Raise the neutral Fault(UNAUTHENTICATED) when it says no, Fault(UNAVAILABLE) when it
        does not give an answer that can be understood in time.
        """
        body = json.dumps(
            {
                "endpoint": question.endpoint,
                "transaction": question.transaction,
                "subject": question.subject,
                "names": list(question.names),
                "csr": question.csr_pem,
                "challenge": question.challenge.reveal().decode("utf-8", "replace"),
            }
        ).encode()
        headers = Headers({"Content-Type": ["application/json"], "User-Agent": ["tmad"]})
        if webhook.key:
            headers.addRawHeader(webhook.header, self._signature(question.endpoint, webhook, body))
        try:
            status, answer = await self._post(webhook, headers, body)
        except FAILURES as error:
            raise _unknown(webhook, f"{type(error).__name__}: {error}") from None
        if status != 200:
            # A redirect is not followed either: the question holds a secret.
            raise _unknown(webhook, f"HTTP status {status}")
        try:
            verdict = _Answer.model_validate_json(answer)
        except ValidationError:
            raise _unknown(webhook, "an answer that is not {allow, reason}") from None
        if not verdict.allow:
            raise refusal("webhook.denied", url=webhook.url, reason=verdict.reason)
        return verdict.reason

    def seal_key(self, endpoint: str, key: Secret) -> str:
        """Return what an endpoint's document may hold of the signing key."""
        return b64encode(self._seal.seal(key.reveal(), about=f"webhook {endpoint}")).decode()

    def _signature(self, endpoint: str, webhook: Webhook, body: bytes) -> str:
        key = self._seal.open(b64decode(webhook.key), about=f"webhook {endpoint}")
        stamp = str(int(self._now().timestamp()))
        digest = hmac.digest(key.reveal(), stamp.encode() + b"." + body, "sha256")
        return f"t={stamp},v1={digest.hex()}"

    async def _post(self, webhook: Webhook, headers: Headers, body: bytes) -> tuple[int, bytes]:
        agent = self._agent(self._reactor, webhook)
        return await ask(
            self._reactor,
            agent,
            "POST",
            webhook.url,
            headers,
            body,
            patience=webhook.timeout_seconds,
        )


def _verifying_agent(reactor: IReactorTime, webhook: Webhook) -> IAgent:
    return verifying_agent(reactor, webhook.ca_file, webhook.timeout_seconds)


def _unknown(webhook: Webhook, why: str) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "the challenge cannot be checked at the moment",
        private=f"{webhook.url}: {why}",
        retry_after=30,
        rule="webhook.unavailable",
        values={"url": webhook.url, "failure": why},
    )
