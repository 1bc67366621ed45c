"""RADIUS logins a second: tmad beside FreeRADIUS, same certificates, same load generator.

    python -m benchmarks.radius [--rounds 3] [--logins 600] [--keys p256 rsa-2048] [--workers 1]

Full EAP-TLS logins, resumed ones, and passwords. FreeRADIUS stands there twice: "plain", as its
documentation configures it, and "recording", with a CRL to look into, a durable row for each
login and, for passwords, a durable counter: nearer to what tmad does, which decides from its
database, journals each login and never takes a one-time code twice. tmad's passwords are HOTP
codes, FreeRADIUS's stand in a file.

The load generator is eap_load.c (needs cc and libssl-dev), 16 conversations at a time; it
verifies every answer and compares the keys. Rounds are interleaved and medians printed; beside
each rate stands the server's CPU a login, all processes and threads, which depends less on what
else the machine does. The last column says how many logins tmad gives for one that FreeRADIUS
gives from the same CPU time (floor 1, goal 2).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import secrets
import statistics
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from benchmarks.support import family, processor_seconds
from tests.daemon import Daemon
from tests.eap_load import Generator
from tests.freeradius import FreeRADIUS
from tests.pki import Identity
from tests.radius import RadiusNode
from tests.system.commands import commands_of

PARALLEL = 16
DEVICES = 512  # with a session each; certificates are fewer
CERTIFICATES = 16
PEOPLE = 64
_SETTINGS = 'reject_delay = 0\nrate = 0\nserver_keys = ["{keys}"]\n'


@dataclass(frozen=True)
class Sample:
    """What one run of the load generator found."""

    rate: float
    cpu: float  # seconds of the server a login
    milliseconds: float  # median, of a login


@dataclass(frozen=True)
class Server:
    """Something to log in at, and the processes whose CPU counts."""

    name: str
    port: int
    secret: str
    pids: Callable[[], list[int]]


@dataclass(frozen=True)
class Load:
    """One kind of login."""

    name: str
    mode: Literal["full", "resume", "pap"]
    version: str
    count: int


def sample(generator: Generator, server: Server, load: Load, who: Path, authority: Path) -> Sample:
    """Log in so many times; all must succeed, and as full or resumed as they should be."""
    spent = 0.0

    def begin() -> None:
        nonlocal spent
        spent = -processor_seconds(server.pids())

    def end() -> None:
        nonlocal spent
        spent += processor_seconds(server.pids())

    report = generator.run(
        server.port, server.secret, who, count=load.count, mode=load.mode, version=load.version,
        authority=authority, parallel=PARALLEL, begin=begin, end=end,
    )  # fmt: skip
    wanted = load.count if load.mode == "resume" else 0
    if (report.accepted, report.resumed) != (load.count, wanted):
        raise SystemExit(f"{server.name}: {load.name}: {report}")
    return Sample(report.rate, spent / report.accepted, report.median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--logins", type=int, default=600)
    parser.add_argument("--keys", nargs="+", default=["p256"], choices=["p256", "rsa-2048"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--versions", nargs="+", default=["1.2", "1.3"], choices=["1.2", "1.3"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Generator(Path(folder))
        for keys in options.keys:
            compare(bench, Path(folder) / keys, keys, options)


def compare(bench: Generator, home: Path, keys: str, options: argparse.Namespace) -> None:
    """Set the servers up with one kind of keys, and measure them in turn."""
    daemon = Daemon(
        home / "tmad", workers=options.workers, radius=_SETTINGS.format(keys=keys)
    ).start()
    others: list[FreeRADIUS] = []
    try:
        node = RadiusNode(daemon)
        # The same address as the node's open client, and a longer prefix.
        node.secret = node.add_client(
            "bench", "127.0.0.1/32", "--method", "eap-tls", "--method", "pap",
            "--set", "login.mode=otp",
        )  # fmt: skip
        people = People(daemon)
        devices = [node.issue(f"r{n}.example.test", kind=keys) for n in range(CERTIFICATES)]
        own = node.issue("radius.example.test", profile="tls-server", kind=keys)
        servers = [tmad(daemon, node)]
        for name, equal in (("plain", False), ("recording", True)):
            other = freeradius(home / name, daemon, own, people.passwords, equal=equal)
            others.append(other)
            servers.append(Server(name, other.port, other.secret, lambda o=other: [o.pid]))
        who = bench.lines(
            f"{keys}.devices",
            [(d.path, d.key) for n in range(DEVICES) for d in [devices[n % CERTIFICATES]]],
        )
        loads = [Load(f"full {v}", "full", v, options.logins) for v in options.versions]
        loads += [Load(f"resumed {v}", "resume", v, DEVICES) for v in options.versions]
        loads.append(Load("PAP, one-time", "pap", "-", options.logins))

        def files(server: Server, load: Load) -> Path:
            if load.mode != "pap":
                return who
            pairs = people.codes(load.count) if server.name == "tmad" else people.static()
            return bench.lines(f"{server.name}.people", pairs)

        print(f"\n{keys} keys, {options.workers} worker(s)")
        measure(bench, servers, loads, files, node.authority, options.rounds)
    finally:
        for other in others:
            other.stop()
        daemon.kill()


class People:
    """People with an HOTP token each, and with a password for who keeps no counters."""

    def __init__(self, daemon: Daemon) -> None:
        self._seeds: dict[str, bytes] = {}
        self._used: dict[str, int] = {}
        self._turn = 0
        tmad = commands_of(daemon)
        for number in range(PEOPLE):
            name = f"user{number}"
            tmad.run("user", "create", name)
            token = tmad.json("otp", "create", name, "--kind", "hotp", "--no-qr")
            seed = parse_qs(urlsplit(token["uri"]).query)["secret"][0]
            self._seeds[name] = base64.b32decode(seed + "=" * (-len(seed) % 8))
            self._used[name] = 0
            tmad.run("otp", "activate", token["serial"], hotp(self._seeds[name], 0))
        self.passwords = {name: secrets.token_hex(6) for name in self._seeds}

    def codes(self, count: int) -> list[tuple[object, object]]:
        """Return logins, everybody's in turn, each with the code after the one before."""
        names = list(self._seeds)
        logins: list[tuple[object, object]] = []
        for _ in range(count):
            name = names[self._turn % len(names)]
            self._turn += 1
            self._used[name] += 1
            logins.append((name, hotp(self._seeds[name], self._used[name])))
        return logins

    def static(self) -> list[tuple[object, object]]:
        """Return the same with passwords."""
        return list(self.passwords.items())


def hotp(seed: bytes, counter: int) -> str:
    """Return a code of six digits (RFC 4226, 5.3)."""
    digest = hmac.digest(seed, counter.to_bytes(8, "big"), hashlib.sha1)
    place = digest[-1] & 15
    number = int.from_bytes(digest[place : place + 4], "big") & 0x7FFF_FFFF
    return f"{number % 1_000_000:06}"


def tmad(daemon: Daemon, node: RadiusNode) -> Server:
    """Return the daemon with all its processes."""

    def pids() -> list[int]:
        assert daemon.process is not None
        return family(daemon.process.pid)

    return Server("tmad", daemon.radius_port, node.secret, pids)


def freeradius(
    directory: Path, daemon: Daemon, own: Identity, people: dict[str, str], *, equal: bool
) -> FreeRADIUS:
    """Start a FreeRADIUS that trusts tmad's authorities; ``equal``: that records, too."""
    directory.mkdir(parents=True)
    authorities = directory / "authorities.pem"
    text = daemon.pem("root").read_text() + daemon.pem().read_text()
    if equal:
        for authority in ("root", "issuing"):
            with urllib.request.urlopen(f"{daemon.url}/crl/{authority}.pem", timeout=10) as answer:
                text += answer.read().decode()
    authorities.write_text(text)
    return FreeRADIUS(
        directory, authorities, own, secret=secrets.token_hex(16), users=people,
        check_crl=equal, records=equal,
    ).start()  # fmt: skip


def measure(
    bench: Generator,
    servers: list[Server],
    loads: list[Load],
    files: Callable[[Server, Load], Path],
    authority: Path,
    rounds: int,
) -> None:
    """Run every load at every server in turn; print the medians."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for _ in range(rounds):
        for load in loads:
            for server in servers:
                one = sample(bench, server, load, files(server, load), authority)
                found.setdefault((load.name, server.name), []).append(one)
    head = "".join(f"{server.name:>26}" for server in servers)
    print(f"{'':14}{head}   tmad gives for one of each")
    for load in loads:
        cells, cpu = "", []
        for server in servers:
            samples = found[load.name, server.name]
            rate = statistics.median(each.rate for each in samples)
            spent = statistics.median(each.cpu for each in samples)
            wait = statistics.median(each.milliseconds for each in samples)
            cells += f"{rate:9.0f}/s {spent * 1e6:6.0f} µs {wait:4.0f} ms"[:26].rjust(26)
            cpu.append(spent)
        ratios = "  ".join(f"{other / cpu[0]:.2f}" for other in cpu[1:])
        print(f"{load.name:14}{cells}   {ratios}")


if __name__ == "__main__":
    main()
