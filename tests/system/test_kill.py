"""kill -9 in the middle of enrolments: nothing acknowledged is lost, nothing is doubled.

A ledger at the client holds every promise; after the restart the daemon is judged by it through
its public doors only (security 4, G-FAULT-1, G-LOSS-1, G-LOSS-2, G-LOSS-5).
"""

from __future__ import annotations

import http.client
import random
import subprocess
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import scep_client
from tests.daemon import Daemon
from tests.postgres import start_cluster

ENDPOINT = "bulk"
CLIENTS = 3


@dataclass
class Attempt:
    """One enrolment as its client sees it; ``certificate`` is the promise it received."""

    message: scep_client.Message
    subject: str
    certificate: x509.Certificate | None = None


@dataclass
class Ledger:
    """What the clients were told, and what they asked for without an answer."""

    attempts: list[Attempt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture(params=["sqlite", "postgresql"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """A node with an endpoint that takes a static challenge, on each database."""
    if request.param == "postgresql":
        daemon = Daemon(tmp_path / "node", "--db", start_cluster().empty_database())
    else:
        daemon = Daemon(tmp_path / "node")
    daemon.endpoint(ENDPOINT, "--set", "challenge.static=true")
    daemon.start()
    yield daemon
    daemon.kill()


def attempt(ra: x509.Certificate, subject: str, challenge: str) -> Attempt:
    # A key of its own: the profile certifies no key for two subjects.
    key = rsa.generate_private_key(65537, 2048)
    identity = scep_client.self_signed(key, subject)
    csr = scep_client.make_csr(key, subject, challenge=challenge)
    message = scep_client.make_message(
        scep_client.make_envelope(csr, ra), identity, transaction=f"t-{subject}"
    )
    return Attempt(message, subject)


def send(url: str, ra: x509.Certificate, one: Attempt) -> scep_client.Reply | None:
    """Send one message; None when the connection broke."""
    try:
        status, _, body = scep_client.fetch(url, "PKIOperation", one.message.der, post=True)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return None
    if status != 200:
        return None
    return scep_client.read_reply(body, one.message, ra)


def client(
    url: str,
    ra: x509.Certificate,
    number: int,
    challenge: str,
    ledger: Ledger,
    stop: threading.Event,
) -> None:
    """Enrol again and again until told to stop; write down each promise."""
    count = 0
    while not stop.is_set():
        count += 1
        one = attempt(ra, f"device-{number}-{count}-{random.getrandbits(24):x}", challenge)
        ledger.attempts.append(one)
        reply = send(url, ra, one)
        if reply is None:
            time.sleep(0.05)
        elif reply.status == scep_client.SUCCESS:
            one.certificate = reply.certificates[0]
        else:
            ledger.problems.append(f"{one.subject}: {reply.fail_info} {reply.text}")


def ra_certificate(node: Daemon, url: str) -> x509.Certificate:
    _, _, body = scep_client.fetch(url, "GetCACert")
    path = node.directory / "ca.p7"
    path.write_bytes(body)
    printed = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-in", path, "-print_certs"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    found = x509.load_pem_x509_certificates(printed)
    return next(c for c in found if isinstance(c.public_key(), rsa.RSAPublicKey))


def ocsp(node: Daemon, certificate: x509.Certificate) -> str:
    path = node.directory / "judged.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    done = subprocess.run(
        ["openssl", "ocsp", "-issuer", node.pem(), "-cert", path, "-url", f"{node.url}/ocsp",
         "-CAfile", node.pem("root")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split("judged.pem: ")[1].split("\n")[0]


def test_g_fault_1_kill_9_loses_and_doubles_nothing(node: Daemon) -> None:
    url = f"{node.url}/scep/{ENDPOINT}"
    ra = ra_certificate(node, url)
    challenge = node.secret(f"scep/{ENDPOINT}", "--static")
    ledger = Ledger()
    for delay in (0.4, 0.15, 0.27):
        stop = threading.Event()
        threads = [
            threading.Thread(target=client, args=(url, ra, n, challenge, ledger, stop))
            for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(delay + 0.4)
        node.kill()
        stop.set()
        for thread in threads:
            thread.join()
        node.start()
    assert ledger.problems == []
    promised = [one for one in ledger.attempts if one.certificate is not None]
    unanswered = [one for one in ledger.attempts if one.certificate is None]
    assert promised, "the load was too small to say anything"
    # Whoever got no answer asks again with the same message, as a SCEP client does. An intent
    # that the crash left behind is voided first, which takes a moment.
    deadline = time.monotonic() + 60
    for one in unanswered:
        while one.certificate is None:
            reply = send(url, ra, one)
            if reply is not None and reply.status == scep_client.SUCCESS:
                one.certificate = reply.certificates[0]
            else:
                assert time.monotonic() < deadline, (one.subject, reply)
                time.sleep(0.5)
    rows = node.json("cert", "list", "--limit", "1000")
    known: dict[str, list[str]] = {}
    for row in rows:
        if row["endpoint"] == f"scep/{ENDPOINT}":
            known.setdefault(row["subject"], []).append(f"{row['state']} {row['serial']}")
    for one in ledger.attempts:
        assert one.certificate is not None
        [issued] = [s for s in known[one.certificate.subject.rfc4514_string()] if "issued" in s]
        # G-LOSS-2: the one live certificate is the one that the client holds.
        assert issued.endswith(f"{one.certificate.serial_number:x}")
    serials = [one.certificate.serial_number for one in ledger.attempts if one.certificate]
    assert len(set(serials)) == len(serials)
    assert not [row for row in rows if row["state"] == "intent"]
    for one in (promised[0], promised[-1]):
        assert one.certificate is not None
        assert ocsp(node, one.certificate) == "good"
    # G-LOSS-6: the journal's chains survived every kill.
    node.tmad("audit", "verify")


def test_g_loss_5_a_one_time_challenge_survives_a_crash_but_works_once(node: Daemon) -> None:
    url = f"{node.url}/scep/default"
    ra = ra_certificate(node, url)
    challenge = node.secret()
    first = attempt(ra, "crash", challenge)
    killer = threading.Timer(0.005, node.kill)
    killer.start()
    reply = send(url, ra, first)
    killer.join()
    node.start()
    deadline = time.monotonic() + 60
    while reply is None or reply.status != scep_client.SUCCESS:
        reply = send(url, ra, first)
        assert time.monotonic() < deadline, reply
        if reply is None or reply.status != scep_client.SUCCESS:
            time.sleep(0.5)
    again = send(url, ra, first)
    assert again is not None
    assert again.certificates == reply.certificates, "a retransmission got another certificate"
    other = send(url, ra, attempt(ra, "thief", challenge))
    assert other is not None
    assert other.status == scep_client.FAILURE
