"""Fetching what an administrator named, from a real HTTP server, and from no other place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.contract.conftest import Loop
from tmad.errors import Fault, FaultCode
from tmad.network.fetch import Fetcher, is_reachable, mistake


class Page(Resource):
    """Answers with what it was made with."""

    isLeaf = True  # noqa: N815  Twisted's name

    def __init__(self, code: int, body: bytes, **headers: str) -> None:
        super().__init__()
        self._code, self._body, self._headers = code, body, headers

    def render_GET(self, request: Any) -> bytes:
        request.setResponseCode(self._code)
        for name, value in self._headers.items():
            request.setHeader(name, value)
        return self._body


class Endless(Resource):
    """Goes on and on, or says nothing."""

    isLeaf = True  # noqa: N815

    def __init__(self, reactor: Any, piece: bytes) -> None:
        super().__init__()
        self._reactor, self._piece = reactor, piece

    def render_GET(self, request: Any) -> int:
        def more() -> None:
            if not request._disconnected:
                request.write(self._piece)
                self._reactor.callLater(0, more)

        if self._piece:
            more()
        return NOT_DONE_YET


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    # Names are looked up in a thread, which would outlive the tests.
    loop.reactor.getThreadPool().stop()


@pytest.fixture
def server(loop: Loop) -> Iterator[str]:
    root = Resource()
    port = loop.reactor.listenTCP(0, Site(root), interface="127.0.0.1")
    base = f"http://127.0.0.1:{port.getHost().port}"
    for name, page in {
        "crl": Page(200, b"octets"),
        "gone": Page(404, b"gone"),
        "moved": Page(302, b"", location="/crl"),
        "away": Page(302, b"", location="http://localhost:1/crl"),
        "file": Page(302, b"", location="file:///etc/passwd"),
        "nowhere": Page(302, b""),
        "loop": Page(302, b"", location="/loop"),
        "endless": Endless(loop.reactor, b"x" * 4096),
        "silent": Endless(loop.reactor, b""),
    }.items():
        root.putChild(name.encode(), page)
    yield base
    loop.run(port.stopListening())


def test_a_document_and_a_redirect_on_the_same_host(loop: Loop, server: str) -> None:
    fetcher = Fetcher(loop.reactor)
    assert loop.run(fetcher.get(f"{server}/crl", 100)) == b"octets"
    assert loop.run(fetcher.get(f"{server}/moved", 100)) == b"octets"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone", "HTTP status 404"),
        ("away", "which is another place"),
        ("file", "which is another place"),
        ("nowhere", "HTTP status 302"),
        ("loop", "more than 3 redirects"),
        ("endless", "more than 10000 octets"),
    ],
)
def test_what_cannot_be_had(loop: Loop, server: str, path: str, why: str) -> None:
    with pytest.raises(Fault) as caught:
        loop.run(Fetcher(loop.reactor).get(f"{server}/{path}", 10_000))
    assert (caught.value.code, caught.value.rule) == (FaultCode.UNAVAILABLE, "network.fetch")
    assert why in caught.value.detail


def test_a_server_that_says_nothing_is_given_up(
    loop: Loop, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tmad.network.fetch._TIMEOUT", 0.3)
    with pytest.raises(Fault) as caught:
        loop.run(Fetcher(loop.reactor).get(f"{server}/silent", 100))
    assert "no whole answer in 0.3 s" in caught.value.detail


def test_a_name_that_means_this_machine_is_not_asked(
    loop: Loop, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the name of somewhere else led here: DNS is not ours.
    monkeypatch.setattr("tmad.network.fetch._LOOPBACK", frozenset())
    with pytest.raises(Fault) as caught:
        loop.run(Fetcher(loop.reactor).get(f"{server}/crl", 100))
    assert "where nothing is fetched from" in caught.value.detail


def test_nobody_listens(loop: Loop) -> None:
    with pytest.raises(Fault) as caught:
        loop.run(Fetcher(loop.reactor).get("http://127.0.0.1:1/crl", 100))
    assert caught.value.code is FaultCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("address", "host", "is_allowed"),
    [
        ("192.0.2.1", "crl.test", True),
        ("10.1.2.3", "crl.test", True),  # a CA inside
        ("2001:db8::1", "crl.test", True),
        ("127.0.0.1", "crl.test", False),
        ("::ffff:127.0.0.1", "crl.test", False),
        ("::1", "crl.test", False),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("169.254.169.254", "crl.test", False),
        ("::ffff:169.254.169.254", "169.254.169.254", False),
        ("fe80::1%eth0", "crl.test", False),
        ("224.0.0.1", "crl.test", False),
        ("0.0.0.0", "crl.test", False),
        ("::", "crl.test", False),
        ("240.0.0.1", "crl.test", False),
    ],
)
def test_t_acme_05_where_documents_are_fetched_from(
    address: str, host: str, is_allowed: bool
) -> None:
    assert is_reachable(address, host) is is_allowed


@pytest.mark.parametrize(
    "url",
    ["", "crl", "file:///etc/passwd", "gopher://x/", "http://", "http://a b/", "http://u@h/",
     "http://h/\n", "http://h:0/", "http://h:65536/", "http://h/#x", "http://2130706433:/"],
)  # fmt: skip
def test_urls_that_are_refused_when_they_are_written_down(url: str) -> None:
    assert mistake(url)


def test_urls_that_are_taken() -> None:
    for url in ("http://h", "https://h:8443/a/b?c=d", "http://[2001:db8::1]/x"):
        assert mistake(url) is None
