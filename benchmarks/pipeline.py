"""Durable enrolments a second through Authority.enroll, in one process on a SQLite file.

A P-256 authority and keys that were made before. Beside it, as the ceiling in the same run:
the signatures alone, and cryptography's builder alone.

    python -m benchmarks.pipeline [--count 2000] [--at-once 128] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import defer, reactor
from twisted.internet.defer import DeferredSemaphore, ensureDeferred

from tests.unit.ca_bench import Bench, asked, name
from tmad.events import utc_now
from tmad.storage.database import Database, migrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=128)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def begin() -> None:
            done = ensureDeferred(run(options, f"sqlite:///{folder}/tmad.db"))
            done.addErrback(lambda failure: failure.printTraceback())
            done.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()


async def run(options: argparse.Namespace, url: str) -> None:
    migrate(url)
    database = Database(url, reactor=reactor)
    bench = Bench(database=database, clock=utc_now)
    await bench.prepare()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(options.count)]
    secrets = await gather(bench.secret, options.count, 256)
    requests = [
        asked(
            key=key,
            secret=secret,
            common=f"r{number}.example.test",
            names=(x509.DNSName(f"r{number}.example.test"),),
            transaction=f"t{number}",
            evidence=b"csr %d" % number,
        )
        for number, (key, secret) in enumerate(zip(keys, secrets, strict=True))
    ]
    # What a running daemon has behind it: caches filled, statements compiled.
    await bench.authority.enroll(asked(secret=await bench.secret(), transaction="first"))
    profiler = cProfile.Profile()
    gate = DeferredSemaphore(options.at_once)
    if options.profile:
        profiler.enable()
    begun, busy = time.perf_counter(), time.process_time()
    await defer.gatherResults(
        [gate.run(lambda r=r: ensureDeferred(bench.authority.enroll(r))) for r in requests]
    )
    wall, cpu = time.perf_counter() - begun, time.process_time() - busy
    profiler.disable()
    rate = options.count / wall
    print(f"{rate:8.0f} enrolments/s")
    print(f"{1e6 * cpu / options.count:8.0f} µs of CPU each")
    for label, seconds in ceilings(keys[0]).items():
        print(f"{label:17} {1 / seconds:8.0f} /s   ratio {rate * seconds:.2f}")
    if options.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    await database.close()


async def gather(function, count: int, at_once: int) -> list:
    gate = DeferredSemaphore(at_once)
    return await defer.gatherResults(
        [gate.run(lambda: ensureDeferred(function())) for _ in range(count)]
    )


def ceilings(key: ec.EllipticCurvePrivateKey) -> dict[str, float]:
    """Return the seconds that one signature takes, and one certificate by the builder."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("r1.example.test"))
        .issuer_name(name("root"))
        .serial_number(2**150)
        .public_key(key.public_key())
        .not_valid_before(utc_now())
        .not_valid_after(utc_now().replace(year=2040))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("r1.example.test")]), False)
    )
    return {
        "signature alone": timed(lambda: key.sign(bytes(400), ec.ECDSA(hashes.SHA256()))),
        "builder alone": timed(lambda: builder.sign(key, hashes.SHA256())),
    }


def timed(function) -> float:
    begun = time.perf_counter()
    for _ in range(1000):
        function()
    return (time.perf_counter() - begun) / 1000


if __name__ == "__main__":
    main()
