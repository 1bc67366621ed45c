"""A real systemd-journald, in a namespace of its own, gets log and journal with their fields."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.collectors import wait_until
from tests.daemon import Daemon
from tests.interop.device import enroll

pytestmark = pytest.mark.interop

# systemd-journald(8): with an argument it serves a namespace, its socket under that name.
NAMESPACE = f"tmad-test-{os.getpid()}"


class Journald:
    """journald as a child process."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.socket = Path(f"/run/systemd/journal.{NAMESPACE}/socket")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([self._program, NAMESPACE], stderr=subprocess.DEVNULL)
        wait_until(self.socket.exists, "journald does not listen")

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Return what it has, oldest first."""
        done = subprocess.run(
            ["journalctl", f"--namespace={NAMESPACE}", "-o", "json", "--no-pager", *matches],
            capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def journald(require_client: Callable[[str], str]) -> Iterator[Journald]:
    require_client("journalctl")
    if os.geteuid() != 0:
        pytest.skip("only root starts a journald")
    made = Journald(require_client("/lib/systemd/systemd-journald"))
    yield made
    made.stop()
    shutil.rmtree(made.socket.parent, ignore_errors=True)
    for place in ("/run/log/journal", "/var/log/journal"):
        for left in Path(place).glob(f"*.{NAMESPACE}"):
            shutil.rmtree(left, ignore_errors=True)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, journald: Journald) -> Iterator[Daemon]:
    socket = f'journald_socket = "{journald.socket}"\n'
    daemon = Daemon(
        tmp_path_factory.mktemp("node"),
        settings=f'[log]\noutput = "journald"\n{socket}\n[protocols.syslog]\n{socket}',
    )
    yield daemon.start()
    daemon.kill()


def test_the_log_has_its_data_as_fields(node: Daemon, journald: Journald) -> None:
    wait_until(lambda: journald.entries("TMAD_SOURCE=tmad.daemon"), "nothing arrives")
    [ready] = [
        each
        for each in journald.entries("SYSLOG_IDENTIFIER=tmad")
        if each["MESSAGE"].startswith("ready:")
    ]
    assert ready["PRIORITY"] == "6"
    assert ready["TMAD_HTTP"] == f"127.0.0.1:{node.http_port}"
    assert "ready:" not in node.log.read_text()


def test_what_happened_arrives_once_and_survives_a_restart(
    node: Daemon, journald: Journald
) -> None:
    node.tmad("log-collector", "create", "here", "--transport", "journald")
    device = enroll(node, "pump-1")
    wait_until(
        lambda: journald.entries("TMAD_KIND=certificate.issued"), node.log.read_text()[-2000:]
    )
    [issued] = journald.entries("TMAD_KIND=certificate.issued", f"TMAD_SERIAL={device.serial}")
    assert (issued["PRIORITY"], issued["SYSLOG_FACILITY"]) == ("6", "10")
    assert issued["SYSLOG_IDENTIFIER"] == "tmad"
    [intended] = journald.entries("TMAD_KIND=certificate.intended")
    assert intended["TMAD_SUBJECT"] == "CN=pump-1"
    assert (issued["TMAD_RESULT"], issued["TMAD_TENANT"]) == ("success", "default")
    journald.stop()
    node.tmad("cert", "revoke", device.serial, "--reason", "superseded")
    # While journald is away the log goes to standard error.
    wait_until(lambda: "log collector default/here" in node.log.read_text(), "no word of it")
    journald.start()
    wait_until(lambda: journald.entries("TMAD_KIND=certificate.revoked"), "nothing arrives")
    [revoked] = journald.entries("TMAD_KIND=certificate.revoked")
    assert revoked["PRIORITY"] == "5"
