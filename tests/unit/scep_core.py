"""The core as a SCEP responder sees it, made small: it issues real certificates in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support import Clock, drive
from tmad.ca.requests import (
    Challenge,
    EndpointID,
    EnrollmentRequest,
    Intent,
    Issued,
    NoCredential,
    Pending,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.events import Event
from tmad.protocols.scep.responder import EndpointOptions, SCEPResponder
from tmad.storage import certificates
from tmad.wire.http import Request, Response


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    """Return one of a few RSA keys: making them is slow."""
    return rsa.generate_private_key(65537, 2048)


@dataclass
class Authority:
    """One CA: certificate, key, and what it issued."""

    key: Any
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    id: int = 1
    key_id: str = "ca"
    tenant: str = "default"

    @property
    def subject_der(self) -> bytes:
        return self.certificate.subject.public_bytes()


def make_certificate(
    clock: Clock,
    common_name: str,
    public_key: Any,
    issuer_key: Any,
    issuer: x509.Certificate | None,
    *,
    usage: x509.KeyUsage | None = None,
    ca: bool = False,
    subject: x509.Name | None = None,
) -> x509.Certificate:
    subject = subject or x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock() - timedelta(hours=1))
        .not_valid_after(clock() + timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    if usage:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def key_usage(**named: bool) -> x509.KeyUsage:
    names = "digital_signature content_commitment key_encipherment data_encipherment"
    names += " key_agreement key_cert_sign crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**{name: named.get(name, False) for name in names.split(" ")})


@dataclass
class SmallCore:
    """A P-256 sub-CA with an RSA RA, or with ``rsa_ca`` an RSA root that may decrypt."""

    options: EndpointOptions = field(default_factory=EndpointOptions)
    rsa_ca: bool = False
    manual: bool = False
    secrets: set[bytes] = field(default_factory=lambda: {b"secret"})
    fault: Fault | None = None  # what enroll() and the keyring answer instead

    def __post_init__(self) -> None:
        self.now = Clock()
        self.journal_rows: list[dict[str, Any]] = []
        self.events: list[Event] = []
        self.owner = "default"  # the tenant of what was issued
        self.issued: dict[int, x509.Certificate] = {}
        self.requests: list[EnrollmentRequest] = []
        self.pending: dict[str, EnrollmentRequest] = {}
        self.done: dict[tuple[str, bytes], Issued] = {}
        self.denied: set[str] = set()
        self.next_ca: Authority | None = None
        root_key = rsa_key(9) if self.rsa_ca else ec.generate_private_key(ec.SECP256R1())
        usage = key_usage(key_cert_sign=True, crl_sign=True, key_encipherment=self.rsa_ca)
        root = make_certificate(
            self.now, "root", root_key.public_key(), root_key, None, usage=usage, ca=True
        )
        if self.rsa_ca:
            self.ca = Authority(root_key, root, (root,))
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            sub = make_certificate(self.now, "issuing", key.public_key(), root_key, root, ca=True)
            self.ca = Authority(key, sub, (sub, root))
        self.ras: list[SimpleNamespace] = []
        self.keys: dict[str, Any] = {"ca": self.ca.key}
        self.uses: list[str] = []
        self.renew_ra()
        self.responder = SCEPResponder(self.services, random=self.random)

    def random(self, size: int) -> bytes:
        return hashlib.shake_128(repr((size, len(self.uses))).encode()).digest(size)

    def renew_ra(self) -> None:
        number = len(self.ras)
        key = rsa_key(10 + number)
        usage = key_usage(digital_signature=True, key_encipherment=True)
        certificate = make_certificate(
            self.now, "ra", key.public_key(), self.ca.key, self.ca.certificate, usage=usage
        )
        self.keys[f"ra{number}"] = key
        self.ras.insert(
            0, SimpleNamespace(id=number, certificate=certificate, key_id=f"ra{number}")
        )

    @property
    def ra(self) -> x509.Certificate:
        return self.ras[0].certificate

    # -- services

    @property
    def services(self) -> Any:
        hierarchy = SimpleNamespace(
            active=self._active, next=self._next, by_subject=self._by_subject
        )
        return SimpleNamespace(
            now=self.now,
            endpoints=SimpleNamespace(by_id=self._endpoint),
            hierarchy=hierarchy,
            database=SimpleNamespace(lookup=self._lookup),
            service_certificates=SimpleNamespace(valid=self._valid),
            keyring=SimpleNamespace(use=self._use),
            authority=SimpleNamespace(enroll=self._enroll, poll=self._poll),
            crls=SimpleNamespace(current=self._crl),
            journal=SimpleNamespace(refuse=self._refuse, write=self._write),
        )

    async def _endpoint(self, id: EndpointID) -> Any:  # noqa: A002
        if id not in (EndpointID("scep", "routers"), EndpointID("scep", "default")):
            raise Fault(FaultCode.NOT_FOUND, "there is no such endpoint")
        document = SimpleNamespace(authority="issuing")
        return SimpleNamespace(id=id, tenant="default", document=document, options=self.options)

    async def _active(self, tenant: str, authority: str) -> Authority:
        return self.ca

    async def _next(self, tenant: str, authority: str) -> Authority | None:
        return self.next_ca

    async def _by_subject(self, subject_der: bytes) -> tuple[Authority, ...]:
        return (self.ca,) if subject_der == self.ca.subject_der else ()

    async def _valid(self, purpose: str, scope: str) -> tuple[Any, ...]:
        assert (purpose, scope.partition("/")[0]) == ("scep-ra", "scep")
        return tuple(self.ras)

    async def _use(self, key_id: str, operation: Any) -> Any:
        if self.fault is not None and self.fault.rule == "keyring":
            raise self.fault
        self.uses.append(key_id)
        return operation(self.keys[key_id])

    async def _enroll(self, request: EnrollmentRequest) -> Issued | Pending:
        self.requests.append(request)
        if self.fault is not None:
            raise self.fault
        about = (request.transaction, hashlib.sha256(request.evidence).digest())
        if about in self.done:
            return self.done[about]
        match request.credential:
            case Challenge(secret) if secret.reveal() in self.secrets:
                if not self.manual:
                    self.secrets.discard(secret.reveal())
            case SignedBy(certificate) if certificate.serial_number in self.issued:
                pass
            case SignedBy(_, secret) if (
                secret and secret.reveal() in self.secrets and request.intent is Intent.ENROLL
            ):
                pass
            case NoCredential() if self.manual:
                pass
            case _:
                raise Fault(FaultCode.UNAUTHENTICATED, "the challenge was not accepted")
        if self.manual:
            self.pending[request.transaction] = request
            return Pending(request_id="R1")
        issued = self.issue(request)
        self.done[about] = issued
        return issued

    def issue(self, request: EnrollmentRequest) -> Issued:
        certificate = make_certificate(
            self.now,
            "",
            request.public_key,
            self.ca.key,
            self.ca.certificate,
            subject=request.subject,
        )
        self.issued[certificate.serial_number] = certificate
        return Issued(
            request_id="R1",
            certificate_id=len(self.issued),
            certificate=certificate,
            issuer_id=self.ca.id,
        )

    def approve(self, transaction: str) -> None:
        request = self.pending.pop(transaction)
        about = (transaction, hashlib.sha256(request.evidence).digest())
        self.done[about] = self.issue(request)

    async def _poll(self, endpoint: EndpointID, transaction: str, public_key: Any) -> Any:
        if transaction in self.denied:
            raise Fault(FaultCode.REJECTED, "the request was denied")
        waiting = self.pending.get(transaction)
        if waiting is not None and waiting.public_key == public_key:
            return Pending(request_id="R1")
        for (done, _), issued in self.done.items():
            if done == transaction and issued.certificate.public_key() == public_key:
                return issued
        raise Fault(FaultCode.NOT_FOUND, "there is no such request")

    async def _lookup(self, function: object, issuer_id: int, serial: int) -> Any:
        assert function is certificates.by_serial
        certificates.serial_octets(serial)  # what the real one does first
        if serial not in self.issued:
            return None
        certificate_der = self.issued[serial].public_bytes(serialization.Encoding.DER)
        return SimpleNamespace(tenant=self.owner, certificate_der=certificate_der)

    async def _crl(self, issuer_id: int) -> Any:
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ca.certificate.subject)
            .last_update(self.now())
            .next_update(self.now() + timedelta(days=1))
            .sign(self.ca.key, hashes.SHA256())
        )
        return SimpleNamespace(der=crl.public_bytes(serialization.Encoding.DER))

    async def _write(self, event: Event) -> None:
        self.events.append(event)

    async def _refuse(self, fault: Fault, **about: Any) -> str:
        fault.explain_id = f"TEST-{len(self.journal_rows):04}"
        self.journal_rows.append({"fault": fault, **about})
        return fault.explain_id

    # -- requests

    def get(self, query: str, tail: bytes = b"routers", method: str = "GET") -> Response:
        request = Request(
            method=method, path=b"/scep/" + tail, query=query.encode(), tail=tail, peer="192.0.2.1"
        )
        return drive(self.responder.respond_below(request))

    def post(
        self, body: bytes, query: bytes = b"operation=PKIOperation", tail: bytes = b"routers"
    ) -> Response:
        request = Request(method="POST", path=b"/scep/" + tail, query=query, tail=tail, body=body)
        return drive(self.responder.respond_below(request))
