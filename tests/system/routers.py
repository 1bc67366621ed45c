"""Routers that enrol by SCEP and ask by OCSP and HTTP, and note how long each answer took."""

from __future__ import annotations

import http.client
import random
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests import scep_client
from tests.daemon import Daemon
from tests.support import tries

PATIENCE = 20.0


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP, 0 when nothing did, and after how many seconds."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def ask(url: str, body: bytes | None = None, content_type: str = "") -> Answer:
    """Send one request on a connection of its own."""
    request = urllib.request.Request(url, data=body)
    if content_type:
        request.add_header("Content-Type", content_type)
    begin = time.monotonic()
    status, headers, data = 0, {}, b""
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status, data = answer.status, answer.read()
            headers = {k.lower(): v for k, v in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            status, data = error.code, error.read()
            headers = {k.lower(): v for k, v in error.headers.items()}
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        pass
    return Answer(status, headers, data, time.monotonic() - begin)


class Routers:
    """Routers with one static challenge; every message comes from another one."""

    def __init__(self, node: Daemon, label: str = "bulk") -> None:
        self.node = node
        self.url = f"{node.url}/scep/{label}"
        self.challenge = node.secret(f"scep/{label}", "--static")
        self.ra = self.ra_certificate()
        self.issuer = x509.load_pem_x509_certificate(node.pem().read_bytes())
        self.held: list[x509.Certificate] = []  # every promise that a router received
        self._number = 0
        self._run = random.getrandbits(32)

    def ra_certificate(self) -> x509.Certificate:
        """Fetch the certificate that messages are encrypted for; it is renewed now and then."""
        path = self.node.directory / "ca.p7"
        path.write_bytes(ask(f"{self.url}?operation=GetCACert").body)
        printed = subprocess.run(
            ["openssl", "pkcs7", "-inform", "DER", "-in", path, "-print_certs"],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        found = x509.load_pem_x509_certificates(printed)
        return next(c for c in found if isinstance(c.public_key(), rsa.RSAPublicKey))

    def message(self) -> scep_client.Message:
        """Return a new request; sent again, it is a retransmission."""
        self._number += 1
        subject = f"router-{self._run:x}-{self._number}"
        # A profile may refuse a key that another subject has, so each router has its own.
        key = rsa.generate_private_key(65537, 2048)
        identity = scep_client.self_signed(key, subject)
        csr = scep_client.make_csr(key, subject, challenge=self.challenge)
        return scep_client.make_message(
            scep_client.make_envelope(csr, self.ra), identity, transaction=f"t-{subject}"
        )

    def send(self, message: scep_client.Message) -> tuple[Answer, x509.Certificate | None]:
        """Send a request; return the answer, and the certificate if it promised one."""
        answer = ask(f"{self.url}?operation=PKIOperation", message.der, "application/x-pki-message")
        if answer.status != 200:
            return answer, None
        reply = scep_client.read_reply(answer.body, message, self.ra)
        if reply.status == scep_client.PENDING:
            return answer, None  # another process may be at it, or has died at it
        assert reply.status == scep_client.SUCCESS, f"refused: {reply.fail_info} {reply.text}"
        self.held.append(reply.certificates[0])
        return answer, reply.certificates[0]

    def enrol(self, message: scep_client.Message | None = None) -> x509.Certificate:
        """Enrol at once."""
        answer, certificate = self.send(message or self.message())
        assert certificate is not None, answer
        return certificate

    def enrol_within(
        self, seconds: float, message: scep_client.Message | None = None
    ) -> x509.Certificate:
        """Send the same message until it is served, as a SCEP client does."""
        message = message or self.message()
        for _ in tries(seconds, longest=6):
            answer, certificate = self.send(message)
            if certificate is not None:
                return certificate
            time.sleep(0.2)
        raise AssertionError(answer)

    def question(self, certificate: x509.Certificate, *, nonce: bool = False) -> bytes:
        """Return an encoded OCSP request."""
        builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, self.issuer, hashes.SHA1())
        if nonce:
            builder = builder.add_extension(x509.OCSPNonce(random.randbytes(16)), False)
        return builder.build().public_bytes(Encoding.DER)

    def status(self, certificate: x509.Certificate, *, nonce: bool = False) -> tuple[str, Answer]:
        """Return what OCSP says, its signature checked: "good", "revoked", "try_later" …"""
        body = self.question(certificate, nonce=nonce)
        answer = ask(f"{self.node.url}/ocsp", body, "application/ocsp-request")
        if answer.status != 200:
            return f"HTTP {answer.status}", answer
        response = ocsp.load_der_ocsp_response(answer.body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return response.response_status.name.lower(), answer
        signer = response.certificates[0]
        signer.verify_directly_issued_by(self.issuer)
        key = signer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert response.signature_hash_algorithm is not None
        key.verify(
            response.signature,
            response.tbs_response_bytes,
            ec.ECDSA(response.signature_hash_algorithm),
        )
        assert response.serial_number == certificate.serial_number
        return response.certificate_status.name.lower(), answer

    def crl(self) -> tuple[x509.CertificateRevocationList | None, Answer]:
        """Download the issuing CA's CRL and check its signature."""
        answer = ask(f"{self.node.url}/crl/issuing.crl")
        if answer.status != 200:
            return None, answer
        found = x509.load_der_x509_crl(answer.body)
        key = self.issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert found.is_signature_valid(key)
        return found, answer

    def judge(self) -> None:
        """Whatever a router holds is good or revoked, alone with its serial; the journal is whole.

        The command line lists certificates: each name has one that is live, the one it holds.
        """
        serials = [certificate.serial_number for certificate in self.held]
        by_subject: dict[str, set[int]] = {}
        for certificate in self.held:
            assert self.status(certificate)[0] in ("good", "revoked")
            subject = certificate.subject.rfc4514_string()
            by_subject.setdefault(subject, set()).add(certificate.serial_number)
        # A retransmission is answered with the same certificate.
        assert all(len(found) == 1 for found in by_subject.values()), by_subject
        assert len(set(serials)) == len(by_subject), "a serial number was used twice"
        live: dict[str, int] = {}
        for row in self.node.json("cert", "list", "--limit", "1000"):
            if row["state"] == "issued" and "router-" in row["subject"]:
                assert row["subject"] not in live, f"{row['subject']} has two live certificates"
                live[row["subject"]] = int(row["serial"], 16)
        for subject, found in by_subject.items():
            assert live[subject] in found
        self.node.tmad("audit", "verify")
