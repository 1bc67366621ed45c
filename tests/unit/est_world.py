"""An EST server in memory: the whole core behind it, and a client's side of TLS made up."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from tests.hierarchy_world import Shelf
from tests.support import drive
from tests.unit.ca_bench import ADMIN, Bench, bench
from tmad.ca.service_certificates import ServiceCertificates
from tmad.protocols.est.responder import ESTResponder
from tmad.wire.http import Request, Response

WORD = "correct horse battery"
PKCS10 = {"content-type": "application/pkcs10"}


@dataclass(frozen=True)
class Session:
    """A TLS connection as the edge tells of it."""

    certificates: tuple[bytes, ...] = ()
    bindings: tuple[bytes, ...] = (b"client finish", b"server finish")
    strength: int = 256


class World:
    """One endpoint est/default (more by ``bench.open``) and its responder."""

    def __init__(self, **endpoint: Any) -> None:
        self.bench: Bench = bench()
        drive(self.bench.accounts.person("alice", WORD, mail="alice@example.test"))
        given: dict[str, Any] = {"authenticate": ["password", "challenge"], "profile": "user"}
        drive(self.bench.open("est", "default", **(given | endpoint)))
        b = self.bench
        # Keys of service certificates are made and kept in the database.
        b.keyring._shelf = Shelf(b.database)
        services: Any = SimpleNamespace(
            endpoints=b.endpoints,
            authority=b.authority,
            hierarchy=b.hierarchy,
            objects=b.objects,
            journal=b.journal,
            keyring=b.keyring,
            now=b.clock,
            service_certificates=ServiceCertificates(
                b.database,
                b.changes,
                b.journal,
                b.keyring,
                b.hierarchy,
                b.endpoints,
                b.authority,
                b.clock,
                holder="test",
                pause=_no_pause,
            ),
        )
        self.responder = ESTResponder(services)

    def ask(
        self,
        operation: str,
        body: bytes = b"",
        *,
        method: str = "",
        headers: dict[str, str] | None = None,
        user: str = "",
        word: str = WORD,
        client: x509.Certificate | tuple[x509.Certificate, ...] | None = None,
        session: Session | None = None,
    ) -> Response:
        """Send one request; ``client`` is the TLS client certificate, with those above it."""
        fields = dict(PKCS10 if body and headers is None else headers or {})
        if user:
            fields["authorization"] = basic(user, word)
        shown = () if client is None else client if isinstance(client, tuple) else (client,)
        tls = session or Session(tuple(each.public_bytes(Encoding.DER) for each in shown))
        return drive(
            self.responder.respond(
                Request(
                    method=method or ("POST" if body else "GET"),
                    path=b"/.well-known/est/" + operation.encode(),
                    tail=b"/" + operation.encode(),
                    headers=fields,
                    body=body,
                    peer="192.0.2.7",
                    secure=True,
                    tls=tls,
                )
            )
        )

    def enrolled(self, csr_body: bytes, **how: Any) -> x509.Certificate:
        """Enrol successfully; alice does, unless ``how`` says otherwise."""
        answer = self.ask("simpleenroll", csr_body, **(how or {"user": "alice"}))
        assert answer.status == 200, answer.body
        return certificate_of(answer)

    def change(self, **document: Any) -> None:
        """Change the endpoint's document."""
        stored = drive(self.bench.objects.get(ADMIN, "default", "endpoint", "est-default"))
        plain = stored.document.model_dump(mode="json", exclude_defaults=True)
        drive(
            self.bench.objects.put(
                ADMIN, "default", "endpoint", "est-default", {**plain, **document}
            )
        )


async def _no_pause(seconds: float) -> None:
    return None


def basic(user: str, word: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode()


def make_csr(
    common: str = "alice",
    key: Any = None,
    *,
    names: tuple[x509.GeneralName, ...] = (),
    attributes: tuple[tuple[str, bytes], ...] = (),
    subject: x509.Name | None = None,
) -> bytes:
    """Return a request in DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        subject
        if subject is not None
        else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for oid, value in attributes:
        builder = builder.add_attribute(x509.ObjectIdentifier(oid), value)
    signer = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def body_of(csr_der: bytes) -> bytes:
    return base64.b64encode(csr_der)


def certificates_of(body: bytes) -> list[x509.Certificate]:
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))


def certificate_of(answer: Response) -> x509.Certificate:
    (found,) = certificates_of(answer.body)
    return found
