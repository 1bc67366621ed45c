"""A directory server that answers, lies, hangs up or says nothing at all."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from tests.pki import Authority
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.active_directory import ActiveDirectory
from tmad.identity.ldapclient import LDAPClient, LDAPSession, Server, _Conversation
from tmad.wire import der, ldap


class Talk:
    """A session whose other end is this test."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.protocol = _Conversation()
        self.protocol.makeConnection(self.transport)
        self.session = LDAPSession(self.clock, self.protocol, 10.0)

    def ask(self, work: Coroutine[Deferred[Any], Any, Any]) -> list[Any]:
        """Begin; what comes of it stands in the list, once it has come."""
        found: list[Any] = []
        ensureDeferred(work).addBoth(
            lambda result: found.append(result.value if isinstance(result, Failure) else result)
        )
        return found

    def say(self, *messages: bytes) -> None:
        # One octet at a time: where a message ends is not where a packet does.
        for octet in b"".join(messages):
            self.protocol.dataReceived(bytes((octet,)))


def message(number: int, tag: int, *parts: bytes) -> bytes:
    return der.sequence(der.integer(number), der.tlv(tag, *parts))


def result(number: int, tag: int, code: int) -> bytes:
    return message(number, tag, der.tlv(0x0A, bytes((code,))), der.octets(b""), der.octets(b"why"))


def entry(number: int, name: str) -> bytes:
    values = der.sequence(der.octets(b"cn"), der.tlv(0x31, der.octets(name.encode())))
    return message(number, 0x64, der.octets(f"CN={name}".encode()), der.sequence(values))


def is_away(found: list[Any]) -> bool:
    [fault] = found
    assert isinstance(fault, Fault), fault
    assert fault.rule == "directory.unavailable"
    return fault.code is FaultCode.UNAVAILABLE


@pytest.mark.parametrize(("code", "expected"), [(0, True), (49, False)])
def test_a_bind_is_taken_or_not(code: int, expected: bool) -> None:
    talk = Talk()
    found = talk.ask(talk.session.bind("tmad@corp.test", Secret("word")))
    assert b"tmad@corp.test" in talk.transport.value()
    talk.say(result(1, 0x61, code))
    assert found == [expected]


def test_a_server_that_cannot_say_is_away() -> None:
    talk = Talk()
    found = talk.ask(talk.session.bind("x", Secret("word")))
    talk.say(result(1, 0x61, 51))
    assert is_away(found)


def test_an_empty_password_is_never_sent() -> None:
    talk = Talk()
    with pytest.raises(Fault) as caught:
        drive(talk.session.bind("x", Secret("")))
    assert caught.value.rule == "ldap.empty"
    assert talk.transport.value() == b""


def test_a_search_collects_entries_and_follows_no_reference() -> None:
    talk = Talk()
    wanted = ldap.equal("cn", b"*")
    found = talk.ask(talk.session.search("DC=x", wanted, ("cn",), limit=2))
    talk.say(
        entry(1, "one"), message(1, 0x73, der.octets(b"ldap://evil.test")), entry(9, "other"),
        entry(1, "two"), entry(1, "three"), result(1, 0x65, 4),
    )  # fmt: skip
    [entries] = found
    assert [each.text("CN") for each in entries] == ["one", "two"]
    nothing = talk.ask(talk.session.search("DC=y", wanted, ("cn",), limit=2))
    talk.say(result(2, 0x65, 32))
    assert nothing == [()]
    refused = talk.ask(talk.session.search("DC=y", wanted, ("cn",), limit=2))
    talk.say(result(3, 0x65, 50))
    assert is_away(refused)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x80\x02\x01\x01",
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x05\x02\x01\x01\x61\x00",
        message(1, 0x77, b""),
        message(1, 0x64, der.octets(b"\xff"), der.sequence()),
        result(0, 0x78, 52),
        result(7, 0x65, 0),
    ],
)
def test_an_answer_that_is_none_ends_it(answer: bytes) -> None:
    talk = Talk()
    found = talk.ask(talk.session.search("DC=x", ldap.equal("cn", b"x"), ("cn",), limit=1))
    talk.say(answer)
    assert is_away(found)
    assert talk.transport.disconnecting


def test_whoever_hangs_up_or_says_nothing_is_away() -> None:
    talk = Talk()
    found = talk.ask(talk.session.bind("x", Secret("word")))
    talk.protocol.connectionLost(Failure(ConnectionDone()))
    assert is_away(found)
    talk = Talk()
    found = talk.ask(talk.session.bind("x", Secret("word")))
    talk.clock.advance(9)
    assert found == []
    talk.clock.advance(2)
    assert is_away(found)
    talk.say(result(1, 0x61, 0))  # too late for anybody
    assert len(found) == 1


def test_a_session_is_closed_with_words() -> None:
    talk = Talk()
    talk.session.close()
    assert talk.transport.value() == bytes.fromhex("30050201014200")
    assert talk.transport.disconnecting


def test_servers_are_tried_in_turn_until_the_time_is_over() -> None:
    reactor = MemoryReactorClock()
    server = Server(addresses=("127.0.0.1:1636", "127.0.0.2"), trusted="", seconds=4.0)
    found: list[Any] = []
    ensureDeferred(LDAPClient(reactor).connect(server)).addBoth(
        lambda outcome: found.append(outcome.value)
    )
    assert [client[:2] for client in reactor.tcpClients] == [("127.0.0.1", 1636)]
    for _ in range(20):
        reactor.advance(0.5)
    assert is_away(found)
    assert "127.0.0.2" in found[0].private


def test_what_is_trusted_must_be_certificates(tmp_path: Path) -> None:
    pem = Authority(tmp_path).path.read_text()
    given = {"servers": ["dc1"], "base": "DC=x", "realm": "X.TEST", "bind": "a@x"}
    assert ActiveDirectory.model_validate({**given, "trusted": pem}).trusted == pem
    for broken in (
        {"trusted": "x"}, {"realm": "x.test"}, {"servers": ["ldap://dc1"]}, {"password": "plain!"},
        {"person_name": "a)(b"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="validation error"):
            ActiveDirectory.model_validate({**given, **broken})
