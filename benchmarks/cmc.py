"""Durable CMC enrolments a second against a running daemon: P-256 CA, SQLite, kept TLS connections.

Each request has a key, a proof and a transaction of its own. Shown by a static shared secret
(identityProofV2), by the request's own key beside it, or asked for by a registration authority, one
or many in a message.

    python -m benchmarks.cmc [--count 500] [--connections 8] [--workers 1]
        [--how secret|own-key|authority] [--batch 1]
"""

from __future__ import annotations

import argparse
import http.client
import resource
import ssl
import tempfile
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from benchmarks.scep import processor_seconds
from tests import cmc_client as client
from tests.cmc_client import Answer, Holder
from tests.daemon import Daemon

_SETTINGS = "\n[protocols.cmc]\nrate = 0\n"
_TYPE = {"Content-Type": "application/pkcs7-mime; smime-type=CMC-request"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--how", choices=["secret", "own-key", "authority"], default="secret")
    parser.add_argument("--batch", type=int, default=1)
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
        "--set", "options.trust_anchors=false", "--set", "registration_authorities=[\"cmc-ra\"]",
        protocol="cmc",
    )  # fmt: skip
    made = daemon.json(
        "enroll-secret", "create", "--endpoint", "cmc/bench", "--recoverable", "--static"
    )
    holder = authority(daemon) if options.how == "authority" else None
    daemon.start()
    known = made["reference"], made["secret"]
    messages = build(options.count, options.batch, options.how, known, holder)
    before = processor_seconds(daemon)
    own = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    answers = send(daemon.https_port, messages, options.connections)
    seconds = time.perf_counter() - started
    spent = processor_seconds(daemon) - before
    used = resource.getrusage(resource.RUSAGE_SELF)
    client_spent = used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
    for octets in answers:
        answer = Answer(octets)
        if any(status != client.SUCCESS for status, _, _ in answer.statuses):
            raise SystemExit(f"refused: {answer.told}")
    count = len(messages) * options.batch
    print(
        f"{count / seconds:8.0f} enrolments/s ({options.how}, {options.batch} a message, "
        f"{options.workers} worker(s))"
    )
    print(f"{spent / count * 1e6:8.0f} µs of the daemon's CPU each")
    print(f"{client_spent / seconds * 100:8.0f} % of a core for this client")


def authority(daemon: Daemon) -> Holder:
    """Return a registration authority, certified by hand."""
    daemon.tmad("cert", "issue", "ra", "--profile", "cmc-ra", "--out", str(daemon.directory))
    key = load_pem_private_key((daemon.directory / "ra.key").read_bytes(), None)
    certificate = (daemon.directory / "ra.crt").read_bytes()
    return Holder(x509.load_pem_x509_certificate(certificate), key)


def build(
    count: int, batch: int, how: str, known: tuple[str, str], holder: Holder | None
) -> list[bytes]:
    """Return the messages, each with ``batch`` requests."""
    found = []
    for number in range(count // batch):
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(batch)]
        requests = [
            client.tcr(part, client.csr(key, _name(f"d{number}-{part}")))
            for part, key in enumerate(keys, 1)
        ]
        transaction = (500, client.TRANSACTION, client.integer(number + 1))
        if holder is not None:
            found.append(client.signed(client.pki_data([transaction], requests), holder))
            continue
        content = client.pki_data([*client.proof(*known, requests), transaction], requests)
        if how == "own-key":
            found.append(client.signed(content, key=keys[0]))
        else:
            found.append(client.signed(content, no_signature=b"bench"))
    return found


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def send(port: int, messages: list[bytes], connections: int) -> list[bytes]:
    """Post every message over a few kept connections; return the answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    waiting, answers = list(messages), []

    def work() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
        while waiting:
            try:
                message = waiting.pop()
            except IndexError:
                break
            connection.request("POST", "/cmc/bench", message, _TYPE)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise SystemExit(f"the daemon said {answer.status}: {body[:200]!r}")
            answers.append(body)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answers) < len(messages):
        raise SystemExit("not every message was answered")
    return answers


if __name__ == "__main__":
    main()
