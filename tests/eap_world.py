"""An EAP server in memory: authorities, certificates, and a core that says what a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.eap_peer import GTC, TLS, Peer, client_context, md4
from tests.hierarchy_world import ADMIN, World, subject
from tests.support import Clock, drive
from tmad.ca.requests import Proof
from tmad.ca.service_certificates import ServiceCertificate
from tmad.errors import Fault, FaultCode
from tmad.events import Secret, utc_now
from tmad.network.logins import Admitted, TLSLogin, Trusted
from tmad.network.visit import Visit
from tmad.protocols.radius.eap.conversation import Conversation, Step
from tmad.protocols.radius.eap.method import Chain, Greeting, HandedOver
from tmad.protocols.radius.eap.tls import Engine, Staple, TLSRules
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import changes

HOST = "radius.test"


def visit(**changed: Any) -> Visit:
    """Return a login at a wireless access point."""
    values: dict[str, Any] = {
        "tenant": "default",
        "client": "ap",
        "tags": (),
        "address": "192.0.2.1",
        "nas_identifier": "ap-1",
        "nas_port": "1",
        "nas_port_type": 19,
        "ssid": "corp",
        "called_station": "020000000001",
        "calling_station": "020000000002",
        "service_type": 2,
        "user_name": "anonymous",
    }
    return Visit(**(values | changed))


def admitted(name: str) -> Admitted:
    """Return a plain yes."""
    return Admitted(
        session="01JD0000000000000000000000",
        user_name=name,
        policy="everybody",
        rule="all",
        attributes=(),
        session_timeout=None,
        certificate=None,
        person=None,
        device=None,
    )


@dataclass
class Question:
    """What a core asks a person."""

    text: str


@dataclass
class Core:
    """Hooks that write down what they were asked; ``fault`` refuses everybody."""

    people: dict[str, str] = field(default_factory=lambda: {"alice": "correct horse"})
    codes: dict[str, str] = field(default_factory=dict)
    fault: Fault | None = None
    wants_session_id: bool = True
    is_endless: bool = False  # always one more question
    asked: list[tuple[str, ...]] = field(default_factory=list)
    logins: list[TLSLogin] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)

    async def certificate(self, chain: Chain, login: TLSLogin) -> Admitted:
        self.asked.append(("certificate", login.method))
        self.chains.append(chain)
        self.logins.append(login)
        return self._decide(chain[0].subject.rfc4514_string())

    async def password(self, name: str, password: Secret, method: str) -> Admitted | Question:
        self.asked.append(("password", name, method))
        if self.people.get(name) != password.reveal().decode():
            raise Fault(FaultCode.UNAUTHENTICATED, "login refused", rule="login.password")
        if name in self.codes or self.is_endless:
            return Question("Code: ")
        return self._decide(name)

    async def answer(self, prompt: Any, code: Secret, method: str) -> Admitted | Question:
        self.asked.append(("answer", prompt.text, method))
        if self.is_endless:
            return Question("And? ")
        if code.reveal().decode() not in self.codes.values():
            raise Fault(FaultCode.UNAUTHENTICATED, "login refused", rule="login.code")
        return self._decide("alice")

    async def nt_hash(self, name: str, method: str) -> Secret | None:
        self.asked.append(("nt_hash", name, method))
        password = self.people.get(name.rsplit("\\", 1)[-1])
        return None if password is None else Secret(md4(password.encode("utf-16-le")))

    async def failed(self, name: str, method: str) -> Fault:
        self.asked.append(("failed", name, method))
        return Fault(FaultCode.UNAUTHENTICATED, "login refused", rule="login.password")

    async def admit(self, name: str, method: str) -> Admitted:
        self.asked.append(("admit", name, method))
        return self._decide(name)

    async def confirm(self, admitted: Admitted) -> None:
        if self.fault is not None:
            raise self.fault

    async def hand_over(self, greeting: Greeting) -> HandedOver | None:
        return None

    def _decide(self, name: str) -> Admitted:
        if self.fault is not None:
            raise self.fault
        return admitted(name)


class EAPWorld:
    """A root, a CA below it, a server, and clients; at the time of the machine, as OpenSSL is."""

    def __init__(
        self,
        *,
        rules: TLSRules | None = None,
        staple: Staple | None = None,
        keys: Sequence[KeyAlgorithm] = (),
    ) -> None:
        self.ca = World(clock=Clock(utc_now()))
        self.ca.create("root")
        self.issuer = self.ca.create("sub", parent="root")
        assert self.issuer.certificate is not None
        self.root = self.issuer.chain[-1]
        self.trusted = Trusted((self.issuer.certificate,), 1)
        self.core = Core()
        self._staples: dict[int, bytes] = {}
        self.now = 1000.0
        rules = rules or (TLSRules(keys=tuple(keys)) if keys else TLSRules())
        self.engine = Engine(
            "default",
            HOST,
            self.ca.service_certificates,
            self.ca.keyring,
            self.ca.changes,
            self._trust,
            rules=rules,
            staple=staple,
        )

    async def _trust(self, tenant: str) -> Trusted:
        assert tenant == "default"
        return self.trusted

    def trust(self, *anchors: x509.Certificate) -> None:
        """Trust these from now on, and let everybody hear of it."""
        self.trusted = Trusted(anchors, object())
        drive(self.ca.database.write(changes.record, "anchors", "default/test"))

    def client(self, name: str = "laptop", *, authority: str = "sub", **wanted: Any) -> Identity:
        """Issue a certificate with a fresh P-256 key."""
        key = algorithms.generate(wanted.pop("algorithm", KeyAlgorithm.P256))
        wanted = {"profile": "client", "names": ()} | wanted
        if wanted["profile"] == "leaf":
            wanted["names"] = (x509.DNSName(name),)
        issued = drive(
            self.ca.authority.issue(
                ADMIN,
                "default",
                authority=authority,
                subject=subject(f"CN={name}"),
                public_key=key.public_key(),
                proof=Proof.CSR_SIGNATURE,
                **wanted,
            )
        )
        return Identity((issued.certificate,), key)

    def expired_client(self) -> Identity:
        """Return a certificate of the same CA that ended an hour ago."""
        now = utc_now()
        key = algorithms.generate(KeyAlgorithm.P256)
        assert self.issuer.certificate is not None
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject("CN=old"))
            .issuer_name(self.issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now - timedelta(hours=1))
        )
        certificate = drive(
            self.ca.keyring.use(self.issuer.key_id, lambda own: builder.sign(own, hashes.SHA256()))
        )
        return Identity((certificate,), key)

    def ocsp(self, found: ServiceCertificate) -> bytes:
        """Return a response about a certificate of the server, the same each time."""
        assert self.issuer.certificate is not None
        at = found.certificate.not_valid_before_utc
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                found.certificate,
                self.issuer.certificate,
                hashes.SHA1(),
                ocsp.OCSPCertStatus.GOOD,
                at,
                at + timedelta(days=1),
                None,
                None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self.issuer.certificate)
        )
        if found.id not in self._staples:
            self._staples[found.id] = drive(
                self.ca.keyring.use(
                    self.issuer.key_id, lambda own: builder.sign(own, hashes.SHA256())
                )
            ).public_bytes(Encoding.DER)
        return self._staples[found.id]

    def peer(self, client: Identity | None = None, /, **wanted: Any) -> Peer:
        """Return a peer that trusts the root; ``version``, ``ask`` go into its context."""
        context = wanted.pop("context", None)
        method = wanted.pop("method", TLS)
        if context is None and method != GTC:
            context = client_context(
                anchors=wanted.pop("anchors", (self.root,)),
                chain=client.chain if client else (),
                key=client.key if client else None,
                version=wanted.pop("version", None),
                ask_status=wanted.pop("ask_status_of", None),
                groups=wanted.pop("groups", b"X25519:P-256"),
            )
        return Peer(method, context, **wanted)

    def converse(
        self, methods: Sequence[str] = ("eap-tls",), *, fragment_size: int = 1300, **changed: Any
    ) -> Conversation:
        """Begin a conversation."""
        return Conversation(
            visit(**changed),
            methods,
            self.engine,
            self.core,
            fragment_size=fragment_size,
            clock=lambda: self.now,
        )

    def login(
        self,
        peer: Peer,
        methods: Sequence[str] = ("eap-tls",),
        *,
        framed_mtu: int | None = None,
        **wanted: Any,
    ) -> Step:
        """Let them talk to the end; return the last step."""
        return run(self.converse(methods, **wanted), peer, framed_mtu=framed_mtu)


@dataclass(frozen=True)
class Identity:
    """A certificate with what is above it, and its key."""

    chain: tuple[x509.Certificate, ...]
    key: Any


def run(conversation: Conversation, peer: Peer, *, framed_mtu: int | None = None) -> Step:
    """Let both talk until one of them ends it; packets are never longer than they may be."""
    step = drive(conversation.receive(b""))
    for _ in range(1000):
        reply = peer.answer(step.eap)
        if reply is None:
            return step
        step = drive(conversation.receive(reply, framed_mtu=framed_mtu))
        if framed_mtu is not None:
            assert len(step.eap) <= framed_mtu - 4
    raise AssertionError("it never ends")
