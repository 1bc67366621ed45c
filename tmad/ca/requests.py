"""The values that every enrolment protocol hands to the pipeline, and those it gets back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tmad.errors import Fault
from tmad.events import Secret
from tmad.signer.algorithms import KeyAlgorithm, PrivateKey


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
    DECRYPTION = "decryption"  # RFC 10002, 6.7: of a challenge, by keys that cannot sign
    # RFC 9810, 5.2.8.3: it leaves encrypted to the key, and is revoked unless confirmed.
    ENCRYPTED_CERTIFICATE = "encrypted-certificate"
    GENERATED_HERE = "generated-here"
    RA_VERIFIED = "ra-verified"  # RFC 4211, 4: only a registration authority may say so


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
class Password:
    """A name and a password, as HTTP Basic carries them (RFC 7617).

    They are a person's, or the password is an enrolment secret, whatever the name.
    """

    user: str
    password: Secret


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A MAC under an enrolment secret that both sides know (RFC 9810, 5.1.3.1; RFC 10002, 6.2).

    ``reference`` is the id of the secret. ``verify`` tells whether the message's MAC was made
    with a secret, perhaps later; for an unknown reference it is asked about a random one.
    """

    reference: bytes
    verify: Callable[[Secret], bool | Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The message, or the TLS handshake, was signed with the key of this certificate.

    The signature is checked by the codec; whether the certificate is ours or a manufacturer's,
    valid, not revoked and allowed to ask here is the pipeline's question. ``challenge`` and
    ``password`` are what came besides, and ``chain`` the certificates above, as far as shown.
    """

    certificate: x509.Certificate
    challenge: Secret | None = None
    chain: tuple[x509.Certificate, ...] = ()
    password: Password | None = None


@dataclass(frozen=True, slots=True)
class DomainControl:
    """An account's order: control of its names was shown before (RFC 8555, 7.4).

    The codec has verified that the account's key signed the message; what the order is good for
    is the pipeline's question.
    """

    account: str
    order: str


@dataclass(frozen=True, slots=True)
class Kerberos:
    """A ticket for this service, which the security library has accepted (RFC 4120, RFC 4559).

    ``principal`` is "bob@CORP.TEST", ``sid`` the account's SID in the ticket, if any.
    """

    principal: str
    sid: str = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or service of this appliance, already authenticated, issues by hand."""

    actor: str


Credential: TypeAlias = (
    NoCredential | Challenge | Password | SharedKey | SignedBy | DomainControl | Kerberos | Operator
)


@dataclass(frozen=True, slots=True)
class KeyWish:
    """Instead of a public key: the appliance shall make the key pair.

    ``algorithms`` are the applicant's wish, the best first; empty: what the profile allows.
    """

    algorithms: tuple[KeyAlgorithm, ...] = ()


class GeneratedKey:
    """A private key that was made for an applicant; it is nowhere but here."""

    __slots__ = ("_key", "algorithm", "public_key")

    def __init__(self, key: PrivateKey, algorithm: KeyAlgorithm) -> None:
        self._key = key
        self.algorithm = algorithm
        self.public_key: CertificatePublicKeyTypes = key.public_key()

    def pkcs8(self) -> Secret:
        """Return the key as PrivateKeyInfo (RFC 5958), not encrypted."""
        return Secret(self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))

    def __repr__(self) -> str:
        return f"GeneratedKey({self.algorithm.value})"

    def __reduce__(self) -> str:
        raise TypeError("a GeneratedKey is never pickled")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrollmentRequest:
    """What one client asks of one endpoint; see docs/architecture.md section 6.

    ``evidence`` is the DER of the signed request (PKCS#10, CRMF) as received; ``requested_at``
    is set by the pipeline. ``selector`` is the protocol's own hint at a profile (SCEP-49).
    ``doubt`` speaks against a request that is made for the first time: a copy of an earlier one
    may come over another connection. With a KeyWish each request is a new one, also with the
    same ``transaction``: a key that was handed out once is not there any more.
    """

    via: str
    endpoint: EndpointID
    public_key: CertificatePublicKeyTypes | KeyWish
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
    doubt: Fault | None = None

    @property
    def key(self) -> CertificatePublicKeyTypes:
        """Return the public key, where there is one by now."""
        assert not isinstance(self.public_key, KeyWish), "the pipeline makes the key first"
        return self.public_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """The certificate exists, is stored and may leave the process."""

    request_id: str
    certificate_id: int
    certificate: x509.Certificate
    issuer_id: int
    replayed: bool = False  # the answer to a retransmission: nothing new was issued
    private_key: GeneratedKey | None = None  # where the request had a KeyWish


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """The request waits for a person; ``retry_after`` is in seconds."""

    request_id: str
    retry_after: float = 60.0
    since: datetime | None = field(default=None)


Outcome: TypeAlias = Issued | Pending
