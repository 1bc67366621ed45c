"""Durable certificates a second over ACME against a running daemon: P-256, TLS 1.3, SQLite.

Two figures (goal 9), from newOrder to the certificate in hand, over kept connections of accounts
that exist: names that an enrolment secret has authorised (three messages), and an address whose
control is shown by http-01 for each order (six messages and more). Keys and requests are made
before the clock starts; signing the messages is the client's work and counts.

    python -m benchmarks.acme [--count 500] [--connections 32] [--workers 1] [--clients 1]
"""

from __future__ import annotations

import argparse
import hmac
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.scep import processor_seconds
from tests.acme_wire import Client, Desk, desk
from tests.daemon import Daemon
from tests.unit.acme_world import b64, jwk, make_csr, thumbprint, unb64

_SETTINGS = "\n[protocols.acme]\nrate = 0\n\n[limits]\nconnections_per_source = 1000\n"


class Job(NamedTuple):
    """One certificate to be had."""

    name: str
    csr: bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1, help="Processes that ask.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, desk() as web:
        daemon = Daemon(Path(folder) / "node", workers=options.workers, settings=_SETTINGS)
        for label, more in (("bound", ("--set", "options.mode=eab-preauthorized")), ("shown", ())):
            daemon.tmad(
                "endpoint", "create", "acme", label, "--ca", "issuing", "--profile", "tls-server",
                "--set", "options.new_orders_per_3_hours=0",
                "--set", "options.new_accounts_per_hour=0",
                "--set", "challenge.static=true",
                "--set", f"options.validation.http_port={web.port}",
                "--set", 'options.validation.allowed_networks=["127.0.0.0/8"]', *more,
            )  # fmt: skip
        daemon.start()
        try:
            measure("names by binding", "bound", daemon, web, options)
            measure("control by http-01", "shown", daemon, web, options)
        finally:
            daemon.kill()


def measure(title: str, label: str, daemon: Daemon, web: Desk, options: argparse.Namespace) -> None:
    eab = None
    if label == "bound":
        made = daemon.json(
            "enroll-secret", "create", "--endpoint", "acme/bound", "--static",
            "--name", "dns:*.bench.test",
        )  # fmt: skip
        eab = (made["eab_kid"], made["eab_hmac_key"])
    names = [
        f"n{number}.bench.test" if eab else f"127.9.{number // 250}.{number % 250 + 1}"
        for number in range(options.count)
    ]
    jobs = [Job(name, make_csr(name)) for name in names]
    account = Client(f"{daemon.https_url}/acme/{label}/directory", str(daemon.pem("root")))
    account.register(**({"externalAccountBinding": bound(account, *eab)} if eab else {}))
    web.thumbprint = b64(thumbprint(account.key))
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(options.clients + 1)
    results = context.Queue()
    connections = options.connections // options.clients
    processes = [
        context.Process(
            target=ask,
            args=(account, jobs[n :: options.clients], connections, ready, results),
        )
        for n in range(options.clients)
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
    count = len(jobs)
    if len(times) != count:
        raise SystemExit(f"only {len(times)} of {count} were had")
    print(f"{title:20} (goal 400/s, floor 150/s), {options.workers} worker(s)")
    print(f"{count / seconds:8.0f} certificates/s")
    print(f"{spent / count * 1e6:8.0f} µs of the daemon's CPU each")
    print(f"{times[count * 99 // 100] * 1e3:8.1f} ms p99, {times[count // 2] * 1e3:.1f} ms median")


def bound(account: Client, kid: str, mac_key: str) -> dict[str, str]:
    """Return the external account binding of an account that is to be made."""
    header = {"alg": "HS256", "kid": kid, "url": account.places["newAccount"]}
    signed = b64(json.dumps(header).encode()), b64(json.dumps(jwk(account.key)).encode())
    mac = hmac.digest(unb64(mac_key), ".".join(signed).encode(), "sha256")
    return {"protected": signed[0], "payload": signed[1], "signature": b64(mac)}


def ask(
    account: Client,
    jobs: list[Job],
    connections: int,
    ready: threading.Barrier,
    results: multiprocessing.Queue[list[float]],
) -> None:
    """Have every certificate, on as many connections at a time as wanted."""
    waiting = iter(jobs)
    lock = threading.Lock()
    times: list[float] = []
    ready_here = threading.Barrier(connections + 1)

    def work() -> None:
        client = Client(account.directory, account.ca, key=account.key, kid=account.kid)
        assert client.places  # connects
        ready_here.wait()
        while True:
            with lock:
                job = next(waiting, None)
            if job is None:
                break
            begin = time.perf_counter()
            have(client, job)
            times.append(time.perf_counter() - begin)
        client.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    ready_here.wait()
    for thread in threads:
        thread.join()
    results.put(times)


def have(client: Client, job: Job) -> None:
    """Order, show control where that is asked for, and fetch the certificate."""
    order = client.order(job.name)
    if order.body["status"] == "pending":
        (url,) = order.body["authorizations"]
        challenges = client.post(url).body["challenges"]
        (chosen,) = [each for each in challenges if each["type"] == "http-01"]
        client.post(chosen["url"], {})
        order = client.settled(order.headers["Location"], "ready", "invalid")
    done = client.post(order.body["finalize"], {"csr": b64(job.csr)})
    if done.status != 200:
        raise SystemExit(f"{done.status}: {done.raw[:200]!r}")
    client.post(done.body["certificate"])


if __name__ == "__main__":
    main()
