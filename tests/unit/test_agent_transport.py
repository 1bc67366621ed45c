"""An agent's requests and servers that mean ill: slow, endless, silent, strange."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tmad.agent import transport
from tmad.agent.transport import Answer, Trust, ask
from tmad.errors import Fault, FaultCode

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server of one connection; yield its address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(10)
            try:
                connection.recv(65_536)
                behave(connection)
            except OSError:
                pass  # the agent has had enough

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x"
    finally:
        listening.close()
        thread.join(15)


def refused(url: str, seconds: float = 5.0) -> Fault:
    with pytest.raises(Fault) as caught:
        ask("GET", url, Trust(), seconds=seconds)
    return caught.value


def test_an_answer() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Retry-After: 7\r\nContent-Length: 5\r\n\r\nhello")

    with server(behave) as url:
        answer = ask("GET", url, Trust())
    assert (answer.status, answer.body, answer.retry_after) == (200, b"hello", 7.0)


def test_a_body_that_never_ends_is_cut() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    with server(behave) as url:
        fault = refused(url)
    assert (fault.code, fault.rule) == (FaultCode.MALFORMED, "agent.answer")


def test_a_body_that_drips_has_one_deadline() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.02)

    started = time.monotonic()
    with server(behave) as url:
        fault = refused(url, seconds=0.3)
        assert time.monotonic() - started < 2
    assert fault.code is FaultCode.UNAVAILABLE
    assert "no answer in time" in fault.detail


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x00\x01\x02",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 10\r\n\r\nshort",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_a_server_that_does_not_answer(octets: bytes) -> None:
    with server(lambda connection: connection.sendall(octets)) as url:
        fault = refused(url)
    assert fault.code is FaultCode.UNAVAILABLE
    assert "does not answer" in fault.detail


def test_redirects_are_not_followed() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
        )

    with server(behave) as url:
        assert ask("GET", url, Trust()).status == 302


@pytest.mark.parametrize("url", ["https://127.0.0.1:99999/", "https://[::1/", "http://a b/"])
def test_addresses_that_are_none(url: str) -> None:
    assert refused(url).code is FaultCode.UNAVAILABLE


def test_a_trust_file_that_is_none() -> None:
    with pytest.raises(Fault) as caught:
        ask("GET", "https://127.0.0.1:1/", Trust("/etc/hostname"))
    assert caught.value.rule == "agent.trust"


def test_what_a_stranger_says_is_one_short_printable_line() -> None:
    answer = Answer(500, {}, b"\x1b[2Jevil\x07" + b"x" * 500 + b"\nsecond")
    assert answer.text.isprintable()
    assert len(answer.text) <= 200


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5.0), ("", None), ("-1", None), ("Fri", None), ("9" * 30, None)]
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert Answer(503, {"retry-after": text}, b"").retry_after == seconds
    assert transport.SECONDS > 0
