"""Durable SCEP enrolments a second against a running daemon: RSA-2048 RA, P-256 CA, SQLite.

Every message is made before the clock starts, each with its own key and transaction, over
keep-alive connections; the challenge is static. Goal 800/s, floor 300/s.

    python -m benchmarks.scep [--count 1000] [--connections 32] [--workers 1]
"""

from __future__ import annotations

import argparse
import os
import resource
import selectors
import socket
import tempfile
import time
from pathlib import Path

from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import scep_client as client
from tests.daemon import Daemon

_SETTINGS = "\n[protocols.scep]\nrate = 0\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
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
    url = daemon.endpoint("bench", "--set", "challenge.static=true")
    secret = daemon.secret("scep/bench", "--static")
    _, _, body = client.fetch(url, "GetCACert")
    first = cms.ContentInfo.load(body)["content"]["certificates"][0]
    ra = x509.load_der_x509_certificate(first.chosen.dump())
    messages = build(options.count, ra, secret)
    before = processor_seconds(daemon)
    own = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    answers = send(daemon.http_port, messages, options.connections)
    seconds = time.perf_counter() - started
    spent = processor_seconds(daemon) - before
    used = resource.getrusage(resource.RUSAGE_SELF)
    client_spent = used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
    good = sum(
        client.read_reply(answer, message, ra).status == client.SUCCESS
        for message, answer in zip(messages, answers, strict=True)
    )
    if good != options.count:
        raise SystemExit(f"only {good} of {options.count} were issued")
    print(f"{options.count / seconds:8.0f} enrolments/s ({options.workers} worker(s); goal 800)")
    print(f"{spent / options.count * 1e6:8.0f} µs of the daemon's CPU each")
    print(f"{client_spent / seconds * 100:8.0f} % of a core for this client")


def build(count: int, ra: x509.Certificate, secret: str) -> list[client.Message]:
    """Return first enrolments, each of its own RSA-2048 key, which takes most of the time."""
    messages = []
    for number in range(count):
        key = rsa.generate_private_key(65537, 2048)
        request = client.make_csr(key, f"r{number}.example.test", challenge=secret)
        identity = client.self_signed(key, f"r{number}.example.test")
        envelope = client.make_envelope(request, ra, cipher="aes128")
        messages.append(client.make_message(envelope, identity))
    return messages


def send(port: int, messages: list[client.Message], connections: int) -> list[bytes]:
    """Post every message, a few connections at a time; return the bodies in order."""
    head = "POST /scep/bench?operation=PKIOperation HTTP/1.1\r\nHost: localhost\r\n"
    requests = [f"{head}Content-Length: {len(m.der)}\r\n\r\n".encode() + m.der for m in messages]
    answers: list[bytes] = [b""] * len(messages)
    waiting = iter(range(len(messages)))
    with selectors.DefaultSelector() as selector:
        for _ in range(min(connections, len(messages))):
            connection = socket.create_connection(("127.0.0.1", port))
            number = next(waiting)
            connection.sendall(requests[number])
            selector.register(connection, selectors.EVENT_READ, [number, b""])
        while selector.get_map():
            for key, _ in selector.select(30):
                connection, state = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                data = connection.recv(65_536)
                if not data:
                    raise SystemExit("the daemon closed a connection")
                state[1] += data
                body = complete(state[1])
                if body is None:
                    continue
                answers[state[0]] = body
                following = next(waiting, None)
                if following is None:
                    selector.unregister(connection)
                    connection.close()
                else:
                    state[:] = [following, b""]
                    connection.sendall(requests[following])
    return answers


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


def processor_seconds(daemon: Daemon) -> float:
    """Return what every process of the daemon has used so far."""
    assert daemon.process is not None
    group, total = daemon.process.pid, 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[2]) == group:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
