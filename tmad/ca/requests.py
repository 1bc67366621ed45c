"""The values that every enrolment protocol hands to the pipeline, and those it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.events import Secret


class EndpointID(NamedTuple):
    """One enrolment door: unique across tenants, since the URL names no tenant."""

    protocol: str
    label: str

    def __str__(self) -> str:
        return f"{self.protocol}/{self.label}"

    @classmethod
    def parse(cls, text: str) -> EndpointID:
        """Read the form that __str__ writes; raise ValueError for any other."""
        protocol, separator, label = text.partition("/")
        if not (protocol and separator and label):
            raise ValueError(f"not PROTOCOL/LABEL: {text!r}")
        return cls(protocol, label)


class Proof(StrEnum):
    """How possession of the private key was shown, and verified by the codec."""

    NONE = "none"
    CSR_SIGNATURE = "csr-signature"
    POP_SIGNATURE = "pop-signature"
    GENERATED_HERE = "generated-here"


class Intent(StrEnum):
    """What the client asked for; the pipeline decides whether it may."""

    ENROLL = "enroll"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class NoCredential:
    """The applicant presented nothing: only manual approval can help."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A shared secret, one-time or static, as SCEP's challengePassword."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The message was signed, verifiably, with the key of this certificate.

    The signature is checked by the codec; whether the certificate is ours, valid, not revoked
    and allowed to renew here is the pipeline's question. ``challenge`` is what the message
    carried besides.
    """

    certificate: x509.Certificate
    challenge: Secret | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or service of this appliance, already authenticated, issues by hand."""

    actor: str


Credential: TypeAlias = NoCredential | Challenge | SignedBy | Operator


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrollmentRequest:
    """What one client asks of one endpoint; see docs/architecture.md section 6.

    ``evidence`` is the DER of the signed request (PKCS#10, CRMF) as received; ``requested_at``
    is set by the pipeline. ``selector`` is the protocol's own hint at a profile (SCEP-49).
    """

    via: str
    endpoint: EndpointID
    public_key: CertificatePublicKeyTypes
    subject: x509.Name
    names: tuple[x509.GeneralName, ...] = ()
    wanted: tuple[x509.Extension[x509.ExtensionType], ...] = ()
    proof: Proof
    credential: Credential
    intent: Intent = Intent.ENROLL
    transaction: str
    peer: str = ""
    selector: str = ""
    evidence: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """The certificate exists, is stored and may leave the process."""

    request_id: str
    certificate_id: int
    certificate: x509.Certificate
    issuer_id: int
    replayed: bool = False  # the answer to a retransmission: nothing new was issued


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """The request waits for a person; ``retry_after`` is in seconds."""

    request_id: str
    retry_after: float = 60.0
    since: datetime | None = field(default=None)


Outcome: TypeAlias = Issued | Pending
