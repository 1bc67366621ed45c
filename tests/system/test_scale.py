"""Slow suites: a kill at every sync and write of a scenario; many certificates.

The ledger of promises is the client's, the judge is the daemon's public doors (security 4,
G-FAULT-1, G-LOSS-1, G-LOSS-2, G-LOAD-7).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.support import fill, first_answer
from tests.daemon import Daemon
from tests.system.routers import Routers

pytestmark = [pytest.mark.long, pytest.mark.timeout(3_000)]

MOST_POINTS = 600
RECOVERY_SECONDS = 30.0


def killing(calls: str, point: int) -> list[str]:
    """Return a strace that kills its tracee at the entry of its ``point``-th such call."""
    return [
        "strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}",
        "-e", f"inject={calls}:signal=SIGKILL:when={point}",
    ]  # fmt: skip


class Doomed:
    """A running daemon, traced; the calls of each of its threads are counted from now on."""

    def __init__(self, node: Daemon, calls: str, point: int) -> None:
        assert node.process is not None
        self._process = node.process
        self._tracer = subprocess.Popen(
            [*killing(calls, point), "-p", str(node.process.pid)], stderr=subprocess.DEVNULL
        )
        tasks = Path(f"/proc/{node.process.pid}/task")
        deadline = time.monotonic() + 10
        while not all(
            re.search(rf"TracerPid:\t{self._tracer.pid}\n", (task / "status").read_text())
            for task in tasks.iterdir()
        ):
            assert self._tracer.poll() is None, "strace may not attach; this suite needs root"
            assert time.monotonic() < deadline, "strace does not attach"
            time.sleep(0.01)

    def end(self) -> bool:
        """Let it go; tell whether it was killed."""
        self._tracer.terminate()
        try:
            self._tracer.wait(timeout=2)
        except subprocess.TimeoutExpired:
            # It may wait for a tracee that it has killed; the kernel lets the others go.
            self._tracer.kill()
            self._tracer.wait()
        time.sleep(0.1)
        return self._process.poll() is not None


@pytest.fixture
def node(tmp_path: Path, require_client: Callable[[str], str]) -> Iterator[Daemon]:
    require_client("strace")
    daemon = Daemon(tmp_path / "node")
    daemon.endpoint("bulk", "--set", "challenge.static=true")
    daemon.start()
    yield daemon
    daemon.kill()


def revoked_serials(routers: Routers) -> tuple[int, set[int]]:
    """Return the number of the CRL that anybody gets now, and who is on it."""
    crl, answer = routers.crl()
    assert crl is not None, answer
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return number, {entry.serial_number for entry in crl}


@pytest.mark.parametrize("calls", ["fdatasync,fsync", "pwrite64"])
def test_g_fault_1_a_kill_at_every_step_of_enrolment_and_crl_breaks_no_promise(
    node: Daemon, calls: str
) -> None:
    routers = Routers(node)
    seen, _ = revoked_serials(routers)
    for point in range(1, MOST_POINTS):
        message = routers.message()
        doomed = Doomed(node, calls, point)
        _, certificate = routers.send(message)
        is_revoked = False
        if certificate is not None:
            # The command acknowledges; then the daemon makes the next CRL, if it lives to.
            done = node.tmad("cert", "revoke", f"{certificate.serial_number:x}", expect=None)
            is_revoked = done.returncode == 0
            routers.crl()
        was_killed = doomed.end()
        if was_killed:
            node.kill()
            node.start()
        again = routers.enrol_within(RECOVERY_SECONDS, message)
        if certificate is not None:
            assert again == certificate, f"point {point}: a retransmission got another one"
        wanted = "revoked" if is_revoked else "good"
        assert routers.status(again)[0] == wanted, f"point {point}"
        number, serials = revoked_serials(routers)
        assert number >= seen, f"point {point}: the CRL number fell"
        assert (again.serial_number in serials) == is_revoked, f"point {point}"
        seen = number
        if point % 10 == 1:
            node.tmad("audit", "verify")
        if not was_killed:
            break
    else:
        raise AssertionError("the scenario never came to its end")
    assert point > 3, "nothing was ever killed"
    routers.judge()


@pytest.mark.parametrize("calls", ["fdatasync,fsync", "pwrite64"])
def test_g_fault_1_a_kill_at_every_step_of_a_revocation_breaks_no_promise(
    node: Daemon, calls: str
) -> None:
    routers = Routers(node)
    revoke = [sys.executable, "-m", "tmad.cli.main", "cert", "revoke"]
    environment = {**node.environment, "TMAD_CONFIG": str(node.config)}
    for point in range(1, MOST_POINTS):
        certificate = routers.enrol()
        serial = f"{certificate.serial_number:x}"
        done = subprocess.run(
            [*killing(calls, point), *revoke, serial],
            env=environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        was_killed = done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        status, _ = routers.status(certificate)
        if was_killed:
            # Nothing was promised; what is, is the same for everybody and stays so.
            assert status in ("good", "revoked")
            assert (certificate.serial_number in revoked_serials(routers)[1]) == (
                status == "revoked"
            ), f"point {point}"
            node.tmad("cert", "revoke", serial, expect=None)
        else:
            assert done.returncode == 0, done.stderr
        assert routers.status(certificate)[0] == "revoked", f"point {point}"
        assert certificate.serial_number in revoked_serials(routers)[1]
        if not was_killed:
            break
    else:
        raise AssertionError("the scenario never came to its end")
    assert point > 1, "nothing was ever killed"
    routers.judge()


def test_g_load_7_many_certificates_slow_down_neither_start_nor_lists(node: Daemon) -> None:
    routers = Routers(node)
    certificate = routers.enrol()
    (key,) = node.json("ca", "show", "issuing")["keys"].values()
    node.stop()
    count = 200_000
    der = certificate.public_bytes(Encoding.DER)
    serials = [x509.random_serial_number() for _ in range(count)]
    fill(node.directory / "tmad.db", int(key["id"]), serials, der, every=100)
    body = routers.question(certificate)
    assert first_answer(node, "/ocsp", body, "application/ocsp-request") < 10
    assert routers.status(certificate, nonce=True)[0] == "good"
    begin = time.monotonic()
    _, revoked = revoked_serials(routers)
    assert len(revoked) >= count // 100
    assert time.monotonic() - begin < 5
    # The interpreter's start is in both, so the difference is the page itself.
    took = {}
    for after in ("0", str(count * 9 // 10)):
        begin = time.monotonic()
        page = node.json("cert", "list", "--limit", "100", "--after", after)
        took[after] = time.monotonic() - begin
        assert len(page) == 100
    first, deep = took.values()
    assert deep < first + 0.3
    assert routers.enrol()
