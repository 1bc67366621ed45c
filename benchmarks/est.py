"""Durable EST enrolments a second against a running daemon: P-256, TLS 1.3, SQLite.

Two figures (goal 7): simpleenroll with Basic and a static secret over kept connections, and
simplereenroll with a new mutual TLS connection for each. Every request is made before the clock
starts, each with its own key. The load generator is tls_load.c, one process on one core.

    python -m benchmarks.est [--count 2000] [--connections 32] [--workers 1]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import ssl
import subprocess
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from benchmarks.scep import processor_seconds
from tests.daemon import Daemon

_SETTINGS = "\n[protocols.est]\nrate = 0\n\n[limits]\nconnections_per_source = 1000\n"
_PATH = "/.well-known/est/bench/"
_NAME = "bench.example.test"
_SOURCE = Path(__file__).with_name("tls_load.c")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder) / "node", workers=options.workers, settings=_SETTINGS)
        daemon.start()
        try:
            run(daemon, options)
        finally:
            daemon.kill()


def run(daemon: Daemon, options: argparse.Namespace) -> None:
    daemon.endpoint("bench", "--set", "challenge.static=true", protocol="est")
    secret = daemon.secret("est/bench", "--static")
    basic = base64.b64encode(f"bench:{secret}".encode()).decode()
    headers = {"Content-Type": "application/pkcs10", "Authorization": f"Basic {basic}"}
    ca = str(daemon.pem("root"))
    kept = [make_csr(f"d{number}.example.test") for number in range(options.count)]
    subprocess.run(
        ["cc", "-O2", "-o", daemon.directory / "load", _SOURCE, "-lssl", "-lcrypto"], check=True
    )
    print("kept connections, Basic       (goal 2500/s)")
    measure(daemon, options, ask("simpleenroll", headers, kept), daemon.https_port, ca, "-", "keep")
    identity = certified(daemon, ca, basic)
    fresh = [make_csr(_NAME) for _ in range(options.count)]
    del headers["Authorization"]
    print("new mutual TLS each, renewals (goal 700/s)")
    measure(
        daemon,
        options,
        ask("simplereenroll", headers, fresh),
        daemon.client_port,
        ca,
        identity,
        "close",
    )


def ask(operation: str, headers: dict[str, str], bodies: list[bytes]) -> list[bytes]:
    """Return whole HTTP requests."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return [
        f"POST {_PATH}{operation} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n{fields}"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]


def make_csr(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return a request as EST carries it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    return base64.b64encode(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


def certified(daemon: Daemon, ca: str, basic: str) -> str:
    """Enrol once, and return a file with certificate and key."""
    directory = daemon.directory
    key = directory / "bench.key"
    for arguments in (
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)),
        ("req", "-new", "-key", str(key), "-subj", f"/CN={_NAME}", "-outform", "DER",
         "-out", str(directory / "bench.csr")),
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    body = base64.b64encode((directory / "bench.csr").read_bytes())
    headers = {"Content-Type": "application/pkcs10", "Authorization": f"Basic {basic}"}
    connection = http.client.HTTPSConnection(
        "127.0.0.1", daemon.https_port, context=ssl.create_default_context(cafile=ca)
    )
    answer = post(connection, "simpleenroll", body, headers)
    done = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-print_certs"],
        input=base64.b64decode(answer), check=True, capture_output=True,
    )  # fmt: skip
    path = directory / "bench.pem"
    path.write_bytes(done.stdout + key.read_bytes())
    return str(path)


def post(
    connection: http.client.HTTPSConnection, operation: str, body: bytes, headers: dict[str, str]
) -> bytes:
    connection.request("POST", _PATH + operation, body, headers)
    answer = connection.getresponse()
    octets = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {octets[:200]!r}")
    return octets


def measure(
    daemon: Daemon,
    options: argparse.Namespace,
    requests: list[bytes],
    port: int,
    ca: str,
    identity: str,
    how: str,
) -> None:
    """Send every request, on as many connections at a time as wanted."""
    file = daemon.directory / "requests"
    file.write_text("".join(request.hex() + "\n" for request in requests))
    words = [daemon.directory / "load", port, ca, identity, file, options.connections, how]
    with subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        before = processor_seconds(daemon)
        output, _ = load.communicate("\n")
    spent = processor_seconds(daemon) - before
    answers, seconds, _, median, slow = map(float, output.split())
    count = len(requests)
    if answers != count:
        raise SystemExit(f"only {answers:.0f} of {count} were answered with 200")
    print(f"{count / seconds:8.0f} enrolments/s ({options.workers} worker(s))")
    print(f"{spent / count * 1e6:8.0f} µs of the daemon's CPU each")
    print(f"{slow:8.1f} ms p99, {median:.1f} ms median")


if __name__ == "__main__":
    main()
