"""Traps and informs of SNMPv3 between two engines of ours, and what a receiver may say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import Clock, drive
from tests.unit.test_credentials import Notes
from tmad.errors import Fault
from tmad.identity.actors import Actor
from tmad.identity.snmp_access import SNMPAccess
from tmad.identity.snmp_managers import EngineState, User
from tmad.protocols.snmp import codec, notification
from tmad.protocols.snmp.codec import AUTHENTICATED, ENCRYPTED, Kind, SecureMessage
from tmad.protocols.snmp.engine import REPORTED
from tmad.protocols.snmp.notification import InformSession, Outcome
from tmad.protocols.snmp.usm import Keys, LocalEngine, Salts
from tmad.protocols.snmp.values import Counter32, ObjectID, Octets, TimeTicks, encode_oid
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database

BINDINGS = (
    ((1, 3, 6, 1, 2, 1, 1, 3, 0), TimeTicks(1234)),
    ((1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0), ObjectID((1, 3, 6, 1, 6, 3, 1, 1, 5, 1))),
)
RECEIVER = bytes.fromhex("80001f8880aabbccddeeff0011")


class Seconds:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def make_user(name: str = "noc", **options: Any) -> User:
    database = Database.in_memory(clock=Clock())
    access = SNMPAccess(database, Notes(), Changes(database), Seal(bytes(32)), Clock(), node="one")
    drive(access.add_user(Actor.administrator("local:root"), "*", name, **options))
    return drive(access.user(name))


USER = make_user()


class Receiver:
    """What receives informs: discovery, time window, digest, decryption."""

    def __init__(self, user: User = USER) -> None:
        self.seconds = Seconds()
        self.user = user
        state = EngineState(engine_id=RECEIVER, boots=7, age=5_000.0)
        self.local = LocalEngine(state, self.seconds)
        self.keys = Keys.of(user, RECEIVER)
        self.salts = Salts(99)
        self.received: list[codec.PDU] = []

    def take(self, datagram: bytes) -> bytes:
        message = codec.decode(datagram)
        assert isinstance(message, SecureMessage)
        if message.engine_id != RECEIVER:
            return self.report(message, "usmStatsUnknownEngineIDs", 0)
        if message.user != self.user.name.encode():
            return self.report(message, "usmStatsUnknownUserNames", 0)
        if not self.keys.is_authentic(message):
            return self.report(message, "usmStatsWrongDigests", 0)
        if not self.local.is_timely(message.boots, message.time):
            return self.report(message, "usmStatsNotInTimeWindows", AUTHENTICATED)
        clear = self.keys.decrypt(message)
        assert clear is not None
        pdu = codec.decode_pdu(codec.decode_scoped(clear).pdu)
        self.received.append(pdu)
        answer = pdu._replace(kind=Kind.RESPONSE)
        return self.send(message, AUTHENTICATED | ENCRYPTED, codec.pdu_octets(answer))

    def report(self, message: SecureMessage, name: str, level: int) -> bytes:
        binding = codec.encode_binding(encode_oid(REPORTED[name]), Counter32(1))
        return self.send(message, level, codec.encode_pdu(Kind.REPORT, 0, 0, 0, [binding]))

    def send(self, message: SecureMessage, level: int, pdu: bytes) -> bytes:
        answer = message._replace(
            flags=level,
            engine_id=RECEIVER,
            boots=self.local.boots,
            time=self.local.time(),
            digest=b"",
            salt=b"",
            data=codec.encode_scoped(RECEIVER, b"", pdu),
        )
        return self.keys.sealed(answer, self.salts)


def session(user: User = USER) -> InformSession:
    return InformSession(user, Salts(2**64 - 1), Seconds())


def step(ours: InformSession, theirs: Receiver, number: int = 5) -> Outcome:
    """Send a datagram and take the answer."""
    return ours.receive(theirs.take(ours.datagram(number, BINDINGS)), number)


def test_an_inform_discovers_its_receiver_once() -> None:
    ours, theirs = session(), Receiver()
    outcomes = [step(ours, theirs) for _ in range(3)]
    assert outcomes == [Outcome.AGAIN, Outcome.AGAIN, Outcome.ACKNOWLEDGED]
    [pdu] = theirs.received
    assert pdu.kind == Kind.INFORM
    assert [binding.value for binding in pdu.bindings] == [value for _, value in BINDINGS]
    theirs.seconds.now += 100
    assert step(ours, theirs, 6) is Outcome.ACKNOWLEDGED
    # Its clock is followed: it runs ahead of what we count.
    theirs.seconds.now += 1_000
    assert [step(ours, theirs, 7) for _ in range(2)] == [Outcome.AGAIN, Outcome.ACKNOWLEDGED]


def test_a_receiver_that_began_anew_is_followed() -> None:
    ours, theirs = session(), Receiver()
    for _ in range(3):
        step(ours, theirs)
    theirs.local = LocalEngine(EngineState(engine_id=RECEIVER, boots=8, age=0.0), theirs.seconds)
    assert [step(ours, theirs) for _ in range(2)] == [Outcome.AGAIN, Outcome.ACKNOWLEDGED]


def test_the_time_of_an_unsigned_report_is_not_believed() -> None:
    ours, theirs = session(), Receiver()
    step(ours, theirs)
    sent = codec.decode(ours.datagram(5, BINDINGS))
    assert isinstance(sent, SecureMessage)
    assert (sent.engine_id, sent.boots, sent.time) == (RECEIVER, 0, 0)


@pytest.mark.parametrize(
    ("user", "word"),
    [(make_user("stranger"), "does not know the user"), (make_user(), "another authentication")],
)
def test_a_refusal_is_told_in_words(user: User, word: str) -> None:
    ours, theirs = session(user), Receiver()
    step(ours, theirs)
    with pytest.raises(Fault, match=word) as caught:
        step(ours, theirs)
    assert caught.value.rule == "snmp.inform.refused"


def ready() -> tuple[InformSession, Receiver]:
    """Return a session whose next datagram is acknowledged."""
    ours, theirs = session(), Receiver()
    for _ in range(2):
        step(ours, theirs)
    return ours, theirs


def test_what_is_no_answer_is_ignored() -> None:
    ours, theirs = ready()
    sent = ours.datagram(5, BINDINGS)
    good = theirs.take(sent)
    other, receiver = ready()
    stale = receiver.take(other.datagram(9, BINDINGS))
    for wrong in (b"", sent, good[:-1], stale, codec.encode_community(1, b"public", b"")):
        assert ours.receive(wrong, 5) is Outcome.IGNORED
    altered = good[:-1] + bytes((good[-1] ^ 1,))
    assert ours.receive(altered, 5) is Outcome.IGNORED
    assert ours.receive(good, 6) is Outcome.IGNORED
    assert ours.receive(good, 5) is Outcome.ACKNOWLEDGED


def test_what_was_told_in_secret_is_not_acknowledged_in_clear() -> None:
    ours, theirs = ready()
    asked = codec.decode(ours.datagram(5, BINDINGS))
    assert isinstance(asked, SecureMessage)
    pdu = codec.encode_pdu(Kind.RESPONSE, 5, 0, 0, [])
    assert ours.receive(theirs.send(asked, AUTHENTICATED, pdu), 5) is Outcome.IGNORED
    signed = AUTHENTICATED | ENCRYPTED
    assert ours.receive(theirs.send(asked, signed, pdu), 5) is Outcome.ACKNOWLEDGED


def trap(user: User, local: LocalEngine, salt: int) -> SecureMessage:
    message = codec.decode(notification.trap_message(local, user, 9, BINDINGS, Salts(salt)))
    assert isinstance(message, SecureMessage)
    return message


def test_a_trap_is_ours() -> None:
    local = LocalEngine(EngineState(engine_id=RECEIVER, boots=3, age=10.5), Seconds())
    user = make_user(authentication="sha512", privacy="aes256")
    message = trap(user, local, 0)
    assert (message.engine_id, message.boots, message.time) == (RECEIVER, 3, 10)
    keys = Keys.of(user, RECEIVER)
    assert keys.is_authentic(message)
    clear = keys.decrypt(message)
    assert clear is not None
    assert codec.decode_pdu(codec.decode_scoped(clear).pdu).kind == Kind.TRAP
    assert trap(user, local, 1).salt != message.salt


def test_community_informs_are_acknowledged() -> None:
    sent = notification.community_message(b"secret-word", Kind.INFORM, 77, BINDINGS)
    message = codec.decode(sent)
    assert isinstance(message, codec.CommunityMessage)
    answer = codec.decode_pdu(message.pdu)._replace(kind=Kind.RESPONSE)
    good = codec.encode_community(1, b"secret-word", codec.pdu_octets(answer))
    assert notification.acknowledges(good, b"secret-word", 77)
    assert not notification.acknowledges(sent, b"secret-word", 77)
    assert not notification.acknowledges(good, b"secret-word", 78)
    assert not notification.acknowledges(good, b"other", 77)
    assert not notification.acknowledges(good[:-1], b"secret-word", 77)


def test_t_snmp_03_a_notification_is_never_cut_in_pieces() -> None:
    long = ((BINDINGS[0][0], Octets(b"x" * 1_500)),)
    with pytest.raises(Fault) as caught:
        notification.community_message(b"secret-word", Kind.TRAP, 1, long)
    assert caught.value.rule == "snmp.notification.long"
