"""kill -9 in the middle of CMP conversations: each goes on where it was, and none twice.

Two workers on each database; every second key is proved by a challenge. A client repeats what it
got no answer to, octet by octet, as RFC 9811 tells it to, and confirms what it has got. In the end
each has exactly one certificate.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests import cmp_client as client
from tests.cmp_client import Shared
from tests.daemon import Daemon
from tests.postgres import start_cluster
from tmad.wire import der

CLIENTS = 4
CHALLENGE = der.explicit(3, der.tlv(0x81, b"\1"))  # keyAgreement: challengeResp
SETTINGS = "\n[protocols.cmp]\nrate = 0\nattend_seconds = 1\n"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    more = ("--db", start_cluster().empty_database()) if request.param == "postgresql" else ()
    daemon = Daemon(tmp_path / "node", *more, workers=2, settings=SETTINGS)
    daemon.endpoint(
        "bulk", "--set", "challenge.static=true", "--set", "challenge.recoverable=true",
        protocol="cmp",
    )  # fmt: skip
    daemon.start()
    yield daemon
    daemon.kill()


@dataclass
class Ledger:
    """What the clients have got."""

    done: list[x509.Certificate] = field(default_factory=list)
    repeated: int = 0
    challenged: int = 0
    lost: int = 0  # requests that the client was told to begin anew
    problems: list[str] = field(default_factory=list)


class Device:
    """One client after the other, until it is told to stop; each ends what it has begun."""

    def __init__(self, daemon: Daemon, shared: Shared, ledger: Ledger, stop: threading.Event):
        self.daemon = daemon
        self.shared = shared
        self.ledger = ledger
        self.stop = stop

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self.stop.is_set():
                    break
                self.enroll(by_challenge=number % 2 == 1)
        except Exception as error:
            self.ledger.problems.append(repr(error))

    def enroll(self, *, by_challenge: bool) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = client.template(
            subject=client.name("bulk"), public_key=client.spki(key.public_key())
        )
        transaction = os.urandom(16)
        proof = CHALLENGE if by_challenge else None
        content = der.sequence(client.crmf(wanted, key, proof=proof))
        reply = self.ask(
            client.message(client.IR, content, self.shared, transaction=transaction, version=3)
        )
        if by_challenge:
            number = der.integer(client.solved(reply, key))
            reply = self.ask(
                client.message(
                    client.POPDECR, der.sequence(number), self.shared, transaction=transaction,
                    nonce=os.urandom(16), recipient_nonce=reply.nonce, version=3,
                )
            )  # fmt: skip
            self.ledger.challenged += 1
        while reply.body == client.POLLREP or (reply.body == client.IP and reply.status == 3):
            # The process that was at it has died: after a while what it began is given up.
            time.sleep(1)
            poll = der.sequence(der.sequence(der.integer(0)))
            reply = self.ask(
                client.message(
                    client.POLLREQ, poll, self.shared, transaction=transaction,
                    nonce=os.urandom(16), recipient_nonce=reply.nonce,
                )
            )  # fmt: skip
        if reply.body == client.ERROR and reply.fail == ("systemFailure",):
            self.ledger.lost += 1
            return
        assert reply.body == client.IP, reply.text
        assert reply.status in (0, 1), reply.text
        certificate = reply.certificate
        digest = certificate.fingerprint(hashes.SHA256())
        content = der.sequence(der.sequence(der.octets(digest), der.integer(0)))
        done = self.ask(
            client.message(
                client.CERTCONF, content, self.shared, transaction=transaction,
                recipient_nonce=reply.nonce,
            )
        )  # fmt: skip
        assert done.body == client.PKICONF, done.text
        self.ledger.done.append(certificate)

    def ask(self, octets: bytes) -> client.Reply:
        """Post until there is an answer, always the same octets."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(
                    "127.0.0.1", self.daemon.http_port, timeout=20
                )
                with contextlib.closing(connection):
                    connection.request(
                        "POST", "/cmp/bulk", octets, {"Content-Type": "application/pkixcmp"}
                    )
                    answer = connection.getresponse()
                    body = answer.read()
                    if answer.status == 200:
                        reply = client.read(body)
                        if reply.body != client.ERROR or "systemUnavail" not in reply.fail:
                            return reply
            self.ledger.repeated += 1
            time.sleep(0.2)
        raise AssertionError("no answer in time")


def test_conversations_survive_power_cuts(node: Daemon) -> None:
    made = node.json(
        "enroll-secret", "create", "--endpoint", "cmp/bulk", "--recoverable", "--static"
    )
    shared = Shared(made["reference"], made["secret"])
    ledger, stop = Ledger(), threading.Event()
    threads = [
        threading.Thread(target=Device(node, shared, ledger, stop).run) for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(1.0)
        node.kill()
        node.start()
    stop.set()
    for thread in threads:
        thread.join(90)
    assert not ledger.problems
    assert len(ledger.done) >= CLIENTS
    assert ledger.repeated > 0
    assert ledger.challenged > 0
    # Nobody got two, and nothing that was promised is gone or was taken back.
    found = node.json("cert", "list", "--limit", "10000")
    issued = {
        row["serial"]: row for row in found if row["endpoint"] == "cmp/bulk"
        and row["state"] == "issued"
    }  # fmt: skip
    told = {f"{certificate.serial_number:x}" for certificate in ledger.done}
    assert len(told) == len(ledger.done)
    assert told == issued.keys()
    crl = x509.load_der_x509_crl(urllib.request.urlopen(crl_url(node, ledger.done[0])).read())
    assert not [c for c in ledger.done if crl.get_revoked_certificate_by_serial_number(
        c.serial_number)]  # fmt: skip


def crl_url(node: Daemon, certificate: x509.Certificate) -> str:
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    named = points[0].full_name
    assert named is not None
    return node.url + str(urllib.parse.urlsplit(named[0].value).path)
