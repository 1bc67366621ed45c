"""What breaks around the daemon, and what it goes on doing meanwhile.

Full disk, database gone, token gone, wrong clock, dead leader: security 4, G-FAULT-2, -3, -5, -6
and -11 at the size of CI. Judged from outside, over HTTP and by the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemon import Daemon
from tests.postgres import Cluster, start_cluster
from tests.softhsm import RemoteToken, client_path, create_token
from tests.system.routers import Routers, ask

RECOVERY_SECONDS = 10.0
STATIC = ("--set", "challenge.static=true")


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is so; return how long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - begin


def start(node: Daemon) -> Routers:
    """Start a node with an endpoint for bulk enrolments."""
    node.endpoint("bulk", *STATIC)
    node.start()
    return Routers(node)


# -- G-FAULT-5: the disk is full ----------------------------------------------------------------


class Disk:
    """Room for a node: a file system of its own, or else a limit on the size of its files."""

    SIZE = 24 << 20

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", directory],
            capture_output=True, check=False,
        )  # fmt: skip
        self.is_mounted = done.returncode == 0
        self._ballast = directory / "ballast"

    def fill(self, node: Daemon) -> None:
        """Leave not one octet."""
        if not self.is_mounted:
            assert node.process is not None
            largest = max(path.stat().st_size for path in node.directory.glob("tmad.db*"))
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (largest, -1))
            return
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def free(self, node: Daemon) -> None:
        if self.is_mounted:
            self._ballast.unlink()
            return
        assert node.process is not None
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (-1, -1))

    def remove(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", self.directory], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    made.remove()


def test_g_fault_5_a_full_disk_stops_issuing_and_nothing_else(disk: Disk) -> None:
    node = Daemon(disk.directory / "node")
    try:
        routers = start(node)
        early = routers.enrol()
        late = routers.enrol()
        assert routers.status(early)[0] == "good"
        number = routers.crl()[0]
        disk.fill(node)
        # What is left of the write-ahead log may still take a few.
        for _ in range(2_000):
            refused = routers.message()
            answer, certificate = routers.send(refused)
            if certificate is None:
                break
        assert answer.status == 503, answer
        assert int(answer.headers["retry-after"]) > 0
        assert b"not available" in answer.body or b"journal" in answer.body
        assert answer.seconds < 5
        for _ in range(5):
            answer, certificate = routers.send(routers.message())
            assert (answer.status, certificate) == (503, None)
        # The operators are told, and why.
        report = json.loads(ask(f"{node.ops_url}/readyz").body)
        assert report["parts"]["database.writes"] == "failed"
        assert (report["ready"], report["works"]["enrolment"]) == (True, False)
        assert "database-write fails: SQLITE_" in node.log.read_text()
        # From the cache, not from the cache, and signed anew.
        assert routers.status(early)[0] == "good"
        assert routers.status(late)[0] == "good"
        assert routers.status(late, nonce=True)[0] == "good"
        assert routers.crl()[0] == number
        serial = f"{early.serial_number:x}"
        assert node.tmad("cert", "revoke", serial, expect=None).returncode != 0
        assert routers.status(early)[0] == "good"
        disk.free(node)
        begin = time.monotonic()
        routers.enrol_within(RECOVERY_SECONDS, refused)
        assert time.monotonic() - begin < RECOVERY_SECONDS
        node.tmad("cert", "revoke", serial)
        assert routers.status(early)[0] == "revoked"
        assert "database-write works again" in node.log.read_text()
        routers.judge()
    finally:
        node.kill()


# -- G-FAULT-2: the database is lost and comes back ---------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = start_cluster()
    yield made
    made.remove()


def test_g_fault_2_the_database_is_killed_frozen_and_comes_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    node = Daemon(tmp_path / "node", "--db", cluster.empty_database())
    try:
        routers = start(node)
        known = routers.enrol()
        assert routers.status(known)[0] == "good"
        assert routers.crl()[0] is not None
        before = cluster.connections()
        for outage, end in (
            (cluster.kill, cluster.start),
            (cluster.freeze, cluster.thaw),
            (cluster.kill, cluster.start),
        ):
            outage()
            refused = routers.message()
            answer, certificate = routers.send(refused)
            assert certificate is None
            assert answer.status == 503, answer
            assert "retry-after" in answer.headers
            assert answer.seconds <= 5.5
            for nonce in (False, True):
                status, answer = routers.status(known, nonce=nonce)
                # A kept answer, or the admission that nobody knows now; never an old "good"
                # that was signed meanwhile.
                assert status == "try_later" or (status == "good" and not nonce), status
                assert answer.seconds <= 5.5
            assert ask(f"{node.ops_url}/healthz").status == 200
            end()
            begin = time.monotonic()
            routers.enrol_within(RECOVERY_SECONDS, refused)
            until(
                lambda: routers.status(known, nonce=True)[0] == "good",
                RECOVERY_SECONDS - (time.monotonic() - begin),
                "OCSP is back",
            )
        routers.judge()
        until(lambda: cluster.connections() <= before + 2, 10, "connections were leaked")
    finally:
        node.kill()


def test_g_fault_2_what_runs_by_itself_goes_on_at_once_after_a_long_outage(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Nobody asks this node for anything: it has to find out that it may go on."""
    node = Daemon(tmp_path / "node", "--db", cluster.empty_database())

    def failing() -> list[str]:
        lines = ask(f"{node.ops_url}/metrics").body.decode().splitlines()
        return [
            line
            for line in lines
            if line.startswith("tmad_job_failures{") and not line.endswith(" 0.0")
        ]

    try:
        node.start()
        until(lambda: not failing(), 20, "all jobs run")
        cluster.kill()
        until(lambda: any('"news"' in line for line in failing()), 10, "the outage is noticed")
        time.sleep(17)  # by now the next try of what runs each second is 16 seconds away
        cluster.start()
        until(lambda: not failing(), 5, "all jobs run again")
    finally:
        node.kill()


# -- G-FAULT-3: the token is lost, hung, and comes back -----------------------------------------


@pytest.fixture
def remote(tmp_path: Path, require_client: Callable[[str], str]) -> Iterator[RemoteToken]:
    require_client("softhsm2-util")
    require_client("p11-kit")
    module = Path(require_client(str(client_path() or "p11-kit-client.so")))
    made = RemoteToken(create_token(tmp_path / "token"), module)
    made.start()
    yield made
    made.stop()


def test_g_fault_3_the_token_is_killed_hung_and_comes_back(
    remote: RemoteToken, tmp_path: Path
) -> None:
    node = Daemon(
        tmp_path / "node",
        "--keys", "pkcs11", "--pkcs11-module", str(remote.client),
        "--pkcs11-token", remote.token.label, "--pin-file", str(remote.token.pin_file),
        environment=remote.environment,
    )  # fmt: skip
    try:
        routers = start(node)
        known = routers.enrol()
        assert routers.status(known)[0] == "good"
        assert routers.crl()[0] is not None
        for outage, end in (
            (lambda: remote.signal(signal.SIGSTOP), lambda: remote.signal(signal.SIGCONT)),
            (remote.stop, remote.start),
        ):
            outage()
            answer, certificate = routers.send(routers.message())
            assert certificate is None
            assert answer.status == 503, answer
            assert "retry-after" in answer.headers
            assert answer.seconds <= 3
            status, answer = routers.status(known, nonce=True)
            assert (status, answer.seconds <= 3) == ("try_later", True)
            # What needs no key is as quick as ever.
            for question in (
                lambda: routers.status(known)[1],
                lambda: routers.crl()[1],
                lambda: ask(f"{node.ops_url}/healthz"),
            ):
                answer = question()
                assert answer.status == 200
                assert answer.seconds < 1
            assert routers.status(known)[0] == "good"
            end()
            begin = time.monotonic()
            routers.enrol_within(RECOVERY_SECONDS)
            until(
                lambda: routers.status(known, nonce=True)[0] == "good",
                RECOVERY_SECONDS - (time.monotonic() - begin),
                "OCSP is back",
            )
        # A killed connection is not even noticed, or for as long as a new one takes.
        remote.signal(signal.SIGKILL)
        routers.enrol_within(RECOVERY_SECONDS)
        routers.judge()
    finally:
        node.kill()


# -- G-FAULT-6: the clock is wrong --------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """What a client compares of two CRLs."""

    number: int
    this_update: datetime


def published(routers: Routers) -> Published:
    crl, answer = routers.crl()
    assert crl is not None, answer
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return Published(number, crl.last_update_utc)


def faked(offset: str) -> dict[str, str]:
    """Return the environment in which the wall clock is off, and only that."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": offset,
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def parse(offset: str) -> timedelta:
    units = {"s": "seconds", "h": "hours", "d": "days"}
    return timedelta(**{units[offset[-1]]: int(offset[:-1])})


@pytest.mark.parametrize(
    "offsets",
    [("+3d", "-2h"), pytest.param(("+1h", "-1s", "-90d", "+20d"), marks=pytest.mark.long)],
)
def test_g_fault_6_a_wrong_clock_never_takes_a_crl_back(
    tmp_path: Path, require_client: Callable[[str], str], offsets: tuple[str, ...]
) -> None:
    require_client("faketime")
    node = Daemon(tmp_path / "node")
    try:
        routers = start(node)
        seen = [published(routers)]
        for offset in offsets:
            node.kill()
            node.environment |= faked(offset)
            node.start()
            seen.append(published(routers))
            node.tmad("crl", "build", "issuing")
            seen.append(published(routers))
            routers.ra = routers.ra_certificate()
            answer, issued = routers.send(routers.message())
            # Whatever the clock says, within the CA's own time.
            assert issued is not None, answer
            assert issued.not_valid_before_utc >= routers.issuer.not_valid_before_utc
            assert issued.not_valid_after_utc <= routers.issuer.not_valid_after_utc
        assert [one.number for one in seen[::2]] == sorted({one.number for one in seen[::2]})
        assert [one.number for one in seen] == sorted(one.number for one in seen)
        assert [one.this_update for one in seen] == sorted(one.this_update for one in seen)
        ahead = max(parse(offset) for offset in offsets)
        assert seen[-1].this_update - seen[0].this_update >= ahead
        # The lease of the dead process that lived in the future holds nobody up.
        until(lambda: timers_holder(node) == node_pid(node), 20, "the timers run")
    finally:
        node.kill()


# -- G-FAULT-11: the process with the timers dies -----------------------------------------------

TIMERS = "\n[protocols.crl]\ncheck_seconds = 1\n"


def timers_holder(node: Daemon) -> int:
    """Return the process that the lease of the timers names."""
    with contextlib.closing(sqlite3.connect(node.directory / "tmad.db")) as connection:
        row = connection.execute("SELECT holder FROM leases WHERE name = 'timers'").fetchone()
    return int(row[0].split(":")[-2])


def node_pid(node: Daemon) -> int:
    assert node.process is not None
    return node.process.pid


def newest_crl(node: Daemon) -> int:
    """Return the newest number without asking the daemon, which would make one for us."""
    with contextlib.closing(sqlite3.connect(node.directory / "tmad.db")) as connection:
        (number,) = connection.execute(
            "SELECT max(c.number) FROM crls c JOIN issuers i ON i.id = c.issuer_id"
            " WHERE i.authority = 'issuing'"
        ).fetchone()
    return int(number)


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[Daemon]:
    node = Daemon(tmp_path / "node", workers=2, settings=TIMERS)
    yield node
    node.kill()


def test_g_fault_11_scheduled_work_goes_on_when_its_process_is_killed(
    two_workers: Daemon,
) -> None:
    node = two_workers
    routers = start(node)
    leader = timers_holder(node)
    os.kill(leader, signal.SIGKILL)
    certificate = routers.enrol_within(RECOVERY_SECONDS)
    number = newest_crl(node)
    node.tmad("cert", "revoke", f"{certificate.serial_number:x}")
    until(lambda: newest_crl(node) > number, 20, "somebody makes the CRL that is due")
    assert timers_holder(node) != leader
    routers.judge()


@pytest.mark.long
def test_g_fault_11_a_paused_leader_does_no_harm_when_it_goes_on(two_workers: Daemon) -> None:
    node = two_workers
    routers = start(node)
    for _ in range(3):
        leader = timers_holder(node)
        os.kill(leader, signal.SIGSTOP)
        until(lambda paused=leader: timers_holder(node) != paused, 20, "another process leads")
        os.kill(leader, signal.SIGCONT)
        number = newest_crl(node)
        certificate = routers.enrol_within(RECOVERY_SECONDS)
        node.tmad("cert", "revoke", f"{certificate.serial_number:x}")
        until(lambda before=number: newest_crl(node) > before, 20, "the CRL is made")
    with contextlib.closing(sqlite3.connect(node.directory / "tmad.db")) as connection:
        rows = connection.execute(
            "SELECT number, this_update FROM crls c JOIN issuers i ON i.id = c.issuer_id"
            " WHERE i.authority = 'issuing' ORDER BY number"
        ).fetchall()
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    routers.judge()
