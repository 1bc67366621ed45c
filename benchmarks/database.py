"""Durable writes a second and microseconds a lookup: python -m benchmarks.database [URL].

Each write is one certificate row and one journal record in a transaction of its own, awaited
until it is durable; 1, 8 and 32 of them at a time. Beside it the physical limit: the same two
rows through the bare driver, one commit each and 32 a commit.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sqlite3
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults

from tmad.events import Event, utc_now
from tmad.journal import Journal
from tmad.storage import changes, leases
from tmad.storage.changes import Changes
from tmad.storage.database import Database, migrate
from tmad.storage.tables import certificates
from tmad.wire.evidence import verify_export

SECONDS = 2.0
_INSERT = certificates.insert()
_LOOK = sa.select(certificates.c.id, certificates.c.revoked_at).where(
    certificates.c.issuer_id == sa.bindparam("issuer"),
    certificates.c.serial == sa.bindparam("serial"),
)


def certificate(number: int) -> dict[str, Any]:
    now = utc_now()
    digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
    return {
        "tenant": "default",
        "issuer_id": 1,
        "serial": digest[:16],
        "state": "issued",
        "via": "scep",
        "endpoint": "scep/routers",
        "profile": "router",
        "profile_revision": 1,
        "owner": "",
        "subject": f"CN=device {number}",
        "not_before": now,
        "not_after": now + timedelta(days=365),
        "spki_sha256": digest,
        "tbs_sha256": digest,
        "certificate_der": digest * 20,
        "sha256": digest,
        "created_at": now,
    }


def issue(connection: sa.Connection, journal: Journal, number: int) -> None:
    connection.execute(_INSERT, certificate(number))
    journal.append(
        connection,
        Event(
            kind="certificate.issued",
            tenant="default",
            actor="scep/routers",
            object=str(number),
            data={"serial": f"{number:x}", "profile": "router:1"},
        ),
    )


def small(connection: sa.Connection, number: int) -> None:
    leases.acquire(connection, f"n{number % 50}", "bench", 30, utc_now())


def look(connection: sa.Connection, number: int) -> Any:
    serial = hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]
    return connection.execute(_LOOK, {"issuer": 1, "serial": serial}).first()


class Rate:
    """Counts what is done in SECONDS, with the CPU time it took."""

    def __init__(self) -> None:
        self.done = 0
        self.latencies: list[float] = []
        self.begin = time.perf_counter()
        self.cpu = self._cpu()

    def _cpu(self) -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    @property
    def running(self) -> bool:
        return time.perf_counter() - self.begin < SECONDS

    def show(self, what: str) -> None:
        passed = time.perf_counter() - self.begin
        ordered = sorted(self.latencies) or [0.0]
        print(
            f"{what:44} {self.done / passed:9,.0f} /s"
            f"  {(self._cpu() - self.cpu) / max(self.done, 1) * 1e6:7.0f} µs CPU"
            f"  p50 {ordered[len(ordered) // 2] * 1e3:6.2f} ms"
            f"  p99 {ordered[int(len(ordered) * 0.99)] * 1e3:6.2f} ms"
        )


class Busy:
    """A reactor that never idles, as under a flood of queries: slices of 3 ms."""

    def __enter__(self) -> None:
        self.call: Any = None
        self._slice()

    def _slice(self) -> None:
        end = time.perf_counter() + 0.003
        while time.perf_counter() < end:
            pass
        self.call = reactor.callLater(0, self._slice)  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        self.call.cancel()


async def load(rate: Rate, work: Any, workers: int) -> None:
    async def worker() -> None:
        while rate.running:
            begin = time.perf_counter()
            await work()
            rate.latencies.append(time.perf_counter() - begin)
            rate.done += 1

    await gatherResults([ensureDeferred(worker()) for _ in range(workers)])


def limit(path: Path, group: int) -> None:
    """The bare driver: what the disk and SQLite allow."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=FULL")
    raw.execute("CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, s BLOB UNIQUE, d BLOB)")
    raw.execute("CREATE TABLE IF NOT EXISTS j (seq INTEGER PRIMARY KEY, data TEXT, hash BLOB)")
    rate = Rate()
    while rate.running:
        raw.execute("BEGIN IMMEDIATE")
        for _ in range(group):
            digest = os.urandom(32)
            raw.execute("INSERT INTO c (s, d) VALUES (?, ?)", (digest[:16], digest * 20))
            raw.execute("INSERT INTO j (data, hash) VALUES (?, ?)", ("x" * 100, digest))
        raw.execute("COMMIT")
        rate.done += group
    rate.show(f"bare driver, {group} a commit")
    raw.close()


async def measure(url: str) -> None:
    database = Database(url, reactor=reactor)
    journal = Journal(database, "bench", utc_now)
    numbers = iter(range(10**9))
    print(f"-- {database.dialect}")
    for workers in (1, 8, 32):
        rate = Rate()
        await load(rate, lambda: database.write(issue, journal, next(numbers)), workers)
        rate.show(f"certificate + journal, {workers} at a time")
    with Busy():
        rate = Rate()
        await load(rate, lambda: database.write(issue, journal, next(numbers)), 8)
    rate.show("the same, 8 beside a busy reactor")
    rate = Rate()
    await load(rate, lambda: database.write(small, next(numbers)), 64)
    rate.show("small write function, 64 at a time")
    rate = Rate()
    await load(rate, lambda: database.lookup(look, 7), 1)
    rate.show("lookup, 1 at a time")
    rate = Rate()
    await load(rate, lambda: database.read(look, 7), 1)
    rate.show("read in a thread, 1 at a time")
    rate = Rate()
    await load(rate, lambda: database.read(look, 7), 32)
    rate.show("read in threads, 32 at a time")
    source = Changes(database)
    rate = Rate()
    await load(rate, source.catch_up, 1 if database.dialect == "sqlite" else 32)
    rate.show("catch_up, nothing changed")
    await database.write(changes.record, "status", "1:1")
    rate = Rate()
    report = await journal.verify({})
    assert report.is_intact
    rate.done = report.records
    rate.show("verify in the database, records")
    with tempfile.TemporaryFile() as file:
        async for line in journal.export({}):
            file.write(line)
        file.seek(0)
        rate = Rate()
        report = verify_export(file)
        assert report.is_intact
        rate.done = report.records
        rate.show("verify an export offline, records")
    await database.close()


async def main(urls: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if not urls:
            for group in (1, 32):
                limit(Path(folder) / "limit.db", group)
            urls = [f"sqlite:///{folder}/tmad.db"]
        for url in urls:
            migrate(url)
            await measure(url)


if __name__ == "__main__":

    def begin() -> None:
        done = ensureDeferred(main(sys.argv[1:]))
        done.addErrback(lambda failure: failure.printTraceback())
        done.addBoth(lambda _: reactor.stop())  # type: ignore[attr-defined]

    reactor.callWhenRunning(begin)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]
