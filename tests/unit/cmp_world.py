"""A CMP server on a whole core in memory: every part is the real one, nothing listens."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519

from tests import cmp_client as client
from tests.cmp_client import GENP, Client, Credential, Holder, Reply, Shared, name
from tests.support import Clock, drive
from tests.unit.ca_bench import ADMIN, Bench, Shelf
from tmad.ca.approval import Requests
from tmad.ca.crl import CRLs
from tmad.ca.exchanges import Exchanges
from tmad.ca.service_certificates import ServiceCertificates
from tmad.identity.actors import Actor
from tmad.protocols.cmp.responder import CMPResponder
from tmad.service import _Shelf as StoredKeys
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore
from tmad.storage import tables
from tmad.storage.database import Database
from tmad.wire import der
from tmad.wire.http import Request, Response

TYPE = "application/pkixcmp"
# Keys that something can be encrypted to.
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "rsa": lambda: RSA,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "x25519": x25519.X25519PrivateKey.generate,
    "ml-kem-768": mlkem.MLKEM768PrivateKey.generate,
    "ml-kem-1024": mlkem.MLKEM1024PrivateKey.generate,
}


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class _Keys(Shelf):
    """Key handles in memory, and those that the core has put into the database itself."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._stored = StoredKeys(database)

    async def load(self, key_id: str) -> KeyHandle:
        return self.handles.get(key_id) or await self._stored.load(key_id)


class World(Bench):
    """The bench with the endpoint cmp/iot, which takes recoverable secrets."""

    def __init__(self, **endpoint: Any) -> None:
        options = {k: endpoint.pop(k) for k in ("algorithm", "database", "clock") if k in endpoint}
        clock = options.setdefault("clock", Clock())
        database = options.setdefault("database", Database.in_memory(clock=clock))
        keyring = Keyring(
            _Keys(database), {"soft": SoftStore(Seal(bytes(32)))}, default="soft", now=clock
        )
        super().__init__(keyring=keyring, **options)
        self._iot = {"challenge": {"recoverable": True, "static": True}, **endpoint}
        self.exchanges = Exchanges(self.database, self.journal, self.revocation, self.clock)
        self.crls = CRLs(
            self.database,
            self.changes,
            self.hierarchy,
            self.keyring,
            self.journal,
            self.clock,
            holder="one",
        )
        self.service_certificates = ServiceCertificates(
            self.database,
            self.changes,
            self.journal,
            self.keyring,
            self.hierarchy,
            self.endpoints,
            self.authority,
            self.clock,
            holder="one",
        )
        self.requests = Requests(
            database=self.database,
            journal=self.journal,
            authority=self.authority,
            secrets=self.secrets,
            now=self.clock,
        )
        self.responder = CMPResponder(self.services)
        self.url = "/p/iot"

    async def prepare(self) -> World:
        await super().prepare()
        await self.open("cmp", "iot", **self._iot)
        return self

    @property
    def services(self) -> Any:
        return SimpleNamespace(
            now=self.clock,
            database=self.database,
            journal=self.journal,
            keyring=self.keyring,
            objects=self.objects,
            endpoints=self.endpoints,
            hierarchy=self.hierarchy,
            service_certificates=self.service_certificates,
            authority=self.authority,
            revocation=self.revocation,
            exchanges=self.exchanges,
            secrets=self.secrets,
            crls=self.crls,
        )

    def post(
        self,
        octets: bytes,
        *,
        tail: str | None = None,
        media_type: str = TYPE,
        method: str = "POST",
    ) -> Response:
        request = Request(
            method=method,
            path=b"/.well-known/cmp",
            headers={"content-type": media_type},
            body=octets,
            peer="192.0.2.7",
            tail=(self.url if tail is None else tail).encode(),
        )
        return drive(self.responder.respond_well_known(request))

    def exchange(self, octets: bytes) -> bytes:
        answer = self.post(octets)
        assert (answer.status, answer.content_type) == (200, TYPE), answer.body
        return answer.body

    @property
    def ca(self) -> x509.Certificate:
        issuer = drive(self.hierarchy.active("default", "devices"))
        assert issuer.certificate is not None
        return issuer.certificate

    def shared(self, kind: str = "pbm", *, endpoint: str = "cmp/iot", **options: Any) -> Shared:
        """Return a fresh one-time secret."""
        row, secret = drive(
            self.secrets.create(ADMIN, "default", endpoint, recoverable=True, **options)
        )
        return Shared(row.id, secret.reveal().decode(), kind, 500 if kind == "pbm" else 2000)

    def client(self, credential: Credential) -> Client:
        return Client(self.exchange, credential, self.ca)

    def enroll(self, common: str = "dev1", *, key: Any = None, **options: Any) -> Holder:
        """Return a holder of a certificate that was enrolled by a secret and confirmed."""
        key = key or new_key()
        shared = options.pop("shared", None) or self.shared()
        asking = self.client(shared)
        reply = asking.request(client.IR, key, client.name(common), **options)
        assert reply.body == client.IP, (reply.fail, reply.text)
        assert reply.status in (0, 1), (reply.fail, reply.text)
        assert asking.confirm(reply.certificate).body == client.PKICONF
        return Holder(reply.certificate, key)

    def status_of(self, certificate: x509.Certificate) -> str:
        issuer = drive(self.hierarchy.active("default", "devices"))
        return drive(self.status.of(issuer.id, certificate.serial_number)).state

    def issued(self) -> int:
        """Return how many certificates came to be over CMP."""
        return drive(self.database.read(_count_issued))

    def explain(self, reply: Reply) -> Any:
        return drive(self.journal.explain(reply.text.rpartition("[")[2].rstrip("]")))

    def approve(self) -> None:
        """Approve what waits."""
        other = Actor.administrator("local:approver")
        for row in drive(self.requests.list(other, "default")):
            drive(self.requests.approve(other, "default", row.id))


def _count_issued(connection: sa.Connection) -> int:
    t = tables.certificates
    issued = sa.select(sa.func.count()).where(t.c.via == "cmp", t.c.state == "issued")
    return connection.scalar(issued) or 0


def world(**endpoint: Any) -> World:
    """Return a prepared world; ``endpoint`` is of cmp/iot."""
    return drive(World(**endpoint).prepare())


def encrypting(**document: Any) -> World:
    """Return a world whose endpoint certifies keys that encrypt."""
    w = world()
    profile = {
        "via": ["cmp"],
        "keys": {"algorithms": [*KEYS, "ed25519"]},
        "subject": {"attributes": {"CN": {}}},
        "extensions": {
            "key_usage": ["digital_signature", "key_encipherment", "key_agreement"],
        },
    }
    drive(w.objects.put(ADMIN, "default", "profile", "encrypting", profile))
    rules = {
        "profile": "encrypting", "challenge": {"recoverable": True},
        "options": {"encrypted_certificates": True}, **document,
    }  # fmt: skip
    drive(w.open("cmp", "iot", **rules))
    return w


def refusal(reply: Reply, body: int, *bits: str) -> str:
    """Check a refusal; return its words."""
    assert reply.body == body, (reply.body, reply.text)
    assert reply.status == 2
    assert reply.fail == bits, reply.text
    assert reply.text
    return reply.text


def old_cert_id(certificate: x509.Certificate) -> bytes:
    value = der.sequence(
        client.directory_name(certificate.issuer), der.integer(certificate.serial_number)
    )
    return der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.5.1.5"), value))


def self_signed(key: Any, common: str = "dev1") -> Holder:
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(common))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2036, 1, 1))
        .sign(key, hashes.SHA256())
    )
    return Holder(certificate, key)


def issued_by(issuer: Holder, common: str, key: Any, **usage: bool) -> Holder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2036, 1, 1))
    )
    return Holder(builder.sign(issuer.key, hashes.SHA256()), key, (issuer.certificate,))


def sequence(value: bytes | None) -> list[bytes]:
    reader = der.read(value or b"", der.SEQUENCE)
    return [reader.raw() for _ in reader.each()]


def infos(reply: Reply) -> dict[int, bytes | None]:
    assert reply.body == GENP, reply.text
    found: dict[int, bytes | None] = {}
    for info in reply.asn1["body"]["genp"]:
        value = info["infoValue"]
        found[int(str(info["infoType"]).rpartition(".")[2])] = (
            bytes(value) if value.hasValue() else None
        )
    return found
