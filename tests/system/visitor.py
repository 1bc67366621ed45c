"""Somebody at a SCEP door of the running daemon, honest or not."""

from __future__ import annotations

import http.client
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from asn1crypto import cms  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import scep_client as client
from tests.scep_client import Identity, Message, Reply


def new_key() -> rsa.RSAPrivateKey:
    """Return a fresh key of the smallest size that is allowed."""
    return rsa.generate_private_key(65537, 2048)


@cache
def spare_key() -> rsa.RSAPrivateKey:
    """Return a key for messages that must not succeed: one is enough for all of them."""
    return new_key()


@dataclass
class Visitor:
    """A client of one endpoint, told its URL and nothing else."""

    url: str
    ra: x509.Certificate = field(init=False)
    chain: list[x509.Certificate] = field(init=False)

    def __post_init__(self) -> None:
        status, _, body = client.fetch(self.url, "GetCACert")
        assert status == 200, body
        sent = cms.ContentInfo.load(body)["content"]["certificates"]
        found = [x509.load_der_x509_certificate(each.chosen.dump()) for each in sent]
        self.ra, self.chain = found[0], found[1:]

    @property
    def ca(self) -> x509.Certificate:
        """Return the certificate of the authority that issues here."""
        return self.chain[0]

    def request(
        self,
        challenge: str | None = None,
        *,
        name: str = "",
        key: Any = None,
        signer: Identity | None = None,
        recipient: x509.Certificate | None = None,
        csr: bytes | None = None,
        **how: Any,
    ) -> Message:
        """Return a PKCSReq, with a transaction id of its own unless ``how`` says otherwise."""
        key = key or spare_key()
        name = name or f"{os.urandom(5).hex()}.example.test"
        if csr is None:
            csr = client.make_csr(key, name, challenge=challenge)
        how.setdefault("transaction", os.urandom(16).hex())
        return client.make_message(
            client.make_envelope(csr, recipient or self.ra),
            signer or client.self_signed(key, name),
            **how,
        )

    def renewal(self, old: Identity, key: Any = None, **how: Any) -> Message:
        """Return a RenewalReq for a certificate's subject."""
        name = old.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        assert isinstance(name, str)
        how.setdefault("message_type", client.RENEWAL_REQ)
        return self.request(name=name, key=key or spare_key(), signer=old, **how)

    def poll(self, of: Message, **how: Any) -> Message:
        """Return a CertPoll for what another message asked."""
        subject = of.identity.certificate.subject
        names = client.issuer_and_subject(self.ca.subject, subject)
        return client.make_message(
            client.make_envelope(names, self.ra),
            how.pop("identity", of.identity),
            message_type=client.CERT_POLL,
            transaction=how.pop("transaction", of.transaction),
        )

    def query(
        self, kind: str, certificate: x509.Certificate, identity: Identity, serial: int = 0
    ) -> Message:
        """Return a GetCert or GetCRL."""
        wanted = client.issuer_and_serial(certificate, serial or None)
        return client.make_message(
            client.make_envelope(wanted, self.ra),
            identity,
            message_type=kind,
            transaction=os.urandom(16).hex(),
        )

    def post(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send octets as a PKIOperation."""
        return client.fetch(self.url, "PKIOperation", body, post=True)

    def send(self, message: Message) -> Reply:
        """Send a message and return its checked CertRep."""
        status, headers, body = self.post(message.der)
        assert (status, headers["content-type"]) == (200, "application/x-pki-message"), body
        return client.read_reply(body, message, self.ra)

    def send_all(self, messages: list[Message]) -> list[Reply]:
        """Send many messages at the same time."""
        with ThreadPoolExecutor(len(messages)) as pool:
            return list(pool.map(self.send, messages))

    def enroll(self, challenge: str, name: str = "") -> Identity:
        """Enrol honestly; return the key with its new certificate."""
        key = new_key()
        reply = self.send(self.request(challenge, name=name, key=key))
        assert reply.status == client.SUCCESS, reply.text
        (certificate,) = reply.certificates
        assert certificate.public_key() == key.public_key()
        return Identity(key, certificate)


def knock(
    url: str, method: str, target: str, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one plain HTTP request; return status, headers (lower case) and body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()
