"""Challenges that an outside HTTPS service validates, through a running daemon's SCEP door."""

from __future__ import annotations

import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.daemon import Daemon
from tmad.cli.demo import Device
from tmad.errors import Fault, FaultCode
from tmad.events import Secret

HERE = x509.IPAddress(ip_address("127.0.0.1"))
GOOD = Secret("token-of-the-device-management")


class Service:
    """Allows the challenge GOOD; keeps what it was asked, with the signature's header."""

    def __init__(self, directory: Path, name: x509.GeneralName) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.redirects = False
        self.ca_file = directory / "webhook-ca.pem"
        key_file = directory / "webhook-key.pem"
        _write_certificate(self.ca_file, key_file, name)
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.asked.append((self.headers.get("X-Tmad-Signature", ""), body))
                allow = json.loads(body)["challenge"] == GOOD.reveal().decode()
                answer = json.dumps({"allow": allow, "reason": "as we know it"}).encode()
                self.send_response(307 if service.redirects else 200)
                self.send_header("Location", "/again")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key_file)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # The handshake of a client that does not trust us must not end the accepting thread.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"https://127.0.0.1:{self._server.server_port}/check"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def _write_certificate(path: Path, key_path: Path, alternative: x509.GeneralName) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(name: x509.GeneralName = HERE) -> Service:
        started.append(Service(tmp_path, name))
        return started[-1]

    yield start
    for service in started:
        service.stop()


def door(daemon: Daemon, label: str, service: Service, *settings: str) -> str:
    """Open a SCEP door that asks the service; return its URL."""
    trusted = (f"webhook.ca_file={service.ca_file}", "webhook.timeout_seconds=3", *settings)
    arguments = [part for setting in trusted for part in ("--set", setting)]
    return daemon.endpoint(label, "--webhook", service.url, *arguments)


def refusal(url: str, secret: Secret) -> Fault:
    with pytest.raises(Fault) as caught:
        Device(url, "phone-1").enroll(secret)
    return caught.value


def test_the_service_decides_and_its_questions_are_signed(
    daemon: Daemon, serve: Callable[..., Service]
) -> None:
    service = serve()
    url = door(daemon, "hook-yes", service)
    key = daemon.json("endpoint", "webhook-key", "scep/hook-yes")["key"].encode()
    assert Device(url, "phone-1").enroll(GOOD).subject.rfc4514_string() == "CN=phone-1"
    header, body = service.asked[0]
    stamp, digest = (part.partition("=")[2] for part in header.split(","))
    assert hmac.new(key, stamp.encode() + b"." + body, "sha256").hexdigest() == digest
    assert abs(int(stamp) - time.time()) < 60
    question = json.loads(body)
    assert (question["endpoint"], question["subject"]) == ("scep/hook-yes", "CN=phone-1")
    x509.load_pem_x509_csr(question["csr"].encode())
    fault = refusal(url, Secret("made up"))
    assert "the challenge was not accepted" in fault.detail
    explain_id = fault.detail.rpartition("[")[2].rstrip("]")
    assert "as we know it" in daemon.tmad("explain", explain_id).stdout


@pytest.mark.parametrize(
    ("label", "name", "settings"),
    [
        ("hook-unknown", HERE, ("webhook.ca_file=",)),
        ("hook-name", x509.DNSName("other.example.test"), ()),
        ("hook-address", x509.IPAddress(ip_address("127.0.0.2")), ()),
    ],
)
def test_a_service_that_is_not_trusted_never_sees_the_challenge(
    daemon: Daemon,
    serve: Callable[..., Service],
    label: str,
    name: x509.GeneralName,
    settings: tuple[str, ...],
) -> None:
    service = serve(name)
    fault = refusal(door(daemon, label, service, *settings), GOOD)
    assert "HTTP 503" in fault.detail
    assert service.asked == []


def test_a_redirect_is_not_followed(daemon: Daemon, serve: Callable[..., Service]) -> None:
    service = serve()
    service.redirects = True
    assert "HTTP 503" in refusal(door(daemon, "hook-redirect", service), GOOD).detail
    assert len(service.asked) == 1


def test_a_service_that_is_down_holds_up_nobody_else(
    daemon: Daemon, serve: Callable[..., Service]
) -> None:
    service = serve()
    url = door(daemon, "hook-down", service, 'authenticate=["challenge", "webhook"]')
    service.stop()
    fault = refusal(url, GOOD)
    assert (fault.code, "HTTP 503" in fault.detail) == (FaultCode.REJECTED, True)
    own = Secret(daemon.secret("scep/hook-down", "--subject", "CN=phone-2"))
    assert Device(url, "phone-2").enroll(own)
