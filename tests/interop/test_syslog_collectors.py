"""rsyslog and syslog-ng receive the journal, are killed, hang and come back (Y-01..Y-12, A-Y1..3).

What is asked of each: all that happened arrives, in its order; what comes twice is what the
documented window allows, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.collectors import SYSLOG_NG, Collector, Rsyslog, SyslogNG, wait_until
from tests.daemon import Daemon, free_ports
from tests.pki import Authority, Identity
from tests.support import drive
from tests.syslog_grammar import parse
from tests.system.commands import Commands, commands_of
from tmad.events import Event, utc_now
from tmad.journal import Journal
from tmad.storage.database import Database

pytestmark = pytest.mark.interop

SERVER = "logs.example.test"
SD = "tmad@8072.9999.9999"
KIND = "certificate.issued"
POISON = (
    'CN="quoted\\]", O=one]two\nforged <13>1 - - - - - -\r\t\x1b[2J\x7f\u2028é\N{GRINNING FACE}'
)


class Happenings:
    """A journal of its own chain in the daemon's database, as another node would write it."""

    def __init__(self, daemon: Daemon) -> None:
        self._database = Database(f"sqlite:///{daemon.directory}/tmad.db")
        self._journal = Journal(self._database, "elsewhere", utc_now)
        self.count = 0
        self.first = 1  # of the test that runs

    def happen(self, number: int = 1, **data: str) -> None:
        """Journal so many events in one transaction."""
        events = [
            Event(kind=KIND, tenant="default", actor="test", object=str(n), data=data)
            for n in range(self.count + 1, self.count + number + 1)
        ]
        drive(self._journal.write(*events))
        self.count += number

    @contextmanager
    def going_on(self, rate: float) -> Iterator[None]:
        """Journal so many events a second meanwhile."""
        is_over = threading.Event()

        def go() -> None:
            while not is_over.wait(1 / rate):
                self.happen()

        thread = threading.Thread(target=go)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def close(self) -> None:
        drive(self._close())

    async def _close(self) -> None:
        await self._database.close()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), kind="rsa")


@pytest.fixture(scope="module")
def server(pki: Authority) -> Identity:
    """The certificate of a collector."""
    return pki.issue(SERVER, uses=(ExtendedKeyUsageOID.SERVER_AUTH,))


@pytest.fixture(scope="module")
def tmad(daemon: Daemon) -> Commands:
    return commands_of(daemon)


@pytest.fixture(scope="module")
def chain(daemon: Daemon) -> Iterator[Happenings]:
    made = Happenings(daemon)
    yield made
    made.close()


@pytest.fixture
def happenings(chain: Happenings) -> Happenings:
    chain.first = chain.count + 1
    return chain


Begin = Callable[..., Collector]


@pytest.fixture
def rsyslog(tmp_path: Path, require_client: Callable[[str], str]) -> Iterator[Begin]:
    """A function that starts an rsyslogd."""
    require_client("/usr/sbin/rsyslogd")
    yield from _starting(lambda port, **options: Rsyslog(tmp_path / "rsyslog", port, **options))


@pytest.fixture
def syslog_ng(tmp_path: Path, require_client: Callable[[str], str]) -> Iterator[Begin]:
    """A function that starts a syslog-ng with a source."""
    require_client(str(SYSLOG_NG / "usr/sbin/syslog-ng"))
    yield from _starting(lambda port, **options: SyslogNG(tmp_path / "ng", port, **options))


def _starting(make: Callable[..., Collector]) -> Iterator[Begin]:
    started: list[Collector] = []

    def begin(**options: object) -> Collector:
        [port] = free_ports(1)
        collector = make(port, **options)
        started.append(collector)
        collector.start()
        return collector

    yield begin
    for collector in started:
        collector.kill()


@pytest.fixture
def told(tmad: Commands) -> Iterator[Callable[..., None]]:
    """A function that makes a log collector, which is gone after the test."""
    names = []

    def create(name: str, collector: Collector, *options: str, transport: str = "tcp") -> None:
        tmad.run(
            "log-collector", "create", name, "--transport", transport,
            "--address", collector.address, *options,
        )  # fmt: skip
        names.append(name)

    yield create
    for name in names:
        tmad.run("log-collector", "delete", name)


def elsewhere(collector: Collector) -> list[int]:
    """Return the numbers of the records of our own chain, as they came."""
    return [seq for writer, seq in collector.sequence() if writer == "elsewhere"]


def expect_all(collector: Collector, happenings: Happenings) -> list[int]:
    """Wait until everything has arrived; return the numbers that came, doubles included."""
    wanted = set(range(happenings.first, happenings.count + 1))
    wait_until(
        lambda: wanted <= set(elsewhere(collector)),
        "not everything arrives",
        60,
    )
    came = elsewhere(collector)
    # In order: who comes for the first time is the successor of the one before him.
    assert list(dict.fromkeys(came)) == sorted(wanted)
    return came


# -- what they understand ---------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_y2_rsyslog_reads_every_part(
    transport: str, rsyslog: Begin, told: Callable[..., None], happenings: Happenings
) -> None:
    collector = rsyslog()
    told("rsyslog", collector, "--facility", "local3", transport=transport)
    happenings.happen(serial="0a1b", subject=POISON, peer="198.51.100.7", long="x" * 20_000)
    wait_until(lambda: elsewhere(collector), f"nothing arrives: {collector.said()}")
    [raw] = [line for line in collector.raw() if 'writer="elsewhere"' in line]
    parsed = parse(raw.encode())
    escaped = POISON.translate(
        {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x1B: "\\x1b", 0x7F: "\\x7f", 0x2028: "\\u2028"}
    )
    assert parsed.elements[SD]["subject"] == escaped
    assert parsed.elements[SD]["long"] == "x" * 1_024
    assert len(raw.encode()) <= (2_048 if transport == "udp" else 8_192)
    [line] = [line for line in collector.parsed() if 'writer="elsewhere"' in "|".join(line)]
    priority, at, host, application, kind, elements, text = line
    assert (int(priority), host, application, kind) == (
        19 * 8 + 6, "127.0.0.1", "tmad", "certificate.issued",
    )  # fmt: skip
    # The record's own time, of the logger's own clock (RFC 5424, 6.2.3).
    assert at == parsed.time
    assert parse(f"<1>1 - - - - - {elements}".encode().replace(
        b"1 - -", b"1 2026-01-01T00:00:00Z h", 1
    )).elements == parsed.elements  # fmt: skip
    assert text.strip() == parsed.text


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ('syslog(ip("127.0.0.1") port({port}) transport("tcp"))', ()),
        ('network(ip("127.0.0.1") port({port}) transport("tcp") flags(syslog-protocol))',
         ("--set", "framing=lf")),
    ],
)  # fmt: skip
def test_y_05_syslog_ng_takes_octet_counting_and_lines(
    source: str,
    options: tuple[str, ...],
    syslog_ng: Begin,
    told: Callable[..., None],
    happenings: Happenings,
) -> None:
    collector = syslog_ng(source=source)
    told("ng", collector, *options)
    happenings.happen(3, subject=POISON)

    def came() -> list[list[str]]:
        return [each for each in collector.parsed() if each[4] == KIND]

    wait_until(lambda: len(came()) == 3, f"nothing arrives: {collector.said()}")
    for number, line in enumerate(came(), happenings.first):
        assert f'seq="{number}"' in line[5]
        assert "forged <13>1" in line[5]
        assert line[6].startswith(f"certificate issued {number} by test")


@pytest.mark.parametrize("style", ["rfc3164", "cef", "leef", "json"])
def test_y_10_other_formats(
    style: str, syslog_ng: Begin, told: Callable[..., None], happenings: Happenings
) -> None:
    old = style != "json"
    flags = "" if old else " flags(syslog-protocol)"
    collector = syslog_ng(source=f'network(ip("127.0.0.1") port({{port}}) transport("tcp"){flags})')
    told("formats", collector, "--format", style, "--set", "framing=lf")
    happenings.happen(subject="CN=a|b=c\nd", peer="198.51.100.7")
    wait_until(lambda: len(collector.parsed()) >= 2, f"nothing arrives: {collector.said()}")
    [line] = [each for each in collector.parsed() if "elsewhere" in "|".join(each)]
    text = line[6]
    if style == "rfc3164":
        assert line[3] == "tmad"
        assert ' subject="CN=a|b=c\\\\nd"' in text
    elif style == "json":
        said = json.loads(text.removeprefix("@cee: "))
        assert said["data"]["subject"] == "CN=a|b=c\nd"
    else:
        # syslog-ng takes what ends in a colon for the program.
        whole = f"{line[3]}:{text}"
        start = "CEF:0|" if style == "cef" else "LEEF:2.0|"
        assert whole.replace(": ", ":").startswith(f"{start}tmad|tmad|")
        assert "src=198.51.100.7" in whole


# -- killed, hung, restarted ------------------------------------------------------------------


@pytest.mark.parametrize("which", ["rsyslog", "syslog-ng"])
def test_a_y3_killed_in_the_middle_nothing_is_lost(
    which: str,
    rsyslog: Begin,
    syslog_ng: Begin,
    told: Callable[..., None],
    happenings: Happenings,
) -> None:
    source = 'syslog(ip("127.0.0.1") port({port}) transport("tcp"))'
    collector = rsyslog() if which == "rsyslog" else syslog_ng(source=source)
    told("killed", collector)
    with happenings.going_on(rate=100):
        time.sleep(1.5)
        collector.kill()
        time.sleep(2)
        collector.start()
        time.sleep(1)
    came = expect_all(collector, happenings)
    # At most what was sent in the five seconds before the loss.
    assert len(came) - len(set(came)) <= 5 * 100 + 100


def test_an_orderly_restart_repeats_nothing(
    daemon: Daemon, rsyslog: Begin, told: Callable[..., None], happenings: Happenings
) -> None:
    collector = rsyslog()
    told("orderly", collector)
    with happenings.going_on(rate=50):
        time.sleep(1)
    expect_all(collector, happenings)
    daemon.stop()
    happenings.happen(10)
    daemon.start()
    came = expect_all(collector, happenings)
    assert len(came) == len(set(came))


@pytest.mark.long
def test_a_y3_away_for_a_minute_while_we_are_restarted(
    daemon: Daemon, rsyslog: Begin, told: Callable[..., None], happenings: Happenings
) -> None:
    collector = rsyslog()
    told("away", collector)
    with happenings.going_on(rate=100):
        time.sleep(2)
        collector.kill()
        time.sleep(30)
        daemon.kill()
        daemon.start()
        time.sleep(30)
        collector.start()
    came = expect_all(collector, happenings)
    assert len(came) - len(set(came)) <= 8 * 100


@pytest.mark.long
def test_another_worker_takes_over(
    tmp_path: Path, rsyslog: Begin, require_client: Callable[[str], str]
) -> None:
    ss = require_client("ss")
    node = Daemon(tmp_path / "node", workers=2).start()
    happenings = Happenings(node)
    collector = rsyslog()
    try:
        node.tmad(
            "log-collector", "create", "x", "--transport", "tcp", "--address", collector.address
        )
        happenings.happen(10)
        expect_all(collector, happenings)
        shown = subprocess.run([ss, "-Htnp"], capture_output=True, text=True, check=True).stdout
        [worker] = {
            int(number)
            for line in shown.splitlines()
            if f"{collector.address} " in line
            for number in re.findall(r'"(?:tmad|python[0-9.]*)",pid=([0-9]+)', line)
        }
        with happenings.going_on(rate=50):
            os.kill(worker, signal.SIGKILL)
            time.sleep(1)
        came = expect_all(collector, happenings)
        assert len(came) - len(set(came)) <= 8 * 50
    finally:
        happenings.close()
        node.kill()


def test_a_datagram_collector_that_is_killed(
    rsyslog: Begin, told: Callable[..., None], happenings: Happenings
) -> None:
    collector = rsyslog()
    told("datagrams", collector, transport="udp")
    happenings.happen(20)
    expect_all(collector, happenings)
    collector.kill()
    with happenings.going_on(rate=50):
        time.sleep(2)
        collector.start()
    expect_all(collector, happenings)


def test_a_collector_that_hangs_and_is_then_killed(
    rsyslog: Begin, told: Callable[..., None], happenings: Happenings
) -> None:
    """What its kernel took and it never read is sent again: settle_seconds is longer."""
    collector = rsyslog()
    told("hangs", collector, "--set", "settle_seconds=60")
    happenings.happen(10)
    expect_all(collector, happenings)
    collector.pause()
    happenings.happen(500)
    time.sleep(3)
    collector.kill()
    collector.start()
    expect_all(collector, happenings)


def test_g_fault_4_a_collector_that_never_reads_stops_nobody(
    daemon: Daemon,
    tmad: Commands,
    rsyslog: Begin,
    told: Callable[..., None],
    happenings: Happenings,
) -> None:
    collector = rsyslog()
    told("reads", collector)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "127.0.0.1:{}".format(*listener.getsockname()[1:])
        tmad.run("log-collector", "create", "never", "--transport", "tcp", "--address", address)
        connection, _ = listener.accept()
        before = resident(daemon)
        # More than all buffers on the way hold.
        for _ in range(20):
            happenings.happen(1_000, padding="x" * 500)
        came = expect_all(collector, happenings)
        assert len(came) == len(set(came))
        assert resident(daemon) - before < 40 * 2**20
        state = tmad.json("log-collector", "state", "never")
        assert state["records_waiting"] > 3_000
        # It wakes up, and gets what it would not take.
        last = f' object="{happenings.count}" '.encode()
        connection.settimeout(30)
        tail = b""
        while last not in tail:
            received = connection.recv(1_048_576)
            assert received
            tail = tail[-200:] + received
        connection.close()
        tmad.run("log-collector", "delete", "never")


def resident(daemon: Daemon) -> int:
    """Return the daemon's memory in octets."""
    assert daemon.process is not None
    pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# -- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def authorities(daemon: Daemon, pki: Authority, tmp_path: Path) -> Path:
    """Our root, which certifies clients, and the outside CA, in one file."""
    path = tmp_path / "authorities.pem"
    path.write_text(daemon.pem("root").read_text() + pki.path.read_text())
    return path


def test_a_y1_rsyslog_knows_us_by_name_and_is_killed_with_the_daemon(
    daemon: Daemon,
    rsyslog: Begin,
    told: Callable[..., None],
    happenings: Happenings,
    pki: Authority,
    server: Identity,
    authorities: Path,
) -> None:
    collector = rsyslog(tls=(authorities, server.chain, server.key), peers=("127.0.0.1",))
    told(
        "secure", collector, "--ca-file", str(pki.path), "--server-name", SERVER,
        "--client-certificate", "own", transport="tls",
    )  # fmt: skip
    with happenings.going_on(rate=100):
        time.sleep(2)
        collector.kill()
        time.sleep(0.5)
        daemon.kill()
        time.sleep(0.5)
        collector.start()
        daemon.start()
        time.sleep(1)
    came = expect_all(collector, happenings)
    assert len(came) - len(set(came)) <= 8 * 100


def test_a_y1_a_collector_that_does_not_know_our_name(
    tmad: Commands,
    rsyslog: Begin,
    told: Callable[..., None],
    happenings: Happenings,
    pki: Authority,
    server: Identity,
    authorities: Path,
) -> None:
    collector = rsyslog(tls=(authorities, server.chain, server.key), peers=("other.example",))
    told(
        "stranger", collector, "--ca-file", str(pki.path), "--server-name", SERVER,
        "--client-certificate", "own", transport="tls",
    )  # fmt: skip
    happenings.happen(5)
    wait_until(
        lambda: "log-collector.unreachable" in tmad.run("audit", "tail", "-n", "50").out,
        "the refusal is not noticed",
    )
    assert elsewhere(collector) == []
    tmad.run("log-collector", "test", "stranger", expect=5)
    # Once it knows us, it gets what it would not take.
    collector.kill()
    text = (collector.directory / "rsyslog.conf").read_text()
    (collector.directory / "rsyslog.conf").write_text(text.replace("other.example", "127.0.0.1"))
    collector.start()
    expect_all(collector, happenings)


def test_a_certificate_that_somebody_else_gave_us(
    rsyslog: Begin,
    told: Callable[..., None],
    happenings: Happenings,
    pki: Authority,
    server: Identity,
    daemon: Daemon,
) -> None:
    own = pki.issue("node7.example.test")
    own.key.chmod(0o600)
    files = f'client_certificate_file = "{own.chain}"\nclient_key_file = "{own.key}"\n'
    with daemon.config.open("a") as file:
        file.write(f"\n[protocols.syslog]\n{files}")
    daemon.stop()
    daemon.start()
    collector = rsyslog(tls=(pki.path, server.chain, server.key), peers=("node7.example.test",))
    told(
        "theirs", collector, "--ca-file", str(pki.path), "--server-name", SERVER,
        "--client-certificate", "file", transport="tls",
    )  # fmt: skip
    happenings.happen(3)
    expect_all(collector, happenings)


@pytest.mark.parametrize("wrong", ["name", "ca", "fingerprint"])
def test_a_false_collector_gets_nothing(
    wrong: str,
    tmad: Commands,
    rsyslog: Begin,
    told: Callable[..., None],
    pki: Authority,
    server: Identity,
    authorities: Path,
    daemon: Daemon,
) -> None:
    collector = rsyslog(tls=(authorities, server.chain, server.key))
    options = {
        "name": ("--ca-file", str(pki.path), "--server-name", "another.example.test"),
        "ca": ("--ca-file", str(daemon.pem("root")), "--server-name", SERVER),
        "fingerprint": ("--fingerprint", "ab" * 32),
    }[wrong]
    told("false", collector, *options, transport="tls")
    said = tmad.run("log-collector", "test", "false", expect=5).err
    expected = {"name": "another name", "ca": "certificate verify failed", "fingerprint": "another"}
    assert expected[wrong] in said
    assert collector.raw() == []


def test_a_collector_known_by_its_fingerprint(
    tmad: Commands,
    rsyslog: Begin,
    told: Callable[..., None],
    server: Identity,
    authorities: Path,
) -> None:
    collector = rsyslog(tls=(authorities, server.chain, server.key))
    digest = server.certificate.fingerprint(hashes.SHA256()).hex()
    told("pinned", collector, "--fingerprint", digest, transport="tls")
    tmad.run("log-collector", "test", "pinned")
    wait_until(lambda: any("log-collector.tested" in each for each in collector.raw()), "nothing")


def test_syslog_ng_over_tls_asks_for_our_certificate(
    tmad: Commands,
    daemon: Daemon,
    syslog_ng: Begin,
    told: Callable[..., None],
    happenings: Happenings,
    tmp_path: Path,
) -> None:
    """Its certificate is of our own authority; ours must be one for clients (OpenSSL asks)."""
    tmad.run("cert", "issue", SERVER, "--profile", "tls-server", "--out", str(tmp_path))
    (tmp_path / "ca.pem").write_text(daemon.pem("root").read_text() + daemon.pem().read_text())
    collector = syslog_ng(
        source='syslog(ip("127.0.0.1") port({port}) transport("tls") tls('
        f'key-file("{tmp_path}/{SERVER}.key") cert-file("{tmp_path}/{SERVER}.crt")'
        f' ca-file("{tmp_path}/ca.pem") peer-verify(required-trusted)))'
    )
    told(
        "ng-tls", collector, "--authority", "issuing", "--server-name", SERVER,
        "--client-certificate", "own", transport="tls",
    )  # fmt: skip
    with happenings.going_on(rate=100):
        time.sleep(1)
        collector.kill()
        time.sleep(0.5)
        collector.start()
    expect_all(collector, happenings)
    # Without a certificate of ours it takes nothing, and that is noticed.
    tmad.run("log-collector", "set", "ng-tls", "tls.client=none")
    said = tmad.run("log-collector", "test", "ng-tls", expect=5).err
    assert re.search("certificate required|handshake failure|closed|lost", said), said


# -- this machine -----------------------------------------------------------------------------


def test_json_on_standard_output(daemon: Daemon, tmad: Commands, happenings: Happenings) -> None:
    begin = daemon.log.stat().st_size
    tmad.run("log-collector", "create", "out", "--transport", "stdout")
    happenings.happen(50, subject=POISON)

    def lines() -> list[dict[str, object]]:
        text = daemon.log.read_bytes()[begin:].decode()
        return [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]

    wait_until(lambda: len([x for x in lines() if x["writer"] == "elsewhere"]) == 50, "nothing")
    tmad.run("log-collector", "delete", "out")
    found = [each for each in lines() if each["writer"] == "elsewhere"]
    assert [each["seq"] for each in found] == list(range(happenings.first, happenings.count + 1))
    assert found[0]["data"] == {"subject": POISON}
