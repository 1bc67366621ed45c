"""What becomes of an authentic Access-Request: rounds, retransmissions, State, Accept, Reject."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock as Reactor

from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.login import Accepted, Prompt
from tmad.identity.login_rules import LoginRules
from tmad.network.clients import Client, RadiusClientDocument
from tmad.network.logins import Admitted
from tmad.network.visit import Visit
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code
from tmad.protocols.radius.conversations import Conversations
from tmad.protocols.radius.eap.conversation import Step
from tmad.protocols.radius.eap.method import Keys
from tmad.protocols.radius.responder import Asked, Reply, Responder, visit_of

SECRET = Secret(secrets.token_hex(16))
IDENTITY = bytes((2, 1, 0, 8, 1)) + b"bob"
CHALLENGE = bytes((1, 2, 0, 6, 13, 0x20))
RESPONSE = bytes((2, 2, 0, 6, 13, 0))
SUCCESS, FAILURE = bytes((3, 2, 0, 4)), bytes((4, 2, 0, 4))
ADMITTED = Admitted(
    session="01M83VA6VH1MWWZRX0T1SWMGHJ",
    user_name="bob@example.test",
    policy="all",
    rule="all",
    attributes=(("Filter-Id", "guests"), ("Reply-Message", "welcome")),
    session_timeout=600,
    certificate=None,
    person=None,
    device=None,
)


class Conversation:
    """Answers what a test has put into ``steps``; a Fault among them is raised."""

    method = "eap-tls"

    def __init__(self, steps: list[Any]) -> None:
        self.steps = steps
        self.received: list[bytes] = []
        self.framed_mtu: int | None = None
        self.later: Deferred[None] | None = None

    async def receive(self, eap: bytes, *, framed_mtu: int | None = None) -> Step:
        self.received.append(eap)
        self.framed_mtu = framed_mtu
        if self.later is not None:
            await self.later
        step = self.steps.pop(0)
        if isinstance(step, Fault):
            raise step
        assert isinstance(step, Step)
        return step

    def abandon(self) -> Fault | None:
        return Fault(FaultCode.UNAUTHENTICATED, "the client fell silent", rule="eap.silent")


class Logins:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.outcome: Any = None

    async def begin(self, **arguments: Any) -> Any:
        return self._judge(arguments)

    async def answer(self, prompt: Any, code: Secret, **arguments: Any) -> Any:
        return self._judge({"prompt": prompt, "code": code, **arguments})

    def _judge(self, arguments: dict[str, Any]) -> Any:
        self.asked.append(arguments)
        if isinstance(self.outcome, Fault):
            raise self.outcome
        return self.outcome


class Admission:
    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []
        self.stations: list[Visit] = []
        self.admitted: Any = ADMITTED

    async def person(self, visit: Visit, person: Any, method: str) -> Admitted:
        if isinstance(self.admitted, Fault):
            raise self.admitted
        assert isinstance(self.admitted, Admitted)
        return self.admitted

    async def station(self, visit: Visit) -> Admitted:
        self.stations.append(visit)
        assert isinstance(self.admitted, Admitted)
        return self.admitted

    async def refuse(
        self, visit: Visit, fault: Fault, *, method: str, data: Mapping[str, Any] = {}
    ) -> str:
        self.refused.append((fault.rule, method))
        fault.explain_id = "TEST-0001"
        return fault.explain_id


class World:
    def __init__(self, *steps: Any, methods: tuple[str, ...] = ("eap-tls", "pap")) -> None:
        self.reactor = Reactor()
        self.conversations = Conversations(self.reactor.seconds)
        self.conversation = Conversation(list(steps))
        self.logins = Logins()
        self.admission = Admission()
        self.visits: list[Visit] = []
        self.responder = Responder(
            self.conversations,
            self.admission,  # type: ignore[arg-type]  # the parts that are used
            self.logins,  # type: ignore[arg-type]
            self.begin,  # type: ignore[arg-type]
        )
        self.client = self.make_client("site", methods)

    def begin(self, visit: Visit, client: Client) -> Conversation:
        self.visits.append(visit)
        return self.conversation

    @staticmethod
    def make_client(name: str, methods: tuple[str, ...], **document: Any) -> Client:
        return Client(
            tenant="acme",
            name=name,
            document=RadiusClientDocument.model_validate(
                {"prefixes": ["192.0.2.0/24"], "methods": list(methods), **document}
            ),
            shared=(),
            signed_since=None,
        )

    def request(self, *attributes: Attribute, client: Client | None = None) -> Asked:
        octets = codec.encode_access(1, 7, secrets.token_bytes(16), attributes, SECRET.reveal())
        return Asked(
            packet=codec.decode(octets),
            client=client or self.client,
            secret=SECRET,
            address="192.0.2.1",
        )

    def ask(self, *attributes: Attribute, client: Client | None = None) -> Reply | None:
        return drive(self.responder.respond(self.request(*attributes, client=client)))

    def eap(self, eap: bytes, *more: Attribute, client: Client | None = None) -> Reply:
        reply = self.ask(*codec.eap_attributes(eap), *more, client=client)
        assert reply is not None
        return reply

    def password(self, text: str | bytes, *more: Attribute, name: str = "bob") -> Reply:
        asked = self.request()
        clear = text.encode() if isinstance(text, str) else text
        hidden = codec.hide_password(clear, asked.packet.authenticator, SECRET.reveal())
        octets = codec.encode_access(
            1, 7, asked.packet.authenticator,
            [(codec.USER_NAME, name.encode()), (codec.USER_PASSWORD, hidden), *more],
            SECRET.reveal(),
        )  # fmt: skip
        asked = Asked(
            packet=codec.decode(octets), client=self.client, secret=SECRET, address="192.0.2.1"
        )
        reply = drive(self.responder.respond(asked))
        assert reply is not None
        return reply


def goes_on(eap: bytes = CHALLENGE) -> Step:
    return Step(eap=eap, outcome="continue", method="eap-tls", timeout=30)


def wins() -> Step:
    keys = Keys(bytes(range(64)), b"\x0d" + bytes(64))
    return Step(eap=SUCCESS, outcome="success", method="eap-tls", keys=keys, admitted=ADMITTED)


def loses(fault: Fault | None = None) -> Step:
    return Step(eap=FAILURE, outcome="failure", method="eap-tls", fault=fault)


def value(reply: Reply, kind: int) -> bytes:
    [found] = [value for number, value in reply.attributes if number == kind]
    return found


def kinds(reply: Reply) -> list[int]:
    return [number for number, _ in reply.attributes]


# -- EAP -----------------------------------------------------------------------------------------


def test_a_round_is_a_challenge_with_state_and_timeout() -> None:
    """E-10."""
    world = World(goes_on())
    reply = world.eap(IDENTITY, (codec.FRAMED_MTU, (576).to_bytes(4, "big")))
    assert reply.code == Code.ACCESS_CHALLENGE
    assert value(reply, codec.EAP_MESSAGE) == CHALLENGE
    assert value(reply, codec.SESSION_TIMEOUT) == b"\0\0\0\x1e"
    assert len(value(reply, codec.STATE)) == 16
    assert world.conversation.framed_mtu == 576


def test_success_is_an_accept_with_everything_and_no_message() -> None:
    """R-12, R-15, 2.6; RFC 7268: EAP-Key-Name only for who asked."""
    world = World(goes_on(), wins())
    wants = (codec.EAP_KEY_NAME, b"\0")
    state = value(world.eap(IDENTITY, wants), codec.STATE)
    reply = world.eap(RESPONSE, (codec.STATE, state), wants)
    assert reply.code == Code.ACCESS_ACCEPT
    assert value(reply, codec.USER_NAME) == b"bob@example.test"
    assert value(reply, codec.CLASS) == ADMITTED.session.encode()
    assert value(reply, codec.SESSION_TIMEOUT) == (600).to_bytes(4, "big")
    assert value(reply, 29) == b"\0\0\0\x01"
    assert value(reply, 11) == b"guests"
    assert value(reply, codec.EAP_MESSAGE) == SUCCESS
    assert len(value(reply, codec.EAP_KEY_NAME)) == 65
    assert codec.REPLY_MESSAGE not in kinds(reply)
    assert codec.STATE not in kinds(reply)
    assert reply.msk is not None
    assert reply.msk.reveal() == bytes(range(64))
    world = World(goes_on(), wins())
    state = value(world.eap(IDENTITY), codec.STATE)
    assert codec.EAP_KEY_NAME not in kinds(world.eap(RESPONSE, (codec.STATE, state)))


def test_failure_is_a_reject_with_nothing_else_and_journaled_once() -> None:
    """R-62."""
    fault = Fault(FaultCode.UNAUTHENTICATED, "no", rule="eap.something")
    world = World(goes_on(), loses(fault))
    state = value(world.eap(IDENTITY), codec.STATE)
    reply = world.eap(RESPONSE, (codec.STATE, state))
    assert reply.code == Code.ACCESS_REJECT
    assert reply.attributes == [(codec.EAP_MESSAGE, FAILURE)]
    assert world.admission.refused == [("eap.something", "eap-tls")]
    journaled = Fault(FaultCode.FORBIDDEN, "no", rule="network.revoked")
    journaled.explain_id = "TEST-0002"
    world = World(loses(journaled))
    world.eap(IDENTITY)
    assert world.admission.refused == []


def test_a_retransmission_in_a_new_packet_is_answered_without_the_conversation() -> None:
    """R-25; also of the last one, whose Accept was lost."""
    world = World(goes_on(), wins())
    state = value(world.eap(IDENTITY), codec.STATE)
    first = world.eap(RESPONSE, (codec.STATE, state))
    again = world.eap(RESPONSE, (codec.STATE, state))
    assert again is first
    assert world.conversation.received == [IDENTITY, RESPONSE]
    # Something new after the end is refused.
    other = world.eap(bytes((2, 3, 0, 6, 13, 0)), (codec.STATE, state))
    assert other.code == Code.ACCESS_REJECT
    world.reactor.advance(11)
    assert world.eap(RESPONSE, (codec.STATE, state)).code == Code.ACCESS_REJECT


def test_a_state_of_nobody_or_of_another_client_is_refused_with_eap_failure() -> None:
    """R-11, A-E10."""
    world = World(goes_on(), goes_on())
    state = value(world.eap(IDENTITY), codec.STATE)
    other = world.make_client("other", ("eap-tls",))
    for reply in (
        world.eap(RESPONSE, (codec.STATE, secrets.token_bytes(16))),
        world.eap(RESPONSE, (codec.STATE, state), client=other),
    ):
        assert reply.code == Code.ACCESS_REJECT
        assert reply.attributes == [(codec.EAP_MESSAGE, FAILURE)]
    assert world.eap(RESPONSE, (codec.STATE, state)).code == Code.ACCESS_CHALLENGE


def test_what_the_conversation_ignores_is_dropped() -> None:
    world = World(Fault(FaultCode.MALFORMED, "not a response"))
    assert world.ask((codec.EAP_MESSAGE, IDENTITY)) is None
    assert len(world.conversations) == 0
    world = World(goes_on(), Fault(FaultCode.MALFORMED, "another identifier"), wins())
    state = value(world.eap(IDENTITY), codec.STATE)
    assert world.ask((codec.EAP_MESSAGE, b"\x02\x09\0\x06\x0d\0"), (codec.STATE, state)) is None
    assert world.eap(RESPONSE, (codec.STATE, state)).code == Code.ACCESS_ACCEPT


def test_a_message_that_comes_while_the_last_is_being_answered_is_dropped() -> None:
    world = World(goes_on(), wins())
    state = value(world.eap(IDENTITY), codec.STATE)
    world.conversation.later = Deferred()
    asked = world.request((codec.EAP_MESSAGE, RESPONSE), (codec.STATE, state))
    results: list[Any] = []
    ensureDeferred(world.responder.respond(asked)).addBoth(results.append)
    assert world.ask((codec.EAP_MESSAGE, RESPONSE), (codec.STATE, state)) is None
    world.conversation.later.callback(None)
    assert results[0].code == Code.ACCESS_ACCEPT
    assert world.conversation.received == [IDENTITY, RESPONSE]


def test_eap_and_a_password_in_one_request_are_dropped() -> None:
    """RFC 3579, 2.1."""
    world = World(goes_on())
    for kind, octets in ((codec.USER_PASSWORD, bytes(16)), (codec.CHAP_PASSWORD, bytes(17))):
        assert world.ask((codec.EAP_MESSAGE, IDENTITY), (kind, octets)) is None


def test_silence_is_journaled_when_the_conversation_is_given_up() -> None:
    """E-45."""
    world = World(goes_on())
    world.eap(IDENTITY)
    world.reactor.advance(31)
    drive(world.conversations.expire())
    assert world.admission.refused == [("eap.silent", "eap-tls")]
    world = World(goes_on(), wins())
    state = value(world.eap(IDENTITY), codec.STATE)
    world.eap(RESPONSE, (codec.STATE, state))
    world.reactor.advance(31)
    drive(world.conversations.expire())
    assert world.admission.refused == []


def test_half_open_logins_of_one_station_push_out_the_oldest() -> None:
    """E-08."""
    world = World(*[goes_on()] * 6)
    calling = (codec.CALLING_STATION_ID, b"02-00-00-00-00-01")
    states = [value(world.eap(IDENTITY, calling), codec.STATE) for _ in range(5)]
    assert len(world.conversations) == 4
    assert world.eap(RESPONSE, (codec.STATE, states[0])).code == Code.ACCESS_REJECT
    assert world.eap(RESPONSE, (codec.STATE, states[4])).code == Code.ACCESS_CHALLENGE


def test_a_client_without_eap_refuses_it() -> None:
    world = World(methods=("pap",))
    reply = world.eap(IDENTITY)
    assert reply.code == Code.ACCESS_REJECT
    assert reply.attributes == [(codec.EAP_MESSAGE, bytes((4, 1, 0, 4)))]
    assert world.admission.refused == [("radius.method.eap", "eap")]


# -- passwords -----------------------------------------------------------------------------------


def test_a_password_is_judged_under_the_clients_rules() -> None:
    world = World()
    world.logins.outcome = Accepted(person=SimpleNamespace(name="bob"), factors=("password",))  # type: ignore[arg-type]  # a person's name is enough here
    reply = world.password("geheim ü")
    assert reply.code == Code.ACCESS_ACCEPT
    assert value(reply, codec.REPLY_MESSAGE) == b"welcome"
    assert reply.msk is None
    assert 29 not in kinds(reply)
    [asked] = world.logins.asked
    assert asked["password"].reveal() == "geheim ü".encode()
    assert (asked["tenant"], asked["name"], asked["source"]) == ("acme", "bob", "192.0.2.1")
    assert asked["rules"] == LoginRules()


def test_octets_that_are_no_text_hint_at_another_secret() -> None:
    """R-13."""
    world = World()
    reply = world.password(b"\xff\xfe")
    assert reply.code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.password", "pap")]
    assert value(reply, codec.REPLY_MESSAGE) == b"login refused [TEST-0001]"
    world.client = world.make_client("old", ("pap",), latin1=True)
    world.logins.outcome = Accepted(person=SimpleNamespace(name="bob"), factors=("password",))  # type: ignore[arg-type]
    assert world.password(b"m\xfcller").code == Code.ACCESS_ACCEPT
    assert world.logins.asked[-1]["password"].reveal() == "müller".encode()


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ([(codec.CHAP_PASSWORD, bytes(17))], "radius.method.chap"),
        ([codec.vendor_attribute(311, 1, bytes(50))], "radius.method.mschap"),
        ([codec.vendor_attribute(311, 25, bytes(50))], "radius.method.mschap"),
        ([], "radius.method.none"),
        ([(codec.USER_PASSWORD, bytes(17))], "radius.malformed.password"),
        ([(codec.USER_PASSWORD, bytes(16)), (6, b"\0\0\0\x0a")], "radius.method.mac"),
    ],
)
def test_what_is_not_possible_is_refused_and_journaled(
    attributes: list[Attribute], rule: str
) -> None:
    """R-14, R-17."""
    world = World()
    reply = world.ask((codec.USER_NAME, b"bob"), *attributes)
    assert reply is not None
    assert reply.code == Code.ACCESS_REJECT
    assert world.admission.refused == [(rule, "mac" if rule.endswith(".mac") else "pap")]
    assert world.logins.asked == []


def test_passwords_are_off_by_default() -> None:
    """T-07."""
    world = World(methods=("eap-tls",))
    assert world.password("x").code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.method.pap", "pap")]


def test_a_refused_login_says_the_same_whatever_was_wrong() -> None:
    world = World()
    texts = set()
    for rule in ("login.password", "login.unknown", "otp.replayed", "network.policy"):
        fault = Fault(FaultCode.UNAUTHENTICATED, f"because of {rule}", rule=rule)
        fault.explain_id = "TEST-0003"
        world.logins.outcome = fault
        texts.add(value(world.password("x"), codec.REPLY_MESSAGE))
    assert texts == {b"login refused [TEST-0003]"}
    assert world.admission.refused == []


def test_a_flood_that_logins_has_not_journaled_stays_out_of_the_journal() -> None:
    world = World()
    world.logins.outcome = Fault(FaultCode.UNAUTHENTICATED, "no", rule="login.locked")
    assert value(world.password("x"), codec.REPLY_MESSAGE) == b"login refused"
    assert world.admission.refused == []


def test_a_database_that_is_away_is_silence_so_that_another_server_is_asked() -> None:
    world = World()
    world.logins.outcome = Fault(FaultCode.UNAVAILABLE, "away")
    with pytest.raises(Fault) as caught:
        world.password("x")
    assert caught.value.code is FaultCode.UNAVAILABLE


def prompt() -> Prompt:
    """Return a question; all but its text is Logins' business."""
    nothing: dict[str, Any] = {field.name: None for field in fields(Prompt)}
    return Prompt(**nothing | {"text": "Enter the code:"})


def test_a_challenge_is_answered_once_by_whom_it_was_put_to() -> None:
    """O-02, A-O2."""
    world = World()
    world.logins.outcome = asked = prompt()
    reply = world.password("x")
    assert reply.code == Code.ACCESS_CHALLENGE
    assert value(reply, codec.REPLY_MESSAGE) == b"Enter the code:"
    assert value(reply, codec.PROMPT) == b"\0\0\0\0"
    state = (codec.STATE, value(reply, codec.STATE))
    world.logins.outcome = Accepted(person=SimpleNamespace(name="bob"), factors=("otp",))  # type: ignore[arg-type]
    assert world.password("123456", state).code == Code.ACCESS_ACCEPT
    assert world.logins.asked[-1]["prompt"] is asked
    assert world.logins.asked[-1]["code"].reveal() == b"123456"
    assert world.password("123456", state).code == Code.ACCESS_REJECT
    assert world.admission.refused == [("radius.state", "pap")]


def test_somebody_else_cannot_answer_and_uses_the_question_up() -> None:
    world = World()
    world.logins.outcome = prompt()
    state = (codec.STATE, value(world.password("x"), codec.STATE))
    before = len(world.logins.asked)
    assert world.password("123456", state, name="eve").code == Code.ACCESS_REJECT
    assert world.password("123456", state).code == Code.ACCESS_REJECT
    assert len(world.logins.asked) == before


def test_a_late_answer_is_refused() -> None:
    world = World()
    world.logins.outcome = prompt()
    state = (codec.STATE, value(world.password("x"), codec.STATE))
    world.reactor.advance(119)
    state = (codec.STATE, value(world.password("123456", state), codec.STATE))
    world.reactor.advance(121)
    assert world.password("123456", state).code == Code.ACCESS_REJECT


def test_an_eap_conversation_and_a_challenge_are_not_mixed_up() -> None:
    world = World(goes_on())
    state = (codec.STATE, value(world.eap(IDENTITY), codec.STATE))
    assert world.password("123456", state).code == Code.ACCESS_REJECT
    world = World(goes_on())
    world.logins.outcome = prompt()
    state = (codec.STATE, value(world.password("x"), codec.STATE))
    assert world.eap(RESPONSE, state).code == Code.ACCESS_REJECT


def test_a_policy_that_refuses_a_person_is_a_reject() -> None:
    world = World()
    world.logins.outcome = Accepted(person=SimpleNamespace(name="bob"), factors=("password",))  # type: ignore[arg-type]
    refused = Fault(FaultCode.FORBIDDEN, "no rule matches", rule="network.policy")
    refused.explain_id = "TEST-0009"
    world.admission.admitted = refused
    assert value(world.password("x"), codec.REPLY_MESSAGE) == b"login refused [TEST-0009]"


# -- the visit -----------------------------------------------------------------------------------


def test_what_a_request_says_is_brought_into_one_form() -> None:
    world = World()
    asked = world.request(
        (codec.USER_NAME, b"bob\xff"),
        (codec.NAS_IP_ADDRESS, bytes((192, 0, 2, 9))),
        (codec.NAS_PORT, (7).to_bytes(4, "big")),
        (codec.NAS_PORT_TYPE, (19).to_bytes(4, "big")),
        (codec.CALLED_STATION_ID, b"AA-BB-CC-DD-EE-FF:corp"),
        (codec.CALLING_STATION_ID, b"02-00-00-00-00-0A"),
        (codec.ACCT_SESSION_ID, b"8F"),
    )
    visit = visit_of(asked)
    assert (visit.tenant, visit.client, visit.address) == ("acme", "site", "192.0.2.1")
    assert (visit.nas_identifier, visit.nas_port, visit.nas_port_type) == ("192.0.2.9", "7", 19)
    assert (visit.ssid, visit.called_station) == ("corp", "aabbccddeeff")
    assert visit.calling_station == "02000000000a"
    assert visit.calling_station_sent == "02-00-00-00-00-0A"
    assert (visit.user_name, visit.session_key) == ("bob\\xff", "8F")
    empty = visit_of(world.request())
    assert (empty.nas_identifier, empty.nas_port, empty.nas_port_type) == ("", "", None)
