"""What is asked of a validator and what it answers."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, Protocol, TypeAlias

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tmad.errors import Fault, FaultCode
from tmad.events import JSON
from tmad.wire import parsing

Network: TypeAlias = IPv4Network | IPv6Network

_RESOLVER = re.compile(r"(?:([0-9.]+)|([0-9a-f:]+)|\[([0-9a-f:]+)\])(?::(\d{1,5}))?")


class Problem(StrEnum):
    """The last word of an ACME problem type, in ``values["problem"]`` of a refusal."""

    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    INCORRECT_RESPONSE = "incorrectResponse"
    UNAUTHORIZED = "unauthorized"
    CAA = "caa"
    MALFORMED = "malformed"
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

    type: str  # dns, ip, permanent-identifier
    value: str


class ValidationRules(BaseModel):
    """What one endpoint lets a validator do and demands of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_networks: tuple[Network, ...] = Field(
        default=(),
        max_length=100,
        description="Where names and addresses may be that are validated; empty: public "
        "addresses. Loopback, link-local and metadata addresses and this machine's own only "
        "if a network names just them.",
    )
    denied_networks: tuple[Network, ...] = Field(
        default=(), max_length=100, description="Where they may not be in any case."
    )
    resolvers: tuple[str, ...] = Field(
        default=(),
        max_length=8,
        description="Name servers, ADDRESS or ADDRESS:PORT, best those that know the names "
        "themselves; empty: the system's.",
    )
    http_port: int = Field(default=80, ge=1, le=65_535, description="Where http-01 is asked.")
    tls_port: int = Field(default=443, ge=1, le=65_535, description="Where tls-alpn-01 is asked.")
    caa_identities: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="Domain names of this authority in CAA records; empty: they are not read.",
    )
    attestation_formats: tuple[str, ...] = Field(
        default=("apple", "tpm"), description="What device-attest-01 takes: apple, tpm, step."
    )
    attestation_roots: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="Makers whose devices may attest keys: certificates in PEM.",
    )

    @field_validator("resolvers")
    @classmethod
    def _resolvers_are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            name_server(each)
        return value

    @field_validator("attestation_formats")
    @classmethod
    def _formats_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if each not in ("apple", "tpm", "step"):
                raise ValueError(f"{each!r} is none of apple, tpm, step")
        return value

    @field_validator("attestation_roots")
    @classmethod
    def _roots_are_certificates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            root(each)
        return value


def name_server(text: str) -> tuple[str, int]:
    """Return address and port of a name server; ValueError for anything else."""
    found = _RESOLVER.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
    address = str(ipaddress.ip_address(found[1] or found[2] or found[3]))
    port = int(found[4] or 53)
    if not 1 <= port <= 65_535:
        raise ValueError(f"{text!r}: the port is 1 to 65535")
    return address, port


def root(text: str) -> x509.Certificate:
    """Return the certificate in PEM or in base64 alone; ValueError for anything else."""
    if "-----BEGIN" in text:
        return parsing.certificates(text.encode())[0]
    return parsing.certificate(base64.b64decode("".join(text.split()), validate=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One challenge that a client said is ready.

    ``account_url`` is what CAA's accounturi and dns-account-01 name; ``payload`` is the JSON
    that was posted to the challenge, in which device-attest-01 has its statement.
    """

    kind: ChallengeKind
    identifier: Identifier
    token: str
    key_authorization: str
    account_url: str
    is_wildcard: bool = False
    payload: bytes = b"{}"
    rules: ValidationRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Control is shown; ``record`` says how.

    ``key_sha256`` is the SHA-256 of the SubjectPublicKeyInfo that a device attested: only a
    request for that key may be issued to it.
    """

    record: Mapping[str, JSON] = field(default_factory=dict)
    key_sha256: bytes = b""


class Validator(Protocol):
    """Answers questions; tmad.ca.validation.validators.Validators is the one in force."""

    async def validate(self, question: Question) -> Validated:
        """Return how control was shown, within 10 s for the challenge and 10 s for CAA.

        Raise Fault with rule "acme.validation", ``values["problem"]`` a Problem, and what was
        tried in the other values. It is not tried again here; more than ten at once wait.
        """

    async def check_caa(self, question: Question) -> None:
        """Refuse, as validate does, what CAA has forbidden since control was shown."""


def refusal(problem: Problem, detail: str, **values: str) -> Fault:
    """Return the refusal of a validator; ``detail`` reaches the client."""
    return Fault(
        FaultCode.REJECTED,
        detail,
        rule="acme.validation",
        values={"problem": problem.value, **{name: text[:300] for name, text in values.items()}},
    )
