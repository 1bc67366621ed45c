"""Disconnect-Request and CoA-Request against a NAS that was written from the RFC (R-80..R-84)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock as Reactor

from tests.network_sessions import NAS, NAS_SECRET, admitted, client, visit
from tests.support import Clock
from tmad.network.disconnects import Order, Outcome
from tmad.network.sessions import opened
from tmad.protocols.radius.coa import ERROR_CAUSES, CoA

USER_NAME, NAS_IP, CALLING, NAS_ID, KEY, STAMP = 1, 4, 31, 32, 44, 55
VENDOR, SIGNATURE = 26, 80


class Wire:
    """A network of one NAS that loses what a test says."""

    def __init__(self, nas: NAS, **document: Any) -> None:
        self.nas = nas
        self.clock = Clock()
        self.reactor = Reactor()
        self.coa = CoA(self.reactor, self.clock)
        self.coa.socket(4).transport = self
        self.client = client(**document)
        self.loses: Callable[[bytes], bool] = lambda octets: False
        self.places: list[tuple[str, int]] = []
        self.outcomes: list[Outcome] = []

    def write(self, octets: bytes, place: tuple[str, int]) -> None:
        self.places.append(place)
        if self.loses(octets):
            return
        answer = self.nas.receive(octets)
        if answer is not None:
            self.coa.received(answer, place)

    def order(self, *, attempt: int = 0, is_alone: bool = True, **said: Any) -> Order:
        now = self.clock()
        session = opened(admitted(self.clock), visit(**said), "eap-tls", now)
        return Order(session=session, client=self.client, attempt=attempt, is_alone=is_alone)

    def ask(self, order: Order | None = None, **said: Any) -> None:
        asked = ensureDeferred(self.coa.ask(order or self.order(**said)))
        asked.addCallback(self.outcomes.append)
        asked.addErrback(lambda failure: failure.raiseException())

    def outcome(self, **said: Any) -> Outcome:
        self.ask(**said)
        [outcome] = self.outcomes
        return outcome


def refuses(*causes: int | None) -> Callable[[int, dict[int, bytes]], tuple[int, int | None]]:
    """Return a NAS's answers: these refusals one after the other, then acknowledgements."""
    left = list(causes)
    return lambda code, attributes: (code + 2, left.pop(0)) if left else (code + 1, None)


def test_r81_a_request_names_nas_session_and_time_and_is_signed_first() -> None:
    nas = NAS()
    wire = Wire(nas)
    assert wire.outcome() == Outcome(word="acknowledged", is_done=True, is_over=True)
    [(code, attributes)] = nas.requests
    assert code == 40
    assert attributes[USER_NAME] == b"anonymous"  # as it was asked for
    assert attributes[KEY] == b"A1"
    assert attributes[CALLING] == b"02-00-00-00-00-AA"  # letter for letter
    assert attributes[NAS_ID] == b"sw1"
    assert int.from_bytes(attributes[STAMP]) == int(wire.clock().timestamp())
    assert nas.octets[0][20] == SIGNATURE
    assert wire.places == [("192.0.2.1", 3799)]
    assert wire.reactor.getDelayedCalls() == []


def test_a_nas_that_named_itself_by_its_address_is_named_so() -> None:
    nas = NAS()
    Wire(nas).outcome(nas_identifier="192.0.2.77")
    assert nas.requests[0][1][NAS_IP] == bytes([192, 0, 2, 77])
    assert NAS_ID not in nas.requests[0][1]


def test_r82_the_same_octets_are_sent_three_times_then_it_is_silent() -> None:
    wire = Wire(NAS())
    lost: list[bytes] = []
    wire.loses = lambda octets: bool(lost.append(octets)) or True
    wire.ask()
    for _ in range(4):
        wire.reactor.advance(3.4)
    assert [outcome.word for outcome in wire.outcomes] == ["silent"]
    assert len(lost) == 3
    assert len(set(lost)) == 1
    assert wire.reactor.getDelayedCalls() == []


def test_a_request_whose_answer_was_lost_is_answered_when_it_comes_again() -> None:
    wire = Wire(NAS())
    wire.loses = lambda octets: len(wire.places) < 3
    wire.ask()
    wire.reactor.advance(3.4)
    assert wire.outcomes == []
    wire.reactor.advance(3.4)
    assert [outcome.word for outcome in wire.outcomes] == ["acknowledged"]


def test_r83_session_context_not_found_is_success_once_fewer_names_were_tried() -> None:
    nas = NAS(answer=refuses(503, 503, 503, 503))
    outcome = Wire(nas).outcome()
    assert (outcome.word, outcome.is_done, outcome.is_over) == ("session-gone", True, True)
    named = [set(attributes) & {USER_NAME, KEY, CALLING} for _, attributes in nas.requests]
    full = {USER_NAME, KEY, CALLING}
    assert named == [full, full, {KEY, CALLING}, {CALLING}]
    names = [attributes.get(USER_NAME) for _, attributes in nas.requests]
    assert names == [b"anonymous", b"laptop.example.com", None, None]


def test_a_session_that_the_nas_knows_by_another_name_is_found() -> None:
    assert Wire(NAS(answer=refuses(503))).outcome().word == "acknowledged"
    assert Wire(NAS(answer=refuses(401, 503))).outcome().word == "acknowledged"
    assert Wire(NAS(answer=refuses(503, 503, 503))).outcome().word == "acknowledged"


def test_a_nas_that_goes_by_the_name_alone_ends_no_other_session() -> None:
    """strongSwan: what Access-Accept named may be the name of another tunnel there."""
    asked: list[bytes] = []

    def answer(code: int, attributes: dict[int, bytes]) -> tuple[int, int | None]:
        asked.append(attributes.get(USER_NAME, b""))
        return (code + 1, None) if attributes.get(USER_NAME) else (code + 2, None)

    assert Wire(NAS(answer=answer)).outcome(user_name="phone").word == "acknowledged"
    assert asked == [b"phone"]


def test_an_identifier_is_not_taken_again_at_once() -> None:
    """Also by the next question after all were answered: strongSwan would repeat its answer."""
    wire = Wire(NAS())
    for number in range(600):
        wire.ask(session_key=f"K{number}")
    assert len(wire.outcomes) == 600
    identifiers = [octets[1] for octets in wire.nas.octets]
    assert all(len(set(identifiers[at : at + 256])) == 256 for at in range(600 - 256))


def test_a_station_with_a_newer_session_does_not_lose_that() -> None:
    nas = NAS(answer=refuses(503, 503, 503))  # two names, then none
    assert Wire(nas).outcome(is_alone=False).word == "session-gone"
    assert all(KEY in attributes for _, attributes in nas.requests)


def test_nothing_is_asked_by_user_name_alone() -> None:
    nas = NAS()
    outcome = Wire(nas).outcome(session_key="", calling_station="", calling_station_sent="")
    assert (outcome.word, outcome.is_final) == ("no-keys", True)
    assert nas.requests == []


def test_a_wrong_nas_name_is_left_out_the_second_time() -> None:
    nas = NAS(answer=refuses(403))
    assert Wire(nas).outcome().word == "acknowledged"
    assert [NAS_ID in attributes for _, attributes in nas.requests] == [True, False]


@pytest.mark.parametrize("cause", [405, 406, 501, 502, 504, 506])
def test_r83_a_refusal_is_told_with_its_cause_and_tried_later(cause: int) -> None:
    outcome = Wire(NAS(answer=refuses(cause))).outcome()
    assert (outcome.word, outcome.is_done, outcome.is_final) == ("refused", False, False)
    assert (outcome.error_cause, outcome.detail) == (cause, ERROR_CAUSES[cause].name)


def test_a_refusal_without_a_cause_is_a_refusal() -> None:
    outcome = Wire(NAS(answer=refuses(None, None, None, None))).outcome()
    assert (outcome.word, outcome.error_cause) == ("refused", None)


@pytest.mark.parametrize(
    ("vendor", "how", "code", "octets"),
    [
        ("generic", "disconnect", 40, None),
        ("cisco", "disconnect", 40, None),
        ("cisco", "reauthenticate", 43, b"subscriber:command=reauthenticate"),
        ("cisco", "bounce-port", 43, b"subscriber:command=bounce-host-port"),
        ("meraki", "bounce-port", 43, b"subscriber:command=bounce-host-port"),
        ("aruba", "bounce-port", 43, b"\0\0\0\x0c"),
        ("hp", "bounce-port", 43, b"\0\0\0\x0c"),
        ("aruba", "reauthenticate", 40, None),
        ("ruckus", "bounce-port", 40, None),
    ],
)
def test_r84_vendors_are_asked_in_their_own_words(
    vendor: str, how: str, code: int, octets: bytes | None
) -> None:
    nas = NAS()
    outcome = Wire(nas, vendor=vendor, coa={"how": how}).outcome()
    [(asked, attributes)] = nas.requests
    assert asked == code
    assert attributes.get(VENDOR, b"")[6:] == (octets or b"")
    # After a CoA the session goes on until the device has failed to log in again.
    assert (outcome.is_done, outcome.is_over) == (True, code == 40)


def test_r84_a_silent_cisco_is_asked_on_its_old_port_too() -> None:
    wire = Wire(NAS(), vendor="cisco")
    for attempt in range(3):
        wire.ask(attempt=attempt)
    assert [port for _, port in wire.places] == [3799, 1700, 3799]
    set_old = Wire(NAS(), vendor="cisco", coa={"port": 1700})
    for attempt in range(2):
        set_old.ask(attempt=attempt)
    assert [port for _, port in set_old.places] == [1700, 3799]


def test_the_address_of_the_settings_wins() -> None:
    wire = Wire(NAS(), coa={"address": "192.0.2.200", "port": 3800})
    wire.outcome()
    assert wire.places == [("192.0.2.200", 3800)]


def test_what_cannot_be_asked_is_said() -> None:
    assert Wire(NAS()).outcome(address="2001:db8::1").word == "no-address"
    assert Wire(NAS()).outcome(address="").word == "no-address"
    wire = Wire(NAS())
    wire.client = client(secrets=())
    assert wire.outcome().word == "no-secret"


def test_during_the_overlap_of_two_secrets_both_are_tried() -> None:
    wire = Wire(NAS())
    wire.client = client(secrets=(b"the-new-one-of-two-secrets", NAS_SECRET))
    wire.ask(attempt=0)
    assert wire.outcomes == []
    wire.ask(attempt=1)
    assert [outcome.word for outcome in wire.outcomes] == ["acknowledged"]


# -- answers that are none ----------------------------------------------------------------------


def forge(wire: Wire, change: Callable[[bytes], bytes], *, port: int = 3799) -> list[Outcome]:
    """Let the NAS's answer arrive changed."""
    silent = NAS(answer=lambda code, attributes: None)
    wire.nas = silent
    wire.ask()
    honest = silent.reply(silent.octets[0], 41)
    wire.coa.received(change(honest), ("192.0.2.1", port))
    return wire.outcomes


def test_an_honest_answer_with_and_without_message_authenticator_counts() -> None:
    assert len(forge(Wire(NAS()), lambda octets: octets)) == 1
    unsigned = Wire(NAS(signs=False))
    assert unsigned.outcome().is_done


@pytest.mark.parametrize(
    "change",
    [
        lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]),
        lambda octets: octets[:10] + bytes([octets[10] ^ 1]) + octets[11:],
        lambda octets: bytes([42]) + octets[1:],
        lambda octets: bytes([44]) + octets[1:],
        lambda octets: bytes([2]) + octets[1:],
        lambda octets: octets[:1] + bytes([octets[1] ^ 1]) + octets[2:],
        lambda octets: octets[:19],
        lambda octets: b"",
        lambda octets: octets[:2] + b"\xff\xff" + octets[4:],
    ],
)
def test_a_forged_or_broken_answer_is_dropped(change: Callable[[bytes], bytes]) -> None:
    wire = Wire(NAS())
    assert forge(wire, change) == []
    assert wire.coa.dropped == 1


def test_an_answer_from_elsewhere_or_for_nobody_is_dropped() -> None:
    wire = Wire(NAS())
    assert forge(wire, lambda octets: octets, port=3800) == []
    assert wire.coa.dropped == 1


def test_an_answer_made_with_another_secret_is_dropped() -> None:
    wire = Wire(NAS(answer=lambda code, attributes: None))
    wire.ask()
    stranger = NAS(secret=b"somebody-elses-secret")
    wire.coa.received(stranger.reply(wire.nas.octets[0], 41), ("192.0.2.1", 3799))
    assert wire.outcomes == []


def test_an_answer_that_comes_twice_counts_once() -> None:
    silent = NAS(answer=lambda code, attributes: None)
    wire = Wire(silent)
    wire.ask()
    honest = silent.reply(silent.octets[0], 41)
    for _ in range(2):
        wire.coa.received(honest, ("192.0.2.1", 3799))
    assert len(wire.outcomes) == 1
    assert wire.coa.dropped == 1


# -- many at once --------------------------------------------------------------------------------


def test_one_nas_is_asked_a_few_questions_at_a_time() -> None:
    held: list[bytes] = []
    wire = Wire(NAS())
    wire.loses = lambda octets: bool(held.append(octets)) or True
    for number in range(40):
        wire.ask(session_key=f"K{number}")
    assert len(held) == 32
    assert len({octets[1] for octets in held}) == 32  # identifiers
    wire.loses = lambda octets: False
    for octets in held:
        answer = wire.nas.receive(octets)
        assert answer is not None
        wire.coa.received(answer, ("192.0.2.1", 3799))
    assert len(wire.outcomes) == 40
    assert {outcome.word for outcome in wire.outcomes} == {"acknowledged"}


def test_who_is_silent_to_one_question_is_not_waited_for_with_the_next() -> None:
    wire = Wire(NAS())
    wire.loses = lambda octets: True
    for number in range(100):
        wire.ask(session_key=f"K{number}")
    for _ in range(4):
        wire.reactor.advance(3.4)
    assert [outcome.word for outcome in wire.outcomes] == ["silent"] * 100
    assert len(wire.places) == 96
    assert not any(peer.open or peer.waiting for peer in wire.coa._peers.values())
