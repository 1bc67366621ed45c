"""Several processes on one set of addresses: restarted, reloaded, stopped, without a gap."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("workers"), workers=2).start()
    wait_for(lambda: len(serving(node)) == 2)
    yield node
    node.kill()


def wait_for(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a function without arguments
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(node: Daemon) -> list[int]:
    """Return the workers' process ids, oldest first."""
    assert node.process is not None
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == node.process.pid and fields[0] != "Z":
            found.append((int(fields[19]), int(path.parent.name)))
    return [pid for _, pid in sorted(found)]


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def serving(node: Daemon) -> list[int]:
    """Return which workers say that they are ready, each on an ops port of its own."""
    found = []
    for index in range(2):
        try:
            if get(node.ops_port + index, "/readyz")[0] == 200:
                found.append(index)
        except OSError:
            continue
    return found


def shares(node: Daemon, requests: int) -> list[int]:
    """Ask over new connections; return how many of the requests each worker counted."""

    def counted(index: int) -> int:
        _, text = get(node.ops_port + index, "/metrics")
        lines = [line for line in text.decode().splitlines() if 'door="/crl",outcome="200"' in line]
        return int(float(lines[0].split()[-1])) if lines else 0

    before = [counted(index) for index in range(2)]
    for _ in range(requests):
        assert get(node.http_port, "/crl/issuing.crl")[0] == 200
    return [counted(index) - before[index] for index in range(2)]


def test_both_workers_serve_the_same_address(node: Daemon) -> None:
    found = shares(node, 60)

    assert sum(found) == 60
    assert min(found) > 5


def test_g_fault_10_a_killed_worker_comes_back_and_nobody_is_refused(node: Daemon) -> None:
    failures: list[BaseException | int] = []
    answered = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                status, _ = get(node.http_port, "/crl/issuing.crl")
            except (ConnectionResetError, http.client.RemoteDisconnected):
                # The one request that the killed worker had in hand is asked again.
                status, _ = get(node.http_port, "/crl/issuing.crl")
            except OSError as error:
                failures.append(error)
                continue
            answered += 1
            if status != 200:
                failures.append(status)

    client = threading.Thread(target=ask)
    client.start()
    try:
        for victim in workers(node):
            before = answered
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(workers(node)) == 2 and victim not in workers(node))  # noqa: B023
            wait_for(lambda: len(serving(node)) == 2)
            wait_for(lambda: answered > before + 20)  # noqa: B023
    finally:
        stop.set()
        client.join()

    assert failures == []


def test_sighup_reaches_every_worker(node: Daemon) -> None:
    assert node.process is not None
    before = len(node.log.read_text())
    with node.config.open("a") as file:
        file.write('[log]\nformat = "json"\n')
    node.process.send_signal(signal.SIGHUP)

    wait_for(lambda: node.log.read_text()[before:].count('"event": "reloaded"') == 2)


@pytest.mark.parametrize("ready", [0, 1, 2])
def test_workers_end_with_their_supervisor(tmp_path: Path, ready: int) -> None:
    """Also one that is still starting when the supervisor dies."""
    node = Daemon(tmp_path, workers=2).start(wait=False)
    try:
        wait_for(lambda: len(workers(node)) == 2 and len(serving(node)) >= ready)
        pids = workers(node)
        assert node.process is not None
        os.kill(node.process.pid, signal.SIGKILL)
        node.process.wait()
        wait_for(lambda: not any(_is_alive(pid) for pid in pids))
    finally:
        node.kill()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_supervisor_that_was_stopped_for_a_while_goes_on(node: Daemon) -> None:
    """As by a freezer or a debugger: longer than it would have waited for anything."""
    assert node.process is not None
    before = workers(node)
    for _ in range(3):
        os.kill(node.process.pid, signal.SIGSTOP)
        time.sleep(1.3)
        os.kill(node.process.pid, signal.SIGCONT)
        time.sleep(0.3)
    assert node.process.poll() is None
    assert workers(node) == before
    assert serving(node) == [0, 1]


def test_settings_that_cannot_work_end_the_supervisor(tmp_path: Path) -> None:
    node = Daemon(tmp_path, workers=2)
    (tmp_path / "passphrase").write_text("not this one\n")
    done = node.tmad("run", "--workers", "2", expect=1)

    assert "does not open the master key" in done.stderr


def test_stop_ends_everything(node: Daemon) -> None:
    pids = workers(node)

    assert node.stop() == 0
    assert not any(_is_alive(pid) for pid in pids)
