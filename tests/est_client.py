"""EST clients for tests: curl, and one of our own that knows what its TLS session is."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from tests.daemon import Daemon

_PURE = (
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    mldsa.MLDSA44PrivateKey,
    mldsa.MLDSA65PrivateKey,
    mldsa.MLDSA87PrivateKey,
)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def certificates(self) -> list[x509.Certificate]:
        assert self.status == 200, self.body
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.body))

    @property
    def certificate(self) -> x509.Certificate:
        (found,) = self.certificates
        return found


def issuer_of(
    certificate: x509.Certificate, candidates: list[x509.Certificate]
) -> x509.Certificate:
    """Return which of these signed a certificate; fail where none did."""
    (found,) = [each for each in candidates if each.subject == certificate.issuer]
    certificate.verify_directly_issued_by(found)
    return found


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_csr(
    common: str,
    key: Any = None,
    *,
    serial: str = "",
    attributes: tuple[tuple[str, bytes], ...] = (),
) -> bytes:
    """Return a request in DER."""
    key = key or new_key()
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if serial:
        names.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    for oid, value in attributes:
        builder = builder.add_attribute(x509.ObjectIdentifier(oid), value)
    algorithm = None if isinstance(key, _PURE) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def write_identity(path: Path, key: Any, *certificates: x509.Certificate) -> Path:
    """Write certificates and key to one PEM file."""
    octets = b"".join(each.public_bytes(Encoding.PEM) for each in certificates)
    octets += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(octets)
    return path


def basic(user: str, word: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode()


def url(daemon: Daemon, operation: str, *, client: bool = False) -> str:
    port = daemon.client_port if client else daemon.https_port
    return f"https://127.0.0.1:{port}/.well-known/est/{operation}"


def curl(
    daemon: Daemon,
    operation: str,
    body: bytes = b"",
    *,
    user: str = "",
    identity: Path | None = None,
    options: tuple[str, ...] = (),
) -> Answer:
    """Ask as curl does; ``identity`` is a PEM file for mutual TLS, on the port that asks for it."""
    command = ["curl", "-s", "-i", "--cacert", str(daemon.pem("root")), "--max-time", "30"]
    if body:
        command += ["-H", "Content-Type: application/pkcs10", "--data-binary", "@-"]
    if user:
        command += ["-u", user]
    if identity is not None:
        command += ["--cert", str(identity)]
    command += [*options, url(daemon, operation, client=identity is not None)]
    done = subprocess.run(command, input=body, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100") or (b"\r\n\r\n" in rest and rest.startswith(b"HTTP/")):
        head, _, rest = rest.partition(b"\r\n\r\n")
    return _answer(head, rest)


def _answer(head: bytes, body: bytes) -> Answer:
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    return Answer(int(line.split()[1]), headers, body)


class Connection:
    """One kept TLS connection, whose session the client can bind its request to."""

    def __init__(
        self, daemon: Daemon, *, identity: Path | None = None, version: Any = None
    ) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(str(daemon.pem("root")).encode())
        context.set_verify(SSL.VERIFY_PEER, lambda *arguments: bool(arguments[-1]))
        if identity is not None:
            context.use_certificate_chain_file(str(identity))
            context.use_privatekey_file(str(identity))
        if version is not None:
            context.set_max_proto_version(version)
            context.set_min_proto_version(version)
        port = daemon.client_port if identity is not None else daemon.https_port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setblocking(True)
        self.tls = SSL.Connection(context, self._socket)
        self.tls.set_connect_state()
        self.tls.do_handshake()

    def binding(self) -> bytes:
        """Return tls-unique (RFC 5929) or tls-exporter (RFC 9266)."""
        if self.tls.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return self.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        found = self.tls.get_finished()
        assert found is not None
        return found

    def post(self, operation: str, csr_der: bytes, **headers: str) -> Answer:
        body = base64.b64encode(csr_der)
        fields = {
            "Host": "127.0.0.1",
            "Content-Type": "application/pkcs10",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.tls.sendall(
            f"POST /.well-known/est/{operation} HTTP/1.1\r\n{head}\r\n".encode() + body
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.tls.recv(65_536)
        first, _, rest = data.partition(b"\r\n\r\n")
        answer = _answer(first, rest)
        missing = int(answer.headers["content-length"]) - len(rest)
        while missing > 0:
            more = self.tls.recv(65_536)
            rest, missing = rest + more, missing - len(more)
        return Answer(answer.status, answer.headers, rest)

    def close(self) -> None:
        self._socket.close()


def post(
    daemon: Daemon, operation: str, csr_der: bytes, *, authorization: str = "", identity: Any = None
) -> Answer:
    """Send one request with Python's own client; OSError and HTTPException when that fails."""
    context = ssl.create_default_context(cafile=str(daemon.pem("root")))
    if identity is not None:
        context.load_cert_chain(identity)
    port = daemon.client_port if identity is not None else daemon.https_port
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    headers = {"Content-Type": "application/pkcs10"}
    if authorization:
        headers["Authorization"] = authorization
    try:
        connection.request(
            "POST", f"/.well-known/est/{operation}", base64.b64encode(csr_der), headers
        )
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, fields, answer.read())
    finally:
        connection.close()
