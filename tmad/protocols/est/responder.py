"""EST: from a request to its answer (RFC 7030, sections 3 and 4)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tmad.ca.endpoint import journal_refusal
from tmad.ca.keycheck import ALGORITHMS
from tmad.ca.profile import ProfileDocument, attribute_oid
from tmad.ca.requests import (
    Challenge,
    Credential,
    EndpointID,
    EnrollmentRequest,
    GeneratedKey,
    Intent,
    Issued,
    KeyWish,
    NoCredential,
    Password,
    Pending,
    Proof,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.protocols.est import codec, csrattrs
from tmad.protocols.est.codec import KeyRecipient
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage.issuers import IssuerState
from tmad.wire import agreement, cms, keypackage, parsing, signatures
from tmad.wire.cms import Random
from tmad.wire.csr import CSR
from tmad.wire.http import Request, Response
from tmad.wire.signatures import Age, Policy

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Issuer
    from tmad.plugin import Provision, Services

_GRACE: Final = 10  # seconds after which to come again, where a Fault does not say
_PASSWORDS: Final = frozenset({"password", "challenge", "directory", "webhook"})
# RFC 7030, 3.2.3; the realm is what the server of libest says, and nothing more: it is parsed.
_ASK: Final = ("WWW-Authenticate", 'Basic realm="estrealm"')
_NAMED: Final = frozenset({"user-agent", "accept"})
_BASE64: Final = ("Content-Transfer-Encoding", "base64")
# How strong a cipher must be to carry a key (EST-32), in bits; every one of ours has 128.
_STRENGTH: Final = {
    KeyAlgorithm.P384: 192,
    KeyAlgorithm.P521: 256,
    KeyAlgorithm.ED448: 224,
    KeyAlgorithm.ML_DSA_65: 192,
    KeyAlgorithm.ML_DSA_87: 256,
}


class EndpointOptions(BaseModel):
    """What one EST endpoint can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_root: bool = Field(default=True, description="Send the root in cacerts, too.")
    linking: Literal["off", "optional", "required"] = Field(
        default="optional",
        description="Whether a request must have been made in its own TLS session: optional "
        "checks it where the client says so, required refuses others. off: behind a proxy that "
        "ends TLS.",
    )
    csr_attributes: bool = Field(
        default=True, description="Tell clients what to put into their requests."
    )
    key: str = Field(
        default="",
        description="The kind of key that csrattrs asks for; empty: the profile's first.",
    )
    retry_after: int = Field(
        default=60, ge=1, le=86_400, description="Seconds after which a client may ask again."
    )
    legacy: bool = Field(
        default=False, description="Accept requests signed with SHA-1, for old devices."
    )
    full_cmc: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9-]{0,50})?$",
        description="The label of the CMC endpoint behind fullcmc, whose rules hold there; empty: "
        "the same label.",
    )

    @property
    def policy(self) -> Policy:
        """Return the oldest algorithms that the endpoint accepts."""
        return Policy(Age.LEGACY if self.legacy else Age.MODERN)

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        if value and value not in ALGORITHMS:
            raise ValueError(f"unknown kind of key; one of {', '.join(sorted(ALGORITHMS))}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One request at one endpoint."""

    request: Request
    endpoint: Endpoint
    options: EndpointOptions

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """Return the client's certificates, its own first."""
        return () if self.request.tls is None else self.request.tls.certificates

    @property
    def takes_passwords(self) -> bool:
        """Tell whether a password could let anybody in here."""
        return not _PASSWORDS.isdisjoint(self.endpoint.document.authenticate)

    def answer(self, content_type: str, body_der: bytes) -> Response:
        """Return a 200 with a body in base64."""
        # strongSwan up to 5.9 decodes no line ends, and is known by what it does not say;
        # libest, which needs them, says who it is (EST-02).
        is_one_line = _NAMED.isdisjoint(self.request.headers)
        body = codec.encode(body_der, is_one_line=is_one_line)
        return Response(headers=(_BASE64,), body=body, content_type=content_type)


_Operation: TypeAlias = Callable[[_Visit], Awaitable[Response]]


class ESTResponder:
    """Answers every EST operation at every endpoint."""

    def __init__(
        self,
        services: Services,
        *,
        default_label: str = "default",
        random: Random = os.urandom,
        full_cmc: Callable[[], Provision | None] = lambda: None,
    ) -> None:
        """``full_cmc`` returns what answers full requests, where CMC is served."""
        self._services = services
        self._full_cmc_provided = full_cmc
        self._default_label = default_label
        self._random = random
        # An allow-list: what is not in here does not exist.
        self._operations: dict[bytes, tuple[str, _Operation]] = {
            b"cacerts": ("GET", self._ca_certs),
            b"simpleenroll": ("POST", self._enroll),
            b"simplereenroll": ("POST", self._reenroll),
            b"serverkeygen": ("POST", self._server_keygen),
            b"csrattrs": ("GET", self._csr_attributes),
            b"fullcmc": ("POST", self._full_cmc),
        }

    async def respond(self, request: Request) -> Response:
        """Answer below /.well-known/est/: [LABEL/]OPERATION (RFC 7030, 3.2.2)."""
        *label, name = request.tail.strip(b"/").split(b"/")
        found = self._operations.get(name)
        if found is None or len(label) > 1:
            return Response(status=404, body=b"there is no such operation\n")
        method, operation = found
        if request.method != method:
            allowed = (("Allow", method),)
            return Response(status=405, headers=allowed, body=b"this method is not served\n")
        try:
            text = label[0].decode("ascii", "replace") if label else self._default_label
            endpoint = await self._services.endpoints.by_id(EndpointID("est", text))
        except Fault as fault:
            return _refusal(fault)
        visit = _Visit(
            request=request,
            endpoint=endpoint,
            options=cast("EndpointOptions", endpoint.options),
        )
        try:
            return await operation(visit)
        except Fault as fault:
            await self._journal(visit, name, fault)
            return _refusal(fault, asks=_may_help(visit, fault))

    async def _journal(self, visit: _Visit, operation: bytes, fault: Fault) -> None:
        """Write down a refusal that the pipeline has not written down itself."""
        if fault.code is FaultCode.UNAVAILABLE:
            return
        await journal_refusal(
            self._services.journal,
            visit.endpoint,
            fault,
            peer=visit.request.peer,
            operation=operation.decode(),
        )

    # -- what a client asks before it has anything

    async def _ca_certs(self, visit: _Visit) -> Response:
        """Answer with the CA's chain, and those of its other keys that are still or soon used."""
        document = visit.endpoint.document
        found = await self._services.hierarchy.generations(
            visit.endpoint.tenant, document.authority
        )
        living = [issuer for issuer in found if self._is_announced(issuer)]
        if not any(issuer.state is IssuerState.ACTIVE for issuer in living):
            raise Fault(
                FaultCode.UNAVAILABLE, "the authority has no certificate now", rule="est.no-ca"
            )
        chain = {
            certificate.public_bytes(Encoding.DER)
            for issuer in living
            for certificate in _chain(issuer, include_root=visit.options.include_root)
        }
        # A SET OF in DER is sorted (RFC 8951, 3); clients look for what is self-signed.
        return visit.answer(codec.CA_CERTS, cms.degenerate(tuple(sorted(chain))))

    def _is_announced(self, issuer: Issuer) -> bool:
        if issuer.certificate is None or issuer.compromised_at is not None:
            return False
        if issuer.not_after is not None and issuer.not_after <= self._services.now():
            return False
        if issuer.state is IssuerState.NEXT:
            return issuer.document.announce_next
        return issuer.state in (IssuerState.ACTIVE, IssuerState.RETIRED)

    async def _csr_attributes(self, visit: _Visit) -> Response:
        options = visit.options
        if not options.csr_attributes:
            return Response(status=204, content_type="")
        stored = await self._services.objects.load(
            visit.endpoint.tenant, "profile", visit.endpoint.document.profile
        )
        wishes = _wishes(stored.document, options)
        return visit.answer(codec.CSR_ATTRIBUTES, csrattrs.encode(wishes))

    # -- enrolment

    async def _enroll(self, visit: _Visit) -> Response:
        return await self._certify(visit, Intent.ENROLL)

    async def _reenroll(self, visit: _Visit) -> Response:
        return await self._certify(visit, Intent.RENEW)

    async def _certify(self, visit: _Visit, intent: Intent) -> Response:
        password = codec.decode_basic(visit.request.headers.get("authorization", ""))
        if not (password or visit.certificates or visit.request.body) and visit.takes_passwords:
            return _ask()  # who will be asked for a password anyway sends no body at first
        codec.check_type(visit.request.headers.get("content-type", ""))
        request = codec.decode_request(visit.request.body, visit.options.policy)
        credential = _credential(visit, password, request)
        if _needs_password(visit, credential):
            return _ask()
        if intent is Intent.RENEW:
            codec.check_subject(request)
        digest = hashlib.sha256(request.der).hexdigest()
        outcome = await self._services.authority.enroll(
            EnrollmentRequest(
                via="est",
                endpoint=visit.endpoint.id,
                public_key=request.public_key,
                subject=request.subject,
                names=request.names,
                wanted=request.wanted,
                proof=Proof.CSR_SIGNATURE,
                credential=credential,
                intent=intent,
                transaction=f"{intent.value}:{digest}",
                peer=visit.request.peer,
                selector=request.template,
                evidence=request.der,
                doubt=_doubt(visit, request),
            )
        )
        if isinstance(outcome, Pending):
            return _wait(visit, outcome)
        # RFC 7030, 4.2.3: the issued certificate alone.
        certificate_der = outcome.certificate.public_bytes(Encoding.DER)
        return visit.answer(codec.CERTS_ONLY, cms.degenerate((certificate_der,)))

    async def _server_keygen(self, visit: _Visit) -> Response:
        if not visit.endpoint.document.server_keys:
            return Response(status=404, body=b"key pairs are not made here\n")
        password = codec.decode_basic(visit.request.headers.get("authorization", ""))
        codec.check_type(visit.request.headers.get("content-type", ""))
        # RFC 7030, 4.4.1: a template, whose key and signature mean nothing.
        request = codec.decode_request(visit.request.body, visit.options.policy, is_proof=False)
        credential = _credential(visit, password, request)
        if _needs_password(visit, credential):
            return _ask()
        recipient = codec.key_recipient(request)
        if recipient is not None:
            if not visit.certificates:
                raise codec.no_recipient("the client has shown no certificate")
            codec.check_recipient(recipient, visit.certificates[0])
        wish = _wish(request)
        if recipient is None:
            _check_strength(visit, wish)
        outcome = await self._services.authority.enroll(
            EnrollmentRequest(
                via="est",
                endpoint=visit.endpoint.id,
                public_key=wish,
                subject=request.subject,
                names=request.names,
                wanted=request.wanted,
                proof=Proof.GENERATED_HERE,
                credential=credential,
                transaction=f"keygen:{self._random(16).hex()}",
                peer=visit.request.peer,
                selector=request.template,
                evidence=request.der,
                doubt=_doubt(visit, request),
            )
        )
        assert isinstance(outcome, Issued), "no key waits for a person"
        assert outcome.private_key is not None
        return await self._hand_over(visit, outcome, outcome.private_key, recipient)

    async def _hand_over(
        self,
        visit: _Visit,
        outcome: Issued,
        key: GeneratedKey,
        recipient: KeyRecipient | None,
    ) -> Response:
        """Return certificate and private key, encrypted where the client wants it so."""
        key_der = key.pkcs8().reveal()
        if recipient is not None:
            key_der = await self._sealed(visit, key, recipient)
        content_type, body = codec.encode_key(
            key_der,
            outcome.certificate.public_bytes(Encoding.DER),
            is_sealed=recipient is not None,
            boundary=f"est-{self._random(12).hex()}",
        )
        # Nothing in between may keep it.
        return Response(
            headers=(("Cache-Control", "no-store"),), body=body, content_type=content_type
        )

    async def _sealed(self, visit: _Visit, key: GeneratedKey, recipient: KeyRecipient) -> bytes:
        """Return EnvelopedData over SignedData over the key (RFC 7030, 4.4.2)."""
        own = await self._services.service_certificates.current("cmp", str(visit.endpoint.id))
        own_der = own.certificate.public_bytes(Encoding.DER)
        package = await self._services.keyring.use(
            own.key_id,
            partial(
                keypackage.sign,
                certificate_der=own_der,
                pkcs8=key.pkcs8(),
                digest=signatures.SHA256,
                certificates=(own_der,),
            ),
        )
        client_der = visit.certificates[0]
        return agreement.seal_to_holder(
            package.reveal(),
            x509.load_der_x509_certificate(client_der),
            client_der,
            cipher=recipient.cipher,
            random=self._random,
            content_type=cms.SIGNED_DATA,
        )

    async def _full_cmc(self, visit: _Visit) -> Response:
        """Hand a full request to the CMC endpoint behind this one (RFC 7030, 4.3)."""
        provision = self._full_cmc_provided()
        label = visit.options.full_cmc or visit.endpoint.id.label
        try:
            behind = await self._services.endpoints.by_id(EndpointID("cmc", label))
        except Fault:
            behind = None
        if provision is None or behind is None or behind.tenant != visit.endpoint.tenant:
            raise Fault(
                FaultCode.UNSUPPORTED,
                "fullcmc is not served here; use simpleenroll",
                rule="est.fullcmc",
                values={"endpoint": f"cmc/{label}"},
            )
        body = codec.decode_full_request(visit.request.body)
        answer = await provision(replace(visit.request, body=body), label)
        if answer.content_type.startswith("text/"):
            return answer
        encoded = visit.answer(answer.content_type, answer.body)
        return replace(encoded, status=answer.status, headers=answer.headers + encoded.headers)


def _credential(visit: _Visit, password: codec.Basic | None, request: CSR) -> Credential:
    """Return what the client presents, for the pipeline to believe or not."""
    given = None if password is None else Password(password.user, password.password)
    inside = codec.challenge(request)
    if not visit.certificates:
        if given is not None:
            return given
        return NoCredential() if inside is None else Challenge(inside)
    try:
        own, *above = map(parsing.certificate, visit.certificates)
        parsing.key_of(own)  # the pipeline may ask for it without fear
    except ValueError as error:
        raise Fault(
            FaultCode.FORBIDDEN,
            "the client certificate cannot be read",
            private=str(error),
            rule="est.client-certificate",
        ) from None
    return SignedBy(own, challenge=inside, chain=tuple(above), password=given)


def _needs_password(visit: _Visit, credential: Credential) -> bool:
    """Tell whether to ask for a password before anything is judged.

    libest and curl show none at first: that is no refusal to write down.
    """
    return (
        isinstance(credential, NoCredential)
        and visit.takes_passwords
        and "manual" not in visit.endpoint.document.authenticate
    )


def _doubt(visit: _Visit, request: CSR) -> Fault | None:
    """Return what speaks against a request that is not shown to be of this TLS session."""
    linking = visit.options.linking
    if linking == "off":
        return None
    claimed = codec.links(request)
    if not claimed:
        if linking == "optional":
            return None
        return Fault(
            FaultCode.BAD_PROOF,
            "the request must hold the tls-unique or tls-exporter value of its TLS session",
            rule="est.linking-missing",
        )
    tls = visit.request.tls
    if tls is not None and codec.is_linked(claimed, tls.bindings):
        return None
    return Fault(
        FaultCode.BAD_PROOF, "the request was made in another TLS session", rule="est.linking"
    )


def _wish(request: CSR) -> KeyWish:
    """Return the kind of key that a template shows, where we could make one."""
    try:
        return KeyWish((algorithms.of(request.public_key),))
    except Fault:
        return KeyWish()


def _check_strength(visit: _Visit, wish: KeyWish) -> None:
    tls = visit.request.tls
    carried = 0 if tls is None else tls.strength
    for algorithm in wish.algorithms:
        if carried < _STRENGTH.get(algorithm, 128):
            # RFC 7030, 4.4: the key is no safer than the connection that it travels by.
            raise Fault(
                FaultCode.REJECTED,
                "the TLS cipher is weaker than the key that it would carry",
                rule="est.strength",
                values={"cipher bits": str(carried), "key": algorithm.value},
            )


def _wishes(document: ProfileDocument, options: EndpointOptions) -> csrattrs.Wishes:
    rules = document.subject.attributes
    kinds = ("dns", "ip", "email", "uri")
    wanted = [kind for kind in kinds if (rule := getattr(document.names, kind)) and rule.required]
    return csrattrs.Wishes(
        key=options.key or document.keys.algorithms[0],
        rsa_bits=document.keys.rsa_min,
        subject=[
            (attribute_oid(name), rule.fixed or None)
            for name, rule in rules.items()
            if name != "*" and (rule.fixed or rule.required)
        ],
        names=wanted,
        is_linked=options.linking == "required",
    )


def _chain(issuer: Issuer, *, include_root: bool) -> tuple[x509.Certificate, ...]:
    chain = issuer.chain
    if not include_root and len(chain) > 1 and chain[-1].issuer == chain[-1].subject:
        return chain[:-1]
    return chain


def _wait(visit: _Visit, outcome: Pending) -> Response:
    """Answer 202; strongSwan reads seconds only (EST-23)."""
    # Another process is at it: then it is ready at the next attempt.
    is_soon = outcome.retry_after < _GRACE
    seconds = math.ceil(outcome.retry_after) if is_soon else visit.options.retry_after
    return Response(
        status=202,
        headers=(("Retry-After", str(seconds)),),
        body=b"the request waits for a person; send it again\n",
    )


def _may_help(visit: _Visit, fault: Fault) -> bool:
    """Tell whether another password could help somebody who was not believed (EST-11)."""
    is_about_password = not visit.certificates or "authorization" in visit.request.headers
    return fault.code is FaultCode.UNAUTHENTICATED and visit.takes_passwords and is_about_password


def _ask() -> Response:
    return Response(status=401, headers=(_ASK,), body=b"a name and a password are required\n")


def _refusal(fault: Fault, *, asks: bool = False) -> Response:
    headers: tuple[tuple[str, str], ...] = ()
    status = codec.FAULTS[fault.code]
    if fault.rule == "est.content-type":
        status = 415
    elif fault.rule == "est.fullcmc":
        status = 501
    elif asks:
        status, headers = 401, (_ASK,)
    if status in (429, 503):
        headers = (("Retry-After", str(math.ceil(fault.retry_after or _GRACE))),)
    trace = f" [{fault.explain_id}]" if fault.explain_id else ""
    return Response(status=status, headers=headers, body=f"{fault.detail}{trace}\n".encode())
