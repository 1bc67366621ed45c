"""The agent's way through a proxy, and proxies that mean ill."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from tmad.agent.proxy import proxy_for
from tmad.agent.transport import Trust, ask
from tmad.errors import Fault, FaultCode

PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def proxy(behave: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Run a proxy of one connection; yield its address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(10)
            with suppress(OSError):  # the agent has had enough
                behave(connection, connection.recv(65_536))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        thread.join(15)
        listening.close()


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "https://ca.test/", None),
        ({"HTTPS_PROXY": "http://p.test:8080"}, "https://ca.test/", ("p.test", 8080)),
        ({"https_proxy": "p.test:8080"}, "https://ca.test/", ("p.test", 8080)),
        ({"HTTPS_PROXY": "http://p.test:8080"}, "http://ca.test/", None),
        ({"http_proxy": "http://p.test"}, "http://ca.test/", ("p.test", 3128)),
        ({"ALL_PROXY": "http://[2001:db8::1]:1"}, "https://ca.test/", ("2001:db8::1", 1)),
        ({"HTTPS_PROXY": "http://p.test", "NO_PROXY": "ca.test"}, "https://ca.test/", None),
        ({"HTTPS_PROXY": "http://p.test", "NO_PROXY": ".test"}, "https://ca.test:8444/", None),
        ({"HTTPS_PROXY": "http://p.test", "NO_PROXY": "*"}, "https://ca.test/", None),
        ({"HTTPS_PROXY": ""}, "https://ca.test/", None),
    ],
)
def test_which_proxy(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    url: str,
    expected: tuple[str, int] | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(urlsplit(url))
    assert (None if found is None else (found.host, found.port)) == expected


@pytest.mark.parametrize("url", ["https://p.test", "socks5://p.test", "http://", "http://p:x"])
def test_proxies_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(Fault) as caught:
        ask("GET", "https://ca.test/", Trust())
    assert (caught.value.code, caught.value.rule) == (FaultCode.REJECTED, "agent.proxy")


def test_a_plain_request_names_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def behave(connection: socket.socket, request: bytes) -> None:
        heard.append(request)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with proxy(behave) as address:
        monkeypatch.setenv("http_proxy", f"http://a%40b:c@{address}")
        answer = ask("GET", "http://scep.test:8080/scep?operation=GetCACert", Trust())
    assert answer.body == b"ok"
    lines = heard[0].decode().split("\r\n")
    assert lines[0] == "GET http://scep.test:8080/scep?operation=GetCACert HTTP/1.1"
    assert "Host: scep.test:8080" in lines
    assert "Proxy-Authorization: Basic YUBiOmM=" in lines


def test_connect_names_host_and_port_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def behave(connection: socket.socket, request: bytes) -> None:
        heard.append(request)
        connection.sendall(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n")

    with proxy(behave) as address:
        monkeypatch.setenv("https_proxy", f"http://me:word@{address}")
        with pytest.raises(Fault) as caught:  # beyond, nobody speaks TLS
            ask("GET", "https://[2001:db8::7]:8444/secret?path", Trust(), headers={"X": "secret"})
    assert caught.value.code is FaultCode.UNAVAILABLE
    assert b"secret" not in heard[0]
    assert heard[0].startswith(
        b"CONNECT [2001:db8::7]:8444 HTTP/1.1\r\nHost: [2001:db8::7]:8444\r\n"
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 407 Who are you\r\n\r\n<html>it says more</html>", "407 Who are you"),
        (b"HTTP/1.0 502 \x1b[31mred\r\nX: y\r\n\r\n", "502 ?[31mred"),
        (b"HTTP/1.1 200 OK\r\n\r\nand more", "no answer of a proxy"),
        (b"HTTP/1.1 200 OK\r\n", "no answer of a proxy"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no answer of a proxy"),
        (b"", "no answer of a proxy"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "no answer of a proxy"),
    ],
)
def test_answers_that_are_no_tunnel(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, told: str
) -> None:
    with proxy(lambda connection, _: connection.sendall(answer)) as address:
        monkeypatch.setenv("https_proxy", f"http://{address}")
        with pytest.raises(Fault) as caught:
            ask("GET", "https://ca.test/", Trust())
    assert (caught.value.code, caught.value.rule) == (FaultCode.UNAVAILABLE, "agent.proxy")
    assert told in caught.value.detail


def test_a_proxy_that_is_silent_has_the_deadline_of_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()
    with proxy(lambda connection, _: over.wait(10) and None) as address:
        monkeypatch.setenv("https_proxy", f"http://{address}")
        with pytest.raises(Fault) as caught:
            ask("GET", "https://ca.test/", Trust(), seconds=0.3)
        over.set()
    assert caught.value.rule == "agent.proxy"


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(Fault, match=f"the proxy 127.0.0.1:{port} does not let us through"):
        ask("GET", "https://ca.test/", Trust())
