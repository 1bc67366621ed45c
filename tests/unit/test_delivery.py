"""Ways to a telephone and a mailbox, against gateways in memory that behave well and badly."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError  # noqa: A004
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock as Timer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tests.support import Clock
from tests.unit.test_webhook import Wire, http
from tmad.config import DeliverySection, HTTPGateway, MailSubmission, SMPPGateway, SpoolGateway
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.delivery import gsm7
from tmad.identity.delivery import smpp_codec as codec
from tmad.identity.delivery.http import HTTPDelivery
from tmad.identity.delivery.mail import MailDelivery
from tmad.identity.delivery.smpp import SMPPDelivery, encoded
from tmad.identity.delivery.spool import SpoolDelivery
from tmad.identity.delivery.templates import escape_for, fill, in_header, in_url
from tmad.identity.delivery.ways import ways

TO = "+491701234567"
TEXT = Secret('123456 is "yours" & <only> yours; ä')


class Outcome:
    """What a coroutine came to, if it came to anything."""

    def __init__(self, coroutine: Any) -> None:
        self.results: list[Any] = []
        ensureDeferred(coroutine).addBoth(self.results.append)

    @property
    def is_open(self) -> bool:
        return not self.results

    @property
    def value(self) -> Any:
        [result] = self.results
        assert not isinstance(result, Failure), result
        return result

    @property
    def fault(self) -> Fault:
        [result] = self.results
        assert isinstance(result, Failure)
        assert isinstance(result.value, Fault), result
        return result.value


# -- templates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", '"a\\"b\\\\&<>\\u00e4\\n"'),
        ("application/vnd.x+json", '"a\\"b\\\\&<>\\u00e4\\n"'),
        ("application/x-www-form-urlencoded", '"a%22b%5C%26%3C%3E%C3%A4%0A"'),
        ("text/xml; charset=utf-8", '"a&quot;b\\&amp;&lt;&gt;ä\n"'),
        ("text/plain", '"a"b\\&<>ä\n"'),
    ],
)
def test_each_context_escapes_its_own_way(kind: str, expected: str) -> None:
    assert fill('"{{ x }}"', {"x": 'a"b\\&<>ä\n'}, escape_for(kind)) == expected


def test_what_is_filled_in_is_not_filled_again() -> None:
    values = {"a": "{{b}}", "b": "secret"}
    assert fill("{{a}}", values, str) == "{{b}}"
    assert in_url("a/b?c&d=é#") == "a%2Fb%3Fc%26d%3D%C3%A9%23"
    assert in_header("a\r\nX-Evil: 1\0") == "a  X-Evil: 1 "
    assert escape_for("text/xml")("a\0b\x1bc") == "abc"


# -- HTTP ------------------------------------------------------------------------------------


class Gateway:
    def __init__(self, **settings: Any) -> None:
        self.timer = Timer()
        self.wires: list[Wire] = []
        self.refuses = 0
        self.urls: list[str] = []
        self.settings = HTTPGateway(**({"url": "https://sms.example.test/send"} | settings))
        self.delivery = HTTPDelivery(self.settings, self.timer, agent=self.agent)

    def agent(self, reactor: IReactorTime, settings: HTTPGateway) -> Any:
        wire = Wire()
        wire.refuses = self.refuses > 0
        self.refuses -= 1
        self.wires.append(wire)
        original = wire.request

        def request(method: bytes, uri: bytes, *rest: Any) -> Any:
            self.urls.append(uri.decode())
            return original(method, uri, *rest)

        wire.request = request  # type: ignore[method-assign]
        return wire

    def send(self, text: Secret = TEXT) -> Outcome:
        return Outcome(self.delivery.send(TO, text))


def test_the_body_is_json_whatever_the_text() -> None:
    gateway = Gateway()
    outcome = gateway.send()
    headers, body = gateway.wires[0].sent
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body) == {"to": TO, "text": TEXT.reveal().decode()}
    gateway.wires[0].answer(http("202 Accepted", "queued"))
    assert outcome.value == ""


def test_form_url_headers_and_basic_authentication(tmp_path: Path) -> None:
    for name, content in (("password", "p w"), ("key", "k&y\n")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    gateway = Gateway(
        url="https://sms.example.test/{{digits}}/send?key={{secret}}",
        content_type="application/x-www-form-urlencoded",
        body="to={{to}}&text={{text}}",
        headers={"X-Key": "key={{secret}}"},
        secret_file=tmp_path / "key",
        user="tmad",
        password_file=tmp_path / "password",
    )
    gateway.send()
    headers, body = gateway.wires[0].sent
    assert parse_qs(body.decode()) == {"to": [TO], "text": [TEXT.reveal().decode()]}
    assert headers[b"x-key"] == b"key=k&y"
    assert headers[b"authorization"] == b"Basic " + b64encode(b"tmad:p w")
    parts = urlsplit(gateway.urls[0])
    assert parts.path == "/491701234567/send"
    assert parse_qs(parts.query) == {"key": ["k&y"]}


def test_get_has_no_body() -> None:
    gateway = Gateway(method="GET", url="https://sms.example.test/?to={{to}}&text={{text}}")
    gateway.send()
    assert gateway.wires[0].sent[1] == b""
    assert parse_qs(urlsplit(gateway.urls[0]).query)["text"] == [TEXT.reveal().decode()]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        ("400 Bad Request", "", FaultCode.REJECTED),
        ("401 Unauthorized", "", FaultCode.REJECTED),
        ("302 Found", "", FaultCode.REJECTED),
        ("200 OK", "ERROR 17", FaultCode.REJECTED),
        ("429 Too Many Requests", "", FaultCode.UNAVAILABLE),
        ("503 Away", "", FaultCode.UNAVAILABLE),
    ],
)
def test_what_is_no_success(status: str, body: str, code: FaultCode) -> None:
    gateway = Gateway(success_pattern="^OK: [0-9]+")
    outcome = gateway.send()
    gateway.wires[0].answer(http(status, body, "Location: https://evil.test/"))
    assert outcome.fault.code is code
    assert len(gateway.wires) == 1  # no redirect is followed
    assert "123456" not in repr(outcome.fault.__dict__)


def test_the_pattern_decides() -> None:
    gateway = Gateway(success_pattern="^OK: [0-9]+")
    outcome = gateway.send()
    gateway.wires[0].answer(http("200 OK", "OK: 17"))
    assert outcome.value == ""


def test_a_broken_line_is_tried_once_more() -> None:
    gateway = Gateway()
    gateway.refuses = 1
    outcome = gateway.send()
    gateway.wires[1].answer(http("200 OK", ""))
    assert outcome.value == ""
    gateway = Gateway()
    gateway.refuses = 2
    fault = gateway.send().fault
    assert (fault.code, fault.rule) == (FaultCode.UNAVAILABLE, "otp.delivery.gateway")


def test_secret_1_a_failure_that_cites_the_url_is_not_repeated() -> None:
    gateway = Gateway(method="GET", url="https://sms.example.test/?to={{to}}&text={{text}}")

    def broken(reactor: object, settings: object) -> Any:
        raise ValueError(f"Invalid URI {gateway.urls}")

    gateway.delivery._agent = broken
    gateway.urls = ["123456"]
    fault = gateway.send().fault
    assert fault.private == "ValueError"
    assert "123456" not in repr(fault.__dict__)


def test_a_silent_gateway_is_given_up() -> None:
    gateway = Gateway(timeout_seconds=3)
    outcome = gateway.send()
    gateway.timer.advance(3)
    gateway.timer.advance(3)
    assert outcome.fault.rule == "otp.delivery.gateway"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "http://sms.example.test/"}, "readable"),
        ({"url": "ftp://sms.example.test/"}, "http or https"),
        ({"url": "https://{{to}}.example.test/"}, "host"),
        ({"url": "https://u:p@sms.example.test/"}, "without user"),
        ({"url": "https://sms.example.test/#x"}, "fragment"),
        ({"url": "https://sms.example.test/a b"}, "without spaces"),
        ({"url": "https://sms.example.test/ä"}, "ASCII"),
        ({"url": "https://sms.example.test/", "body": '{"x": "{{text}}"}'}, "{{to}}"),
        ({"url": "https://sms.example.test/", "body": "{{to}} {{text}}"}, "not JSON"),
        ({"url": "https://sms.example.test/", "body": '{"x": "{{code}}"}'}, "not known"),
        ({"url": "https://sms.example.test/", "headers": {"X": "{{secret}}"}}, "secret_file"),
        ({"url": "https://sms.example.test/", "headers": {"X Y": "1"}}, "header field"),
        ({"url": "https://sms.example.test/", "headers": {"X": "1\r\nY: 2"}}, "header field"),
        ({"url": "https://sms.example.test/", "success_pattern": "("}, "success_pattern"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(why)):
        HTTPGateway(**settings)
    HTTPGateway(url="http://127.0.0.1/")
    HTTPGateway(url="http://sms.example.test/", plain_http=True)


# -- SMPP ------------------------------------------------------------------------------------


class Line(StringTransport):
    """A transport that tells a good-bye from a cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Centre:
    """The other end of SMPP, in memory."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.timer = Timer()
        password = tmp_path / "smpp"
        password.write_text("secret08\n")
        password.chmod(0o600)
        given = {"host": "smsc.test", "system_id": "tmad", "password_file": password}
        self.delivery = SMPPDelivery(
            SMPPGateway(**(given | settings)), self.timer, validity=300, connect=self.connect
        )
        self.refuses = False
        self.connections = 0
        self.protocol: Any = None
        self.transport: Any = None
        self.stream = codec.Stream()

    def connect(self, factory: Factory) -> Deferred[Any]:
        self.connections += 1
        if self.refuses:
            return fail(ConnectionRefusedError())
        self.protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        self.transport = Line()
        self.protocol.makeConnection(self.transport)
        self.stream = codec.Stream()
        return succeed(self.protocol)

    def read(self) -> list[tuple[int, int, int, bytes]]:
        """Return command, status, sequence and body of each PDU that was sent since."""
        found = []
        for pdu in self.stream.receive(self.transport.value()):
            numbers = (int.from_bytes(pdu[at : at + 4]) for at in (4, 8, 12))
            found.append((*numbers, pdu[16:]))
        self.transport.clear()
        return found  # type: ignore[return-value]

    def say(self, command: int, sequence: int, body: bytes = b"", status: int = 0) -> None:
        self.protocol.dataReceived(codec.encode(command, status, sequence, body))

    def hang_up(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def send(self, text: str = "123456") -> Outcome:
        return Outcome(self.delivery.send(TO, Secret(text)))

    def bound(self) -> Outcome:
        """Send a message, bind, and return the message's outcome."""
        outcome = self.send()
        [(command, _, sequence, _)] = self.read()
        self.say(command | codec.RESPONSE, sequence, b"smsc\0")
        return outcome


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre(tmp_path)


def test_bind_then_submit(centre: Centre) -> None:
    outcome = centre.send()
    [(command, status, sequence, body)] = centre.read()
    assert (command, status, sequence) == (codec.BIND_TRANSCEIVER, 0, 1)
    assert body == b"tmad\0secret08\0\0\x34\0\0\0"
    centre.say(command | codec.RESPONSE, sequence, b"smsc\0\x02\x10\0\x01\x34")
    [(command, _, sequence, body)] = centre.read()
    assert (command, sequence) == (codec.SUBMIT_SM, 2)
    assert body == (
        b"\0\0\0\0\x01\x01491701234567\0\0\0\0\0" + b"000000000500000R\0" + b"\0\0\0\0\x06123456"
    )
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"id-7\0")
    assert outcome.value == "id-7"


def test_two_messages_share_a_connection(centre: Centre) -> None:
    first, second = centre.send(), centre.send("654321")
    [(_, _, sequence, _)] = centre.read()
    centre.say(codec.BIND_TRANSCEIVER | codec.RESPONSE, sequence, b"\0")
    found = centre.read()
    assert [pdu[0] for pdu in found] == [codec.SUBMIT_SM] * 2
    for (_, _, sequence, _), name in zip(reversed(found), (b"b\0", b"a\0"), strict=True):
        centre.say(codec.SUBMIT_SM | codec.RESPONSE, sequence, name)
    assert (first.value, second.value, centre.connections) == ("a", "b", 1)


def test_the_window_is_kept(tmp_path: Path) -> None:
    centre = Centre(tmp_path, window=2)
    outcomes = [centre.bound(), centre.send(), centre.send()]
    assert len(centre.read()) == 2
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"a\0")
    assert len(centre.read()) == 1
    assert [outcome.is_open for outcome in outcomes] == [False, True, True]


@pytest.mark.parametrize(
    ("status", "code", "retry_after"),
    [
        (0x58, FaultCode.UNAVAILABLE, 5),
        (0x14, FaultCode.UNAVAILABLE, 10),
        (0x0B, FaultCode.REJECTED, None),
        (0xFF, FaultCode.REJECTED, None),
    ],
)
def test_what_the_centre_says_no_with(
    centre: Centre, status: int, code: FaultCode, retry_after: float | None
) -> None:
    outcome = centre.bound()
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, status=status)
    assert (outcome.fault.code, outcome.fault.retry_after) == (code, retry_after)


def test_a_nack_is_no_success_whatever_its_status(centre: Centre) -> None:
    outcome = centre.bound()
    centre.say(codec.GENERIC_NACK, 2)
    assert outcome.fault.code is FaultCode.REJECTED


def test_a_wrong_password_is_not_tried_for_ever(centre: Centre) -> None:
    outcome = centre.send()
    centre.say(codec.BIND_TRANSCEIVER | codec.RESPONSE, 1, status=0x0E)
    assert (outcome.fault.code, outcome.fault.values["status"]) == (
        FaultCode.REJECTED,
        "0x0000000E",
    )
    assert centre.transport.disconnecting
    assert centre.send().fault.code is FaultCode.UNAVAILABLE
    assert centre.connections == 1
    centre.timer.advance(1)
    centre.send()
    assert centre.connections == 2


def test_a_long_password_is_refused(tmp_path: Path) -> None:
    centre = Centre(tmp_path)
    (tmp_path / "smpp").write_text("nine chars")
    assert centre.send().fault.rule == "otp.smpp.password"


def test_a_centre_that_is_away_is_asked_ever_less_often(centre: Centre) -> None:
    centre.refuses = True
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        asked = centre.connections
        assert centre.send().fault.rule == "otp.delivery.gateway"
        assert centre.connections == asked + 1
        again = centre.send().fault
        assert again.retry_after == pause
        assert centre.connections == asked + 1
        centre.timer.advance(pause)
    centre.refuses = False
    centre.bound()
    assert [pdu[0] for pdu in centre.read()] == [codec.SUBMIT_SM]


def test_a_lost_connection_ends_what_waits_and_the_next_binds_again(centre: Centre) -> None:
    outcome = centre.bound()
    centre.hang_up()
    assert outcome.fault.code is FaultCode.UNAVAILABLE
    centre.bound()
    assert centre.connections == 2


def test_a_silent_centre_is_given_up(centre: Centre) -> None:
    outcome = centre.bound()
    centre.timer.advance(10)
    assert outcome.fault.private == "no answer in time"
    assert centre.transport.disconnecting


def test_the_line_is_kept_alive_and_unbound_when_idle(tmp_path: Path) -> None:
    centre = Centre(tmp_path, enquire_seconds=30, idle_seconds=60)
    centre.bound()
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"x\0")
    centre.read()
    centre.timer.advance(30)
    [(command, _, sequence, body)] = centre.read()
    assert (command, body) == (codec.ENQUIRE_LINK, b"")
    centre.say(codec.ENQUIRE_LINK | codec.RESPONSE, sequence)
    centre.timer.advance(30)
    [(command, _, sequence, _)] = centre.read()
    assert command == codec.UNBIND
    centre.say(codec.UNBIND | codec.RESPONSE, sequence)
    assert centre.transport.disconnecting
    centre.hang_up()
    assert centre.timer.getDelayedCalls() == []


def test_no_answer_to_enquire_link_ends_the_connection(centre: Centre) -> None:
    centre.bound()
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"x\0")
    centre.timer.advance(30)
    centre.timer.advance(10)
    assert centre.transport.disconnecting


def test_what_the_centre_may_ask(centre: Centre) -> None:
    centre.bound()
    centre.read()
    centre.say(codec.ENQUIRE_LINK, 70)
    deliver = b"\0\x01\x01123\0\x01\x01456\0\0\0\0\0\0\0\0\0\0\x02hi"
    centre.say(codec.DELIVER_SM, 71, deliver)
    centre.say(0x103, 72, b"data_sm is not known")
    assert centre.read() == [
        (codec.ENQUIRE_LINK | codec.RESPONSE, 0, 70, b""),
        (codec.DELIVER_SM | codec.RESPONSE, 0, 71, b"\0"),
        (codec.GENERIC_NACK, codec.INVALID_COMMAND, 72, b""),
    ]
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 999, b"late\0")
    centre.say(codec.UNBIND, 73)
    assert centre.read() == [(codec.UNBIND | codec.RESPONSE, 0, 73, b"")]
    assert centre.transport.disconnecting


@pytest.mark.parametrize("octets", [b"\0\0\0\x0f", b"\x01\0\0\0", b"HTTP/1.1 400 Bad Request"])
def test_what_is_no_smpp_ends_the_connection(centre: Centre, octets: bytes) -> None:
    outcome = centre.bound()
    centre.protocol.dataReceived(octets)
    assert centre.transport.disconnecting
    centre.hang_up()
    assert outcome.fault.code is FaultCode.UNAVAILABLE


def test_close_unbinds(centre: Centre) -> None:
    centre.bound()
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"x\0")
    centre.read()
    closing = Outcome(centre.delivery.close())
    [(command, _, sequence, _)] = centre.read()
    assert command == codec.UNBIND
    centre.say(codec.UNBIND | codec.RESPONSE, sequence)
    assert closing.is_open
    centre.hang_up()
    assert closing.value is None


@pytest.mark.parametrize(
    ("text", "alphabet", "coding", "octets"),
    [
        ("Code 1", "gsm", 0, b"Code 1"),
        ("@vpn #1 {ä}", "gsm", 0, b"\x00vpn #1 \x1b\x28\x7b\x1b\x29"),
        ("@ä", "latin1", 0, b"@\xe4"),
        ("@ä", "ascii", 8, b"\0@\0\xe4"),
        ("код", "gsm", 8, "код".encode("utf-16-be")),
    ],
)
def test_alphabets(text: str, alphabet: str, coding: int, octets: bytes) -> None:
    assert encoded(text, alphabet) == (coding, octets)


def test_the_gsm_alphabet_has_its_places() -> None:
    """3GPP TS 23.038, table in 6.2.1: some characters whose place is known by heart."""
    for character, place in {"@": 0, "$": 2, "\n": 10, "Δ": 16, " ": 32, "A": 65, "à": 127}.items():
        assert gsm7.encode(character) == bytes((place,))
    assert gsm7.encode("€") == b"\x1b\x65"
    assert gsm7.encode("\x1b") is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("+4912345", b"\x01\x014912345\0"),
        ("4912345678", b"\x01\x014912345678\0"),
        ("12345", b"\x03\x0012345\0"),
        ("Example Ltd", b"\x05\x00Example Ltd\0"),
        ("", b"\0\0\0"),
    ],
)
def test_senders(source: str, expected: bytes) -> None:
    pdu = codec.submit(
        1, source=source, destination="49", data_coding=0, message=b"x" * 300, validity=0
    )
    assert pdu[17:].startswith(expected)
    assert pdu.endswith(b"\0\x04\x24\x01\x2c" + b"x" * 300)


# -- the spool -------------------------------------------------------------------------------


def at_once(function: Any, *arguments: Any) -> Deferred[Any]:
    try:
        return succeed(function(*arguments))
    except Exception:
        return fail(Failure())


class Spool:
    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.timer = Timer()
        self.path = tmp_path
        for name in ("outgoing", "sent", "failed"):
            (tmp_path / name).mkdir(exist_ok=True)
        self.delivery = SpoolDelivery(
            SpoolGateway(**({"outgoing": tmp_path / "outgoing"} | settings)),
            self.timer,
            run=at_once,
        )

    def send(self, text: str = "123456") -> Outcome:
        return Outcome(self.delivery.send(TO, Secret(text)))

    @property
    def file(self) -> Path:
        [found] = (self.path / "outgoing").iterdir()
        return found

    def move(self, where: str) -> None:
        self.file.rename(self.path / where / self.file.name)


def test_a_file_for_smsd(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    outcome = spool.send("Your code: 123456")
    assert outcome.value == spool.file.name
    assert spool.file.read_bytes() == b"To: 491701234567\n\nYour code: 123456"
    assert spool.file.stat().st_mode & 0o007 == 0


def test_other_alphabets_are_ucs(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.send("Kód: 1")
    assert spool.file.read_bytes() == b"To: 491701234567\nAlphabet: UCS\n\n" + "Kód: 1".encode(
        "utf-16-be"
    )


@pytest.mark.parametrize(("where", "rule"), [("sent", ""), ("failed", "otp.delivery.refused")])
def test_where_smsd_moves_it(tmp_path: Path, where: str, rule: str) -> None:
    spool = Spool(tmp_path, sent=tmp_path / "sent", failed=tmp_path / "failed")
    outcome = spool.send()
    spool.timer.advance(0.5)
    assert outcome.is_open
    spool.move(where)
    spool.timer.advance(0.5)
    if rule:
        assert outcome.fault.rule == rule
    else:
        assert outcome.value.startswith("tmad-")


def test_smsd_does_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, sent=tmp_path / "sent", wait_seconds=2)
    outcome = spool.send()
    for _ in range(5):
        spool.timer.advance(0.5)
    # Not UNAVAILABLE: the file is still there, and another try would send it twice.
    assert outcome.fault.code is FaultCode.REJECTED


def test_smsd_keeps_nothing_that_it_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, failed=tmp_path / "failed", wait_seconds=2)
    outcome = spool.send()
    spool.file.unlink()
    for _ in range(5):
        spool.timer.advance(0.5)
    assert outcome.value.startswith("tmad-")


def test_a_spool_that_is_not_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path, outgoing=tmp_path / "nowhere")
    assert spool.send().fault.rule == "otp.delivery.gateway"


# -- mail ------------------------------------------------------------------------------------


class TLSTransport(StringTransport):
    """A transport that notes when TLS begins."""

    started: Any = None

    def startTLS(self, options: Any) -> None:
        self.started = options


class Server:
    """A mail server in memory that answers what it is told to."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.timer = Timer()
        password = tmp_path / "mail"
        password.write_text("p w\n")
        password.chmod(0o600)
        if "user" in settings:
            settings["password_file"] = password
        given = {"host": "mail.example.test", "sender": "tmad@example.test"}
        self.delivery = MailDelivery(
            MailSubmission(**(given | settings)),
            self.timer,
            Clock(),
            host="node.example.test",
            connect=self.connect,
        )
        self.transport = TLSTransport()
        self.protocol: Any = None

    def connect(self, factory: Factory) -> Deferred[Any]:
        self.protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        self.protocol.makeConnection(self.transport)
        return succeed(self.protocol)

    def send(self, to: str = "bob@example.test", text: str = "123456") -> Outcome:
        return Outcome(self.delivery.send(to, Secret(text)))

    def answer(self, *lines: str) -> str:
        """Answer; return what the client says then."""
        self.transport.clear()
        self.protocol.dataReceived("".join(f"{line}\r\n" for line in lines).encode())
        return self.transport.value().decode()

    def up_to_data(self, *, auth: str = "") -> Iterator[str]:
        yield self.answer("220-mail", "220 ESMTP")
        yield self.answer("250-mail", "250-PIPELINING", "250 STARTTLS")
        yield self.answer("220 go")
        yield self.answer("250-mail", f"250 {auth}" if auth else "250 8BITMIME")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_whole_submission(server: Server) -> None:
    outcome = server.send(text="123456 is your code\n.\nend")
    assert [*server.up_to_data()] == [
        "EHLO node.example.test\r\n",
        "STARTTLS\r\n",
        "EHLO node.example.test\r\n",
        "MAIL FROM:<tmad@example.test>\r\n",
    ]
    assert server.transport.started is not None
    assert server.answer("250 ok") == "RCPT TO:<bob@example.test>\r\n"
    assert server.answer("250 ok") == "DATA\r\n"
    content = server.answer("354 go")
    assert content.endswith("\r\n\r\n123456 is your code\r\n..\r\nend\r\n.\r\n")
    assert "Auto-Submitted: auto-generated\r\n" in content
    assert "Date: Mon, 23 Nov 2026 12:00:00 +0000\r\n" in content
    assert "\n\n" not in content
    assert server.answer("250 queued") == "QUIT\r\n"
    assert re.fullmatch(r"<[^<>]+@example\.test>", outcome.value)
    assert server.transport.disconnecting


@pytest.mark.parametrize("auth", ["AUTH LOGIN PLAIN", "AUTH PLAIN"])
def test_auth_plain(tmp_path: Path, auth: str) -> None:
    server = Server(tmp_path, user="tmad")
    server.send()
    *_, said = server.up_to_data(auth=auth)
    assert said == "AUTH PLAIN " + b64encode(b"\0tmad\0p w").decode() + "\r\n"
    assert server.answer("235 welcome").startswith("MAIL FROM")


def test_auth_login(tmp_path: Path) -> None:
    server = Server(tmp_path, user="tmad")
    server.send()
    *_, said = server.up_to_data(auth="AUTH LOGIN")
    assert said == "AUTH LOGIN\r\n"
    assert server.answer("334 VXNlcm5hbWU6") == b64encode(b"tmad").decode() + "\r\n"
    assert server.answer("334 UGFzc3dvcmQ6") == b64encode(b"p w").decode() + "\r\n"


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (["554 go away"], FaultCode.REJECTED),
        (["421 later"], FaultCode.UNAVAILABLE),
        (["SSH-2.0-OpenSSH"], FaultCode.REJECTED),
        (["220 hi", "250 no starttls here"], FaultCode.REJECTED),
        (["220 hi", "250-x\r\n250 STARTTLS", "454 not now"], FaultCode.UNAVAILABLE),
        (["220 hi", "250-x\r\n250 STARTTLS", "220 go\r\n250 injected"], FaultCode.REJECTED),
        (["220 hi", "250-x\r\n250 STARTTLS", "220 go\r\n2"], FaultCode.REJECTED),
        (["220-" + "x" * 2_000], FaultCode.REJECTED),
        (["\r\n".join(["220-x"] * 200)], FaultCode.REJECTED),
    ],
)
def test_servers_that_say_no_or_nonsense(
    server: Server, answers: list[str], code: FaultCode
) -> None:
    outcome = server.send()
    for answer in answers:
        server.answer(answer)
    assert outcome.fault.code is code
    assert server.transport.disconnecting
    assert "p w" not in repr(outcome.fault.__dict__)


def test_a_refused_recipient(server: Server) -> None:
    outcome = server.send()
    for _ in server.up_to_data():
        pass
    server.answer("250 ok")
    server.answer("550 no such user")
    assert (outcome.fault.code, outcome.fault.rule) == (
        FaultCode.REJECTED,
        "otp.delivery.recipient",
    )


def submit(server: Server, **options: Any) -> Outcome:
    outcome = Outcome(
        server.delivery.submit(
            ("bob@example.test", "carol@example.test"), "Ünder a subject", "text", **options
        )
    )
    for _ in server.up_to_data():
        pass
    assert server.answer("250 ok") == "RCPT TO:<bob@example.test>\r\n"
    return outcome


def test_one_message_for_several_people(server: Server) -> None:
    outcome = submit(server, name="msg_1")
    assert server.answer("250 ok") == "RCPT TO:<carol@example.test>\r\n"
    assert server.answer("250 ok") == "DATA\r\n"
    content = server.answer("354 go")
    assert "To: bob@example.test, carol@example.test\r\n" in content
    assert "Subject: =?utf-8?q?=C3=9Cnder?= a subject\r\n" in content
    server.answer("250 queued")
    assert (outcome.value.message_id, outcome.value.refused) == ("<msg_1@example.test>", ())


def test_who_is_refused_does_not_keep_it_from_the_others(server: Server) -> None:
    outcome = submit(server)
    server.answer("550 nobody")
    assert server.answer("250 ok") == "DATA\r\n"
    server.answer("354 go")
    server.answer("250 queued")
    assert outcome.value.refused == ("bob@example.test",)


def test_who_is_wanted_later_holds_up_all_until_it_waits_no_longer(server: Server) -> None:
    outcome = submit(server)
    server.answer("451 greylisted")
    assert outcome.fault.code is FaultCode.UNAVAILABLE
    assert server.transport.disconnecting


def test_who_is_still_wanted_later_is_left_out(server: Server) -> None:
    outcome = submit(server, waits=False)
    server.answer("451 greylisted")
    assert server.answer("250 ok") == "DATA\r\n"
    server.answer("354 go")
    server.answer("250 queued")
    assert outcome.value.refused == ("bob@example.test",)


def test_nobody_is_left(server: Server) -> None:
    outcome = submit(server)
    server.answer("550 nobody")
    server.answer("550 nobody either")
    assert outcome.fault.rule == "otp.delivery.recipient"


def test_no_password_without_a_mechanism(tmp_path: Path) -> None:
    server = Server(tmp_path, user="tmad")
    outcome = server.send()
    *_, said = server.up_to_data(auth="AUTH CRAM-MD5")
    assert said == ""
    assert outcome.fault.code is FaultCode.REJECTED


def test_a_server_that_hangs_or_hangs_up(server: Server) -> None:
    outcome = server.send()
    server.timer.advance(30)
    assert outcome.fault.code is FaultCode.UNAVAILABLE
    assert server.transport.disconnecting
    outcome = server.send()
    server.protocol.connectionLost(Failure(ConnectionDone()))
    assert outcome.fault.code is FaultCode.UNAVAILABLE


@pytest.mark.parametrize(
    "to",
    ["ö@example.test", "a b@example.test", "a@b>\r\nRCPT TO:<x@y", "a@", "@b", "a@" + "x" * 70],
)
def test_addresses_that_are_not_sent_to(server: Server, to: str) -> None:
    assert server.send(to).fault.rule == "otp.delivery.address"


def test_domains_are_written_in_ascii(server: Server) -> None:
    server.send("bob@bücher.test")
    for _ in server.up_to_data():
        pass
    assert server.answer("250 ok") == "RCPT TO:<bob@xn--bcher-kva.test>\r\n"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tls": "none"}, "this machine"),
        ({"user": "tmad"}, "belong together"),
        ({"sender": "tmad@example.test>\r\nX: y"}, "pattern"),
        ({"subject": "a\r\nBcc: eve@example.test"}, "pattern"),
    ],
)
def test_mail_settings_that_make_no_sense(settings: dict[str, Any], why: str) -> None:
    given = {"host": "mail.example.test", "sender": "tmad@example.test"}
    with pytest.raises(ValidationError, match=why):
        MailSubmission(**(given | settings))
    MailSubmission(**given | {"host": "localhost", "tls": "none"})


# -- all of them -----------------------------------------------------------------------------


def test_ways_are_what_the_settings_say() -> None:
    assert ways(DeliverySection(), Timer(), host="x") == {}
    sections = {
        "http": HTTPGateway(url="https://sms.example.test/"),
        "smpp": SMPPGateway(host="x", system_id="y"),
        "spool": SpoolGateway(),
        "mail": MailSubmission(host="x", sender="a@b"),
    }
    for name, kind in (("http", HTTPDelivery), ("smpp", SMPPDelivery), ("spool", SpoolDelivery)):
        found = ways(DeliverySection.model_validate(sections | {"sms": name}), Timer(), host="x")
        assert isinstance(found["sms"], kind)
        assert isinstance(found["mail"], MailDelivery)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sms": "smpp"}, "delivery.smpp"),
        ({"text": "no code"}, "{{code}}"),
        ({"text": "{{code}} {{pin}}"}, "not known"),
        ({"text": "{{code}}\x1b[2J"}, "printable"),
        ({"origin": "a b"}, "pattern"),
    ],
)
def test_delivery_settings_that_make_no_sense(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(why)):
        DeliverySection(**settings)


def test_secret_files_that_others_may_read_are_refused(tmp_path: Path) -> None:
    centre = Centre(tmp_path)
    os.chmod(tmp_path / "smpp", 0o644)
    assert centre.send().fault.rule == "seal.file-mode"


def test_close_does_not_wait_for_a_peer_that_hangs(centre: Centre) -> None:
    centre.bound()
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"x\0")
    closing = Outcome(centre.delivery.close())
    centre.timer.advance(10)  # no answer to unbind
    assert centre.transport.aborted
    centre.hang_up()
    assert closing.value is None
    assert centre.timer.getDelayedCalls() == []


def test_close_does_not_wait_for_a_peer_that_answers_and_stays(centre: Centre) -> None:
    centre.bound()
    centre.say(codec.SUBMIT_SM | codec.RESPONSE, 2, b"x\0")
    centre.read()
    closing = Outcome(centre.delivery.close())
    [(_, _, sequence, _)] = centre.read()
    centre.say(codec.UNBIND | codec.RESPONSE, sequence)
    assert closing.is_open
    centre.timer.advance(2)
    assert centre.transport.aborted
    centre.hang_up()
    assert closing.value is None
