"""RADIUS doors: what gets no answer, what is answered once, and who is asked."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as Reactor

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.objects import TENANT, Objects
from tmad.network.clients import RADIUS_CLIENT, Client, RadiusClients
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.conversations import Conversations, worker_of
from tmad.protocols.radius.duplicates import Duplicates
from tmad.protocols.radius.responder import Asked, Reply
from tmad.protocols.radius.server import REASONS, Exchange, Kind, Policy, UDPDoor, Voice
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")
NAS = ("192.0.2.1", 40_000)
SECRET = secrets.token_hex(16).encode()


class Transport:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []

    def write(self, octets: bytes, address: Any) -> None:
        self.sent.append((octets, address))


class Meter:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, outcome: int | str) -> None:
        self.counts[str(outcome)] += 1

    def time(self, seconds: float) -> None:
        assert seconds >= 0


class Core:
    """Answers as a test says, at once or later."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.reply: Reply | None = Reply(code=Code.ACCESS_ACCEPT)
        self.later: Deferred[None] | None = None
        self.error: Exception | None = None

    async def respond(self, asked: Asked) -> Reply | None:
        self.asked.append(asked)
        if self.later is not None:
            await self.later
        if self.error is not None:
            raise self.error
        return self.reply


class World:
    """A door with one client, 192.0.2.0/24."""

    def __init__(self, kind: Kind = "auth", **document: Any) -> None:
        self.reactor = Reactor()
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)
        journal = Journal(self.database, "test", self.clock)
        changes = Changes(self.database)
        objects = Objects(self.database, journal, changes, self.clock, (TENANT, RADIUS_CLIENT))
        seal = Seal(secrets.token_bytes(32))
        self.clients = RadiusClients(self.database, journal, changes, seal, self.clock)
        drive(objects.put(ADMIN, "*", "tenant", "acme", {}))
        document = {"prefixes": ["192.0.2.0/24"], **document}
        drive(objects.put(ADMIN, "acme", "radius-client", "site", document))
        drive(self.clients.set_secret(ADMIN, "acme", "site", Secret(SECRET)))
        self.core = Core()
        self.stored: list[tuple[Packet, str, str]] = []
        self.is_alive = True
        self.exchange = Exchange(
            self.clients,
            self.core,  # type: ignore[arg-type]  # what Exchange needs of a Responder
            self.clock,
            secrets.randbits,
            alive=self.alive,
            account=self.account,
        )
        self.meter = Meter()
        self.transport = Transport()
        self.policy = Policy(delayed=2)
        self.voice = Voice(self.reactor.seconds)
        self.door = UDPDoor(
            kind, self.exchange, self.clients, self.meter, self.reactor, self.policy, self.voice
        )
        self.door.transport = self.transport  # type: ignore[assignment]  # the part that is used

    async def alive(self) -> None:
        if not self.is_alive:
            raise Fault(FaultCode.UNAVAILABLE, "the database is away")

    async def account(self, packet: Packet, client: Client, address: str) -> list[Attribute]:
        if not self.is_alive:
            raise Fault(FaultCode.UNAVAILABLE, "the database is away")
        self.stored.append((packet, client.name, address))
        return []

    def send(self, octets: bytes, source: tuple[str, int] = NAS) -> list[bytes]:
        """Deliver a datagram; return what was answered to it."""
        before = len(self.transport.sent)
        self.door.datagramReceived(octets, source)
        return [octets for octets, address in self.transport.sent[before:] if address == source]

    def outcome(self, octets: bytes, source: tuple[str, int] = NAS) -> str:
        """Deliver a datagram that must get no answer; return how it was counted."""
        before = self.meter.counts.copy()
        assert self.send(octets, source) == []
        [outcome] = self.meter.counts - before
        return outcome


def access(*attributes: Attribute, secret: bytes = SECRET, identifier: int = 1) -> bytes:
    return codec.encode_access(1, identifier, secrets.token_bytes(16), attributes, secret)


def unsigned(*attributes: Attribute, code: int = 1, identifier: int = 1) -> bytes:
    signed = codec.encode_access(code, identifier, secrets.token_bytes(16), attributes, SECRET)
    length = len(signed) - 18
    return signed[:2] + length.to_bytes(2, "big") + signed[4:20] + signed[38:]


def codes(replies: list[bytes]) -> list[int]:
    return [reply[0] for reply in replies]


@pytest.fixture
def world() -> World:
    return World()


# -- what is dropped -----------------------------------------------------------------------------


def test_a_good_request_is_answered_from_where_it_was_sent_to(world: World) -> None:
    sent = access((codec.USER_NAME, b"bob"))
    [reply] = world.send(sent)
    assert codec.is_reply(codec.decode(reply), sent, SECRET)
    [asked] = world.core.asked
    assert (asked.client.name, asked.address) == ("site", NAS[0])
    assert world.meter.counts == {"accept": 1}


def test_strangers_get_no_answer(world: World) -> None:
    """R-04."""
    assert world.outcome(access(), ("198.51.100.1", 1812)) == "dropped-unknown-client"
    assert world.core.asked == []


def test_another_secret_gets_no_answer(world: World) -> None:
    assert world.outcome(access(secret=b"another one")) == "dropped-forged"
    assert world.outcome(b"\x01\x01\x00\x14") == "dropped-malformed"
    assert world.core.asked == []


@pytest.mark.parametrize(
    ("kind", "served"), [("auth", {1, 12}), ("accounting", {4, 12})], ids=["auth", "accounting"]
)
def test_each_port_serves_its_own_codes(kind: Kind, served: set[int]) -> None:
    """R-03."""
    world = World(kind)
    for code in set(range(256)) - served:
        octets = codec.encode_access(code, 1, bytes(16), [], SECRET)
        assert world.outcome(octets) == "dropped-code"


def test_a_client_without_a_secret_gets_no_answer(world: World) -> None:
    def remove(connection: Any) -> None:
        from tmad.storage import radius_clients

        radius_clients.forget(connection, "acme", "site")

    drive(world.database.write(remove))
    assert world.outcome(access()) == "dropped-no-secret"


def test_both_secrets_work_while_they_overlap(world: World) -> None:
    """R-31: the answer is made with the secret of the question."""
    from datetime import timedelta

    new = drive(
        world.clients.set_secret(ADMIN, "acme", "site", overlap=timedelta(minutes=5))
    ).reveal()
    for secret in (new, SECRET):
        sent = access(secret=secret)
        [reply] = world.send(sent)
        assert codec.is_reply(codec.decode(reply), sent, secret)
    world.clock.advance(minutes=5)
    assert world.outcome(access()) == "dropped-forged"


def test_log_lines_come_once_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        "tmad.protocols.radius.server.log.warn", lambda text, **data: lines.append(data["reason"])
    )
    for _ in range(100):
        world.send(access(secret=b"another one"))
    world.send(access(), ("198.51.100.1", 1812))
    assert lines == ["forged", "unknown-client"]
    world.reactor.advance(60)
    world.send(access(secret=b"another one"))
    assert lines == ["forged", "unknown-client", "forged"]


def test_reasons_are_a_fixed_set(world: World) -> None:
    """T-OBS-01."""
    for _ in range(200):
        world.send(secrets.token_bytes(secrets.randbelow(100)))
    assert {name.removeprefix("dropped-") for name in world.meter.counts} <= REASONS


# -- BlastRADIUS ---------------------------------------------------------------------------------


def test_message_authenticator_is_required_by_default(world: World) -> None:
    """A-R7, yes."""
    assert world.outcome(unsigned()) == "dropped-unsigned"


def test_auto_answers_until_it_has_seen_a_signed_request() -> None:
    """A-R7, auto."""
    world = World(require_message_authenticator="auto")
    assert codes(world.send(unsigned(identifier=1))) == [2]
    assert codes(world.send(access(identifier=2))) == [2]
    assert world.outcome(unsigned(identifier=3)) == "dropped-unsigned"
    assert codes(world.send(access(identifier=4))) == [2]


def test_no_answers_unsigned_requests_and_signs_all_the_same() -> None:
    """A-R7, no; A-R9."""
    world = World(require_message_authenticator="no")
    world.send(access(identifier=1))
    sent = unsigned(identifier=2)
    [reply] = world.send(sent)
    assert reply[20] == codec.MESSAGE_AUTHENTICATOR
    assert codec.is_reply(codec.decode(reply), sent, SECRET)
    drive(world.clients.flush())
    state = drive(world.clients.state(ADMIN, "acme", "site"))
    assert state.unsigned_at == world.clock()
    assert state.signed_since is None


def test_proxied_requests_are_signed_or_dropped() -> None:
    """A-R8."""
    world = World(require_message_authenticator="no")
    proxied = (codec.PROXY_STATE, b"x")
    assert world.outcome(unsigned(proxied)) == "dropped-unsigned-proxied"
    assert codes(world.send(access(proxied))) == [2]
    world = World(require_message_authenticator="no", limit_proxy_state=False)
    assert codes(world.send(unsigned(proxied))) == [2]


def test_eap_is_signed_whatever_the_client_may_leave_out() -> None:
    """R-07."""
    world = World(require_message_authenticator="no")
    assert world.outcome(unsigned((codec.EAP_MESSAGE, b""))) == "dropped-unsigned-eap"


# -- Status-Server -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [("auth", 2), ("accounting", 5)])
def test_status_server(kind: Kind, code: int) -> None:
    """R-40, A-R2."""
    world = World(kind, require_message_authenticator="no")
    asked = codec.encode_access(12, 1, secrets.token_bytes(16), [], SECRET)
    [reply] = world.send(asked)
    assert reply[0] == code
    assert reply[20] == codec.MESSAGE_AUTHENTICATOR
    assert codec.is_reply(codec.decode(reply), asked, SECRET)
    assert world.core.asked == []
    assert world.meter.counts == {"status": 1}
    assert world.outcome(unsigned(code=12, identifier=2)) == "dropped-unsigned"
    world.is_alive = False
    asked = codec.encode_access(12, 3, secrets.token_bytes(16), [], SECRET)
    assert world.outcome(asked) == "dropped-unavailable"


# -- duplicates ----------------------------------------------------------------------------------


def test_a_repeated_request_is_processed_once_and_answered_again(world: World) -> None:
    """R-21, R-22, A-R4."""
    world.core.later = Deferred()
    sent = access()
    assert world.send(sent) == []
    assert world.outcome(sent) == "dropped-repeated"
    world.core.later.callback(None)
    first = world.transport.sent[-1][0]
    assert world.send(sent) == [first]
    assert world.send(sent) == [first]
    assert len(world.core.asked) == 1
    world.reactor.advance(10)
    world.core.later = None
    assert len(world.send(sent)) == 1
    assert len(world.core.asked) == 2


def test_the_same_request_from_another_port_is_another_one(world: World) -> None:
    sent = access()
    world.send(sent)
    world.send(sent, (NAS[0], 40_001))
    assert len(world.core.asked) == 2


def test_a_new_request_under_an_old_identifier_replaces_it(world: World) -> None:
    """R-23: the late answer of the first is thrown away."""
    first, second = Deferred[None](), Deferred[None]()
    world.core.later = first
    world.send(access())
    world.core.later = second
    sent = access()
    world.send(sent)
    first.callback(None)
    assert world.transport.sent == []
    second.callback(None)
    [(reply, _)] = world.transport.sent
    assert codec.is_reply(codec.decode(reply), sent, SECRET)


def test_what_got_no_answer_is_new_when_it_comes_again(world: World) -> None:
    sent = access()
    world.core.reply = None
    assert world.outcome(sent) == "dropped-silent"
    world.core.reply = Reply(code=Code.ACCESS_ACCEPT)
    assert codes(world.send(sent)) == [2]


def test_a_core_that_fails_is_silent_and_the_door_stays_open(world: World) -> None:
    world.core.error = Fault(FaultCode.UNAVAILABLE, "the database is away")
    assert world.outcome(access(identifier=1)) == "dropped-unavailable"
    world.core.error = ValueError("a mistake of ours")
    assert world.outcome(access(identifier=2)) == "dropped-failed"
    world.core.error = None
    assert codes(world.send(access(identifier=3))) == [2]


def test_the_table_is_bounded() -> None:
    """R-24."""
    reactor = Reactor()
    table = Duplicates(reactor.seconds, window=10, maximum=100)
    for number in range(1000):
        table.note(number, b"x")
    assert len(table) == 100
    reactor.advance(31)
    table.note("another", b"x")
    assert len(table) == 1


# -- rejects -------------------------------------------------------------------------------------


def test_a_reject_waits_a_second_and_no_more_than_so_many_wait(world: World) -> None:
    """R-16."""
    world.core.reply = Reply(code=Code.ACCESS_REJECT)
    for identifier in (1, 2):
        assert world.send(access(identifier=identifier)) == []
    # The queue is full: this one leaves at once.
    assert codes(world.send(access(identifier=3))) == [3]
    world.reactor.advance(1)
    assert codes([octets for octets, _ in world.transport.sent]) == [3, 3, 3]
    assert world.send(access(identifier=4)) == []


def test_a_repeated_request_does_not_shorten_the_wait(world: World) -> None:
    world.core.reply = Reply(code=Code.ACCESS_REJECT)
    sent = access()
    world.send(sent)
    assert world.outcome(sent) == "dropped-repeated"
    world.reactor.advance(1)
    assert len(world.transport.sent) == 1


def test_an_answer_that_does_not_fit_becomes_a_reject(world: World) -> None:
    """R-61."""
    world.core.reply = Reply(
        code=Code.ACCESS_ACCEPT, attributes=[(18, bytes(253))] * 17, eap_identifier=9
    )
    world.send(access())
    world.reactor.advance(1)
    [(reply, _)] = world.transport.sent
    read = codec.decode(reply)
    assert (read.code, read.eap) == (3, bytes((4, 9, 0, 4)))


# -- accounting ----------------------------------------------------------------------------------


def test_accounting_is_answered_once_it_is_stored_and_only_if_its_digest_is_right() -> None:
    """R-50, R-51."""
    world = World("accounting")
    sent = codec.encode_request(4, 1, [(40, b"\0\0\0\1")], SECRET)
    [reply] = world.send(sent)
    assert codec.is_reply(codec.decode(reply), sent, SECRET)
    [(_, name, address)] = world.stored
    assert (name, address) == ("site", NAS[0])
    forged = codec.encode_request(4, 2, [(40, b"\0\0\0\1")], b"another one")
    assert world.outcome(forged) == "dropped-forged"
    world.is_alive = False
    later = codec.encode_request(4, 3, [(40, b"\0\0\0\1")], SECRET)
    assert world.outcome(later) == "dropped-unavailable"


# -- workers -------------------------------------------------------------------------------------


class Pair:
    """Two workers, each with a door; a relay that carries questions between them."""

    def __init__(self) -> None:
        self.worlds = (World(), World())
        self.is_cut = False
        for index, world in enumerate(self.worlds):
            world.exchange.relay = _Relay(self, index)

    def state(self, worker: int) -> bytes:
        held = Conversations(Reactor().seconds, worker=worker).open("x", "", None)
        assert worker_of(held.state) == worker
        return held.state


class _Relay:
    def __init__(self, pair: Pair, index: int) -> None:
        self.pair = pair
        self.index = index
        self.count = 2

    async def ask(self, worker: int, question: bytes, *, patience: float = 5.0) -> bytes:
        if self.pair.is_cut or worker >= 2:
            raise Fault(FaultCode.UNAVAILABLE, "there is no such worker")
        return await self.pair.worlds[worker].exchange.answer_worker(question) or b""


def test_a_packet_reaches_the_worker_that_holds_its_conversation() -> None:
    pair = Pair()
    here, there = pair.worlds
    sent = access((codec.STATE, pair.state(1)), (codec.USER_NAME, b"bob"))
    [reply] = here.send(sent)
    assert codec.is_reply(codec.decode(reply), sent, SECRET)
    assert here.core.asked == []
    [asked] = there.core.asked
    assert (asked.address, asked.client.name) == (NAS[0], "site")
    assert asked.packet == codec.decode(sent)


def test_one_that_belongs_here_or_to_nobody_stays_here() -> None:
    pair = Pair()
    here, there = pair.worlds
    for state in (pair.state(0), b"somebody else's", bytes(16), pair.state(7)):
        here.send(access((codec.STATE, state), identifier=len(here.core.asked)))
    assert len(here.core.asked) == 4
    assert there.core.asked == []


def test_a_conversation_whose_worker_is_gone_is_answered_as_unknown() -> None:
    pair = Pair()
    here, _ = pair.worlds
    pair.is_cut = True
    assert codes(here.send(access((codec.STATE, pair.state(1))))) == [2]
    assert len(here.core.asked) == 1  # the real one knows no such State and rejects


def test_the_silence_of_the_owner_is_kept() -> None:
    """What its conversation ignores must not be rejected by another worker."""
    pair = Pair()
    here, there = pair.worlds
    there.core.reply = None
    assert here.outcome(access((codec.STATE, pair.state(1)))) == "dropped-silent"
    assert here.core.asked == []


def test_a_worker_believes_no_question_that_the_secret_did_not_sign() -> None:
    pair = Pair()
    _, there = pair.worlds
    forged = access(secret=b"another one")
    question = b"\x00\x04\x04\x09" + b"acme" + b"site" + b"192.0.2.1" + forged
    assert drive(there.exchange.answer_worker(question)) is None
    stranger = b"\x00\x04\x04\x09" + b"acme" + b"nope" + b"192.0.2.1" + access()
    assert drive(there.exchange.answer_worker(stranger)) is None
    for broken in (b"", b"\x00", b"\x00\xff\xff\xff", question[:30]):
        with pytest.raises(Fault):
            drive(there.exchange.answer_worker(broken))


# -- conversations -------------------------------------------------------------------------------


def test_conversations_belong_to_their_client_and_end_in_time() -> None:
    """R-11, E-08."""
    reactor = Reactor()
    lost: list[Any] = []
    table = Conversations(reactor.seconds, lifetime=60, idle=30, linger=10)
    table.on_lost = lost.append
    held = table.open("site", "02", "x")
    assert len(held.state) == 16
    assert table.find(held.state, "site") is held
    assert table.find(held.state, "another") is None
    assert table.find(secrets.token_bytes(16), "site") is None
    reactor.advance(29)
    assert table.find(held.state, "site") is held
    reactor.advance(29)
    assert table.find(held.state, "site") is held
    reactor.advance(3)
    assert table.find(held.state, "site") is None
    assert lost == [held]
    slow = table.open("site", "02", "a person", patience=120)
    reactor.advance(119)
    assert table.find(slow.state, "site") is slow
    asked = table.open("site", "02", "a code inside EAP")
    reactor.advance(25)
    assert table.find(asked.state, "site") is asked
    table.wait(asked, 120)
    reactor.advance(119)
    assert table.find(asked.state, "site") is asked
    table.wait(asked, 30)
    reactor.advance(31)
    assert table.find(asked.state, "site") is None
    done = table.open("site", "02", "x")
    table.finish(done)
    assert table.find(done.state, "site") is done
    reactor.advance(11)
    assert table.find(done.state, "site") is None


def test_half_open_conversations_are_bounded_for_each_station_and_in_all() -> None:
    """E-08, A-E10: the oldest makes room."""
    reactor = Reactor()
    table = Conversations(reactor.seconds, maximum=50, of_one_station=4)
    mine = [table.open("site", "02", number) for number in range(100)]
    assert len(table) == 4
    assert [table.find(each.state, "site") for each in mine[-4:]] == mine[-4:]
    for number in range(1000):
        table.open("site", f"{number:012x}", None)
    assert len(table) == 50
    for _ in range(1000):
        table.open("site", "", None)
    assert len(table) == 50
    reactor.advance(61)
    drive(table.expire())
    assert len(table) == 0
    assert table._stations == {}
