"""One message at one endpoint: its options, its times, and what the client shows with it."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256, sha384, sha512
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field

from tmad.ca.endpoint import LABEL
from tmad.ca.requests import Credential, Kerberos, NoCredential, Password, SignedBy
from tmad.errors import Fault, FaultCode
from tmad.protocols.wstep import codec
from tmad.wire import parsing, soap
from tmad.wire.http import Request, Response
from tmad.wire.signatures import Age, Policy
from tmad.wire.soap import Node

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.service_certificates import ServiceCertificates
    from tmad.identity.kerberos import KerberosService

_GRACE: Final = 10  # seconds after which to come again, where a Fault does not say
_CERTIFICATE_PORT: Final = 8444
_AUTHORITY: Final = re.compile(r"(\[[0-9a-fA-F:]{2,39}\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?")
_PASSWORDS: Final = frozenset({"password", "challenge", "directory", "webhook"})
_HASHES: Final = {"sha384": sha384, "sha512": sha512}


class EndpointOptions(BaseModel):
    """What one WSTEP endpoint can be told: it is one template, as Windows sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(
        default="",
        max_length=64,
        description="The template's name, as Windows shows it; empty: the profile's name. Its "
        "object identifier is that of the profile's ms_template_v2.",
    )
    subject: Literal["machine", "user"] = Field(
        default="machine", description="Whose store the certificate is for."
    )
    autoenrol: bool = Field(
        default=True, description="Windows asks for it by itself, without a person."
    )
    exportable: bool = Field(
        default=False, description="Windows may let the private key out of its store."
    )
    providers: tuple[str, ...] = Field(
        default=("Microsoft Software Key Storage Provider",),
        max_length=8,
        description="Where Windows makes the key: the first of these that it has.",
    )
    renewal_days: int = Field(
        default=42, ge=1, le=3650, description="Windows renews this long before the end."
    )
    policy_name: str = Field(
        default="", max_length=100, description="What Windows calls /xcep/LABEL; empty: LABEL."
    )
    together_with: tuple[Annotated[str, Field(pattern=f"^{LABEL}$")], ...] = Field(
        default=(),
        max_length=50,
        description="Labels of other WSTEP endpoints that /xcep/LABEL offers as well.",
    )
    next_update_hours: int = Field(
        default=8, ge=1, le=720, description="After this long Windows asks /xcep/LABEL again."
    )
    channel_binding: Literal["off", "optional", "required"] = Field(
        default="optional",
        description="Whether a Kerberos ticket must be tied to its TLS connection; required "
        "refuses others, off is for a proxy that ends TLS.",
    )
    retry_after: int = Field(
        default=3600, ge=60, le=604_800, description="Seconds until a client asks again."
    )
    legacy: bool = Field(default=False, description="Accept requests signed with SHA-1.")

    @property
    def policy(self) -> Policy:
        """Return the oldest algorithms that the endpoint accepts."""
        return Policy(Age.LEGACY if self.legacy else Age.MODERN)


@dataclass(slots=True, kw_only=True)
class Visit:
    """One message. ``answer_token`` is what Kerberos wants to say back."""

    request: Request
    endpoint: Endpoint
    message: soap.Message
    answer_token: bytes = field(default=b"", repr=False)

    @property
    def options(self) -> EndpointOptions:
        """Return the endpoint's options."""
        return cast("EndpointOptions", self.endpoint.options)

    def accepts(self, method: str) -> bool:
        """Tell whether a first enrolment may be proved so here."""
        return method in self.endpoint.document.authenticate

    @property
    def accepts_passwords(self) -> bool:
        """Tell whether a name and a password could help somebody here."""
        return not _PASSWORDS.isdisjoint(self.endpoint.document.authenticate)

    @property
    def client(self) -> tuple[x509.Certificate, ...]:
        """Return the client's TLS certificates, its own first; Fault(FORBIDDEN)."""
        tls = self.request.tls
        return () if tls is None else certificates(tls.certificates)


def certificates(found: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    """Read a client's certificates; Fault(FORBIDDEN) when one cannot be read."""
    try:
        read = tuple(map(parsing.certificate, found))
        for each in read[:1]:
            parsing.key_of(each)  # the pipeline may ask for it without fear
    except ValueError as error:
        raise Fault(
            FaultCode.FORBIDDEN,
            "the client certificate cannot be read",
            private=str(error),
            rule="wstep.client-certificate",
        ) from None
    return read


class Presenting:
    """Finds out what a client presents; whether to believe it is the pipeline's business."""

    def __init__(
        self, kerberos: KerberosService, certificates: ServiceCertificates, host: str
    ) -> None:
        self._kerberos = kerberos
        self._certificates = certificates
        self._host = host

    async def credential(self, visit: Visit) -> Credential:
        """Return a ticket, else a name with a password, else the TLS certificate, else nothing.

        Fault(UNAUTHENTICATED) for a ticket that does not hold.
        """
        token = _negotiated(visit.request.headers.get("authorization", ""))
        if token:
            return await self._ticket(visit, token)
        if visit.message.user is not None:
            return Password(visit.message.user.name, visit.message.user.password)
        if visit.client:
            own, *above = visit.client
            return SignedBy(own, chain=tuple(above))
        return NoCredential()

    def asks_for_ticket(self, visit: Visit, credential: Credential) -> bool:
        """Tell whether to ask for a ticket: Kerberos' clients show none at first."""
        return isinstance(credential, NoCredential) and visit.accepts("kerberos")

    async def _ticket(self, visit: Visit, token: bytes) -> Kerberos:
        if not visit.accepts("kerberos"):
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "this kind of credential is not accepted here",
                rule="credential.kind",
            )
        binding = visit.options.channel_binding
        channel = b"" if binding == "off" else await self._channel()
        accepted = await self._kerberos.accept(token, channel)
        visit.answer_token = accepted.answer
        if binding == "required" and not accepted.is_bound:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the ticket is not tied to its TLS connection",
                rule="kerberos.channel-binding",
                values={"principal": accepted.principal.name[:255]},
            )
        return Kerberos(accepted.principal.name, accepted.principal.sid)

    async def _channel(self) -> bytes:
        """Return the hash of the certificate of our own TLS (RFC 5929, 4.1)."""
        own = await self._certificates.current("tls", self._host)
        return channel_of(own.certificate)


def channel_of(certificate: x509.Certificate) -> bytes:
    """Return tls-server-end-point of a certificate, without its prefix (RFC 5929, 4.1)."""
    algorithm = certificate.signature_hash_algorithm
    digest = _HASHES.get("" if algorithm is None else algorithm.name, sha256)
    return digest(certificate.public_bytes(Encoding.DER)).digest()


def _negotiated(header: str) -> bytes:
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "negotiate":
        return b""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the Negotiate token is not base64",
            rule="kerberos.token",
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class URLs:
    """How clients reach the service, for addresses in answers."""

    host: str
    given: str
    certificate: str

    def enrolment(self, request: Request, label: str) -> str:
        """Return where certificates are asked for at an endpoint."""
        host = request.headers.get("host", "")
        # The client has come this way, and over TLS; another host than ours would be no secret.
        base = f"https://{host if _AUTHORITY.fullmatch(host) else self.host}"
        return f"{self.given or base}/wstep/{label}"

    def with_certificate(self, label: str) -> str:
        """Return the same for who shows a certificate to TLS."""
        base = self.certificate or f"https://{self.host}:{_CERTIFICATE_PORT}"
        return f"{base}/wstep/{label}"


def respond(visit: Visit, action: str, body: Node) -> Response:
    """Return a 200 with a message, and Kerberos' own last word where there is one."""
    headers: tuple[tuple[str, str], ...] = ()
    if visit.answer_token:
        token = base64.b64encode(visit.answer_token).decode()
        headers = (("WWW-Authenticate", f"Negotiate {token}"),)
    return Response(
        headers=headers,
        body=soap.encode(action, visit.message.message_id, body),
        content_type=media_type(action),
    )


def ask_for_ticket() -> Response:
    """Return the 401 that lets a client come again with a ticket (RFC 4559, 4.1)."""
    return Response(
        status=401,
        headers=(("WWW-Authenticate", "Negotiate"),),
        body=b"a Kerberos ticket is required\n",
    )


def media_type(action: str) -> str:
    """Return the content type of an answer; without the action Windows takes none (MS-02)."""
    return f'{codec.CONTENT_TYPE}; charset=utf-8; action="{action}"'


def refusal(fault: Fault, relates_to: str, *, number: int = 0) -> Response:
    """Return a SOAP fault; with status 500, as WCF has it and clients look for it."""
    headers: tuple[tuple[str, str], ...] = ()
    if fault.code in (FaultCode.RATE_LIMITED, FaultCode.UNAVAILABLE):
        headers = (("Retry-After", str(math.ceil(fault.retry_after or _GRACE))),)
    return Response(
        status=500,
        headers=headers,
        body=codec.encode_fault(relates_to, fault, number),
        content_type=media_type(soap.FAULT_ACTION),
    )
