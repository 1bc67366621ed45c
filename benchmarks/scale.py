"""One node with a million certificates beside the same node with a thousand.

    python -m benchmarks.scale [--certificates 1000000] [--seconds 3] [--rounds 3]

Start to first answer, memory, OCSP rates, lists, CRL, revocation to next answer; goals 5 and 16 of
docs/performance.md, G-LOAD-7. The database is made in a temporary folder and removed again. The
load generator is load.c.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from benchmarks.ocsp import Bench, Server
from benchmarks.support import family, fill, first_answer, memory
from tests.daemon import Daemon

SMALL = 1_000
OCSP_TYPE = "application/ocsp-request"

HOT = f"the same {SMALL:,} again and again"
ANEW = "signed anew, any certificate"
COLD = "kept from now on, any certificate"


class Questions:
    """Encodes OCSP requests; all serial numbers have 20 octets, so that one can be replaced.

    With a nonce an answer is signed anew each time, also when the nonce is the same.
    """

    def __init__(self, issuer: x509.Certificate, directory: Path) -> None:
        self._directory = directory
        self._issuer = issuer
        model = x509.random_serial_number() | 1 << 158
        self._model = model.to_bytes(20)
        self._plain = self._build(model, None)
        self._nonce = self._build(model, os.urandom(16))

    def _build(self, serial: int, nonce: bytes | None) -> bytes:
        key_hash = x509.SubjectKeyIdentifier.from_public_key(self._issuer.public_key()).digest
        name = hashes.Hash(hashes.SHA1())
        name.update(self._issuer.subject.public_bytes())
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            name.finalize(), key_hash, serial, hashes.SHA1()
        )
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), False)
        return builder.build().public_bytes(Encoding.DER)

    def plain(self, serial: int) -> bytes:
        return self._plain.replace(self._model, serial.to_bytes(20))

    def write(self, name: str, serials: list[int], *, nonce: bool = False) -> Path:
        """Write a file for the load generator."""
        path = self._directory / name
        model = self._nonce if nonce else self._plain
        path.write_text(
            "".join(
                model.replace(self._model, serial.to_bytes(20)).hex() + "\n" for serial in serials
            )
        )
        return path


class Figures:
    """What was measured at one size."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that something takes."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def get_crl(daemon: Daemon) -> int:
    """Return the octets of the issuing CA's CRL."""
    with urllib.request.urlopen(f"{daemon.url}/crl/issuing.crl", timeout=60) as answer:
        return len(answer.read())


def status_of(daemon: Daemon, body: bytes) -> str:
    request = urllib.request.Request(f"{daemon.url}/ocsp", body, {"Content-Type": OCSP_TYPE})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return ocsp.load_der_ocsp_response(answer.read()).certificate_status.name


class Measurement:
    """One node, measured at two sizes."""

    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        self.seconds: float = arguments.seconds
        self.rounds: int = arguments.rounds
        self.large: int = arguments.certificates
        self.bench = Bench(directory, arguments.seconds)
        self.daemon = Daemon(directory / "node")
        issuer = x509.load_pem_x509_certificate(self.daemon.pem().read_bytes())
        self.questions = Questions(issuer, directory)
        # Every row holds a certificate of an ordinary size: the issuing CA's own.
        self.certificate_der = issuer.public_bytes(Encoding.DER)
        (key,) = self.daemon.json("ca", "show", "issuing")["keys"].values()
        self.issuer_id = int(key["id"])
        self.serials: list[int] = []
        self.random = random.Random(1)

    def grow(self, size: int) -> None:
        """Add certificates until there are so many; one in a hundred is revoked."""
        begin = time.perf_counter()
        more = [self.random.getrandbits(158) | 1 << 158 for _ in range(size - len(self.serials))]
        database = self.daemon.directory / "tmad.db"
        fill(database, self.issuer_id, more, self.certificate_der, every=100)
        self.serials += more
        took = time.perf_counter() - begin
        octets = database.stat().st_size
        print(f"{size:,} certificates: {octets >> 20:,} MiB, made in {took:.0f} s", flush=True)

    def measure(self) -> Figures:
        """Measure everything at the present size."""
        figures = Figures()
        hot = self.questions.write("hot", self.random.sample(self.serials, SMALL))
        # More than can be asked in the time: each once, unless there are too few.
        many = self.random.sample(self.serials, min(len(self.serials), int(self.seconds * 30_000)))
        loads = {
            HOT: hot,
            ANEW: self.questions.write("anew", many, nonce=True),
        }
        if len(many) > 10 * SMALL:
            loads[COLD] = self.questions.write("cold", many)
        body = self.questions.plain(self.serials[0])
        for _ in range(self.rounds):
            took = first_answer(self.daemon, "/ocsp", body, OCSP_TYPE)
            figures.add("start to first answer, s", took)
            assert self.daemon.process is not None
            pid = self.daemon.process.pid
            server = Server("tmad", f"{self.daemon.url}/ocsp", lambda pid=pid: family(pid))
            time.sleep(2)
            resident, anonymous = memory(family(pid))
            figures.add("idle memory, MiB", resident)
            figures.add("idle memory without mapped files, MiB", anonymous)
            self.bench.load(server, hot, close=False, seconds=1)
            for name, bodies in loads.items():
                sample = self.bench.load(server, bodies, close=False)
                if sample.failures:
                    raise SystemExit(f"{sample.failures} failures")
                figures.add(f"OCSP {name}, a second", sample.rate)
                figures.add(f"OCSP {name}, µs CPU", sample.cpu * 1e6)
            resident, anonymous = memory(family(pid))
            figures.add("memory after that, MiB", resident)
            figures.add("memory after that without mapped files, MiB", anonymous)
            self.others(figures)
            self.daemon.stop()
        return figures

    def others(self, figures: Figures) -> None:
        """Measure what does not need a load generator."""
        daemon = self.daemon
        rows = daemon.json("cert", "list", "--limit", "2")
        deep = str(int(rows[0]["id"]) + len(self.serials) * 9 // 10)
        none = timed(lambda: daemon.tmad("cert", "list", "--limit", "1"))
        figures.add("tmad cert list, 1 row, ms", none)
        for name, after in (("first page of 100", "0"), ("page of 100 behind 90 %", deep)):
            took = timed(
                lambda after=after: daemon.tmad("cert", "list", "--limit", "100", "--after", after)
            )
            figures.add(f"tmad cert list, {name}, ms", took)
        chosen = self.random.sample(self.serials, 2)
        for name, serial in zip(("all entries read", "one entry more"), chosen, strict=True):
            body = self.questions.plain(serial)
            status_of(daemon, body)
            daemon.tmad("cert", "revoke", f"{serial:x}", expect=None)
            answers: list[str] = []
            took = timed(lambda body=body, answers=answers: answers.append(status_of(daemon, body)))
            if answers != ["REVOKED"]:
                raise SystemExit("a revocation was not seen by the next query")
            figures.add("next OCSP answer after a revocation, ms", took)
            sizes: list[int] = []
            took = timed(lambda sizes=sizes: sizes.append(get_crl(daemon)))
            figures.add(f"CRL, {name}, ms", took)
            figures.add(f"CRL, {name}, KiB", sizes[0] / 1024)


def report(small: Figures, large: Figures, size: int) -> None:
    """Print both sizes side by side, and what the goals say."""
    print(f"\n{os.cpu_count()} cores; medians{'':36}{SMALL:>12,}{size:>12,}")
    for name in large.values:
        first = f"{small.median(name):12,.1f}" if name in small.values else " " * 12
        print(f"{name:60}{first}{large.median(name):12,.1f}")
    print()
    for name in (HOT, ANEW):
        rate = f"OCSP {name}, a second"
        ratio = large.median(rate) / small.median(rate)
        print(f"goal 5: OCSP {name}, large ÷ small {ratio:.2f} (floor 0.8, goal 0.95)")
    peak = large.median("memory after that, MiB")
    print(f"goal 5: memory at {size:,}: {peak:.0f} MiB (floor 500, goal 250)")
    start = large.median("start to first answer, s")
    print(f"goal 16: start to first answer {start:.2f} s (floor 1.5, goal 0.6)")
    idle = large.median("idle memory, MiB")
    print(f"goal 16: idle memory {idle:.0f} MiB (floor 110, goal 75)")


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--certificates", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measurement = Measurement(Path(name), arguments)
        try:
            measurement.grow(SMALL)
            small = measurement.measure()
            measurement.grow(arguments.certificates)
            large = measurement.measure()
        finally:
            measurement.daemon.kill()
    report(small, large, arguments.certificates)


if __name__ == "__main__":
    main()
