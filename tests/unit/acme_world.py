"""An ACME server in memory: the whole core behind it, and a client that signs what it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet.defer import ensureDeferred

from tests.support import drive
from tests.unit.ca_bench import ADMIN, Bench, bench
from tmad.ca.acme.service import ACME
from tmad.ca.acme.validating import AGAIN
from tmad.ca.approval import Requests
from tmad.ca.validation.contract import Problem, Question, Validated, refusal
from tmad.events import Secret
from tmad.identity.binding import Binding
from tmad.protocols.acme.responder import ACMEResponder
from tmad.signer.seal import Seal
from tmad.wire.http import Request, Response

BASE = "https://ca.example.test"
JOSE = "application/jose+json"


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Judge:
    """A validator that believes who is on its list; CAA is against who is ``forbidden``."""

    def __init__(self) -> None:
        self.good: set[str] = {"*"}
        self.asked: list[Question] = []
        self.forbidden: set[str] = set()
        self.problem = Problem.UNAUTHORIZED
        self.attested = b""

    async def validate(self, question: Question) -> Validated:
        self.asked.append(question)
        if "*" in self.good or question.identifier.value in self.good:
            return Validated(record={"address": "192.0.2.1"}, key_sha256=self.attested)
        raise refusal(self.problem, "it is not there", address="192.0.2.1")

    async def check_caa(self, question: Question) -> None:
        if question.identifier.value in self.forbidden:
            raise refusal(Problem.CAA, "another authority is named")


@dataclass
class Answer:
    """What came back: ``body`` is the JSON, or the octets of anything else."""

    status: int
    headers: dict[str, str]
    links: list[str]
    raw: bytes
    type: str

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def problem(self) -> str:
        assert self.type == "application/problem+json", (self.status, self.raw)
        found: str = self.body["type"].removeprefix("urn:ietf:params:acme:error:")
        return found


class World:
    """The endpoint acme/default (more by ``bench.open``) and its responder."""

    def __init__(self, the_bench: Bench | None = None, **document: Any) -> None:
        self.bench: Bench = the_bench or bench()
        b = self.bench
        self.judge = Judge()
        self.later: list[Coroutine[Any, Any, object]] = []
        self.acme = self.process()
        if the_bench is None:
            self.open("default", **document)
        services: Any = SimpleNamespace(
            endpoints=b.endpoints,
            authority=b.authority,
            hierarchy=b.hierarchy,
            journal=b.journal,
            acme=self.acme,
        )
        self.responder = ACMEResponder(services)

    def process(self) -> ACME:
        """Return the service as another process would have it."""
        b = self.bench
        return ACME(
            database=b.database,
            journal=b.journal,
            endpoints=b.endpoints,
            objects=b.objects,
            hierarchy=b.hierarchy,
            status=b.status,
            revocation=b.revocation,
            secrets=b.secrets,
            seal=Seal(bytes(32)),
            validator=self.judge,
            now=b.clock,
            later=self.later.append,
            base_url=BASE,
        )

    def open(self, label: str, **document: Any) -> None:
        rules = {
            "authenticate": ["acme"],
            "profile": "tls-server",
            "challenge": {"recoverable": True, "static": True},
        }
        drive(self.bench.open("acme", label, **(rules | document)))

    def change(self, label: str = "default", **document: Any) -> None:
        name = f"acme-{label}"
        stored = drive(self.bench.objects.get(ADMIN, "default", "endpoint", name))
        plain = stored.document.model_dump(mode="json", exclude_defaults=True)
        drive(self.bench.objects.put(ADMIN, "default", "endpoint", name, {**plain, **document}))

    def work(self, times: int = 1) -> None:
        """Do what nobody waits for; again for each retry of a challenge."""
        for _ in range(times):
            while self.later:
                ensureDeferred(self.later.pop(0)).addErrback(lambda f: f.raiseException())
            self.bench.clock.advance(seconds=AGAIN.total_seconds())
            self.later.append(self.acme.validations.run_due())
        while self.later:
            ensureDeferred(self.later.pop(0))

    def close(self) -> None:
        """Leave undone what nobody waits for, as a worker that dies."""
        for coroutine in self.later:
            coroutine.close()
        self.later.clear()

    def secret(self, endpoint: str = "acme/default", **bound: Any) -> tuple[str, str]:
        """Return the kid and the MAC key of an enrolment secret, as a person gets them."""
        uses = bound.pop("uses", 1)
        row, clear = drive(
            self.bench.secrets.create(
                ADMIN,
                "default",
                endpoint,
                uses=uses,
                bound_to=Binding(**bound),
                recoverable=True,
            )
        )
        return row.id, b64(clear.reveal())

    def send(
        self,
        path: str,
        body: bytes = b"",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        is_head: bool = False,
        peer: str = "192.0.2.7",
    ) -> Answer:
        """Send one request; ``path`` is below /acme, or a whole address of the server."""
        path = path.removeprefix(f"{BASE}/acme")
        response: Response = drive(
            self.responder.respond(
                Request(
                    method=method,
                    path=b"/acme" + path.encode(),
                    tail=path.encode(),
                    headers={"content-type": JOSE} if headers is None else headers,
                    body=body,
                    peer=peer,
                    secure=True,
                    is_head=is_head,
                )
            )
        )
        return Answer(
            status=response.status,
            headers=dict(response.headers),
            links=[value for name, value in response.headers if name == "Link"],
            raw=response.body,
            type=response.content_type,
        )

    def get(self, path: str) -> Answer:
        return self.send(path, method="GET", headers={})

    def nonce(self) -> str:
        return self.get("/default/new-nonce").headers["Replay-Nonce"]


@dataclass
class Client:
    """One account, or what wants to become one."""

    world: World
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    label: str = "default"
    kid: str = ""

    @property
    def base(self) -> str:
        return f"{BASE}/acme/{self.label}"

    def address(self, path: str) -> str:
        return path if path.startswith("https://") else f"{self.base}/{path}"

    def header(self, path: str, /, **other: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            "alg": algorithm(self.key),
            "nonce": self.world.nonce(),
            "url": self.address(path),
        }
        found |= {"kid": self.kid} if self.kid else {"jwk": jwk(self.key)}
        found |= other
        return {name: value for name, value in found.items() if value is not None}

    def post(self, path: str, payload: Any = "", /, **other: Any) -> Answer:
        """Post a payload, "" for POST-as-GET; ``other`` replaces parts of the header."""
        message = sign(self.key, self.header(path, **other), payload)
        return self.world.send(self.address(path), message)

    def register(self, eab: tuple[str, str] | None = None, **payload: Any) -> Client:
        """Get an account, or raise."""
        if eab is not None:
            payload["externalAccountBinding"] = self.binding(*eab)
        answer = self.post("new-account", payload)
        assert answer.status in (200, 201), answer.raw
        self.kid = answer.headers["Location"]
        return self

    def binding(self, kid: str, mac_key: str, **other: Any) -> dict[str, str]:
        header = {"alg": "HS256", "kid": kid, "url": self.address("new-account"), **other}
        protected = b64(json.dumps(header).encode())
        payload = b64(json.dumps(jwk(self.key)).encode())
        signed = f"{protected}.{payload}".encode()
        mac = hmac.digest(unb64(mac_key), signed, "sha256")
        return {"protected": protected, "payload": payload, "signature": b64(mac)}

    def order(self, *names: str, **other: Any) -> Answer:
        wanted = [
            {"type": "ip" if name.replace(".", "").isdigit() or ":" in name else "dns",
             "value": name}
            for name in names
        ]  # fmt: skip
        return self.post("new-order", {"identifiers": wanted, **other})

    def prove(self, order: Answer, kind: str = "http-01") -> None:
        """Show control of everything in an order."""
        for url in order.body["authorizations"]:
            found = self.post(url).body
            for each in found["challenges"]:
                if each["type"] == kind and found["status"] == "pending":
                    assert self.post(each["url"], {}).status == 200
        self.world.work()

    def finalize(self, order: Answer, csr_der: bytes = b"", key: Any = None) -> Answer:
        names = [each["value"] for each in order.body["identifiers"]]
        return self.post(order.body["finalize"], {"csr": b64(csr_der or make_csr(*names, key=key))})

    def issued(self, *names: str, **other: Any) -> list[x509.Certificate]:
        """Go all the way; return the certificate and those above it."""
        order = self.order(*names, **other)
        assert order.status == 201, order.raw
        self.prove(order, "dns-01" if any("*" in name for name in names) else "http-01")
        done = self.finalize(order)
        assert done.body["status"] == "valid", done.raw
        chain = self.post(done.body["certificate"])
        return x509.load_pem_x509_certificates(chain.raw)


def algorithm(key: Any) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"


def jwk(key: Any) -> dict[str, str]:
    public = key.public_key()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers, size = public.public_numbers(), (key.curve.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": {256: "P-256", 384: "P-384", 521: "P-521"}[key.curve.key_size],
            "x": b64(numbers.x.to_bytes(size, "big")),
            "y": b64(numbers.y.to_bytes(size, "big")),
        }
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = public.public_numbers()
        return {
            "kty": "RSA",
            "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
            "e": b64(numbers.e.to_bytes(3, "big")),
        }
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw())}


def thumbprint(key: Any) -> bytes:
    canonical = json.dumps(jwk(key), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def signature(key: Any, signed: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(digest[key.curve.key_size])))
        size = (key.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return key.sign(signed)


def sign(key: Any, header: Any, payload: Any, **other: Any) -> bytes:
    """Return a flattened JWS; ``payload`` "" is a POST-as-GET."""
    protected = b64(json.dumps(header).encode())
    content = "" if payload == "" else b64(json.dumps(payload).encode())
    mark = signature(key, f"{protected}.{content}".encode())
    message = {"protected": protected, "payload": content, "signature": b64(mark), **other}
    return json.dumps(message).encode()


def make_csr(*names: str, key: Any = None, common: str = "", **subject: str) -> bytes:
    """Return a request in DER for hosts and addresses."""
    import ipaddress

    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return make_csr_of(found, key=key, common=common, **subject)


def make_csr_of(
    names: list[x509.GeneralName], *, key: Any = None, common: str = "", organization: str = ""
) -> bytes:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signer = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def revealed(secret: Secret) -> str:
    return b64(secret.reveal())


def ready(client: Client, *names: str) -> Answer:
    """Return an order whose names were all shown."""
    order = client.order(*names)
    client.prove(order, "dns-01" if any("*" in name for name in names) else "http-01")
    return order


def approvals(world: World) -> Requests:
    """Return where people decide."""
    b = world.bench
    return Requests(
        database=b.database, journal=b.journal, authority=b.authority, secrets=b.secrets,
        now=b.clock,
    )  # fmt: skip


def fixtures(**account: Any) -> tuple[Any, Any, Any]:
    """Return the fixtures ``world``, ``client`` and ``shared`` of a module of tests.

    ``client`` has an account with these members; so has ``shared``, for tests that leave nothing
    behind.
    """

    @pytest.fixture
    def world() -> Iterator[World]:
        made = World()
        yield made
        made.close()

    @pytest.fixture
    def client(world: World) -> Client:
        return Client(world).register(**account)

    @pytest.fixture(scope="module")
    def shared() -> Client:
        return Client(World()).register(**account)

    return world, client, shared
