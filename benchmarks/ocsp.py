"""OCSP answers a second: tmad beside ``openssl ocsp``, same certificates, same load generator.

    python -m benchmarks.ocsp [--seconds 3] [--rounds 3] [--certificates 1000] [--workers 1 2]

The load generator is load.c, with 32 connections (wrk cannot ask ``openssl ocsp``: see there).
Rounds are interleaved and medians printed; beside each rate stands the server's CPU a request,
which depends less on what else the machine does. The goals are ratios (docs/performance.md,
goals 1 to 6).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.daemon import Daemon, free_ports
from tmad.storage.status import serial_octets

# The requests for an authority, with or without a nonce.
Bodies: TypeAlias = dict[tuple[str, bool], Path]

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What one run of the load generator found."""

    rate: float
    cpu: float  # seconds of the server a request
    failures: int


@dataclass(frozen=True)
class Server:
    """Something to ask: where, and the processes whose CPU counts."""

    name: str
    url: str
    pids: Callable[[], list[int]]


class Bench:
    """Files, requests and the load generator."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self.directory = directory
        self.seconds = seconds
        self.program = directory / "load"
        source = Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-o", self.program, source], check=True)

    def requests(
        self, name: str, issuer: x509.Certificate, serials: list[int], *, nonce: bool
    ) -> Path:
        """Write one request a line, in hexadecimal."""
        path = self.directory / name
        bits = issuer.public_key()
        name_hash = _sha1(issuer.subject.public_bytes())
        key_hash = x509.SubjectKeyIdentifier.from_public_key(bits).digest
        with path.open("w", encoding="ascii") as file:
            for serial in serials:
                builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
                    name_hash, key_hash, serial, hashes.SHA1()
                )
                if nonce:
                    builder = builder.add_extension(x509.OCSPNonce(os.urandom(16)), False)
                file.write(builder.build().public_bytes(Encoding.DER).hex() + "\n")
        return path

    def load(self, server: Server, bodies: Path, *, close: bool, seconds: float = 0) -> Sample:
        """Ask for a while; return what came of it."""
        url = urlsplit(server.url)
        spent = _cpu(server.pids())
        output = subprocess.run(
            [self.program, str(url.hostname), str(url.port), url.path, bodies, "32",
             str(seconds or self.seconds), "close" if close else "keep"],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        spent = _cpu(server.pids()) - spent
        count = int(output[0])
        return Sample(count / float(output[1]), spent / max(1, count), int(output[2]))


def _sha1(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA1())
    digest.update(data)
    return digest.finalize()


def _cpu(pids: list[int]) -> float:
    """Return the seconds of CPU that these processes and their dead children have used."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def _family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += _family(int(path.parent.name))
    return found


def _memory(pids: list[int]) -> float:
    """Return the anonymous memory of these processes in MiB."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(re.search(r"RssAnon:\s+(\d+)", text)[1])  # type: ignore[index]  # Linux
    return total / 1024


def fill(database: Path, issuer_id: int, serials: list[int]) -> None:
    """Add certificate rows; a tenth of them are revoked."""
    now = int(time.time() * 1_000_000)
    end = now + 365 * 86_400 * 1_000_000
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executemany(
            "INSERT INTO certificates (tenant, issuer_id, serial, state, via, endpoint, profile,"
            " profile_revision, owner, subject, not_before, not_after, spki_sha256, tbs_sha256,"
            " created_at, revoked_at, reason) VALUES ('default', ?, ?, 'issued', 'benchmark',"
            " '', 'device', 1, '', '', ?, ?, x'', x'', ?, ?, ?)",
            (
                (issuer_id, serial_octets(serial), now, end, now,
                 *((now, 4) if number % 10 == 0 else (None, None)))
                for number, serial in enumerate(serials)
            ),
        )  # fmt: skip
        connection.commit()


@contextlib.contextmanager
def peer(directory: Path, serials: list[int]) -> Iterator[tuple[Server, x509.Certificate]]:
    """Run ``openssl ocsp`` with a P-256 responder on the same serial numbers."""
    directory.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=peer",
            "-days", "30")  # fmt: skip
    openssl("req", *curve, "-keyout", "r.key", "-out", "r.csr", "-subj", "/CN=responder")
    (directory / "ext").write_text("extendedKeyUsage=OCSPSigning\nkeyUsage=digitalSignature\n")
    openssl("x509", "-req", "-in", "r.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30",
            "-extfile", "ext", "-out", "r.pem")  # fmt: skip
    with (directory / "index.txt").open("w", encoding="ascii") as index:
        for number, serial in enumerate(serials):
            serial_hex = f"{serial:X}"
            serial_hex = "0" * (len(serial_hex) % 2) + serial_hex
            state = "R\t351231235959Z\t261101000000Z" if number % 10 == 0 else "V\t351231235959Z\t"
            index.write(f"{state}\t{serial_hex}\tunknown\t/CN={number}\n")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        ["openssl", "ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "r.pem", "-rkey",
         "r.key", "-port", str(port), "-ndays", "1", "-ignore_err"],
        cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        time.sleep(1 + len(serials) / 100_000)
        issuer = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        url = f"http://127.0.0.1:{port}/"
        yield Server("openssl ocsp", url, lambda: _family(process.pid)), issuer
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check(daemon: Daemon, serial: int) -> None:
    """Let openssl verify one answer, so that what is measured is known to be right."""
    pem = daemon.pem()
    done = subprocess.run(
        ["openssl", "ocsp", "-issuer", str(pem), "-serial", str(serial), "-url",
         f"{daemon.url}/ocsp", "-CAfile", str(daemon.pem("root")), "-verify_other", str(pem)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Response verify OK" not in done.stderr or ": good" not in done.stdout:
        raise SystemExit(f"openssl does not accept our answer:\n{done.stdout}{done.stderr}")


def rsa_signing_rate() -> float:
    """Return how often one core signs with RSA-2048 in a second."""
    from cryptography.hazmat.primitives.asymmetric import padding

    key = rsa.generate_private_key(65537, 2048)
    begin, count = time.process_time(), 0
    while time.process_time() - begin < 1:
        key.sign(b"x" * 200, padding.PKCS1v15(), hashes.SHA256())
        count += 1
    return count / (time.process_time() - begin)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--certificates", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Run(Path(name), arguments).all()


class Run:
    """One comparison."""

    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        self.bench = Bench(directory, arguments.seconds)
        self.directory = directory
        self.rounds = arguments.rounds
        self.workers = arguments.workers
        self.serials = [x509.random_serial_number() for _ in range(arguments.certificates)]
        self.samples: dict[str, list[Sample]] = {}

    def all(self) -> None:
        """Measure everything and print it."""
        with contextlib.ExitStack() as ends:
            openssl, peer_issuer = ends.enter_context(peer(self.directory / "peer", self.serials))
            theirs = self.bench.requests("peer-bodies", peer_issuer, self.serials, nonce=False)
            # All of them before any load, which leaves thousands of ports in TIME-WAIT.
            nodes = [(workers, *self.node(workers, ends)) for workers in self.workers]
            for workers, daemon, bodies in nodes:
                self.measure(daemon, workers, bodies, openssl, theirs)
        self.report()

    def node(self, workers: int, ends: contextlib.ExitStack) -> tuple[Daemon, Bodies]:
        """Start a node; return it and the requests for it."""
        daemon = Daemon(self.directory / f"node-{workers}", workers=workers)
        daemon.tmad("ca", "create", "rsa", "--parent", "root", "--algorithm", "rsa-2048")
        bodies: Bodies = {}
        for authority in ("issuing", "rsa"):
            (key,) = daemon.json("ca", "show", authority)["keys"].values()
            fill(daemon.directory / "tmad.db", key["id"], self.serials)
            issuer = x509.load_pem_x509_certificate(daemon.pem(authority).read_bytes())
            for nonce in (False, True):
                bodies[authority, nonce] = self.bench.requests(
                    f"{authority}-{nonce}-{workers}", issuer, self.serials, nonce=nonce
                )
        daemon.start()
        ends.callback(daemon.kill)
        check(daemon, self.serials[1])
        return daemon, bodies

    def measure(
        self,
        daemon: Daemon,
        workers: int,
        bodies: Bodies,
        openssl: Server,
        theirs: Path,
    ) -> None:
        """Interleave every way of asking, several rounds."""
        assert daemon.process is not None
        pid = daemon.process.pid
        server = Server("tmad", f"{daemon.url}/ocsp", lambda: _family(pid))
        self.bench.load(server, bodies["issuing", False], close=False, seconds=2)  # fills caches
        for _ in range(self.rounds):
            self.take("openssl ocsp, new connections", openssl, theirs, close=True)
            for kind, key, close in (
                ("kept answer, kept alive", ("issuing", False), False),
                ("kept answer, new connections", ("issuing", False), True),
                ("signed anew P-256, kept alive", ("issuing", True), False),
                ("signed anew P-256, new connections", ("issuing", True), True),
                ("signed anew RSA-2048, kept alive", ("rsa", True), False),
            ):
                self.take(f"tmad {workers}: {kind}", server, bodies[key], close=close)
        print(f"tmad with {workers} worker(s): {_memory(server.pids()):.0f} MiB", flush=True)

    def take(self, name: str, server: Server, bodies: Path, *, close: bool) -> None:
        """Measure once."""
        self.samples.setdefault(name, []).append(self.bench.load(server, bodies, close=close))

    def report(self) -> None:
        """Print medians, and how they compare."""
        print(f"\n{len(self.serials):,} certificates, 32 connections, {os.cpu_count()} cores")
        rates = {}
        for name, samples in self.samples.items():
            rate = rates[name] = statistics.median(sample.rate for sample in samples)
            cpu = statistics.median(sample.cpu for sample in samples)
            failures = sum(sample.failures for sample in samples)
            ratio = rate / rates["openssl ocsp, new connections"]
            print(
                f"{name:44} {rate:9,.0f}/s {cpu * 1e6:7.0f} µs CPU {ratio:6.2f} x openssl"
                + (f"  {failures} FAILED" if failures else "")
            )
        signing = rsa_signing_rate()
        for workers in self.workers:
            own = rates[f"tmad {workers}: signed anew RSA-2048, kept alive"]
            print(f"tmad {workers}: RSA-2048 at {own / signing:.0%} of one core's signing rate")
        if {1, 2} <= set(self.workers):
            for name, rate in rates.items():
                if name.startswith("tmad 2:"):
                    print(f"two workers ÷ one{name[6:]}: {rate / rates['tmad 1' + name[6:]]:.2f}")


if __name__ == "__main__":
    main()
