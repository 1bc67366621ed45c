"""CRLs of many entries: time, memory and reactor stall, beside cryptography's builder.

    python -m benchmarks.crl [ENTRIES]

The goals are in docs/performance.md (goal 14): a million entries in at most a second of CPU,
one more revocation in 0.3 s, 300 MiB, no stall of 10 ms.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from twisted.internet import reactor, task
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.support import Clock
from tests.world import ADMIN, World
from tmad.ca.crl import CRLs
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import KeyHandle
from tmad.storage import private_keys, tables
from tmad.storage.changes import Changes
from tmad.storage.database import Database, migrate

T = TypeVar("T")


def fill(url: str, entries: int) -> None:
    """Make a database with so many revoked certificates, and a fifth more that are not."""
    migrate(url)
    world = World(Database(url), Clock())
    issuer = world.authority()
    step = 20_000
    for _ in range(0, entries * 6 // 5, step):
        world.issue_many(issuer, [x509.random_serial_number() for _ in range(step)])

    def revoke_in_bulk(connection: Any) -> None:
        column = tables.certificates.c
        connection.execute(
            tables.certificates.update()
            .where(column.id <= entries)
            .values(revoked_at=world.clock(), reason=column.id % 5)
        )

    world.write(revoke_in_bulk)
    world.database.close()


class Stall:
    """The longest time for which the reactor could do nothing else, and the memory meanwhile."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.peak = 0.0
        self._last = time.perf_counter()
        task.LoopingCall(self._tick).start(0.001)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last - 0.001)
        # Without the database file, which SQLite maps into memory and the kernel may take back.
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        self.peak = max(self.peak, (int(resident) - int(shared)) * resource.getpagesize())
        self._last = time.perf_counter()

    def take(self) -> float:
        """Return the longest since the last call."""
        found, self.longest = self.longest, 0.0
        return found


async def measure(name: str, stall: Stall, work: Awaitable[T]) -> T:
    """Await ``work`` and print what it cost."""
    await task.deferLater(reactor, 0.2, lambda: None)
    stall.take()
    begin, cpu = time.perf_counter(), time.process_time()
    result = await work
    spent, cpu = time.perf_counter() - begin, time.process_time() - cpu
    await task.deferLater(reactor, 0.01, lambda: None)
    print(
        f"{name:32} {spent:6.2f} s {cpu:6.2f} s CPU, stall {stall.take() * 1000:7.1f} ms,"
        f" peak {stall.peak / (1 << 20):5.0f} MiB",
        flush=True,
    )
    return result


def build(crl_der: bytes, key: Any) -> bytes:
    """Make the same list with the public builder, its entries given at once."""
    crl = x509.load_der_x509_crl(crl_der)
    flags = (None, *list(x509.ReasonFlags)[1:5])
    entries = []
    for number in range(len(crl)):
        builder = x509.RevokedCertificateBuilder(number + 1, crl.last_update_utc)
        flag = flags[number % 5]
        if flag is not None:
            builder = builder.add_extension(x509.CRLReason(flag), False)
        entries.append(builder.build())
    builder = (
        x509.CertificateRevocationListBuilder(None, None, None, [], entries)
        .issuer_name(crl.issuer)
        .last_update(crl.last_update_utc)
        .next_update(crl.next_update_utc)
    )
    signed = builder.sign(key, crl.signature_hash_algorithm)
    return signed.tbs_certlist_bytes


async def run(url: str, entries: int) -> None:
    """Measure on a database that ``fill`` made."""
    database = Database(url, reactor=reactor)
    world = World(database, Clock())
    issuer = await world.hierarchy.by_id(1)
    row = await database.read(private_keys.by_id, issuer.key_id)
    assert row is not None
    world.shelf.rows[row.id] = KeyHandle(
        id=row.id,
        tenant=row.tenant,
        store=row.store,
        algorithm=KeyAlgorithm(row.algorithm),
        label=row.label,
        public_key_der=row.public_key_der,
        material=row.material,
        created_at=row.created_at,
    )
    crls = CRLs(
        database,
        Changes(database),
        world.hierarchy,
        world.keyring,
        world.journal,
        world.clock,
        holder="benchmark",
        reactor=reactor,
    )
    stall = Stall()
    crl = await measure("tmad, from nothing", stall, crls.current(issuer.id))
    print(f"{crl.entries:,} entries, {len(crl.der):,} octets")
    await world.revocation.revoke_by_id(ADMIN, "default", entries + 1, 1)
    crl = await measure("tmad, one more revocation", stall, crls.current(issuer.id))
    assert crl.entries == entries + 1
    await measure("tmad, nothing new", stall, crls.current(issuer.id))
    key = await world.keyring.use(issuer.key_id, lambda private_key: private_key)
    await measure("cryptography, in a thread", stall, deferToThread(build, crl.der, key))
    await database.close()


def main() -> None:
    """Run as a command."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2:
        fill(sys.argv[2], entries)
        return
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/crl.sqlite"
        # In a process of its own: what it needs must not count as our peak.
        arguments = [sys.executable, "-m", "benchmarks.crl", str(entries), url]
        subprocess.run(arguments, check=True, env=os.environ)

        def start() -> None:
            done = ensureDeferred(run(url, entries))
            done.addErrback(lambda failure: failure.printTraceback())
            done.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(start)
        reactor.run()


if __name__ == "__main__":
    main()
