"""What is asked of a validator, what it answers, and who keeps the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, Protocol, TypeAlias

from cryptography import x509

from tmad.errors import Fault, FaultCode
from tmad.events import JSON

Network: TypeAlias = IPv4Network | IPv6Network


class Problem(StrEnum):
    """The last word of an ACME problem type, in ``values["problem"]`` of a refusal."""

    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    INCORRECT_RESPONSE = "incorrectResponse"
    UNAUTHORIZED = "unauthorized"
    CAA = "caa"
    BAD_ATTESTATION = "badAttestationStatement"  # draft-ietf-acme-device-attest
    SERVER_INTERNAL = "serverInternal"


class ChallengeKind(StrEnum):
    """The ways to show control of an identifier, as the wire names them."""

    HTTP_01 = "http-01"
    DNS_01 = "dns-01"
    DNS_ACCOUNT_01 = "dns-account-01"
    TLS_ALPN_01 = "tls-alpn-01"
    DEVICE_ATTEST_01 = "device-attest-01"


class Identifier(NamedTuple):
    """What is to be controlled; ``value`` is canonical and without a wildcard's ``*.``."""

    type: str  # dns, ip, permanent-identifier, hardware-module
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRules:
    """What one endpoint lets a validator do and demands of it.

    Without ``allowed_networks`` only public addresses are asked; with it, these and no others.
    Loopback, link-local, multicast, reserved and metadata addresses and this machine's own are
    refused in either case, but for a network of ``allowed_networks`` that lies in loopback or
    is that one address. ``denied_networks`` are refused always. ``resolvers`` are ``ADDRESS``
    or ``ADDRESS:PORT`` (IPv6 in brackets); empty stands for the system's. CAA is looked at
    where ``caa_identities`` names this authority.
    ``attestation_roots`` are the makers whose devices may attest their keys.
    """

    allowed_networks: tuple[Network, ...] = ()
    denied_networks: tuple[Network, ...] = ()
    resolvers: tuple[str, ...] = ()
    http_port: int = 80
    tls_port: int = 443
    caa_identities: tuple[str, ...] = ()
    attestation_roots: tuple[x509.Certificate, ...] = ()
    attestation_formats: tuple[str, ...] = ("apple", "tpm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One challenge that a client said is ready.

    ``account_url`` is what CAA's accounturi and dns-account-01 name; ``response`` is the
    attestation object of device-attest-01, decoded from base64url.
    """

    kind: ChallengeKind
    identifier: Identifier
    is_wildcard: bool = False
    token: str
    key_authorization: str
    account_url: str
    response: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Control is shown. ``record`` says how, as a validation record's JSON objects.

    ``attested_key`` is the SubjectPublicKeyInfo that a device attested: only a request for
    this key may be issued to it.
    """

    record: tuple[Mapping[str, JSON], ...] = ()
    attested_key: bytes | None = None


class Validator(Protocol):
    """Answers questions; tmad.ca.validation.validators.Validators is the one in force."""

    async def validate(self, question: Question, rules: ValidationRules) -> Validated:
        """Return how control was shown, in 10 s for each attempt and CAA.

        Raise Fault with rule "acme.validation", ``values["problem"]`` a Problem, and what was
        tried in the other values. It is not tried again here.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One attempt that a queue has handed out; ``attempt`` counts from 1."""

    id: str
    question: Question
    rules: ValidationRules
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attempt: Validated, or a Fault; then ``again_in`` seconds or never."""

    result: Validated | Fault
    again_in: float | None = None


class ValidationQueue(Protocol):
    """Keeps the challenges in "processing", durably, for all workers: the ACME service."""

    async def take(self, limit: int, lease: float) -> Sequence[Task]:
        """Hand out up to ``limit`` attempts that are due, to nobody else for ``lease`` s.

        The attempt is counted as it is handed out: one that its worker did not live to tell
        of is due again when the lease has ended, and fails for good after the last.
        """

    async def settle(self, task: Task, outcome: Outcome) -> None:
        """Write down what came of it; nothing happens if the challenge is settled already."""


def refusal(problem: Problem, detail: str, **values: str) -> Fault:
    """Return the refusal of a validator; ``detail`` reaches the client."""
    return Fault(
        FaultCode.REJECTED,
        detail,
        rule="acme.validation",
        values={"problem": problem.value, **{name: text[:200] for name, text in values.items()}},
    )
