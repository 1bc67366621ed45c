"""Hostile and slow HTTP clients against the running daemon, which serves the next client."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.unit.test_edge_http import SMUGGLING

# Shorter than the defaults, so that the tests need not wait long for what is cut off.
LIMITS = """
[limits]
header_seconds = 2
body_seconds = 3
idle_seconds = 4
write_seconds = 3
"""
GET = b"GET /crl/issuing.crl HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(tmp_path_factory.mktemp("node"), settings=LIMITS).start()
    yield node
    node.kill()


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.http_port), timeout=15)


def everything(connection: socket.socket) -> bytes:
    """Read until the daemon closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def ask(daemon: Daemon, path: str = "/crl/issuing.crl", method: str = "GET") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=15)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def answers(octets: bytes) -> list[bytes]:
    """Split a stream of answers by their Content-Length; the first octets name the status."""
    found = []
    while octets:
        head, _, octets = octets.partition(b"\r\n\r\n")
        [length] = [
            int(line[16:]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"
        ]
        found.append(head[9:12] + octets[:length])
        octets = octets[length:]
    return found


@pytest.mark.parametrize("octets", SMUGGLING.values(), ids=SMUGGLING)
def test_t_lib_02_smuggling_is_refused_and_the_next_client_served(
    daemon: Daemon, octets: bytes
) -> None:
    with connect(daemon) as connection:
        connection.sendall(octets)
        answer = everything(connection)

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert ask(daemon) == 200


def test_t_lib_02_pipelined_answers_come_in_order(daemon: Daemon) -> None:
    paths = [b"/crl/issuing.crl", b"/aia/root.cer", b"/none", b"/crl/root.crl"] * 5
    with connect(daemon) as connection:
        connection.sendall(b"".join(GET.replace(b"/crl/issuing.crl", path) for path in paths))
        connection.shutdown(socket.SHUT_WR)
        together = answers(everything(connection))
    alone = {}
    for path in set(paths):
        with connect(daemon) as connection:
            close = b"\r\nConnection: close\r\n\r\n"
            connection.sendall(GET.replace(b"/crl/issuing.crl", path)[:-4] + close)
            [alone[path]] = answers(everything(connection))

    assert together == [alone[path] for path in paths]
    assert len({*alone.values()}) == 4


def test_oversize_is_413_and_the_next_client_served(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(
            b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 10_000
        )
        assert everything(connection).startswith(b"HTTP/1.1 413 ")
    with connect(daemon) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET /scep/" + b"x" * 100_000)
        assert everything(connection).startswith(b"HTTP/1.1 414 ")
    assert ask(daemon) == 200


def test_garbage_is_refused_and_the_next_client_served(daemon: Daemon) -> None:
    for garbage in (os.urandom(2_000), b"\x00" * 70_000, b"\xff\r\n\r\n", b"\r\n" * 50 + b"\x01"):
        with connect(daemon) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(garbage + b"\r\n\r\n")
            answer = everything(connection)
            assert answer[:13] in (b"", b"HTTP/1.1 400 "), garbage[:10]
        assert ask(daemon) == 200


def test_a_connection_that_says_nothing_at_all_costs_nothing(daemon: Daemon) -> None:
    """``openssl ocsp -port`` spins for ever after exactly this (performance 5.9)."""
    before = _cpu(daemon)
    for _ in range(50):
        connect(daemon).close()
    time.sleep(1)

    assert _cpu(daemon) - before < 0.5
    assert ask(daemon) == 200


def _cpu(daemon: Daemon) -> float:
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_g_fault_7_slow_clients_are_cut_and_others_served(daemon: Daemon) -> None:
    head = connect(daemon)
    head.sendall(b"GET /crl/issuing.crl HT")
    body = connect(daemon)
    body.sendall(b"POST /scep/default HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    begin = time.monotonic()
    cut: dict[str, float] = {}
    answered = {"head": b"", "body": b""}
    for connection in (head, body):
        connection.settimeout(0.2)
    while len(cut) < 2 and time.monotonic() - begin < 12:
        for name, connection in (("head", head), ("body", body)):
            if name in cut:
                continue
            try:
                connection.sendall(b"x")
                octets = connection.recv(1_000)
                answered[name] += octets
                if not octets:
                    cut[name] = time.monotonic() - begin
            except TimeoutError:
                continue
            except OSError:
                cut[name] = time.monotonic() - begin
        assert ask(daemon) == 200
    head.close()
    body.close()

    assert cut["head"] < 6
    assert cut["body"] < 9
    assert answered["head"].startswith(b"HTTP/1.1 408 ")
    assert answered["body"].startswith(b"HTTP/1.1 408 ")


def test_g_fault_7_a_peer_that_never_reads_is_cut(daemon: Daemon) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", daemon.http_port))
    connection.settimeout(1)
    begin = time.monotonic()
    is_cut = False
    while not is_cut and time.monotonic() - begin < 20:
        try:
            connection.sendall(GET * 1_000)
        except TimeoutError:
            assert ask(daemon) == 200
        except (ConnectionResetError, BrokenPipeError):
            is_cut = True
    connection.close()
    assert is_cut


def test_g_fault_7_a_thousand_silent_connections_and_others_served(daemon: Daemon) -> None:
    silent = [connect(daemon) for _ in range(1_000)]
    try:
        times = []
        for _ in range(50):
            begin = time.monotonic()
            assert ask(daemon) == 200
            times.append(time.monotonic() - begin)
        assert sorted(times)[-3] < 0.5
        deadline = time.monotonic() + 15
        for connection in silent:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            assert connection.recv(10) == b""
    finally:
        for connection in silent:
            connection.close()


def test_tls_speaks_1_2_and_1_3_only_and_asks_nobody_for_a_certificate(daemon: Daemon) -> None:
    context = ssl.create_default_context(cafile=daemon.directory / "root.pem")
    context.check_hostname = True
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", daemon.https_port), timeout=15) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_a_silent_tls_client_is_cut(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.https_port), timeout=15) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00")
        begin = time.monotonic()
        everything(connection)
        assert time.monotonic() - begin < 8


def test_reload_takes_over_limits_all_or_nothing(daemon: Daemon) -> None:
    assert daemon.process is not None
    text = daemon.config.read_text()
    with daemon.config.open("a") as file:
        file.write("header_octets = 2000\n")
    _reload(daemon, "reloaded")
    with connect(daemon) as connection:
        connection.sendall(GET[:-2] + b"X: " + b"y" * 3_000 + b"\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 431 ")

    daemon.config.write_text(text + "header_octets = 5000\nheader_secnds = 1\n")
    _reload(daemon, 'did you mean "header_seconds"')
    with connect(daemon) as connection:
        connection.sendall(GET[:-2] + b"X: " + b"y" * 3_000 + b"\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 431 ")
    daemon.config.write_text(text)
    _reload(daemon, "reloaded")
    assert ask(daemon) == 200


def _reload(daemon: Daemon, expected: str) -> None:
    assert daemon.process is not None
    before = len(daemon.log.read_text())
    daemon.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while expected not in daemon.log.read_text()[before:]:
        assert time.monotonic() < deadline, daemon.log.read_text()[before:]
        time.sleep(0.05)


def test_status_and_readiness_say_what_works(daemon: Daemon) -> None:
    answer = daemon.json("status")

    assert answer["ready"] is True
    [worker] = answer["workers"]
    assert worker["parts"] == {"database": "ok", "keys.soft": "ok"}
    assert all(worker["works"].values())


def test_t_obs_01_metrics_do_not_grow_with_what_strangers_send(daemon: Daemon) -> None:
    def series() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.ops_port, timeout=15)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text.count("\n")

    ask(daemon, "/none")
    ask(daemon, "/crl/none.crl")
    ask(daemon, "/crl/issuing.crl", "PUT")
    series()
    before = series()
    for number in range(100):
        ask(daemon, f"/{number}")
        ask(daemon, f"/crl/{number}.crl")
        ask(daemon, "/crl/issuing.crl", f"M{number}")

    assert series() == before


def test_files_are_private(daemon: Daemon) -> None:
    """G-OS-2: 0600 and 0700, whatever the umask of whoever starts it."""
    for path in daemon.directory.rglob("*"):
        if path != daemon.log and not path.name.endswith(".pem"):
            assert path.stat().st_mode & 0o077 == 0, path


def test_stop_finishes_and_a_second_start_serves_again(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    daemon.start()
    assert ask(daemon) == 200
