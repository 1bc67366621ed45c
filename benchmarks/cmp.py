"""Durable CMP enrolments a second against a running daemon: P-256 CA, SQLite, confirmed.

Each client sends ir and, with the nonce of the answer, certConf, over a kept connection; every key,
proof and transaction is its own. Protection: a static shared secret (PBM as `openssl cmp` does it,
500 rounds, each message with its own salt) or a signature by a registration authority. Goal
1,200/s, floor 400/s.

    python -m benchmarks.cmp [--count 1000] [--connections 32] [--workers 1] [--how pbm|signed]
        [--implicit]
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import resource
import selectors
import socket
import tempfile
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks.scep import processor_seconds
from tests import cmp_client as client
from tests.cmp_client import Credential, Holder, Shared
from tests.daemon import Daemon
from tmad.wire import der

_SETTINGS = "\n[protocols.cmp]\nrate = 0\n"
_HEAD = (
    "POST /cmp/bench HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkixcmp\r\n"
    "Content-Length: "
)


@dataclass
class Enrolment:
    """One client's transaction: its first message is made before the clock starts.

    ``key`` protects the second one, where a shared secret does: it is not the server's time.
    """

    first: bytes
    transaction: bytes
    credential: Credential
    key: bytes = b""
    body: bytes = b""
    answered: int = 0
    expected: int = 2
    data: bytearray = field(default_factory=bytearray)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--how", choices=["pbm", "signed"], default="pbm")
    parser.add_argument("--implicit", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "node", workers=options.workers, settings=_SETTINGS)
        try:
            run(daemon, options)
        finally:
            daemon.kill()


def run(daemon: Daemon, options: argparse.Namespace) -> None:
    daemon.endpoint(
        "bench", "--set", "challenge.static=true", "--set", "challenge.recoverable=true",
        "--set", "registration_authorities=[\"tls-client\"]", protocol="cmp",
    )  # fmt: skip
    made = daemon.json(
        "enroll-secret", "create", "--endpoint", "cmp/bench", "--recoverable", "--static"
    )
    shared = Shared(made["reference"], made["secret"])
    credential: Credential = shared
    if options.how == "signed":
        credential = registration_authority(daemon)
    daemon.start()
    enrolments = build(options.count, credential, implicit=options.implicit)
    before = processor_seconds(daemon)
    own = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    send(daemon.http_port, enrolments, options.connections)
    seconds = time.perf_counter() - started
    spent = processor_seconds(daemon) - before
    used = resource.getrusage(resource.RUSAGE_SELF)
    client_spent = used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
    print(
        f"{options.count / seconds:8.0f} enrolments/s ({options.how}, "
        f"{'implicit' if options.implicit else 'ir + certConf'}, {options.workers} worker(s))"
    )
    print(f"{spent / options.count * 1e6:8.0f} µs of the daemon's CPU each")
    print(f"{client_spent / seconds * 100:8.0f} % of a core for this client")


def registration_authority(daemon: Daemon) -> Holder:
    """Return one with a certificate of the issuing authority, issued by hand."""
    name = "ra.example.test"
    daemon.tmad("cert", "issue", name, "--profile", "tls-client", "--out", str(daemon.directory))
    key = load_pem_private_key((daemon.directory / f"{name}.key").read_bytes(), None)
    certificate = (daemon.directory / f"{name}.crt").read_bytes()
    return Holder(x509.load_pem_x509_certificate(certificate), key)


def build(count: int, credential: Credential, *, implicit: bool) -> list[Enrolment]:
    infos = (client.IMPLICIT,) if implicit else ()
    found = []
    for number in range(count):
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = client.template(
            subject=client.name(f"d{number}"), public_key=client.spki(key.public_key())
        )
        transaction = os.urandom(16)
        octets = client.message(
            client.IR, der.sequence(client.crmf(wanted, key)),
            salted(credential) if isinstance(credential, Shared) else credential,
            transaction=transaction, nonce=os.urandom(16), infos=infos,
        )  # fmt: skip
        enrolment = Enrolment(octets, transaction, credential, expected=1 if implicit else 2)
        if isinstance(credential, Shared):
            enrolment.credential = another = salted(credential)
            enrolment.key = key_of(another)
        found.append(enrolment)
    return found


def salted(shared: Shared) -> Shared:
    return replace(shared, salt=os.urandom(16))


def key_of(shared: Shared) -> bytes:
    key = shared.secret.encode() + shared.salt
    for _ in range(shared.rounds):
        key = hashlib.sha256(key).digest()
    return key


def confirm(enrolment: Enrolment) -> bytes:
    """Return certConf for what ip brought."""
    credential = enrolment.credential
    message = der.read(enrolment.body, der.SEQUENCE)
    header, body = message.enter(der.SEQUENCE), message.raw()
    nonce = b""
    for _ in header.each():
        tag = header.peek()
        field_der = header.raw()
        if tag == 0xA5:
            nonce = der.Reader(field_der).enter(0xA5).content(der.OCTET_STRING)
    if body[0] != 0xA1:
        raise SystemExit(f"refused: {body[:300]!r}")
    reader = der.Reader(body).enter(0xA1).enter(der.SEQUENCE)
    if reader.peek() == 0xA1:
        reader.raw()
    response = reader.enter(der.SEQUENCE).enter(der.SEQUENCE)
    response.integer()
    status = response.raw()
    if response.peek() < 0:
        raise SystemExit(f"refused: {status!r}")
    certificate = response.enter(der.SEQUENCE).enter(0xA0).raw()
    digest = hashlib.sha256(certificate).digest()
    content = der.sequence(der.sequence(der.octets(digest), der.integer(0)))
    value = None
    options = {
        "transaction": enrolment.transaction,
        "nonce": os.urandom(16),
        "recipient_nonce": nonce,
        "time": datetime.now(UTC),  # of both, or the protection is that of another second
    }
    if isinstance(credential, Shared):
        bare = client.message(client.CERTCONF, content, credential, value=b"", **options)  # type: ignore[arg-type]
        parts = der.read(bare, der.SEQUENCE)
        protected = der.sequence(parts.raw(), parts.raw())
        value = hmac.digest(enrolment.key, protected, "sha1")
    return client.message(client.CERTCONF, content, credential, value=value, **options)  # type: ignore[arg-type]


def send(port: int, enrolments: list[Enrolment], connections: int) -> None:
    """Take every enrolment to its end, a few connections at a time."""
    waiting = iter(enrolments)
    with selectors.DefaultSelector() as selector:
        for _ in range(min(connections, len(enrolments))):
            connection = socket.create_connection(("127.0.0.1", port))
            enrolment = next(waiting)
            post(connection, enrolment.first)
            selector.register(connection, selectors.EVENT_READ, [enrolment])
        while selector.get_map():
            for key, _ in selector.select(30):
                opened, state = key.fileobj, key.data
                assert isinstance(opened, socket.socket)
                enrolment = state[0]
                data = opened.recv(65_536)
                if not data:
                    raise SystemExit("the daemon closed a connection")
                enrolment.data += data
                body = complete(bytes(enrolment.data))
                if body is None:
                    continue
                enrolment.data.clear()
                enrolment.body = body
                enrolment.answered += 1
                if enrolment.answered < enrolment.expected:
                    post(opened, confirm(enrolment))
                    continue
                check(enrolment)
                following = next(waiting, None)
                if following is None:
                    selector.unregister(opened)
                    opened.close()
                else:
                    state[0] = following
                    post(opened, following.first)


def check(enrolment: Enrolment) -> None:
    """Make sure that the last answer is a good one: pkiconf, or ip with a certificate."""
    message = der.read(enrolment.body, der.SEQUENCE)
    message.raw()
    body = message.raw()
    wanted = 0xA1 if enrolment.expected == 1 else 0xA0 + client.PKICONF
    if body[0] != wanted or (enrolment.expected == 1 and len(body) < 300):
        raise SystemExit(f"refused: {body[:300]!r}")


def post(connection: socket.socket, octets: bytes) -> None:
    connection.sendall(f"{_HEAD}{len(octets)}\r\n\r\n".encode() + octets)


def complete(data: bytes) -> bytes | None:
    """Return the body of a whole answer, None while some of it is missing."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"the daemon said {head.splitlines()[0].decode()}: {body[:200]!r}")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    return body if len(body) >= length else None


if __name__ == "__main__":
    main()
