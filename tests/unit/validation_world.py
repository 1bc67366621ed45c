"""What tests of the validators share: questions, and servers that behave badly on purpose."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tmad.ca.validation.contract import ChallengeKind, Identifier, Question, ValidationRules

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"  # RFC 8555, 8.1
KEY_AUTHORIZATION = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
DIGEST = sha256(KEY_AUTHORIZATION.encode()).digest()
TXT = base64.urlsafe_b64encode(DIGEST).rstrip(b"=")
ACCOUNT = "https://ca.test/acme/default/account/1"
LOOPBACK = "127.0.0.0/8"


def question(
    kind: str = "http-01", value: str = "www.example.test", type_: str = "dns", **more: Any
) -> Question:
    """Return a question; what is no field of it is a rule."""
    rules: dict[str, Any] = {"allowed_networks": [LOOPBACK]}
    fields: dict[str, Any] = {}
    for name, each in more.items():
        (rules if name in ValidationRules.model_fields else fields)[name] = each
    return Question(
        kind=ChallengeKind(kind),
        identifier=Identifier(type_, value),
        token=TOKEN,
        key_authorization=KEY_AUTHORIZATION,
        account_url=ACCOUNT,
        rules=ValidationRules(**rules),
        **fields,
    )


Script = Callable[[socket.socket], None]


@contextmanager
def server(script: Script, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Run a script with each connection, in threads; yield the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    def run(connection: socket.socket) -> None:
        try:
            script(connection)
        except OSError:
            pass
        finally:
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Closing alone does not wake the thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def heard(connection: socket.socket) -> bytes:
    """Return the head of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(4096)
        if not piece:
            break
        data += piece
    return data


def saying(*pieces: bytes, pause: float = 0.0) -> Script:
    """Return a script that hears a request and answers with these octets."""

    def script(connection: socket.socket) -> None:
        heard(connection)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return script


def answer(body: bytes = KEY_AUTHORIZATION.encode(), status: str = "200 OK", *lines: str) -> bytes:
    """Return an HTTP answer."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines))
    length = "" if any("length" in x.lower() or "chunked" in x for x in lines) else (
        f"Content-Length: {len(body)}\r\n"
    )  # fmt: skip
    return f"{head}{length}\r\n".encode() + body


def redirect(url: str, status: str = "302 Found") -> bytes:
    """Return a redirect."""
    return answer(b"", status, f"Location: {url}")


def certificate(
    *names: x509.GeneralName,
    extensions: tuple[tuple[str, bool, bytes], ...] = (),
    signer: Any = None,
) -> tuple[x509.Certificate, Any]:
    """Return a self-signed certificate, unless another key signs it, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    for oid, is_critical, octets in extensions:
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), octets)
        builder = builder.add_extension(value, is_critical)
    return builder.sign(signer or key, SHA256()), key


def tls_context(
    folder: Path, shown: x509.Certificate, key: Any, alpn: tuple[str, ...] = ()
) -> ssl.SSLContext:
    """Return a server's context of Python's own ssl."""
    file = folder / f"{shown.serial_number:x}.pem"
    file.write_bytes(
        shown.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
