"""tls-alpn-01 against Python's own TLS: the right certificate, the wrong ones (T-ACME-02)."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.contract.conftest import Loop
from tests.name_server import NameServer
from tests.unit.validation_world import (
    DIGEST,
    KEY_AUTHORIZATION,
    certificate,
    question,
    server,
    tls_context,
)
from tmad.ca.validation import tls_alpn01
from tmad.ca.validation.contract import Identifier
from tmad.ca.validation.tls_alpn01 import check, server_name
from tmad.ca.validation.validators import Validators
from tmad.errors import Fault

NAME = x509.DNSName("www.example.test")
HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
OID = "1.3.6.1.5.5.7.1.31"
GOOD = (OID, True, b"\x04\x20" + DIGEST)


@pytest.fixture(scope="module")
def loop() -> Loop:
    return Loop()


@pytest.fixture
def names() -> Iterator[NameServer]:
    found = NameServer({("www.example.test", "A"): ["127.0.0.1"]})
    yield found
    found.close()


def outcome(
    loop: Loop,
    names: NameServer,
    context: ssl.SSLContext,
    seen: list[Any] | None = None,
    **more: Any,
) -> tuple[str, str]:
    """Ask a server with this context; return problem and detail, empty when it is good."""

    def script(connection: socket.socket) -> None:
        with suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as secured:
            if seen is not None:
                seen.append((secured.selected_alpn_protocol(), secured.version(),
                             secured.recv(1)))  # fmt: skip

    with server(script) as port:
        asked = question("tls-alpn-01", tls_port=port, resolvers=[names.address], **more)
        try:
            loop.run(Validators(loop.reactor).validate(asked))
        except Fault as fault:
            return fault.values["problem"], fault.detail
        if seen is not None:
            loop.turn(lambda: bool(seen))
    return "", ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_right_certificate(
    loop: Loop, names: NameServer, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = tls_context(tmp_path, *certificate(NAME, extensions=(GOOD,)), ("acme-tls/1",))
    context.maximum_version = version
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    seen: list[Any] = []
    assert outcome(loop, names, context, seen) == ("", "")
    # Nothing is said after the handshake, and the end of it is a proper one.
    assert seen == [("acme-tls/1", version.name.replace("_", "."), b"")]
    assert asked == ["www.example.test"]


def test_who_does_not_say_goodbye_is_left(
    loop: Loop, names: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_alpn01, "_GOODBYE", 0.1)
    context = tls_context(tmp_path, *certificate(NAME, extensions=(GOOD,)), ("acme-tls/1",))
    ended: list[bytes] = []

    def script(connection: socket.socket) -> None:
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = context.wrap_bio(into, out, server_side=True)
        while data := connection.recv(4096):
            into.write(data)
            with suppress(ssl.SSLWantReadError):
                secured.do_handshake()
            connection.sendall(out.read())
        ended.append(b"")

    with server(script) as port:
        asked = question("tls-alpn-01", tls_port=port, resolvers=[names.address])
        loop.run(Validators(loop.reactor).validate(asked))
        with suppress(ConnectionResetError):
            loop.turn(lambda: bool(ended) or not loop.reactor.getDelayedCalls())
    assert not [each for each in loop.reactor.getReaders() if hasattr(each, "getPeer")]


def test_an_address_is_asked_by_its_reverse_name(
    loop: Loop, names: NameServer, tmp_path: Path
) -> None:
    context = tls_context(tmp_path, *certificate(HERE, extensions=(GOOD,)), ("acme-tls/1",))
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    assert outcome(loop, names, context, value="127.0.0.1", type_="ip") == ("", "")
    assert asked == ["1.0.0.127.in-addr.arpa"]
    assert server_name(Identifier("ip", "2001:db8::1")) == (
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
    )


@pytest.mark.parametrize(
    ("names_", "extensions", "detail"),
    [
        ((NAME, x509.DNSName("b.test")), (GOOD,), "this one name and no other"),
        ((x509.DNSName("b.test"),), (GOOD,), "this one name and no other"),
        ((NAME, HERE), (GOOD,), "this one name and no other"),
        ((NAME, NAME), (GOOD,), "this one name and no other"),
        ((x509.DNSName("*.example.test"),), (GOOD,), "this one name and no other"),
        ((x509.RFC822Name("www.example.test"),), (GOOD,), "this one name and no other"),
        ((), (GOOD,), "lacks the extension"),
        ((NAME,), (), "lacks the extension"),
        ((NAME,), (("1.3.6.1.5.5.7.1.30.1", True, GOOD[2]),), "lacks the extension"),
        ((NAME,), ((OID, False, GOOD[2]),), "must be critical"),
        ((NAME,), ((OID, True, b"\x04\x20" + bytes(32)),), "not the digest"),
        ((NAME,), ((OID, True, DIGEST),), "not the digest"),
        ((NAME,), ((OID, True, b""),), "not the digest"),
        ((NAME,), ((OID, True, GOOD[2] + b"\0"),), "not the digest"),
        ((NAME,), ((OID, True, b"\x04\x81\x20" + DIGEST),), "not the digest"),
        ((), (("2.5.29.17", False, b"\x30\x00"), GOOD), "this one name and no other"),
    ],
)
def test_t_acme_02_wrong_certificates(
    loop: Loop, names: NameServer, tmp_path: Path, names_: Any, extensions: Any, detail: str
) -> None:
    shown, key = certificate(*names_, extensions=extensions)
    found = outcome(loop, names, tls_context(tmp_path, shown, key, ("acme-tls/1",)))
    assert found[0] == "incorrectResponse"
    assert detail in found[1]


@pytest.mark.parametrize("octets", [b"\x05\x00", b"", b"\x30\x05x"])
def test_names_that_cannot_be_read(octets: bytes) -> None:
    """Which servers' own TLS would not even show."""
    shown, _ = certificate(extensions=(("2.5.29.17", False, octets), GOOD))
    with pytest.raises(Fault, match="cannot be read"):
        check(shown, Identifier("dns", "www.example.test"), KEY_AUTHORIZATION)


def test_a_certificate_that_another_key_signed(
    loop: Loop, names: NameServer, tmp_path: Path
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    shown, key = certificate(NAME, extensions=(GOOD,), signer=other)
    found = outcome(loop, names, tls_context(tmp_path, shown, key, ("acme-tls/1",)))
    assert "signed by its own key" in found[1]


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2", "http/1.1")])
def test_a_server_that_does_not_speak_it(
    loop: Loop, names: NameServer, tmp_path: Path, alpn: tuple[str, ...]
) -> None:
    shown = certificate(NAME, extensions=(GOOD,))
    found = outcome(loop, names, tls_context(tmp_path, *shown, alpn))
    assert found[0] == "tls"


def test_no_tls_older_than_1_2(loop: Loop, names: NameServer, tmp_path: Path) -> None:
    shown = certificate(NAME, extensions=(GOOD,))
    context = tls_context(tmp_path, *shown, ("acme-tls/1",))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert outcome(loop, names, context)[0] == "tls"


def test_no_tls_at_all(loop: Loop, names: NameServer) -> None:
    with server(lambda plain: plain.sendall(b"220 mail.example.test\r\n")) as port:
        asked = question("tls-alpn-01", tls_port=port, resolvers=[names.address])
        with pytest.raises(Fault) as caught:
            loop.run(Validators(loop.reactor).validate(asked))
    assert caught.value.values["problem"] == "tls"


def test_where_it_may_not_connect(loop: Loop, names: NameServer, tmp_path: Path) -> None:
    context = tls_context(tmp_path, *certificate(NAME, extensions=(GOOD,)), ("acme-tls/1",))
    found = outcome(loop, names, context, allowed_networks=["10.0.0.0/8"])
    assert found[0] == "connection"
    assert "this machine" in found[1]
