"""kill -9 in the middle of ACME orders: each goes on where it was, and none gets two.

Two workers on each database; clients show control of an address anew for each order, repeat what
got no answer, and in the end have exactly what the authority has issued.
"""

from __future__ import annotations

import itertools
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography import x509

from tests.acme_wire import Client, Desk, desk
from tests.daemon import Daemon
from tests.postgres import start_cluster
from tests.unit.acme_world import b64, make_csr

CLIENTS = 3
SETTINGS = "\n[protocols.acme]\nrate = 0\n"


@dataclass
class Ground:
    """A node with the endpoint acme/bulk, and the web server that its validators find."""

    node: Daemon
    web: Desk
    clients: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        directory = f"{self.node.https_url}/acme/bulk/directory"
        self.clients.append(Client(directory, str(self.node.pem("root"))))
        return self.clients[-1]


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
)
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    more = ("--db", start_cluster().empty_database()) if request.param == "postgresql" else ()
    with desk() as web:
        node = Daemon(tmp_path_factory.mktemp("acme") / "node", *more, workers=2, settings=SETTINGS)
        node.tmad(
            "endpoint", "create", "acme", "bulk", "--ca", "issuing", "--profile", "tls-server",
            "--set", "options.new_orders_per_3_hours=0",
            "--set", f"options.validation.http_port={web.port}",
            "--set", 'options.validation.allowed_networks=["127.0.0.0/8"]',
        )  # fmt: skip
        node.start()
        made = Ground(node, web)
        yield made
        for client in made.clients:
            client.close()
        node.kill()


@dataclass
class Ledger:
    """What the clients have got."""

    done: list[x509.Certificate] = field(default_factory=list)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


def customer(ground: Ground, number: int, ledger: Ledger, stop: threading.Event) -> None:
    client = ground.client()
    try:
        client.register()
        for turn in itertools.count(1):
            if stop.is_set():
                break
            # An address of its own each time, whose control has never been shown.
            address = f"127.{number}.{turn // 250}.{turn % 250 + 1}"
            ledger.done.append(client.issued(address, desk=ground.web))
    except BaseException as error:
        ledger.problems.append(repr(error))
    finally:
        ledger.repeated += client.repeated


def test_orders_survive_power_cuts(ground: Ground) -> None:
    ledger, stop = Ledger(), threading.Event()
    threads = [
        threading.Thread(target=customer, args=(ground, number, ledger, stop))
        for number in range(1, CLIENTS + 1)
    ]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(1.5)
        ground.node.kill()
        ground.node.start()
    stop.set()
    for thread in threads:
        thread.join(150)
    assert not ledger.problems
    assert len(ledger.done) >= CLIENTS
    assert ledger.repeated > 0
    found = ground.node.json("cert", "list", "--limit", "10000")
    issued = {
        row["serial"] for row in found if row["endpoint"] == "acme/bulk"
        and row["state"] == "issued"
    }  # fmt: skip
    told = {f"{certificate.serial_number:x}" for certificate in ledger.done}
    assert len(told) == len(ledger.done)
    assert told == issued
    # No order has got a second one.
    valid = [row for row in ground.node.json("acme-order", "list", "--limit", "1000")
             if row["state"] == "valid"]  # fmt: skip
    assert len(valid) == len({row["certificate"] for row in valid}) == len(issued)


def test_a_nonce_is_used_once_whichever_worker_it_meets(ground: Ground) -> None:
    """Eight connections, of which the kernel gives each worker some, replay one message."""
    client = ground.client().register()
    answers: list[str] = []
    posted = client.send
    taken: list[tuple[str, str, bytes | None]] = []

    def keep(method: str, url: str, body: bytes | None = None) -> object:
        taken.append((method, url, body))
        return posted(method, url, body)

    client.send = keep  # type: ignore[assignment, method-assign]  # to have the octets
    assert client.post(client.kid).status == 200
    method, url, body = taken[-1]
    assert urllib.parse.urlsplit(url).path.startswith("/acme/bulk/account/")

    def replay() -> None:
        answers.append(ground.client().send(method, url, body).problem)

    threads = [threading.Thread(target=replay) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == ["badNonce"] * 8


def test_one_order_finalized_at_both_workers_gets_one_certificate(ground: Ground) -> None:
    client = ground.client().register()
    address = "127.77.0.1"
    client.issued(address, desk=ground.web)
    order = client.order(address)
    url = order.headers["Location"]
    results: list[int] = []

    def finalize() -> None:
        other = ground.client()
        other.key, other.kid = client.key, client.kid
        request = {"csr": b64(make_csr(address))}
        results.append(other.post(order.body["finalize"], request).status)

    threads = [threading.Thread(target=finalize) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [200, 403, 403, 403, 403, 403]
    assert client.post(url).body["status"] == "valid"
    found = ground.node.json("cert", "list", "--limit", "10000")
    owner = f"acme:{client.kid.rsplit('/')[-1]}"
    states = [row["state"] for row in found if row["owner"] == owner]
    assert states.count("issued") == 2  # the first, and one for this order
