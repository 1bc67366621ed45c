"""SCEP: from a request to its answer (RFC 8894, sections 2 to 4)."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tmad.ca.requests import (
    Challenge,
    Credential,
    EndpointID,
    EnrollmentRequest,
    Intent,
    Issued,
    NoCredential,
    Pending,
    Proof,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Event, Secret
from tmad.protocols.scep import codec
from tmad.protocols.scep.codec import CertRep, PKIMessage, RequestType, Sender, Status
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import certificates
from tmad.wire import cms, csr, envelopes, signatures
from tmad.wire.cms import IssuerAndSerial, Random
from tmad.wire.envelopes import Cipher, EnvelopedData
from tmad.wire.http import Request, Response
from tmad.wire.signatures import Age, Policy

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Issuer
    from tmad.plugin import Services


class EndpointOptions(BaseModel):
    """What one SCEP endpoint can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    getcacert: Literal["chain", "single"] = Field(
        default="chain",
        description="chain: an RA certificate of the endpoint's own signs and decrypts, and "
        "GetCACert sends it with the CA's chain. single: the CA's RSA key does it, and "
        "GetCACert sends the CA certificate alone.",
    )
    include_root: bool = Field(default=True, description="Send the root in GetCACert, too.")
    ra_algorithm: KeyAlgorithm = Field(
        default=KeyAlgorithm.RSA_2048,
        description="The RA's key, which must be RSA: rsa-2048, rsa-3072 or rsa-4096.",
    )
    ra_store: str | None = Field(
        default=None, description="The key store that makes the RA's key; empty: the default."
    )
    legacy: bool = Field(
        default=False, description="Accept SHA-1 and 3DES, and answer in them, for old devices."
    )
    legacy_insecure: bool = Field(
        default=False,
        description="Accept even MD5 and single DES, which RFC 8894 forbids and which protect "
        "nothing; each such request is journaled.",
    )
    signing_time_window: int = Field(
        default=0,
        ge=0,
        description="Seconds that a message's signingTime may differ from now; 0: any.",
    )
    open_getcert: bool = Field(
        default=False, description="GetCert gives a certificate to others than its holder."
    )

    @property
    def policy(self) -> Policy:
        """Return the oldest algorithms that the endpoint accepts."""
        if self.legacy_insecure:
            return Policy(Age.INSECURE)
        return Policy(Age.LEGACY if self.legacy else Age.MODERN)

    @field_validator("ra_algorithm")
    @classmethod
    def _is_rsa(cls, value: KeyAlgorithm) -> KeyAlgorithm:
        if not value.startswith("rsa-"):
            raise ValueError("clients encrypt to this key, so it must be RSA")
        return value


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that requests may be encrypted to; the first of an endpoint signs its answers."""

    certificate: x509.Certificate
    certificate_der: bytes
    key_id: str

    @classmethod
    def of(cls, certificate: x509.Certificate, key_id: str) -> _Key:
        return cls(certificate, certificate.public_bytes(Encoding.DER), key_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One request at one endpoint."""

    request: Request
    endpoint: Endpoint
    options: EndpointOptions
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a CertRep will say; ``content`` is not encrypted yet."""

    status: Status
    content: bytes = b""
    challenge: Secret | None = None


_Operation: TypeAlias = Callable[[_Visit], Awaitable[Response]]
_Answering: TypeAlias = Callable[[_Visit, PKIMessage, Sender, bytes], Awaitable[_Answer]]
_METHODS = ("GET", "HEAD", "POST")
_GRACE = 10  # seconds after which to come again, where a Fault does not say


class SCEPResponder:
    """Answers every SCEP operation at every endpoint."""

    def __init__(
        self, services: Services, *, default_label: str = "default", random: Random = os.urandom
    ) -> None:
        self._services = services
        self._default_label = default_label
        self._random = random
        self._operations: dict[bytes, _Operation] = {
            b"getcacaps": self._get_ca_caps,
            b"getcacert": self._get_ca_cert,
            b"getnextcacert": self._get_next_ca_cert,
            b"pkioperation": self._pki_operation,
        }
        # An allow-list: what is not in here is refused by codec.request_type.
        self._types: dict[RequestType, _Answering] = {
            RequestType.ENROLL: self._enroll,
            RequestType.RENEWAL: self._renew,
            RequestType.POLL: self._poll,
            RequestType.GET_CERT: self._get_cert,
            RequestType.GET_CRL: self._get_crl,
        }
        self._next_ca: dict[tuple[str, str], bytes] = {}

    async def respond_below(self, request: Request) -> Response:
        """Answer below /scep/, where the path names the endpoint; a further tail is ignored."""
        return await self._respond(request, request.tail.strip(b"/").partition(b"/")[0])

    async def respond_default(self, request: Request) -> Response:
        """Answer at a path that old clients have built in, for the default endpoint."""
        return await self._respond(request, b"")

    async def _respond(self, request: Request, label: bytes) -> Response:
        try:
            if request.method not in _METHODS:
                return Response(
                    status=405,
                    headers=(("Allow", ", ".join(_METHODS)),),
                    body=b"this method is not served\n",
                )
            name = label.decode("ascii", "replace") or self._default_label
            endpoint = await self._services.endpoints.by_id(EndpointID("scep", name))
            options = cast("EndpointOptions", endpoint.options)
            visit = _Visit(
                request=request,
                endpoint=endpoint,
                options=options,
                policy=options.policy,
            )
            return await self._operation(request)(visit)
        except Fault as fault:
            return _refusal(fault)

    def _operation(self, request: Request) -> _Operation:
        named = codec.query_parameter(request.query, b"operation")
        if named is None and request.method == "POST":
            return self._pki_operation  # RFC 8894, 4.3: a POST can be nothing else
        operation = self._operations.get((named or b"").lower())
        if operation is None:
            raise Fault(FaultCode.UNSUPPORTED, "there is no such operation", rule="scep.operation")
        return operation

    # -- what a client asks before it trusts anybody

    async def _get_ca_caps(self, visit: _Visit) -> Response:
        endpoint = visit.endpoint
        following = await self._services.hierarchy.next(
            endpoint.tenant, endpoint.document.authority
        )
        return Response(
            body=codec.capabilities(
                legacy=visit.policy.oldest >= Age.LEGACY,
                next_ca=following is not None and following.certificate is not None,
            ),
            content_type="text/plain",
        )

    async def _get_ca_cert(self, visit: _Visit) -> Response:
        issuer = await self._issuer(visit)
        signer = (await self._keys(visit, issuer))[0]
        if visit.options.getcacert == "single":
            return Response(body=signer.certificate_der, content_type="application/x-x509-ca-cert")
        chain = _chain(issuer, visit.options)
        return Response(
            body=cms.degenerate((signer.certificate_der, *chain)),
            content_type="application/x-x509-ca-ra-cert",
        )

    async def _get_next_ca_cert(self, visit: _Visit) -> Response:
        """Answer with the CA that will follow, vouched for by the one of today.

        The signature is remembered, so that asking again and again costs no use of the CA key.
        """
        issuer = await self._issuer(visit)
        following = await self._services.hierarchy.next(
            visit.endpoint.tenant, visit.endpoint.document.authority
        )
        if following is None or following.certificate is None or issuer.certificate is None:
            raise Fault(FaultCode.NOT_FOUND, "no next CA is staged", rule="scep.next-ca")
        content = cms.degenerate(_chain(following, visit.options))
        issuer_der = issuer.certificate.public_bytes(Encoding.DER)
        about = (issuer.key_id, signatures.SHA256.of(issuer_der + content).hex())
        body = self._next_ca.get(about)
        if body is None:
            sign: Callable[[PrivateKeyTypes], bytes] = partial(
                cms.sign,
                certificate_der=issuer_der,
                content=content,
                digest=signatures.SHA256,
                certificates=(issuer_der,),
            )
            body = await self._services.keyring.use(issuer.key_id, sign)
            if len(self._next_ca) >= 1_000:
                self._next_ca.clear()
            self._next_ca[about] = body
        return Response(body=body, content_type="application/x-x509-next-ca-cert")

    async def _issuer(self, visit: _Visit) -> Issuer:
        return await self._services.hierarchy.active(
            visit.endpoint.tenant, visit.endpoint.document.authority
        )

    async def _keys(self, visit: _Visit, issuer: Issuer) -> tuple[_Key, ...]:
        """Return the keys of the endpoint, the one that signs first.

        Clients remember an RA certificate, so envelopes to earlier ones are opened as long as
        the service certificates are kept, and some encrypt to the wrong one of the chain, so a
        CA key that may decrypt does (SCEP-24).
        """
        keys: list[_Key] = []
        if visit.options.getcacert == "chain":
            held = await self._services.service_certificates.valid(
                "scep-ra", str(visit.endpoint.id)
            )
            keys += [_Key.of(own.certificate, own.key_id) for own in held]
        if issuer.certificate is not None and (not keys or _may_decrypt(issuer.certificate)):
            keys.append(_Key.of(issuer.certificate, issuer.key_id))
        if not isinstance(keys[0].certificate.public_key(), rsa.RSAPublicKey):
            raise Fault(
                FaultCode.INTERNAL,
                "the endpoint is not set up",
                private="getcacert = single needs an RSA authority",
                rule="scep.getcacert",
            )
        return tuple(keys)

    # -- pkiMessages

    async def _pki_operation(self, visit: _Visit) -> Response:
        request = visit.request
        body = request.body
        if request.method != "POST":
            body = codec.decode_get_message(request.query)
        message = codec.decode(body)
        keys = await self._keys(visit, await self._issuer(visit))
        try:
            sender = codec.verify(message, visit.policy)
            cipher, answer = await self._answer(visit, keys, message, sender)
        except Fault as fault:
            if codec.FAULTS[fault.code].fail_info is None:
                raise
            await self._journal(visit, message, fault)
            failure = codec.failure(fault)
            return await self._reply(visit, keys[0], message, lambda: failure)
        if answer.status is not Status.SUCCESS:
            return await self._reply(visit, keys[0], message, lambda: CertRep(status=answer.status))

        def seal() -> CertRep:
            content = codec.seal(
                answer.content, sender, answer.challenge, cipher=cipher, random=self._random
            )
            return CertRep(status=Status.SUCCESS, content=content)

        return await self._reply(visit, keys[0], message, seal)

    async def _reply(
        self, visit: _Visit, signer: _Key, message: PKIMessage, build: Callable[[], CertRep]
    ) -> Response:
        """Send a CertRep; it is built where it is signed, since sealing is as heavy."""
        nonce = self._random(16)

        def encode(key: PrivateKeyTypes) -> bytes:
            return codec.encode(
                key,
                signer.certificate_der,
                build(),
                request=message,
                policy=visit.policy,
                nonce=nonce,
            )

        body = await self._services.keyring.use(signer.key_id, encode)
        return Response(body=body, content_type="application/x-pki-message")

    async def _journal(self, visit: _Visit, message: PKIMessage, fault: Fault) -> None:
        """Write down a refusal that the pipeline has not written down itself."""
        if fault.explain_id:
            return
        data: dict[str, JSON] = {
            "via": "scep",
            "peer": visit.request.peer,
            "messageType": message.type[:16],
        }
        await self._services.journal.refuse(
            fault,
            tenant=visit.endpoint.tenant,
            actor=str(visit.endpoint.id),
            object=message.transaction,
            data=data,
        )

    async def _warn(self, visit: _Visit, message: PKIMessage, algorithms: str) -> None:
        await self._services.journal.write(
            Event(
                kind="request.insecure",
                tenant=visit.endpoint.tenant,
                actor=str(visit.endpoint.id),
                object=message.transaction,
                data={"algorithms": algorithms, "peer": visit.request.peer},
            )
        )

    async def _answer(
        self, visit: _Visit, keys: tuple[_Key, ...], message: PKIMessage, sender: Sender
    ) -> tuple[Cipher, _Answer]:
        answer = self._types[codec.request_type(message)]
        if visit.options.signing_time_window:
            codec.check_time(
                message,
                self._services.now(),
                timedelta(seconds=visit.options.signing_time_window),
            )
        try:
            enveloped = codec.envelope(message)
            cipher = envelopes.cipher_for(enveloped.algorithm, visit.policy)
            if max(cipher.age, sender.digest.age) is Age.INSECURE:
                await self._warn(visit, message, f"{sender.digest.name}, {cipher.name}")
            content = await self._open(visit, keys, enveloped)
            return cipher, await answer(visit, message, sender, content)
        except Fault as fault:
            if fault.rule != envelopes.CANNOT_OPEN:
                raise
            # The same words whatever went wrong behind the private key (GEN-26); they name the
            # right certificate for clients that took the wrong one of the chain (SCEP-24).
            fault.detail += f"; it belongs to certificate {keys[0].certificate.serial_number:x}"
            raise

    async def _open(self, visit: _Visit, keys: tuple[_Key, ...], enveloped: EnvelopedData) -> bytes:
        for recipient in enveloped.recipients:
            for key in keys:
                if cms.identifies(recipient.identifier, key.certificate_der):
                    open_envelope: Callable[[rsa.RSAPrivateKey], bytes] = partial(
                        envelopes.open_envelope,
                        enveloped=enveloped,
                        recipient=recipient,
                        policy=visit.policy,
                        random=self._random,
                    )
                    return await self._services.keyring.use(key.key_id, open_envelope)
        raise envelopes.cannot_open("no recipient is a key of this endpoint")

    async def _enroll(
        self, visit: _Visit, message: PKIMessage, sender: Sender, content: bytes
    ) -> _Answer:
        return await self._request(visit, message, sender, content, Intent.ENROLL)

    async def _renew(
        self, visit: _Visit, message: PKIMessage, sender: Sender, content: bytes
    ) -> _Answer:
        if sender.is_self_signed:
            # RFC 8894, 2.4: nobody is authenticated by a certificate of their own making.
            raise Fault(
                FaultCode.REJECTED,
                "a renewal must be signed with the certificate that it renews",
                rule="scep.renewal.self-signed",
            )
        return await self._request(visit, message, sender, content, Intent.RENEW)

    async def _request(
        self, visit: _Visit, message: PKIMessage, sender: Sender, content: bytes, intent: Intent
    ) -> _Answer:
        request = codec.decode_request(content, visit.policy)
        codec.check_receiver(sender, request.challenge)
        outcome = await self._services.authority.enroll(
            EnrollmentRequest(
                via="scep",
                endpoint=visit.endpoint.id,
                public_key=request.public_key,
                subject=request.subject,
                names=request.names,
                wanted=request.wanted,
                proof=Proof.CSR_SIGNATURE,
                credential=_credential(sender, request),
                intent=intent,
                transaction=message.transaction,
                peer=visit.request.peer,
                selector=request.template,
                evidence=request.der,
            )
        )
        return _outcome(outcome, request.challenge)

    async def _poll(
        self, visit: _Visit, message: PKIMessage, sender: Sender, content: bytes
    ) -> _Answer:
        # RFC 8894, 3.3.3: the names need not be relied on; the transaction and the key are.
        codec.decode_poll(content)
        codec.check_receiver(sender, None)
        return _outcome(
            await self._services.authority.poll(
                visit.endpoint.id, message.transaction, sender.public_key
            )
        )

    async def _get_cert(
        self, visit: _Visit, message: PKIMessage, sender: Sender, content: bytes
    ) -> _Answer:
        codec.check_receiver(sender, None)
        _, certificate = await self._find(visit, codec.decode_query(content))
        if not visit.options.open_getcert and certificate.public_key() != sender.public_key:
            # To others it does not exist: GetCert is not for looking around.
            raise _unknown_certificate("scep.get-cert.holder")
        certificate_der = certificate.public_bytes(Encoding.DER)
        return _Answer(status=Status.SUCCESS, content=cms.degenerate((certificate_der,)))

    async def _get_crl(
        self, visit: _Visit, message: PKIMessage, sender: Sender, content: bytes
    ) -> _Answer:
        codec.check_receiver(sender, None)
        issuer, _ = await self._find(visit, codec.decode_query(content))
        crl = await self._services.crls.current(issuer.id)
        return _Answer(status=Status.SUCCESS, content=cms.degenerate(crls=(crl.der,)))

    async def _find(
        self, visit: _Visit, wanted: IssuerAndSerial
    ) -> tuple[Issuer, x509.Certificate]:
        """Return a certificate of the endpoint's tenant and who issued it."""
        # No serial number of ours is negative (RFC 5280, 4.1.2.2), and storage knows none.
        issuers = await self._services.hierarchy.by_subject(wanted.issuer)
        for issuer in issuers if wanted.serial >= 0 else ():
            row = await self._services.database.lookup(
                certificates.by_serial, issuer.id, wanted.serial
            )
            # What belongs to another tenant does not exist here.
            if row is not None and row.certificate_der and row.tenant == visit.endpoint.tenant:
                return issuer, x509.load_der_x509_certificate(row.certificate_der)
        raise _unknown_certificate("scep.unknown-serial")


def _credential(sender: Sender, request: csr.CSR) -> Credential:
    """Return what the applicant presents, for the pipeline to believe or not."""
    if not sender.is_self_signed:
        return SignedBy(sender.certificate, request.challenge)
    if sender.public_key != request.public_key:
        # RFC 8894, 2.3: a certificate made for the message belongs to the key it is about.
        raise Fault(
            FaultCode.BAD_PROOF,
            "the message is signed with another key than the request",
            rule="scep.signer.key",
        )
    return Challenge(request.challenge) if request.challenge else NoCredential()


def _outcome(outcome: Issued | Pending, challenge: Secret | None = None) -> _Answer:
    if isinstance(outcome, Pending):
        return _Answer(status=Status.PENDING)
    # The issued certificate alone: sscep installs the first of the set that is not self-signed.
    certificate_der = outcome.certificate.public_bytes(Encoding.DER)
    return _Answer(
        status=Status.SUCCESS, content=cms.degenerate((certificate_der,)), challenge=challenge
    )


def _unknown_certificate(rule: str) -> Fault:
    return Fault(FaultCode.NOT_FOUND, "there is no such certificate", rule=rule)


def _may_decrypt(certificate: x509.Certificate) -> bool:
    """Tell whether a CA's own key may open envelopes, by its type and its keyUsage."""
    if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return True
    return usage.value.key_encipherment


def _chain(issuer: Issuer, options: EndpointOptions) -> tuple[bytes, ...]:
    """Return the issuing CA first, the root last or, if so wanted, not at all."""
    chain = issuer.chain
    if not options.include_root and len(chain) > 1 and chain[-1].issuer == chain[-1].subject:
        chain = chain[:-1]
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def _refusal(fault: Fault) -> Response:
    """Tell a Fault that no CertRep can tell."""
    headers: tuple[tuple[str, str], ...] = ()
    status = codec.FAULTS[fault.code].http
    if status in (429, 503):
        headers = (("Retry-After", str(math.ceil(fault.retry_after or _GRACE))),)
    trace = f" [{fault.explain_id}]" if fault.explain_id else ""
    return Response(status=status, headers=headers, body=f"{fault.detail}{trace}\n".encode())
