"""The conversation around the methods: identifiers, order, limits (RFC 3748, RFC 5216, 2.1.5)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.eap_peer import GTC, TLS, TTLS, Inner, Peer
from tests.eap_world import EAPWorld
from tests.support import drive
from tests.unit.test_eap_tls import assert_success
from tmad.errors import Fault, FaultCode
from tmad.protocols.radius.eap.conversation import MOST_ROUNDS, Conversation, Step

IDENTITY_TYPE, NAK = 1, 3
# A handshake that begins with a HelloRequest, which only servers send.
ALERTED = b"\x00" + bytes.fromhex("16030300040000 0000")


@pytest.fixture(scope="module")
def shared() -> EAPWorld:
    return EAPWorld()


@pytest.fixture
def world(shared: EAPWorld) -> EAPWorld:
    shared.core.__init__()  # type: ignore[misc]  what one test said must not be another's
    return shared


def respond(identifier: int, type_: int, data: bytes = b"") -> bytes:
    return Peer.respond(identifier, type_, data)


def begin(conversation: Conversation, identity: bytes = b"somebody") -> Step:
    return drive(conversation.receive(respond(7, IDENTITY_TYPE, identity)))


def fails(conversation: Conversation, eap: bytes) -> str:
    step = drive(conversation.receive(eap))
    assert step.outcome == "failure"
    assert step.eap == bytes((4, eap[1], 0, 4))
    assert step.fault is not None
    return step.fault.rule


def ignores(conversation: Conversation, eap: bytes) -> None:
    with pytest.raises(Fault) as caught:
        drive(conversation.receive(eap))
    assert caught.value.code is FaultCode.MALFORMED


class TestPackets:
    def test_e_04_a_start_asks_who_it_is(self, world: EAPWorld) -> None:
        step = drive(world.converse().receive(b""))
        assert step.eap == bytes((1, 0, 0, 5, 1))
        assert step.timeout

    @pytest.mark.parametrize(
        "eap",
        [
            b"\x02",
            b"\x02\x07\x00\x04",
            b"\x02\x07\x00\x04\x01",
            b"\x02\x07\x00\x07\x01a",
            b"\x01\x07\x00\x05\x01",
            b"\x03\x07\x00\x04",
            b"\x04\x07\x00\x05\x00",
            b"\x05\x07\x00\x05\x01",
        ],
    )
    def test_e_02_03_what_is_no_response_is_ignored(self, world: EAPWorld, eap: bytes) -> None:
        ignores(world.converse(), eap)

    def test_e_02_padding_is_no_part_of_it(self, world: EAPWorld) -> None:
        conversation = world.converse()
        drive(conversation.receive(respond(7, IDENTITY_TYPE, b"me") + b"\x00padding"))
        assert conversation.identity == "me"

    def test_e_05_an_identity_that_is_too_long(self, world: EAPWorld) -> None:
        assert fails(world.converse(), respond(7, IDENTITY_TYPE, b"x" * 254)) == "eap.malformed"

    def test_e_05_an_identity_is_shown_as_it_is(self, world: EAPWorld) -> None:
        conversation = world.converse()
        begin(conversation, b"\xc3\xa4\xff\x00networkid=x")
        assert conversation.identity == "ä\\xff"

    def test_the_first_packet_is_an_identity(self, world: EAPWorld) -> None:
        assert fails(world.converse(), respond(7, TLS, b"\x00")) == "eap.order"


class TestIdentifiers:
    def test_e_07_each_request_has_a_new_one(self, world: EAPWorld) -> None:
        conversation = world.converse()
        step = drive(conversation.receive(respond(255, IDENTITY_TYPE, b"me")))
        assert step.eap[1] == 0

    def test_e_07_another_one_is_ignored(self, world: EAPWorld) -> None:
        conversation = world.converse()
        begin(conversation)
        for identifier in (6, 9, 10, 255):
            ignores(conversation, respond(identifier, NAK, bytes((GTC,))))
        assert fails(conversation, respond(8, NAK, b"\x00")) == "eap.no-method"

    def test_r_25_what_was_answered_is_answered_the_same(self, world: EAPWorld) -> None:
        conversation = world.converse()
        first = begin(conversation)
        assert begin(conversation) is first

    def test_r_25_at_every_step_of_a_login(self, world: EAPWorld) -> None:
        peer = world.peer(world.client())
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        while (reply := peer.answer(step.eap)) is not None:
            step = drive(conversation.receive(reply))
            assert drive(conversation.receive(reply)) is step
        assert_success(step, peer)
        assert len(world.core.logins) == 1

    def test_nothing_follows_the_end(self, world: EAPWorld) -> None:
        conversation = world.converse()
        begin(conversation)
        drive(conversation.receive(respond(8, NAK, b"\x00")))
        assert conversation.is_over
        ignores(conversation, respond(9, TLS, b"\x00"))

    def test_a_packet_that_comes_while_another_is_answered_is_ignored(
        self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting: Deferred[Any] = Deferred()

        async def wait() -> Any:
            return await waiting

        monkeypatch.setattr(world.engine, "mutual", wait)
        conversation = world.converse()
        answer = ensureDeferred(conversation.receive(respond(7, IDENTITY_TYPE, b"me")))
        ignores(conversation, respond(7, IDENTITY_TYPE, b"me"))
        waiting.callback(None)
        assert answer.called
        begin(conversation)


class TestNegotiation:
    ALL = ("eap-tls", "eap-ttls", "peap", "eap-gtc")

    def test_the_first_one_is_offered(self, world: EAPWorld) -> None:
        assert begin(world.converse(self.ALL)).eap[4:] == bytes((TLS, 0x20))
        assert begin(world.converse(self.ALL[1:])).eap[4:] == bytes((TTLS, 0x20))

    def test_e_06_a_nak_chooses_another(self, world: EAPWorld) -> None:
        conversation = world.converse(self.ALL)
        begin(conversation)
        step = drive(conversation.receive(respond(8, NAK, bytes((4, 99, TTLS, 25)))))
        assert step.eap[4:] == bytes((TTLS, 0x20))

    @pytest.mark.parametrize(
        "wanted", [b"", b"\x00", bytes((4,)), bytes((TLS,)), bytes((GTC,)), bytes((254,)) * 8]
    )
    def test_e_06_a_nak_to_nothing_is_the_end(self, world: EAPWorld, wanted: bytes) -> None:
        # GTC makes no keys, so that it is not there in the air.
        conversation = world.converse(self.ALL)
        begin(conversation)
        assert fails(conversation, respond(8, NAK, wanted)) == "eap.no-method"

    def test_e_06_nothing_is_offered_twice(self, world: EAPWorld) -> None:
        conversation = world.converse(self.ALL)
        begin(conversation)
        drive(conversation.receive(respond(8, NAK, bytes((TTLS,)))))
        assert fails(conversation, respond(9, NAK, bytes((TLS, TTLS)))) == "eap.no-method"

    def test_e_06_no_nak_once_a_method_has_begun(self, world: EAPWorld) -> None:
        peer = world.peer(world.client())
        conversation = world.converse(self.ALL)
        step = drive(conversation.receive(b""))
        for _ in range(2):
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        assert fails(conversation, respond(step.eap[1], NAK, bytes((TTLS,)))) == "eap.order"

    @pytest.mark.parametrize("methods", [(), ("pap",), ("nonsense",), ("eap-gtc",)])
    def test_where_nothing_is_allowed(self, world: EAPWorld, methods: tuple[str, ...]) -> None:
        conversation = world.converse(methods)
        assert fails(conversation, respond(7, IDENTITY_TYPE, b"me")) == "eap.no-method"

    def test_another_type_is_no_answer(self, world: EAPWorld) -> None:
        conversation = world.converse(self.ALL)
        begin(conversation)
        assert fails(conversation, respond(8, GTC, b"password")) == "eap.order"
        assert not world.core.asked


class TestFragments:
    """A-E10: whatever a stranger sends, the end is clean and memory stays bounded."""

    def started(self, world: EAPWorld) -> Conversation:
        conversation = world.converse()
        begin(conversation)
        return conversation

    @pytest.mark.parametrize(
        ("data", "rule"),
        [
            (b"", "eap.empty"),
            (b"\x00", "eap.empty"),
            (b"\x80\x00\x00\x00\x00", "eap.empty"),
            (b"\x20", "eap.malformed"),
            (b"\x80\x00\x00", "eap.malformed"),
            (b"\x80\x80\x00\x00\x00abc", "eap.length"),
            (b"\xc0\x80\x00\x00\x00abc", "eap.length"),
            (b"\xc0\x00\x01\x00\x01abc", "eap.length"),
            (b"\x80\x00\x00\x00\x04abc", "eap.length"),
            (b"\x80\x00\x00\x00\x02abc", "eap.length"),
            (b"\xc0\x00\x00\x00\x02abc", "eap.length"),
            (b"\x40", "eap.fragment"),
            (b"\xc0\x00\x00\x10\x00", "eap.fragment"),
            (b"\x00garbage", "eap.tls"),
            (b"\x00GET / HTTP/1.1\r\n\r\n", "eap.tls"),
            (b"\x00\x16\x03\x01", "eap.incomplete"),
            (b"\x00\x16\x03\x01\xff\xff" + bytes(100), "eap.tls"),
        ],
    )
    def test_wrong_ones(self, world: EAPWorld, data: bytes, rule: str) -> None:
        conversation = self.started(world)
        step = drive(conversation.receive(respond(8, TLS, data)))
        if step.outcome == "continue":  # an alert, to be acknowledged
            step = drive(conversation.receive(respond(9, TLS, b"\x00")))
        assert step.outcome == "failure"
        assert step.fault is not None
        assert step.fault.rule == rule

    def test_e_24_more_without_end(self, world: EAPWorld) -> None:
        conversation = self.started(world)
        identifier, size = 8, 0
        for _ in range(1000):
            step = drive(conversation.receive(respond(identifier, TLS, b"\x40" + bytes(4000))))
            size += 4000
            if step.outcome != "continue":
                break
            assert step.eap[4:] == bytes((TLS, 0))
            identifier = step.eap[1]
        assert size <= 65_536 + 4000
        assert step.fault is not None
        assert step.fault.rule == "eap.length"

    def test_e_24_less_than_was_said(self, world: EAPWorld) -> None:
        conversation = self.started(world)
        drive(conversation.receive(respond(8, TLS, b"\xc0\x00\x00\x10\x00" + bytes(100))))
        assert fails(conversation, respond(9, TLS, b"\x00" + bytes(100))) == "eap.length"

    def test_e_24_another_length_than_before(self, world: EAPWorld) -> None:
        conversation = self.started(world)
        drive(conversation.receive(respond(8, TLS, b"\xc0\x00\x00\x10\x00" + bytes(100))))
        again = respond(9, TLS, b"\xc0\x00\x00\x20\x00" + bytes(100))
        assert fails(conversation, again) == "eap.length"

    def test_a_client_chain_beyond_64_kib(self, world: EAPWorld) -> None:
        many = world.client()
        chain = (many.chain[0], *[world.root] * 200)
        peer = world.peer(type(many)(chain, many.key), fragment=3000)
        step = world.login(peer)
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "eap.length")

    def test_e_22_data_where_an_acknowledgement_was_due(self, world: EAPWorld) -> None:
        peer = world.peer(world.client())
        conversation = world.converse(fragment_size=200)
        step = drive(conversation.receive(b""))
        for _ in range(3):
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        assert step.eap[5] & 0x40
        assert fails(conversation, respond(step.eap[1], TLS, b"\x00data")) == "eap.fragment"

    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_e_25_data_after_success_was_decided(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(world.client(), version=version)
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        while not world.core.logins:
            reply = peer.answer(step.eap)
            assert reply is not None
            step = drive(conversation.receive(reply))
        last = peer.answer(step.eap)
        assert last is not None
        assert last[5:] == b"\x00"
        peer.tunnel().sendall(b"more")
        more = respond(step.eap[1], TLS, b"\x00" + peer.tunnel().bio_read(1000))
        assert fails(conversation, more) == "eap.after-success"

    def test_e_33_an_alert_after_success_was_decided(self, world: EAPWorld) -> None:
        peer = world.peer(world.client(), version="1.3")
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        while not world.core.logins:
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        peer.answer(step.eap)
        peer.tunnel().shutdown()
        alert = respond(step.eap[1], TLS, b"\x00" + peer.tunnel().bio_read(1000))
        assert fails(conversation, alert) == "eap.after-success"

    def test_e_33_after_an_alert_there_is_only_failure(self, world: EAPWorld) -> None:
        conversation = self.started(world)
        step = drive(conversation.receive(respond(8, TLS, ALERTED)))
        assert step.outcome == "continue"
        assert step.eap[6] == 21  # a TLS alert
        assert fails(conversation, respond(9, TLS, b"\x00more garbage")) == "eap.tls"


class TestLimits:
    def test_e_08_no_more_than_sixty_packets(self, world: EAPWorld) -> None:
        conversation = world.converse(("eap-gtc",), nas_port_type=15)
        world.core.is_endless = True
        step = drive(conversation.receive(respond(7, IDENTITY_TYPE, b"alice")))
        count = 0
        while step.outcome == "continue":
            count += 1
            step = drive(conversation.receive(respond(step.eap[1], GTC, b"correct horse")))
        assert count == MOST_ROUNDS
        assert step.fault is not None
        assert step.fault.rule == "eap.limit"

    def test_e_08_no_longer_than_a_minute(self, world: EAPWorld) -> None:
        conversation = world.converse()
        begin(conversation)
        world.now += 61
        assert fails(conversation, respond(8, TLS, b"\x00")) == "eap.limit"

    def test_a_person_has_time_to_find_the_phone(self, world: EAPWorld) -> None:
        world.core.codes["alice"] = "123456"
        inner = Inner("gtc", password="correct horse", answers=["123456"])
        peer = world.peer(method=TTLS, inner=inner)
        conversation = world.converse(("eap-ttls",))
        step = drive(conversation.receive(b""))
        while len(peer.prompts) < 2:
            reply = peer.answer(step.eap)
            if len(peer.prompts) < 2:
                step = drive(conversation.receive(reply or b""))
        assert step.timeout == 120
        world.now += 119
        step = drive(conversation.receive(reply or b""))
        assert step.outcome == "success"


class TestSilence:
    def test_before_anything_was_said_it_is_nothing(self, world: EAPWorld) -> None:
        conversation = world.converse()
        drive(conversation.receive(b""))
        assert conversation.abandon() is None

    def test_after_the_start(self, world: EAPWorld) -> None:
        conversation = world.converse()
        begin(conversation)
        fault = conversation.abandon()
        assert fault is not None
        assert fault.rule == "eap.timeout"

    def test_a_e12_a_client_that_saw_our_certificate_and_went_away(self, world: EAPWorld) -> None:
        peer = world.peer(world.client())
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        for _ in range(3):
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        fault = conversation.abandon()
        assert fault is not None
        assert (fault.rule, fault.values["stage"]) == ("eap.timeout", "handshake")
        assert "server certificate" in fault.detail

    def test_a_refusal_that_nobody_acknowledged_is_not_lost(self, world: EAPWorld) -> None:
        conversation = world.converse()
        begin(conversation)
        drive(conversation.receive(respond(8, TLS, ALERTED)))
        fault = conversation.abandon()
        assert fault is not None
        assert fault.rule == "eap.tls"

    def test_inside_a_tunnel_the_method_is_named(self, world: EAPWorld) -> None:
        world.core.codes["alice"] = "123456"
        peer = world.peer(method=TTLS, inner=Inner("gtc", password="correct horse"))
        conversation = world.converse(("eap-ttls",))
        step = drive(conversation.receive(b""))
        while len(peer.prompts) < 1:
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        fault = conversation.abandon()
        assert fault is not None
        assert fault.values["stage"].startswith("eap-ttls-eap-gtc: ")

    def test_one_that_ended_was_not_abandoned(self, world: EAPWorld) -> None:
        peer = world.peer(world.client())
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        while (reply := peer.answer(step.eap)) is not None:
            step = drive(conversation.receive(reply))
        assert conversation.abandon() is None


def test_nothing_of_a_login_stays_behind(world: EAPWorld) -> None:
    """A thousand logins leave no TLS connections: they hold more memory than all else."""
    import gc
    import weakref

    from OpenSSL import SSL

    gc.collect()
    client = world.client()
    kept = []
    found: list[weakref.ref[SSL.Connection]] = []
    for refused in (False, True) * 5:
        world.core.fault = Fault(FaultCode.FORBIDDEN, "no", rule="network.policy")
        if not refused:
            world.core.fault = None
        conversation = world.converse()
        peer = world.peer(client)
        step = drive(conversation.receive(b""))
        while (reply := peer.answer(step.eap)) is not None:
            step = drive(conversation.receive(reply))
            method = conversation._dialogue.method
            session = getattr(method, "_session", None)
            if session is not None and hasattr(session, "_connection"):
                found.append(weakref.ref(session._connection))
            del method, session
        kept += [conversation, step]
    # Without a garbage collection, and while the conversations are kept for retransmissions.
    assert found
    assert not [each for each in found if each() is not None]
