"""http-01 against web servers, good ones and such as want something else (T-ACME-05)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.protocol import Factory

from tests.contract.conftest import Loop
from tests.name_server import NameServer
from tests.unit.validation_world import (
    KEY_AUTHORIZATION,
    TOKEN,
    answer,
    certificate,
    heard,
    question,
    redirect,
    saying,
    server,
    tls_context,
)
from tmad.ca.validation import validators
from tmad.ca.validation.contract import Question, Validated
from tmad.ca.validation.http01 import is_host
from tmad.ca.validation.validators import Validators
from tmad.errors import Fault

GOOD = KEY_AUTHORIZATION.encode()


@pytest.fixture(scope="module")
def loop() -> Loop:
    return Loop()


@pytest.fixture
def names() -> Iterator[NameServer]:
    found = NameServer({("www.example.test", "A"): ["127.0.0.1"]})
    yield found
    found.close()


def validated(loop: Loop, asked: Question, own_ports: tuple[int, ...] = ()) -> Validated:
    return loop.run(Validators(loop.reactor, own_ports).validate(asked))


def refused(loop: Loop, asked: Question, own_ports: tuple[int, ...] = ()) -> tuple[str, str]:
    with pytest.raises(Fault) as caught:
        validated(loop, asked, own_ports)
    assert caught.value.rule == "acme.validation"
    return caught.value.values["problem"], caught.value.detail


@pytest.mark.parametrize(
    "pieces",
    [
        (answer(),),
        (answer(GOOD + b" \r\n\t\n"),),
        (answer(GOOD, "200 OK", "Transfer-Encoding: chunked")[: -len(GOOD)]
         + b"10\r\n" + GOOD[:16] + b"\r\n%x;x=y\r\n" % (len(GOOD) - 16) + GOOD[16:]
         + b"\r\n0\r\n\r\n",),
        (b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\n" + GOOD,),
        (b"HTTP/1.1 100 Continue\r\n\r\n", answer()),
        tuple(bytes([octet]) for octet in answer()),
    ],
    ids=["plain", "whitespace", "chunked", "until the end", "after 100", "octet by octet"],
)  # fmt: skip
def test_good_answers(loop: Loop, names: NameServer, pieces: tuple[bytes, ...]) -> None:
    with server(saying(*pieces)) as port:
        asked = question(http_port=port, resolvers=[names.address])
        found = validated(loop, asked)
    assert found.record == {
        "challenge": "http-01",
        "requests": [
            {
                "url": f"http://www.example.test:{port}/.well-known/acme-challenge/{TOKEN}",
                "address": "127.0.0.1",
                "status": 200,
            }
        ],
    }


def test_what_is_asked(loop: Loop, names: NameServer) -> None:
    requests: list[bytes] = []

    def script(connection: socket.socket) -> None:
        requests.append(heard(connection))
        connection.sendall(answer())

    with server(script) as port:
        validated(loop, question(http_port=port, resolvers=[names.address]))
    head = requests[0].decode().split("\r\n")
    assert head[0] == f"GET /.well-known/acme-challenge/{TOKEN} HTTP/1.1"
    assert head[1] == f"Host: www.example.test:{port}"


def test_an_address_needs_no_name(loop: Loop) -> None:
    with server(saying(answer())) as port:
        validated(loop, question(value="127.0.0.1", type_="ip", http_port=port))
    with server(saying(answer()), "::1") as port:
        asked = question(value="::1", type_="ip", http_port=port, allowed_networks=["::1/128"])
        found = validated(loop, asked)
    assert str(found.record["requests"]).count(f"http://[::1]:{port}/") == 1


def test_ipv6_first_then_ipv4(loop: Loop, names: NameServer) -> None:
    names.records["www.example.test", "AAAA"] = ["::1"]
    with server(saying(answer())) as port:
        asked = question(http_port=port, resolvers=[names.address],
                         allowed_networks=["127.0.0.0/8", "::1/128"])  # fmt: skip
        found = validated(loop, asked)
    requests = found.record["requests"]
    assert isinstance(requests, list)
    assert [each["address"] for each in requests if isinstance(each, dict)] == ["::1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("pieces", "problem", "detail"),
    [
        ((answer(b"another"),), "incorrectResponse", "does not hold"),
        ((answer(b""),), "incorrectResponse", "does not hold"),
        ((answer(b" " + GOOD),), "incorrectResponse", "does not hold"),
        ((answer(GOOD + b"x" * 300),), "incorrectResponse", "does not hold"),
        ((answer(b"Not Found", "404 Not Found"),), "unauthorized", "HTTP status 404"),
        ((answer(GOOD, "201 Created"),), "unauthorized", "HTTP status 201"),
        ((b"",), "connection", "ended in the middle"),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), "connection", "not an HTTP answer"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + GOOD[:50],), "connection", "middle"),
        ((b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000,), "connection", "more than 16384 octets"),
        ((b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000,), "connection", "more than 16384"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",), "connection", "no number"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",),
         "connection", "two lengths"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",), "connection", "other than"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",), "connection", "size"),
    ],
)  # fmt: skip
def test_bad_answers(
    loop: Loop, names: NameServer, pieces: tuple[bytes, ...], problem: str, detail: str
) -> None:
    with server(saying(*pieces)) as port:
        found = refused(loop, question(http_port=port, resolvers=[names.address]))
    assert found[0] == problem
    assert detail in found[1]


def test_a_body_is_never_told(loop: Loop, names: NameServer) -> None:
    with server(saying(answer(b"internal secret"))) as port:
        asked = question(http_port=port, resolvers=[names.address])
        with pytest.raises(Fault) as caught:
            validated(loop, asked)
    assert "internal" not in f"{caught.value.detail}{caught.value.values}"


def endless(connection: socket.socket) -> None:
    heard(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


def dripping(connection: socket.socket) -> None:
    heard(connection)
    for octet in answer():
        connection.sendall(bytes([octet]))
        time.sleep(0.1)


def silent(connection: socket.socket) -> None:
    connection.recv(1)
    time.sleep(2)


def test_a_body_without_end_is_cut_off(loop: Loop, names: NameServer) -> None:
    with server(endless) as port:
        begin = time.monotonic()
        found = refused(loop, question(http_port=port, resolvers=[names.address]))
    assert found[0] == "incorrectResponse"
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("script", [dripping, silent])
def test_slow_servers_are_given_up(
    loop: Loop, names: NameServer, script: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validators, "TIMEOUT", 0.5)
    with server(script) as port:  # type: ignore[arg-type]
        begin = time.monotonic()
        found = refused(loop, question(http_port=port, resolvers=[names.address]))
    assert found == ("connection", found[1])
    assert "no whole answer in time" in found[1]
    assert time.monotonic() - begin < 8


def test_nobody_listens(loop: Loop, names: NameServer) -> None:
    with server(silent) as port:
        pass
    found = refused(loop, question(http_port=port, resolvers=[names.address]))
    assert found[0] == "connection"
    assert "refused" in found[1]


# -- redirects ----------------------------------------------------------------------------------


def test_redirects_are_followed_and_looked_up_anew(loop: Loop, names: NameServer) -> None:
    names.records["other.example.test", "A"] = ["127.0.0.2"]
    with server(saying(answer()), "127.0.0.2") as port:
        target = f"http://other.example.test:{port}/x?a=b#c"
        with server(saying(redirect(target, "308 Moved")), "127.0.0.1", port):
            found = validated(loop, question(http_port=port, resolvers=[names.address]))
    requests = found.record["requests"]
    assert isinstance(requests, list)
    assert [each["address"] for each in requests if isinstance(each, dict)] == [
        "127.0.0.1",
        "127.0.0.2",
    ]
    assert "other.example.test" in str(requests[1])
    assert "/x?a=b'" in str(requests[1])


@pytest.mark.parametrize(
    ("location", "detail"),
    [
        ("http://169.254.169.254/latest/meta-data", "metadata service"),
        ("http://metadata.test/", "metadata service"),
        ("http://[::ffff:169.254.169.254]/", "metadata service"),
        ("http://10.0.0.1/", "allowed_networks does not name it"),
        ("http://[2002:a00:1::]/", "allowed_networks does not name it"),
        ("http://2130706433/", "no name and no address"),
        ("http://0x7f000001/", "no name and no address"),
        ("http://127.1/", "no name and no address"),
        ("http://www.example.test:22/", "port 22 is not a web server's"),
        ("https://www.example.test:5432/", "port 5432 is not a web server's"),
        ("http://www.example.test:99999999/", "no http or https URL"),
        ("http://user:password@www.example.test/", "no http or https URL"),
        ("file:///etc/passwd", "no http or https URL"),
        ("gopher://www.example.test/", "no http or https URL"),
        ("http://www.example.test/\r\nX: y", "no http or https URL"),
        ("http://[::1", "no http or https URL"),
        ("", "no http or https URL"),
        ("/" + "x" * 3000, "no http or https URL"),
        ("http://nowhere.example.test/", "no address in the DNS"),
    ],
)
def test_t_acme_05_redirects_to_other_places(
    loop: Loop, names: NameServer, location: str, detail: str
) -> None:
    names.records["metadata.test", "A"] = ["169.254.169.254"]
    bare = location.replace("\r\n", "\x0b")
    with server(saying(redirect(bare))) as port:
        found = refused(loop, question(http_port=port, resolvers=[names.address]))
    assert found[0] in ("connection", "dns")
    assert detail in found[1]


def test_ten_redirects_and_not_eleven(loop: Loop, names: NameServer) -> None:
    def script(connection: socket.socket) -> None:
        path = heard(connection).split()[1].decode()
        left = int(path[1:]) if path[1:].isdigit() else start
        connection.sendall(redirect(f"/{left - 1}") if left else answer())

    with server(script) as port:
        asked = question(http_port=port, resolvers=[names.address])
        start = 10
        validated(loop, asked)
        start = 11
        assert "more than 10 redirects" in refused(loop, asked)[1]


def test_https_needs_no_good_certificate(loop: Loop, names: NameServer, tmp_path: Path) -> None:
    context = tls_context(tmp_path, *certificate(x509.DNSName("another.test")))

    def secure(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            heard(secured)
            secured.sendall(answer())

    with server(secure) as tls_port:
        target = f"https://www.example.test:{tls_port}/moved"
        with server(saying(redirect(target))) as port:
            asked = question(http_port=port, tls_port=tls_port, resolvers=[names.address])
            found = validated(loop, asked)
            assert "https://" in str(found.record)
    with server(lambda plain: plain.sendall(b"HTTP/1.1 400 No\r\n\r\n")) as plain_port:
        target = f"https://www.example.test:{plain_port}/moved"
        with server(saying(redirect(target))) as port:
            asked = question(http_port=port, tls_port=plain_port, resolvers=[names.address])
            assert refused(loop, asked)[0] == "tls"


# -- addresses ----------------------------------------------------------------------------------


def test_a_name_is_looked_up_once_for_a_connection(loop: Loop, names: NameServer) -> None:
    """DNS that changes between check and use changes nothing."""
    answers = iter(["127.0.0.1", "169.254.169.254", "169.254.169.254"])

    class Changing(dict):  # type: ignore[type-arg]
        def get(self, key: object, default: object = None) -> object:
            return [next(answers)] if key == ("www.example.test", "A") else default

    names.records = Changing({("www.example.test", "A"): []})
    with server(saying(answer())) as port:
        validated(loop, question(http_port=port, resolvers=[names.address]))
    assert [each[1] for each in names.asked].count("A") == 1


def test_loopback_only_where_a_network_names_just_that(loop: Loop, names: NameServer) -> None:
    with server(saying(answer())) as port:
        for networks in ([], ["0.0.0.0/0"], ["10.0.0.0/8"]):
            asked = question(http_port=port, resolvers=[names.address], allowed_networks=networks)
            assert "this machine" in refused(loop, asked)[1]
        asked = question(
            http_port=port, resolvers=[names.address], denied_networks=["127.0.0.1/32"]
        )
        assert "denied_networks" in refused(loop, asked)[1]


def test_own_ports_are_never_asked(loop: Loop, names: NameServer) -> None:
    with server(saying(answer())) as port:
        asked = question(http_port=port, resolvers=[names.address])
        assert "appliance's own" in refused(loop, asked, own_ports=(port,))[1]
        validated(loop, asked)
    listening = loop.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    asked = question(http_port=listening.getHost().port, resolvers=[names.address])
    assert "appliance's own" in refused(loop, asked)[1]
    loop.run(listening.stopListening())


def test_of_several_addresses_only_the_allowed_are_asked(loop: Loop, names: NameServer) -> None:
    names.records["www.example.test", "A"] = ["169.254.169.254", "127.0.0.1", "10.1.1.1"]
    with server(saying(answer())) as port:
        found = validated(loop, question(http_port=port, resolvers=[names.address]))
    assert "169.254" not in str(found.record)


def test_ten_at_once(loop: Loop, names: NameServer) -> None:
    busy: list[int] = []
    most = 0

    def script(connection: socket.socket) -> None:
        nonlocal most
        heard(connection)
        busy.append(1)
        most = max(most, len(busy))
        time.sleep(0.1)
        busy.pop()
        connection.sendall(answer())

    with server(script) as port:
        asked = question(http_port=port, resolvers=[names.address])
        pool = Validators(loop.reactor)
        many = [ensureDeferred(pool.validate(asked)) for _ in range(25)]
        loop.run(gatherResults(many))
    assert 2 <= most <= 10


@pytest.mark.parametrize("text", ["a", "a.b", "_x.example.test", "a.b.", "::1", "1.2.3.4", "x1"])
def test_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a.b", "1", "1.2", "a.1", "0x7f.0x1", "a b", "ü"]
)
def test_no_hosts(text: str) -> None:
    assert not is_host(text)
