"""What the process is to its machine: its user, its memory, systemd, Twisted's own commands."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import START_SECONDS, Daemon

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Daemon]:
    node = Daemon(tmp_path / "node")
    yield node
    node.kill()


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"(?m)^(\w+):\s*(.*)$", text))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_g_os_1_started_as_root_it_becomes_the_user_it_is_told(tmp_path: Path) -> None:
    user = pwd.getpwnam("nobody")
    # pytest's own directories are closed to others; the node needs one of its own.
    directory = Path("/tmp") / f"tmad-{os.getpid()}-{time.monotonic_ns()}"
    node = Daemon(directory)
    try:
        text = node.config.read_text()
        node.config.write_text(text.replace("[node]", '[node]\nuser = "nobody"', 1))
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        node.start()
        assert node.process is not None
        found = status_of(node.process.pid)

        assert found["Uid"].split() == [str(user.pw_uid)] * 4
        assert found["Gid"].split() == [str(user.pw_gid)] * 4
        assert int(found["CapEff"], 16) == 0
        assert found["NoNewPrivs"] == "1"
        assert "0" not in found["Groups"].split()
        assert node.stop() == 0
    finally:
        node.kill()
        shutil.rmtree(directory)


def test_g_os_3_no_core_and_no_looking_into_its_memory(node: Daemon) -> None:
    node.start()
    assert node.process is not None
    limits = Path(f"/proc/{node.process.pid}/limits").read_text()

    assert re.search(r"Max core file size\s+0\s+0", limits)
    # The files of a process that is not dumpable belong to root, whoever runs it.
    assert Path(f"/proc/{node.process.pid}/mem").stat().st_uid == 0


def test_systemd_is_told_of_start_and_stop(node: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(START_SECONDS)
        node.environment |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}
        node.start()
        heard = [channel.recv(100)]
        while b"WATCHDOG=1" not in heard or b"READY=1" not in heard:
            heard.append(channel.recv(100))
        node.stop()
        while b"STOPPING=1" not in heard:
            heard.append(channel.recv(100))


def test_twist_runs_the_same_daemon(node: Daemon) -> None:
    with node.log.open("ab") as log:
        node.process = subprocess.Popen(
            [sys.executable, "-m", "twisted", "tmad", "--config", str(node.config)],
            stdout=log, stderr=log, start_new_session=True, cwd=ROOT,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while not node.is_ready():
        assert node.process.poll() is None, node.log.read_text()
        assert time.monotonic() < deadline, node.log.read_text()
        time.sleep(0.05)

    node.stop()


def test_the_shipped_sample_is_a_working_configuration(node: Daemon) -> None:
    """conf/tmad.toml as it is, but for the addresses, which may be taken here."""
    sample = (ROOT / "conf" / "tmad.toml").read_text()
    ports = {
        8080: node.http_port,
        8443: node.https_port,
        9464: node.ops_port,
        1812: node.radius_port,
        1813: node.radius_acct_port,
        1161: node.snmp_port,
        3389: node.ldap_port,
        6636: node.ldaps_port,
    }
    for usual, port in ports.items():
        line = rf'(?m)^# (\w+ = \["127\.0\.0\.1:){usual}("\])'
        sample, found = re.subn(line, rf"\g<1>{port}\g<2>", sample)
        assert found == 1
    assert '# listen = ["127' not in sample
    sample = sample.replace('# data = "data" ', 'data = "." ')
    node.config.write_text(sample)
    assert "no mistakes" in node.tmad("check-config").stdout
    node.start()

    assert node.json("status")["ready"] is True


def test_a_taken_address_is_named_and_ends_with_1(node: Daemon) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", node.http_port))
        other.listen()
        done = node.tmad("run", expect=1)

    assert f"cannot listen on 127.0.0.1:{node.http_port}" in done.stderr


def test_every_mistake_is_named_with_its_place_and_ends_with_1(node: Daemon) -> None:
    line = node.config.read_text().count("\n") + 2
    with node.config.open("a") as file:
        file.write("[protocols.scep]\nburts = 1\n[workers]\ncount = 0\n")
    for command in ("check-config", "run"):
        done = node.tmad(command, expect=1)
        assert f"{node.config}:{line}:1  protocols.scep.burts: unknown key" in done.stderr
        assert f"{node.config}:{line + 2}:9  workers.count: " in done.stderr


def test_status_of_a_node_that_does_not_run_is_not_reachable(node: Daemon) -> None:
    assert "not reachable" in node.tmad("status", expect=5).stderr


def test_g_fault_8_out_of_descriptors_it_survives_and_serves_again(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "few")
    program = Path(sys.executable)
    with node.log.open("ab") as log:
        node.process = subprocess.Popen(
            ["prlimit", "--nofile=256:256", str(program), "-m", "tmad.cli.main",
             "--config", str(node.config), "run"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not node.is_ready():
            assert time.monotonic() < deadline, node.log.read_text()
            time.sleep(0.05)
        before = len(node.log.read_text().splitlines())
        crowd = [socket.create_connection(("127.0.0.1", node.http_port)) for _ in range(600)]
        # Silence makes room for whoever speaks: even now somebody new is served.
        _serves_within(node, 2)
        for connection in crowd:
            connection.close()
        _serves_within(node, 2)
        assert len(node.log.read_text().splitlines()) - before < 30
    finally:
        node.kill()


def _serves_within(node: Daemon, seconds: float) -> None:
    begin = time.monotonic()
    while not node.is_ready():
        assert time.monotonic() - begin < seconds
        time.sleep(0.05)
