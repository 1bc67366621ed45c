"""kill -9 in the middle of CMC enrolments that must be confirmed: none is lost, and none twice.

Two workers on each database; a client repeats what it got no answer to, octet by octet, and
confirms what it has got. In the end each has exactly one certificate, and it is good.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509

from tests import cmc_client as client
from tests.cmc_client import Answer, Holder, pki_data, signed, tcr
from tests.daemon import Daemon
from tests.postgres import start_cluster
from tests.unit.cmc_world import FULL, name
from tests.unit.cmp_world import new_key

CLIENTS = 3
SETTINGS = "\n[protocols.cmc]\nrate = 0\nattend_seconds = 1\n"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    more = ("--db", start_cluster().empty_database()) if request.param == "postgresql" else ()
    daemon = Daemon(tmp_path / "node", *more, workers=2, settings=SETTINGS)
    daemon.endpoint(
        "bulk", "--set", "challenge.static=true", "--set", "challenge.recoverable=true",
        "--set", "options.confirm=true", protocol="cmc",
    )  # fmt: skip
    daemon.start()
    yield daemon
    daemon.kill()


@dataclass
class Ledger:
    """What the clients have got."""

    done: list[x509.Certificate] = field(default_factory=list)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


class Device:
    """One client after the other, until it is told to stop; each ends what it has begun."""

    def __init__(
        self, daemon: Daemon, known: tuple[str, str], ledger: Ledger, stop: threading.Event
    ) -> None:
        self.daemon = daemon
        self.known = known
        self.ledger = ledger
        self.stop = stop
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.enroll()
        except Exception as error:
            self.ledger.problems.append(repr(error))

    def enroll(self) -> None:
        key = new_key()
        requests = [tcr(1, client.csr(key, name("bulk")))]
        content = pki_data(client.proof(*self.known, requests), requests)
        message = signed(content, no_signature=b"k")
        answer = self.ask(message)
        while answer.told[0].status == client.PENDING:
            time.sleep(0.5)  # the process that was at it has died
            answer = self.ask(message)
        assert answer.told[0].status == client.CONFIRM_REQUIRED, answer.told
        holder = Holder(answer.certified(key), key)
        named = client.encode(client.issuer_and_serial(holder.certificate))
        done = self.ask(signed(pki_data([(5, client.CONFIRM, named)]), holder))
        assert done.told[0].status == client.SUCCESS, done.told
        self.ledger.done.append(holder.certificate)

    def ask(self, octets: bytes) -> Answer:
        """Post until there is an answer, always the same octets."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", self.daemon.https_port, timeout=30, context=self.tls
                )
                with contextlib.closing(connection):
                    connection.request("POST", "/cmc/bulk", octets, {"Content-Type": FULL})
                    got = connection.getresponse()
                    body = got.read()
                    if got.status == 200:
                        answer = Answer(body)
                        if all(each.fail != client.TRY_LATER for each in answer.told):
                            return answer
            self.ledger.repeated += 1
            time.sleep(0.2)
        raise AssertionError("no answer in time")


def test_enrolments_survive_power_cuts(node: Daemon) -> None:
    made = node.json(
        "enroll-secret", "create", "--endpoint", "cmc/bulk", "--recoverable", "--static"
    )
    ledger, stop = Ledger(), threading.Event()
    known = made["reference"], made["secret"]
    threads = [
        threading.Thread(target=Device(node, known, ledger, stop).run) for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.8)
        node.kill()
        node.start()
    stop.set()
    for thread in threads:
        thread.join(120)
    assert not ledger.problems
    assert len(ledger.done) >= CLIENTS
    assert ledger.repeated > 0
    found = node.json("cert", "list", "--limit", "10000")
    issued = {
        row["serial"] for row in found if row["endpoint"] == "cmc/bulk"
        and row["state"] == "issued"
    }  # fmt: skip
    told = {f"{certificate.serial_number:x}" for certificate in ledger.done}
    assert len(told) == len(ledger.done)
    assert told == issued
    points = ledger.done[0].extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name is not None
    path = urllib.parse.urlsplit(points[0].full_name[0].value).path
    crl = x509.load_der_x509_crl(urllib.request.urlopen(node.url + str(path)).read())
    for certificate in ledger.done:
        assert crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is None
