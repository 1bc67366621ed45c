"""The challenge webhook: what it asks, what it believes, and what it does when nobody answers."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError  # noqa: A004
from twisted.internet.task import Clock as Timer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web._newclient import Request
from twisted.web.client import HTTP11ClientProtocol
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from tests.support import Clock
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.httpclient import LARGEST_ANSWER
from tmad.identity.webhook import Question, Webhook, Webhooks
from tmad.signer.seal import Seal

QUESTION = Question(
    endpoint="scep/phones",
    transaction="0A1B",
    subject="CN=phone-7",
    names=("dns:phone-7.example.test",),
    csr_pem="-----BEGIN CERTIFICATE REQUEST-----\n",
    challenge=Secret("one-time-token"),
)


@implementer(IAgent)
class Wire:
    """Twisted's real HTTP client on a transport in memory."""

    def __init__(self) -> None:
        self.protocol = HTTP11ClientProtocol(lambda _: None)
        self.transport = StringTransport()
        self.refuses = False

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: Any = None,  # noqa: N803
    ) -> Deferred[Any]:
        if self.refuses:
            failed: Deferred[Any] = Deferred()
            failed.errback(Failure(ConnectionRefusedError()))
            return failed
        self.protocol.makeConnection(self.transport)
        headers = (headers or Headers()).copy()
        headers.addRawHeader(b"Host", b"mdm.example.test")
        return self.protocol.request(Request(method, b"/check", headers, bodyProducer))

    def answer(self, octets: bytes) -> None:
        self.protocol.dataReceived(octets)

    def hang_up(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def sent(self) -> tuple[dict[bytes, bytes], bytes]:
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
        return {name.lower(): value for name, _, value in lines}, body


class World:
    def __init__(self) -> None:
        self.timer = Timer()
        self.clock = Clock()
        self.wire = Wire()
        self.hooks = Webhooks(
            self.timer, Seal(b"k" * 32), self.clock, agent=lambda reactor, webhook: self.wire
        )
        self.results: list[Any] = []

    def ask(self, **options: Any) -> None:
        webhook = Webhook(url="https://mdm.example.test/check", **options)
        ensureDeferred(self.hooks.check(webhook, QUESTION)).addBoth(self.results.append)

    def outcome(self) -> Any:
        [result] = self.results
        if isinstance(result, Failure):
            assert isinstance(result.value, Fault), result
            return result.value
        return result


@pytest.fixture
def world() -> World:
    return World()


def http(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


def test_the_question_says_all_and_is_signed(world: World) -> None:
    key = Secret("shared-key")
    world.ask(key=world.hooks.seal_key("scep/phones", key))
    headers, body = world.wire.sent
    assert json.loads(body) == {
        "endpoint": "scep/phones",
        "transaction": "0A1B",
        "subject": "CN=phone-7",
        "names": ["dns:phone-7.example.test"],
        "csr": "-----BEGIN CERTIFICATE REQUEST-----\n",
        "challenge": "one-time-token",
    }
    stamp = int(world.clock().timestamp())
    expected = hmac.digest(b"shared-key", f"{stamp}.".encode() + body, "sha256").hex()
    assert headers[b"x-tmad-signature"] == f"t={stamp},v1={expected}".encode()


def test_yes_is_yes_with_its_reason(world: World) -> None:
    world.ask()
    world.wire.answer(http("200 OK", '{"allow": true, "reason": "enrolled by MDM"}'))
    assert world.outcome() == "enrolled by MDM"


def test_no_is_the_neutral_refusal(world: World) -> None:
    world.ask()
    world.wire.answer(http("200 OK", '{"allow": false, "reason": "device 7 is lost"}'))
    fault = world.outcome()
    assert (fault.code, fault.detail) == (
        FaultCode.UNAUTHENTICATED,
        "the challenge was not accepted",
    )
    assert fault.rule == "webhook.denied"
    assert fault.values["reason"] == "device 7 is lost"


@pytest.mark.parametrize(
    "answer",
    [
        http("500 Oops", '{"allow": true}'),
        http("204 No Content", ""),
        http("302 Found", '{"allow": true}', "Location: https://evil.test/"),
        http("200 OK", "yes"),
        http("200 OK", '{"allow": "true"}'),
        http("200 OK", '{"allow": 1}'),
        http("200 OK", "{}"),
        http("200 OK", "[true]"),
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_anything_else_means_that_nobody_knows(world: World, answer: bytes) -> None:
    world.ask()
    world.wire.answer(answer)
    fault = world.outcome()
    assert (fault.code, fault.rule) == (FaultCode.UNAVAILABLE, "webhook.unavailable")
    assert fault.retry_after


def test_a_service_that_is_down_is_unavailable(world: World) -> None:
    world.wire.refuses = True
    world.ask()
    assert world.outcome().code is FaultCode.UNAVAILABLE


def test_a_service_that_never_answers_is_given_up(world: World) -> None:
    world.ask(timeout_seconds=3)
    world.timer.advance(2.9)
    assert not world.results
    world.timer.advance(0.2)
    assert world.outcome().code is FaultCode.UNAVAILABLE


def test_a_service_that_trickles_is_given_up(world: World) -> None:
    world.ask(timeout_seconds=3)
    world.timer.advance(2)
    world.wire.answer(b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"allow"')
    world.timer.advance(1.1)
    assert world.wire.transport.disconnecting
    assert world.outcome().code is FaultCode.UNAVAILABLE


def test_a_cut_answer_is_not_believed(world: World) -> None:
    world.ask()
    world.wire.answer(b'HTTP/1.1 200 OK\r\n\r\n{"allow": true}')
    world.wire.hang_up()
    assert world.outcome().code is FaultCode.UNAVAILABLE


def test_an_endless_answer_is_cut(world: World) -> None:
    world.ask()
    world.wire.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    for _ in range(LARGEST_ANSWER // 4096 + 1):
        world.wire.answer(chunk)
    assert world.wire.transport.disconnecting
    world.wire.hang_up()
    assert world.outcome().code is FaultCode.UNAVAILABLE


def test_a_key_sealed_for_another_endpoint_signs_nothing(world: World) -> None:
    world.ask(key=world.hooks.seal_key("scep/other", Secret("shared-key")))
    assert world.outcome().code is FaultCode.BAD_INTEGRITY
    assert world.wire.transport.value() == b""


def test_secret_1_neither_challenge_nor_key_shows(world: World) -> None:
    key = Secret("CANARY-key")
    sealed = world.hooks.seal_key("scep/phones", key)
    world.ask(key=sealed)
    world.wire.answer(http("500 Oops", "one-time-token"))
    fault = world.outcome()
    seen = repr([QUESTION, fault.detail, fault.private, fault.values, sealed, str(fault)])
    assert "one-time-token" not in seen
    assert "CANARY" not in seen
    assert b64encode(b"CANARY-key").decode() not in seen


@pytest.mark.parametrize(
    "url",
    [
        "http://mdm.example.test/check",
        "http://127.0.0.1.evil.test/",
        "http://127.0.0.1@evil.test/",
        "https://user:pw@mdm.example.test/",
        "ftp://mdm.example.test/",
        "https://mdm.example.test/#x",
        "https://mdm.example.test/a b",
        "https:///check",
    ],
)
def test_a_url_that_would_leak_the_challenge_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Webhook(url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/x", "http://[::1]/", "https://mdm.test"])
def test_a_safe_url_is_taken(url: str) -> None:
    assert Webhook(url=url).url == url


@pytest.mark.parametrize("wrong", [{"header": "X: y"}, {"header": "X\r\nY"}, {"key": "plain text"}])
def test_a_setting_that_makes_no_sense_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Webhook(url="https://mdm.test", **wrong)
