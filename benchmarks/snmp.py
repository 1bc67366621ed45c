"""A walk of 5,000 objects over SNMP: tmad beside net-snmp's snmpd, same objects, same manager.

    python -m benchmarks.snmp [--rounds 9]

snmpd shows HOST-RESOURCES-MIB of this machine (every package that is installed, several thousand
objects); tmad's agent gets the very same names and values as its snapshot and answers through its
own door: rate limit, users as the database has them, engine. The managers are net-snmp's:
snmpbulkwalk over v2c and over v3 (SHA-256, AES-128), snmpwalk, which asks for one object at a
time, and a generator of ours that keeps one GET under way. Rounds are interleaved; medians of
wall time, with the server's CPU beside them, which depends less on what else the machine does.
tmad's answers to a GETBULK have 1,472 octets at most by default, so they are more than snmpd's;
"long" lets them be as long. Needs snmp and snmpd. Goal: twice snmpd's time at most; floor: ten
times. The last line is the CPU of the dearest answer: so long tmad's reactor did nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemon import Daemon, free_ports
from tmad.protocols.snmp import codec, values
from tmad.protocols.snmp.codec import Kind
from tmad.protocols.snmp.mib import Snapshot

ROOT: values.OID = (1, 3, 6, 1, 2, 1, 25)
OBJECTS = 5_000  # that a walk is reckoned for
COMMUNITY = "benchmark"
WORDS = ("first-passphrase", "second-passphrase")
_V2C = ["-v2c", "-c", COMMUNITY]
_V3 = [
    "-v3", "-l", "authPriv", "-u", "bench", "-a", "SHA-256", "-A", WORDS[0], "-x", "AES",
    "-X", WORDS[1],
]  # fmt: skip
WALKS = {
    "bulk walk, v2c, 10 a question": ("snmpbulkwalk", *_V2C, "-Cr10"),
    "bulk walk, v2c, 50 a question": ("snmpbulkwalk", *_V2C, "-Cr50"),
    "bulk walk, v3, 50 a question": ("snmpbulkwalk", *_V3, "-Cr50"),
    "walk, v2c, 1 a question": ("snmpwalk", *_V2C),
    "walk, v3, 1 a question": ("snmpwalk", *_V3),
}
GETS = 5_000


@dataclass(frozen=True)
class Server:
    """Something to walk."""

    name: str
    port: int
    pid: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Sample:
    """Seconds for so many objects, wall time and the server's CPU."""

    wall: float
    cpu: float


def processor_seconds(pid: int) -> float:
    """Return the CPU that a process has had: a walk takes a few ticks of the clock only."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--agent", nargs=4, metavar=("PORT", "SETTINGS", "OBJECTS", "LONGEST"))
    options = parser.parse_args()
    if options.agent:
        serve(int(options.agent[0]), Path(options.agent[1]), Path(options.agent[2]),
              int(options.agent[3]))  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        snmpd = stack.enter_context(start_snmpd(home / "snmpd"))
        found = collect(snmpd)
        costs = home / "costs"
        ours = [
            stack.enter_context(start_tmad(home / name, found, longest, costs))
            for name, longest in (("tmad", 1_472), ("tmad, long", 65_507))
        ]
        compare([snmpd, *ours], len(found), options.rounds)
        stack.close()
        longest = max(float(line) for line in costs.read_text().split())
        print(f"\nthe dearest answer: {longest * 1000:.2f} ms of CPU")


def compare(servers: list[Server], count: int, rounds: int) -> None:
    """Walk each in turn, and print medians."""
    print(
        f"{count} objects, {rounds} rounds; wall time (server CPU) for {OBJECTS} in ms,"
        " ratio to snmpd's wall time"
    )
    for name, command in WALKS.items():
        samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
        for turn in range(rounds + 1):
            for server in servers:
                taken = walk(server, command, count)
                if turn:  # the first one warms up
                    samples[server.name].append(taken)
        _print(name, samples, 1000)
    samples = {server.name: [] for server in servers}
    for _ in range(max(1, rounds // 3)):
        for server in servers:
            samples[server.name].append(gets(server))
    _print(f"GET, v2c, one at a time, µs of {GETS}", samples, 1_000_000 / GETS)


def _print(name: str, samples: dict[str, list[Sample]], unit: float) -> None:
    base = statistics.median(sample.wall for sample in samples["snmpd"])
    texts = []
    for who, found in samples.items():
        wall = statistics.median(sample.wall for sample in found)
        cpu = statistics.median(sample.cpu for sample in found)
        ratio = f" {wall / base:.2f} x" if who != "snmpd" else ""
        texts.append(f"{who} {wall * unit:.1f} ({cpu * unit:.1f}){ratio}")
    print(f"  {name}: " + "   ".join(texts))


def walk(server: Server, command: tuple[str, ...], count: int) -> Sample:
    """Walk once; return the time for OBJECTS of what came."""
    environment = {**os.environ, "MIBS": "", "SNMPCONFPATH": "/nonexistent"}
    cpu, begin = processor_seconds(server.pid), time.perf_counter()
    done = subprocess.run(
        [*command, "-On", "-Oq", server.address, values.dotted(ROOT)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    wall = time.perf_counter() - begin
    lines = sum(line.startswith(".1.3") for line in done.stdout.splitlines())
    # The machine's processes come and go, which snmpd shows.
    if abs(lines - count) > count // 5:
        raise SystemExit(f"{server.name}: {lines} of {count} objects\n{done.stderr}")
    scale = OBJECTS / lines
    return Sample(wall * scale, (processor_seconds(server.pid) - cpu) * scale)


def gets(server: Server) -> Sample:
    """Ask for one object again and again."""
    names = [(*ROOT, 1, 1, 0)]
    pieces = [codec.encode_binding(values.encode_oid(name), values.NULL) for name in names]
    asked = [
        codec.encode_community(
            codec.V2C, COMMUNITY.encode(), codec.encode_pdu(Kind.GET, number, 0, 0, pieces)
        )
        for number in range(100)
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect(("127.0.0.1", server.port))
        wire.settimeout(5)
        cpu, begin = processor_seconds(server.pid), time.perf_counter()
        for number in range(GETS):
            wire.send(asked[number % 100])
            wire.recv(65_536)
        wall = time.perf_counter() - begin
    return Sample(wall, processor_seconds(server.pid) - cpu)


def collect(server: Server) -> list[tuple[values.OID, values.Value]]:
    """Return what snmpd shows below ROOT, but for what changes from moment to moment."""
    found: list[tuple[values.OID, values.Value]] = []
    name = ROOT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect(("127.0.0.1", server.port))
        wire.settimeout(20)
        while True:
            piece = codec.encode_binding(values.encode_oid(name), values.NULL)
            pdu = codec.encode_pdu(Kind.GETBULK, 1, 0, 50, [piece])
            wire.send(codec.encode_community(codec.V2C, COMMUNITY.encode(), pdu))
            message = codec.decode(wire.recv(65_536))
            assert isinstance(message, codec.CommunityMessage)
            for binding in codec.decode_pdu(message.pdu).bindings:
                name = values.decode_oid(binding.name)
                if name[: len(ROOT)] != ROOT or binding.value.TAG == values.END_OF_MIB_VIEW.TAG:
                    return found
                found.append((name, binding.value))


@contextlib.contextmanager
def start_snmpd(home: Path) -> Iterator[Server]:
    """Start snmpd with a community and a user."""
    home.mkdir(parents=True)
    (port,) = free_ports(1)
    (home / "conf").write_text(
        f"rocommunity {COMMUNITY} 127.0.0.1\n"
        f"createUser bench SHA-256 {WORDS[0]} AES {WORDS[1]}\nrouser bench priv\n"
    )
    with subprocess.Popen(
        ["/usr/sbin/snmpd", "-f", "-C", "-c", str(home / "conf"), "-Lf", str(home / "log"),
         f"udp:127.0.0.1:{port}"],
        env={**os.environ, "SNMP_PERSISTENT_DIR": str(home), "MIBS": ""},
    ) as process:  # fmt: skip
        try:
            time.sleep(2)
            yield Server("snmpd", port, process.pid)
        finally:
            process.kill()


@contextlib.contextmanager
def start_tmad(home: Path, found: Any, longest: int, costs: Path) -> Iterator[Server]:
    """Start tmad's agent on these objects, with a community and a user."""
    node = Daemon(home, snmp=True)
    (home / "secret").write_text(COMMUNITY)
    (home / "words").write_text("\n".join(WORDS))
    node.tmad(
        "snmp", "community", "add", "bench", "--prefix", "127.0.0.0/8",
        "--secret-file", str(home / "secret"),
    )  # fmt: skip
    node.tmad("snmp", "user", "add", "bench", "--secret-file", str(home / "words"))
    (home / "objects").write_bytes(
        pickle.dumps([(name, value.TAG, value.content) for name, value in found])
    )
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.snmp", "--agent", str(node.snmp_port),
         str(node.config), str(home / "objects"), str(longest)],
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield Server(home.name, node.snmp_port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            with costs.open("a") as file:
                file.write(process.stdout.read().decode())


def serve(port: int, settings: Path, objects: Path, longest: int) -> None:
    """Be the agent: the door, the engine and the database of a node, other objects."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import ensureDeferred

    from tmad.config import LimitsSection, NodeSettings
    from tmad.edge.datagram import Metered
    from tmad.identity.snmp_managers import Table
    from tmad.observe import DoorMeter
    from tmad.plugin import Limits
    from tmad.protocols.snmp.door import Door, Station
    from tmad.protocols.snmp.engine import Engine, Policy, Reply
    from tmad.protocols.snmp.usm import LocalEngine, Salts
    from tmad.service import open_core

    # Our own file of a moment ago.
    loaded = pickle.loads(objects.read_bytes())
    snapshot = Snapshot.of(
        (name[:-1], name[-1:], values.value_of(tag, content)) for name, tag, content in loaded
    )
    dearest = 0.0
    reactor: Any = installed

    class Timed(Engine):
        def answer(self, datagram: bytes, address: str, table: Table) -> Reply:
            nonlocal dearest
            begin = time.thread_time()
            reply = super().answer(datagram, address, table)
            dearest = max(dearest, time.thread_time() - begin)
            return reply

    def build(local: LocalEngine, counters: dict[str, int]) -> Engine:
        policy = Policy(longest=longest)
        return Timed(local, lambda: snapshot, Salts(0), time.monotonic, policy, counters)

    async def begin() -> None:
        core = await open_core(NodeSettings.load(settings), reactor)
        station = Station(core.services.snmp, build, time.monotonic)
        await station.boot()
        door = Door(station, core.services.snmp, DoorMeter("snmp", "agent"), reactor)
        limits = Limits(body=codec.LONGEST_IN, rate=1e6, burst=10**6)
        reactor.listenUDP(port, Metered(door, limits, LimitsSection(), reactor), "127.0.0.1")
        print("ready", flush=True)

    reactor.callWhenRunning(lambda: ensureDeferred(begin()))
    reactor.run()
    print(dearest)


if __name__ == "__main__":
    main()
