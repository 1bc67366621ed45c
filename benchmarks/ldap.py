"""LDAP searches a second among many people: tmad beside slapd, same entries, same load generator.

    python -m benchmarks.ldap [--people 100000] [--seconds 4] [--rounds 3] [--workers 1 2]

One certificate by mail address, without logging in, as a mail program asks before it encrypts;
and the whole entry by uid. Both servers hold the same people with the same certificates; slapd
(mdb) has indexes on mail, uid and objectClass, and answers all from memory. tmad reads people and
certificates anew for each search, and shows what is valid and not revoked in that instant.

The load generator is ldap_load.c: each connection has one search under way. Rounds are
interleaved and medians printed; beside each rate stands the server's CPU a search, which depends
less on what else the machine does. Needs slapd and cc. Goal: as many searches a second as slapd;
floor: half of them.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from benchmarks.support import DAY, family, processor_seconds
from tests.daemon import Daemon, free_ports
from tmad.storage.status import serial_octets
from tmad.wire import der

SUFFIX = "o=bench"
DISTINCT = 50_000  # searches that differ
_DAYS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        bench = Bench(home, options.people)
        servers = [stack.enter_context(slapd(home / "slapd", bench))]
        servers += [
            stack.enter_context(tmad(home / f"tmad-{workers}", bench, workers))
            for workers in options.workers
        ]
        measure(bench, servers, options)


@dataclass(frozen=True)
class Server:
    """Something to ask, and the processes whose CPU counts."""

    name: str
    port: int
    pids: Callable[[], list[int]]


@dataclass(frozen=True)
class Sample:
    """What one run of the load generator found."""

    rate: float
    cpu: float  # seconds of the server a search
    median: float  # microseconds of an answer
    slowest: float  # the 99th percentile of that


class Bench:
    """The load generator, its questions, and the people that they are about."""

    def __init__(self, home: Path, people: int) -> None:
        self.people = people
        self.program = home / "ldap_load"
        source = Path(__file__).with_name("ldap_load.c")
        subprocess.run(["cc", "-O2", "-o", self.program, source], check=True)
        # More than any process would remember.
        self.certificates = _certificates(5_000)
        chosen = random.Random(20261123)
        numbers = [chosen.randrange(people) for _ in range(DISTINCT)]
        mails = [
            _search("mail", f"user{n}@example.test", "userCertificate;binary") for n in numbers
        ]
        uids = [_search("uid", f"user{n}", "*") for n in numbers]
        self.questions = {
            "certificate by mail": _lines(home / "by-mail", mails),
            "whole entry by uid": _lines(home / "by-uid", uids),
        }

    def certificate(self, number: int) -> bytes:
        """Return the certificate of one person."""
        return self.certificates[number % len(self.certificates)]

    def sample(self, server: Server, questions: Path, connections: int, seconds: float) -> Sample:
        """Ask for so long; each question must have one entry for an answer."""
        spent = processor_seconds(server.pids())
        done = subprocess.run(
            [self.program, "127.0.0.1", str(server.port), questions, str(connections),
             str(seconds)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        spent = processor_seconds(server.pids()) - spent
        answers, took, entries, failures, octets, median, slowest = map(float, done.stdout.split())
        if failures or abs(entries - answers) > connections or octets < answers * 400:
            raise SystemExit(f"{server.name}: {questions.name}: {done.stdout}")
        return Sample(answers / took, spent / answers, median, slowest)


def _certificates(count: int) -> list[bytes]:
    """Return certificates for encrypting mail, such as an authority here would issue."""
    authority, key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    name = x509.Name.from_rfc4514_string("CN=Issuing CA,O=Test Org")
    start = datetime.now(UTC)
    made = []
    for number in range(count):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name.from_rfc4514_string(f"CN=User {number},O=Test Org"))
            .issuer_name(name)
            .serial_number(x509.random_serial_number())
            .public_key(key.public_key())
            .not_valid_before(start - timedelta(days=1))
            .not_valid_after(start + timedelta(days=_DAYS))
            .add_extension(
                x509.SubjectAlternativeName([x509.RFC822Name(f"user{number}@example.test")]), False
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
            )
        )
        made.append(builder.sign(authority, hashes.SHA256()).public_bytes(Encoding.DER))
    return made


def _search(attribute: str, value: str, wanted: str) -> bytes:
    """Return a SearchRequest for one equality below the suffix, as clients send it."""
    text = der.OCTET_STRING
    operation = (
        der.tlv(text, SUFFIX.encode())
        + b"\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00"
        + der.tlv(0xA3, der.tlv(text, attribute.encode()) + der.tlv(text, value.encode()))
        + der.sequence(der.tlv(text, wanted.encode()))
    )
    return der.sequence(der.integer(2), der.tlv(0x63, operation))


def _lines(path: Path, requests: Sequence[bytes]) -> Path:
    path.write_text("".join(f"{request.hex()}\n" for request in requests))
    return path


# -- the servers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def slapd(home: Path, bench: Bench) -> Iterator[Server]:
    """Run OpenLDAP's server with all the people."""
    program = shutil.which("slapd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise SystemExit("slapd is missing")
    (home / "data").mkdir(parents=True)
    [port] = free_ports(1)
    configuration = home / "slapd.conf"
    configuration.write_text(
        "".join(
            f"include /etc/ldap/schema/{s}.schema\n" for s in ("core", "cosine", "inetorgperson")
        )
        + f"pidfile {home}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n"
        f'database mdb\nmaxsize 4294967296\nsuffix "{SUFFIX}"\ndirectory {home}/data\n'
        "index mail,uid eq\nindex objectClass eq\nsizelimit 50\nthreads 4\n"
    )
    text = home / "people.ldif"
    with text.open("w") as file:
        file.write(f"dn: {SUFFIX}\nobjectClass: organization\no: bench\n\n")
        file.write(f"dn: ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: people\n\n")
        for number in range(bench.people):
            name = f"user{number}"
            file.write(
                f"dn: uid={name},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\n"
                f"objectClass: pkiUser\nuid: {name}\ncn: User Number{number}\nsn: Number{number}\n"
                f"givenName: User\ndisplayName: User Number{number}\nmail: {name}@example.test\n"
                "userCertificate;binary:: "
                f"{base64.b64encode(bench.certificate(number)).decode()}\n\n"
            )
    add = [str(Path(program).with_name("slapadd")), "-q", "-f", str(configuration), "-l", str(text)]
    subprocess.run(add, check=True, capture_output=True)
    text.unlink()
    process = subprocess.Popen(
        [program, "-d", "0", "-f", configuration, "-h", f"ldap://127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(port)
        yield Server("slapd", port, lambda: [process.pid])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def tmad(home: Path, bench: Bench, workers: int) -> Iterator[Server]:
    """Run tmad with all the people, and a directory that strangers may ask by mail and uid."""
    daemon = Daemon(home, ldap=True, workers=workers)
    daemon.tmad("directory", "create", "bench", SUFFIX, "--anonymous", "all")
    daemon.tmad("directory", "set", "bench", 'anonymous_attributes=["*"]')
    _fill(home, bench)
    daemon.start()
    try:
        _wait(daemon.ldap_port)

        def pids() -> list[int]:
            assert daemon.process is not None
            return family(daemon.process.pid)

        name = "tmad" if workers == 1 else f"tmad, {workers} workers"
        yield Server(name, daemon.ldap_port, pids)
    finally:
        daemon.kill()


def _fill(home: Path, bench: Bench) -> None:
    """Put the people, and a certificate of each, into the tables past the daemon."""
    now = int(time.time() * 1_000_000)
    [path] = home.rglob("tmad.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        [(issuer,)] = connection.execute(
            "SELECT id FROM issuers WHERE authority = 'issuing' AND state = 'active'"
        )
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO people (tenant, name, full_name, mail, phone, groups, source, created_at,"
            " updated_at, cn_key, sn_key) VALUES ('default', ?, ?, ?, '', '[]', 'local', ?, ?, ?,"
            " ?)",
            (
                (f"user{n}", f"User Number{n}", f"user{n}@example.test", now, now,
                 f"user number{n}", f"number{n}")
                for n in range(bench.people)
            ),
        )  # fmt: skip
        first = 1 + int(connection.execute("SELECT max(id) FROM certificates").fetchone()[0] or 0)

        def rows() -> Iterator[tuple[object, ...]]:
            for n in range(bench.people):
                digest = os.urandom(32)
                yield (
                    first + n, issuer, serial_octets(random.getrandbits(150)),
                    f"person:user{n}", now - DAY, now + _DAYS * DAY, digest, digest,
                    bench.certificate(n), digest, now,
                )  # fmt: skip

        connection.executemany(
            "INSERT INTO certificates (id, tenant, issuer_id, serial, state, via, endpoint,"
            " profile, profile_revision, owner, subject, not_before, not_after, spki_sha256,"
            " tbs_sha256, certificate_der, sha256, created_at) VALUES (?, 'default', ?, ?,"
            " 'issued', 'benchmark', 'scep/default', 'smime-encrypt', 1, ?, '', ?, ?, ?, ?, ?, ?,"
            " ?)",
            rows(),
        )
        connection.executemany(
            "INSERT INTO certificate_names (certificate_id, kind, value, tenant)"
            " VALUES (?, 'email', ?, 'default')",
            ((first + n, f"user{n}@example.test") for n in range(bench.people)),
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _wait(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}")


def measure(bench: Bench, servers: Sequence[Server], options: argparse.Namespace) -> None:
    """Ask every server in turn; print the medians, and how they compare with slapd."""
    found: dict[tuple[str, int, str], list[Sample]] = {}
    for _ in range(options.rounds):
        for name, questions in bench.questions.items():
            for connections in options.connections:
                for server in servers:
                    one = bench.sample(server, questions, connections, options.seconds)
                    found.setdefault((name, connections, server.name), []).append(one)
    print(f"{bench.people:,} people; searches a second, CPU and median (99th percentile) of one")
    for name in bench.questions:
        for connections in options.connections:
            print(f"{name}, {connections} connection(s)")
            base = 0.0
            for server in servers:
                samples = found[name, connections, server.name]
                rate = statistics.median(each.rate for each in samples)
                cpu = statistics.median(each.cpu for each in samples)
                wait = statistics.median(each.median for each in samples)
                slow = statistics.median(each.slowest for each in samples)
                base = base or rate
                print(
                    f"  {server.name:18}{rate:8,.0f}/s {cpu * 1e6:6.0f} µs CPU"
                    f" {wait / 1000:6.2f} ms ({slow / 1000:.2f})   {rate / base:.2f} x slapd"
                )


if __name__ == "__main__":
    main()
