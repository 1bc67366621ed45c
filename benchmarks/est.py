"""Durable EST enrolments a second against a running daemon: P-256, TLS 1.3, SQLite.

Two figures (goal 7): simpleenroll with Basic and a static secret over kept connections, and
simplereenroll with a new mutual TLS connection for each. Every request is made before the clock
starts, each with its own key.

    python -m benchmarks.est [--count 2000] [--connections 32] [--workers 1] [--clients 1]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import multiprocessing
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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


class Load(NamedTuple):
    """What one client process does."""

    port: int
    ca: str
    identity: str  # a file with certificate and key, or "" for none
    headers: dict[str, str]
    operation: str
    bodies: list[bytes]
    connections: int
    keeps: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1, help="Processes that ask.")
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
    measure(
        "kept connections, Basic       (goal 2500/s)",
        daemon,
        options,
        lambda bodies, connections: Load(
            daemon.https_port, ca, "", headers, "simpleenroll", bodies, connections, True
        ),
        kept,
    )
    identity = certified(daemon, ca, basic)
    fresh = [make_csr(_NAME) for _ in range(options.count)]
    del headers["Authorization"]
    measure(
        "new mutual TLS each, renewals (goal 700/s)",
        daemon,
        options,
        lambda bodies, connections: Load(
            daemon.client_port, ca, identity, headers, "simplereenroll", bodies, connections, False
        ),
        fresh,
    )


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
    title: str,
    daemon: Daemon,
    options: argparse.Namespace,
    load: Callable[[list[bytes], int], Load],
    bodies: list[bytes],
) -> None:
    clients = options.clients
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ready = context.Barrier(clients + 1)
    processes = [
        context.Process(
            target=ask,
            args=(load(bodies[n::clients], options.connections // clients), ready, results),
        )
        for n in range(clients)
    ]
    for process in processes:
        process.start()
    ready.wait()
    before, started = processor_seconds(daemon), time.perf_counter()
    times: list[float] = []
    for _ in processes:
        times += results.get()
    seconds = time.perf_counter() - started
    spent = processor_seconds(daemon) - before
    for process in processes:
        process.join()
    times.sort()
    count = len(bodies)
    if len(times) != count:
        raise SystemExit(f"only {len(times)} of {count} were answered")
    print(title)
    print(f"{count / seconds:8.0f} enrolments/s ({options.workers} worker(s))")
    print(f"{spent / count * 1e6:8.0f} µs of the daemon's CPU each")
    print(f"{times[count * 99 // 100] * 1e3:8.1f} ms p99, {times[count // 2] * 1e3:.1f} ms median")


def ask(load: Load, ready: threading.Barrier, results: multiprocessing.Queue[list[float]]) -> None:
    """Send every body, on as many connections at a time as wanted."""
    context = ssl.create_default_context(cafile=load.ca)
    if load.identity:
        context.load_cert_chain(load.identity)
    waiting = iter(load.bodies)
    lock = threading.Lock()
    times: list[float] = []

    def work() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", load.port, context=context)
        if load.keeps:
            connection.connect()
        ready_here.wait()
        while True:
            with lock:
                body = next(waiting, None)
            if body is None:
                break
            begin = time.perf_counter()
            post(connection, load.operation, body, load.headers)
            if not load.keeps:
                connection.close()
            times.append(time.perf_counter() - begin)

    ready_here = threading.Barrier(load.connections + 1)
    threads = [threading.Thread(target=work) for _ in range(load.connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    ready_here.wait()
    for thread in threads:
        thread.join()
    results.put(times)


if __name__ == "__main__":
    main()
