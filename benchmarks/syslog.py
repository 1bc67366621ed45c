"""Records a second that reach a collector, and what dead collectors cost enrolments.

    python -m benchmarks.syslog [--records 20000] [--enrolments 200] [--rounds 2]

Delivery: a journal that is full already goes to a real rsyslogd, from the first message in its
file to the last; beside it another rsyslogd forwards a file of as many messages of the same length
to it, which keeps no durable place for each collector and reads no database. Enrolments: SCEP over
32 connections while there is no collector, a live one, one that refuses connections, and one that
accepts them and never reads, in turns; beside the rate stands the daemon's CPU an enrolment, which
depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asn1crypto import cms
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from benchmarks import scep
from tests import scep_client as client
from tests.collectors import Collector, Rsyslog, wait_until
from tests.daemon import Daemon, free_ports
from tests.pki import Authority
from tests.support import drive
from tests.system.commands import commands_of
from tmad.events import Event, utc_now
from tmad.journal import Journal
from tmad.storage.database import Database

_FORWARDER = """
global(workDirectory="{directory}" maxMessageSize="64k")
module(load="imfile")
input(type="imfile" file="{file}" tag="bench")
template(name="raw" type="string" string="%msg%")
action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" template="raw"
       TCP_Framing="octet-counted")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--enrolments", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        deliveries(Path(folder), options.records)
    with tempfile.TemporaryDirectory() as folder:
        enrolments(Path(folder), options.enrolments, options.rounds)


# -- delivery ---------------------------------------------------------------------------------


def deliveries(folder: Path, count: int) -> None:
    pki = Authority(folder / "pki", kind="rsa")
    server = pki.issue("logs.example.test", uses=(ExtendedKeyUsageOID.SERVER_AUTH,))
    node = Daemon(folder / "node")
    fill(node, count)
    print(f"{'way':12} {'records/s':>10} {'µs CPU each':>12}")
    for way in ("tcp", "tls", "udp"):
        [port] = free_ports(1)
        tls = (pki.path, server.chain, server.key) if way == "tls" else None
        collector = Rsyslog(folder / way, port, tls=tls)
        collector.start()
        tmad = commands_of(node)
        tmad.run(
            "log-collector", "create", "bench", "--transport", way, "--beginning",
            "--address", collector.address, "--event", "bench.*",
            "--ca-file", str(pki.path), "--server-name", "logs.example.test",
            "--set", "rate=100000",
        )  # fmt: skip
        node.start()
        before = scep.processor_seconds(node)
        rate, arrived = watch(collector, count)
        spent = scep.processor_seconds(node) - before
        node.stop()
        collector.kill()
        lost = "" if arrived == count else f"   {count - arrived} lost by the datagram's way"
        print(f"{way:12} {rate:10,.0f} {spent / count * 1e6:12.0f}{lost}")
        tmad = commands_of(node)
        tmad.run("log-collector", "delete", "bench")
    print(f"{'rsyslog tcp':12} {forward(folder, count):10,.0f}")


def fill(node: Daemon, count: int) -> None:
    """Write events into the journal, as another node would."""
    database = Database(f"sqlite:///{node.directory}/tmad.db")
    journal = Journal(database, "bench", utc_now)
    data = {"serial": "0a1b2c3d4e5f", "subject": "CN=pump-1.example.test"}
    for begin in range(0, count, 1_000):
        events = [
            Event(kind="bench.happened", tenant="default", actor="scep/default", object=str(n),
                  data=data)
            for n in range(begin, min(begin + 1_000, count))
        ]  # fmt: skip
        drive(journal.write(*events))
    database.close()


def watch(collector: Collector, count: int) -> tuple[float, int]:
    """Return records a second from the first to the last, and how many arrived."""
    path = collector.directory / "raw"
    wait_until(path.exists, "nothing arrives")
    begin = newest = time.perf_counter()
    lines = size = 0
    while lines < count and time.perf_counter() - newest < 3:
        time.sleep(0.02)
        if path.stat().st_size != size:
            octets = path.read_bytes()
            size, lines, newest = len(octets), octets.count(b"\n"), time.perf_counter()
    return lines / (newest - begin), lines


def forward(folder: Path, count: int) -> float:
    """Return what rsyslog's own forwarder does with as many messages from a file."""
    message = (folder / "tcp" / "raw").read_bytes().splitlines()[0]
    (folder / "file").write_bytes((message + b"\n") * count)
    [port] = free_ports(1)
    collector = Rsyslog(folder / "forwarded", port)
    collector.start()
    sender = Rsyslog(folder / "sender", port)
    sender.config.write_text(
        _FORWARDER.format(directory=sender.directory, file=folder / "file", port=port)
    )
    sender.start()
    rate, _ = watch(collector, count)
    sender.kill()
    collector.kill()
    return rate


# -- enrolments -------------------------------------------------------------------------------


def enrolments(folder: Path, count: int, rounds: int) -> None:
    node = Daemon(folder / "node", settings="\n[protocols.scep]\nrate = 0\n").start()
    try:
        url = node.endpoint("bench", "--set", "challenge.static=true")
        secret = node.secret("scep/bench", "--static")
        _, _, body = client.fetch(url, "GetCACert")
        first = cms.ContentInfo.load(body)["content"]["certificates"][0]
        ra = x509.load_der_x509_certificate(first.chosen.dump())
        cases: dict[str, Callable[[Path], Iterator[str]]] = {
            "no collector": none, "a live one": live, "a dead one": dead, "a hung one": hung,
        }  # fmt: skip
        rates: dict[str, list[float]] = {name: [] for name in cases}
        costs: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds):
            for name, case in cases.items():
                messages = scep.build(count, ra, secret)
                with contextmanager(case)(folder / f"{number}{name[2]}") as address:
                    if address:
                        node.tmad(
                            "log-collector", "create", "bench", "--transport", "tcp",
                            "--address", address,
                        )  # fmt: skip
                        time.sleep(2)
                    before, begin = scep.processor_seconds(node), time.perf_counter()
                    scep.send(node.http_port, messages, 32)
                    seconds = time.perf_counter() - begin
                    rates[name].append(count / seconds)
                    costs[name].append((scep.processor_seconds(node) - before) / count)
                    if address:
                        node.tmad("log-collector", "delete", "bench")
        print(f"\n{'while there is':15} {'enrolments/s':>13} {'µs CPU each':>12}")
        for name, found in rates.items():
            cost = statistics.median(costs[name])
            print(f"{name:15} {statistics.median(found):13.0f} {cost * 1e6:12.0f}")
    finally:
        node.kill()


def none(folder: Path) -> Iterator[str]:
    yield ""


def live(folder: Path) -> Iterator[str]:
    [port] = free_ports(1)
    collector = Rsyslog(folder, port)
    collector.start()
    yield collector.address
    collector.kill()


def dead(folder: Path) -> Iterator[str]:
    [port] = free_ports(1)
    yield f"127.0.0.1:{port}"


def hung(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=5) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main()
