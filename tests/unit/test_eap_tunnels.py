"""EAP-TTLS, PEAP and EAP-GTC against a peer of our own making: RFC 5281, RFC 9427, [MS-PEAP]."""

from __future__ import annotations

from typing import Any

import pytest

from tests import eap_peer
from tests.eap_peer import GTC, PEAP, TTLS, Inner, Peer, RefusedError
from tests.eap_world import EAPWorld
from tests.unit.test_eap_tls import assert_success
from tmad.errors import Fault, FaultCode
from tmad.protocols.radius.eap.conversation import METHODS, PEAP_METHODS, TTLS_METHODS

GOOD, BAD = "correct horse", "battery staple"
VERSIONS = ["1.2", "1.3"]
TUNNELS = [
    (TTLS, "pap", "eap-ttls-pap"),
    (TTLS, "mschapv2", "eap-ttls-mschapv2"),
    (TTLS, "gtc", "eap-ttls-eap-gtc"),
    (TTLS, "eap-mschapv2", "eap-ttls-eap-mschapv2"),
    (PEAP, "gtc", "peap-gtc"),
    (PEAP, "eap-mschapv2", "peap-mschapv2"),
]


@pytest.fixture(scope="module")
def shared() -> EAPWorld:
    return EAPWorld()


@pytest.fixture
def world(shared: EAPWorld) -> EAPWorld:
    shared.core.__init__()  # type: ignore[misc]  what one test said must not be another's
    return shared


def inside(method: str, password: str = GOOD, **changed: Any) -> Inner:
    return Inner(method, password=password, **changed)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("method", "inner", "name"), TUNNELS)
class TestPasswords:
    def test_the_right_one_lets_in(
        self, world: EAPWorld, version: str, method: int, inner: str, name: str
    ) -> None:
        peer = world.peer(method=method, inner=inside(inner), version=version)
        step = world.login(peer, (name,))
        assert_success(step, peer)
        assert step.method == name
        assert step.admitted is not None
        assert step.admitted.user_name == "alice"
        assert {asked[-1] for asked in world.core.asked} == {name}

    def test_a_wrong_one_does_not(
        self, world: EAPWorld, version: str, method: int, inner: str, name: str
    ) -> None:
        peer = world.peer(method=method, inner=inside(inner, BAD), version=version)
        step = world.login(peer, (name,))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "login.password")
        assert peer.success is False
        assert step.keys is None
        asked = [asked[0] for asked in world.core.asked]
        assert "admit" not in asked
        assert ("failed" in asked) == ("mschapv2" in inner)

    def test_nobody_is_told_from_somebody(
        self, world: EAPWorld, version: str, method: int, inner: str, name: str
    ) -> None:
        rounds = []
        for who in ("alice", "nobody"):
            peer = world.peer(method=method, inner=inside(inner, BAD, name=who), version=version)
            step = world.login(peer, (name,))
            assert step.outcome == "failure"
            rounds.append((peer.rounds, step.fault and step.fault.detail))
        assert rounds[0] == rounds[1]

    def test_the_core_may_refuse_a_right_one(
        self, world: EAPWorld, version: str, method: int, inner: str, name: str
    ) -> None:
        world.core.fault = Fault(FaultCode.FORBIDDEN, "not now", rule="network.time")
        peer = world.peer(method=method, inner=inside(inner), version=version)
        step = world.login(peer, (name,))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "network.time")

    def test_a_e14_a_second_login_proves_itself_again(
        self, world: EAPWorld, version: str, method: int, inner: str, name: str
    ) -> None:
        first = world.peer(method=method, inner=inside(inner), version=version)
        world.login(first, (name,))
        second = Peer(method, first.context, inner=inside(inner, BAD), session=first.remembered())
        step = world.login(second, (name,))
        assert not second.resumed
        assert step.outcome == "failure"

    def test_small_fragments(
        self, world: EAPWorld, version: str, method: int, inner: str, name: str
    ) -> None:
        peer = world.peer(method=method, inner=inside(inner), version=version, fragment=150)
        assert_success(world.login(peer, (name,), fragment_size=200), peer)


@pytest.mark.parametrize("version", VERSIONS)
class TestPEAPTLS:
    def peer(self, world: EAPWorld, version: str, **changed: Any) -> Peer:
        client = world.client()
        context = eap_peer.client_context(
            anchors=(world.root,), chain=client.chain, key=client.key, version=version
        )
        return world.peer(
            method=PEAP, inner=Inner("tls", context=context), version=version, **changed
        )

    def test_the_certificate_is_shown_inside(self, world: EAPWorld, version: str) -> None:
        peer = self.peer(world, version)
        step = world.login(peer, ("peap-tls",))
        assert_success(step, peer)
        assert step.method == "peap-tls"
        assert step.admitted is not None
        assert step.admitted.user_name == "CN=laptop"
        assert [login.method for login in world.core.logins] == ["peap-tls"]

    def test_a_refusal_is_told_inside(self, world: EAPWorld, version: str) -> None:
        world.core.fault = Fault(FaultCode.FORBIDDEN, "revoked", rule="network.revoked")
        peer = self.peer(world, version)
        step = world.login(peer, ("peap-tls",))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "network.revoked")

    def test_in_small_fragments(self, world: EAPWorld, version: str) -> None:
        peer = self.peer(world, version, fragment=250)
        assert_success(world.login(peer, ("peap-tls",), fragment_size=400), peer)


class TestBinding:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_client_without_it_gets_the_tunnels_keys(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(method=PEAP, inner=inside("eap-mschapv2", binding=False), version=version)
        assert_success(world.login(peer, ("peap",)), peer)

    def test_a_wrong_one_is_refused(self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        def forge(self: Peer, tlv: bytes) -> bytes:
            return tlv[:7] + b"\x01" + bytes(52)

        monkeypatch.setattr(Peer, "_bind", forge)
        peer = world.peer(method=PEAP, inner=inside("gtc"))
        step = world.login(peer, ("peap",))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "eap.peap.binding")

    def test_a_client_that_says_failure_is_not_let_in(
        self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def say_failure(self: Peer, identifier: int, data: bytes) -> bytes:
            return self.respond(identifier, 33, bytes.fromhex("800300020002"))

        monkeypatch.setattr(Peer, "_extensions", say_failure)
        peer = world.peer(method=PEAP, inner=inside("gtc"))
        step = world.login(peer, ("peap",))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "eap.peap.result")


class TestSecondFactor:
    @pytest.mark.parametrize(("method", "name"), [(PEAP, "peap-gtc"), (TTLS, "eap-ttls-eap-gtc")])
    def test_gtc_asks_for_it(self, world: EAPWorld, method: int, name: str) -> None:
        world.core.codes["alice"] = "123456"
        peer = world.peer(method=method, inner=inside("gtc", answers=["123456"]))
        assert_success(world.login(peer, (name,)), peer)
        assert peer.prompts == ["Password: ", "Code: "]

    def test_a_wrong_code_is_refused(self, world: EAPWorld) -> None:
        world.core.codes["alice"] = "123456"
        peer = world.peer(method=PEAP, inner=inside("gtc", answers=["000000"]))
        step = world.login(peer, ("peap",))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "login.code")

    def test_pap_in_ttls_cannot_ask(self, world: EAPWorld) -> None:
        world.core.codes["alice"] = "123456"
        peer = world.peer(method=TTLS, inner=inside("pap"))
        step = world.login(peer, ("eap-ttls",))
        assert (step.outcome, step.fault and step.fault.rule) == ("failure", "eap.prompt")


class TestGTC:
    def login(self, world: EAPWorld, peer: Peer, **changed: Any) -> Any:
        return world.login(peer, ("eap-tls", "eap-gtc"), nas_port_type=15, **changed)

    def test_it_is_agreed_by_nak_and_has_no_keys(self, world: EAPWorld) -> None:
        peer = world.peer(method=GTC, identity=b"alice", password=GOOD)
        step = self.login(world, peer)
        assert (step.outcome, step.keys, step.method) == ("success", None, "eap-gtc")
        assert peer.success

    def test_a_wrong_password(self, world: EAPWorld) -> None:
        peer = world.peer(method=GTC, identity=b"alice", password=BAD)
        assert self.login(world, peer).fault.rule == "login.password"

    def test_a_challenge(self, world: EAPWorld) -> None:
        world.core.codes["alice"] = "123456"
        peer = world.peer(method=GTC, identity=b"alice", password=GOOD, answers=["123456"])
        assert self.login(world, peer).outcome == "success"

    def test_t_04_never_in_the_air(self, world: EAPWorld) -> None:
        peer = world.peer(method=GTC, identity=b"alice", password=GOOD)
        step = world.login(peer, ("eap-tls", "eap-gtc"))
        assert step.fault is not None
        assert step.fault.rule == "eap.no-method"
        assert not world.core.asked

    def test_a_code_that_is_too_long(self, world: EAPWorld) -> None:
        peer = world.peer(method=GTC, identity=b"alice", password="x" * 257)
        assert self.login(world, peer).fault.rule == "eap.gtc.length"


class TestWhatIsAllowed:
    @pytest.mark.parametrize(("method", "inner", "name"), TUNNELS)
    def test_inner_methods_one_by_one(
        self, world: EAPWorld, method: int, inner: str, name: str
    ) -> None:
        others = [other for _, _, other in TUNNELS if other != name]
        others = [other for other in others if (other[:4] == name[:4])]
        peer = world.peer(method=method, inner=inside(inner))
        step = world.login(peer, others)
        assert step.outcome == "failure"
        assert step.fault is not None
        assert step.fault.rule == "eap.no-method"
        assert not world.core.asked

    @pytest.mark.parametrize(("method", "inner", "name"), TUNNELS)
    def test_the_outer_name_allows_all(
        self, world: EAPWorld, method: int, inner: str, name: str
    ) -> None:
        peer = world.peer(method=method, inner=inside(inner))
        outer = "peap" if method == PEAP else "eap-ttls"
        assert_success(world.login(peer, ("eap-tls", outer)), peer)

    def test_every_name_is_known(self) -> None:
        assert set(PEAP_METHODS) | set(TTLS_METHODS) < set(METHODS)
        assert {name for _, _, name in TUNNELS} < set(METHODS)


class TestMisuse:
    def login(self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch, *found: Any) -> Fault:
        def say(self: Peer) -> None:
            self._avps(*found)

        monkeypatch.setattr(Peer, "_say_first", say)
        step = world.login(world.peer(method=TTLS, inner=inside("pap")), ("eap-ttls",))
        assert step.outcome == "failure"
        assert step.fault is not None
        assert not world.core.asked
        return step.fault

    @pytest.mark.parametrize(
        ("found", "rule"),
        [
            ([(0, 1, b"alice")], "eap.avp"),
            ([(0, 2, b"secret")], "eap.avp"),
            ([(0, 1, b"alice"), (0, 1, b"bob"), (0, 2, b"x")], "eap.avp"),
            ([(0, 1, b"alice"), (0, 2, b"x"), (0, 3, b"chap")], "eap.avp"),
            ([(0, 1, b"alice"), (0, 2, b"x"), (99, 1, b"?")], "eap.avp"),
            ([(0, 1, b"\xff"), (0, 2, b"x")], "eap.malformed"),
            ([(0, 1, b"alice"), (0, 2, b"\xff")], "eap.malformed"),
            ([(0, 1, b"a" * 254), (0, 2, b"x")], "eap.avp"),
            ([(0, 79, b"\x02\x00")], "eap.malformed"),
            ([(0, 79, b"\x02\x00\x00\x06\x06x")], "eap.order"),
            ([(0, 1, b"alice"), (311, 25, bytes(50))], "eap.mschapv2.identifier"),
            ([(0, 1, b"alice"), (311, 25, bytes(49))], "eap.malformed"),
        ],
    )
    def test_wrong_avps(
        self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch, found: Any, rule: str
    ) -> None:
        assert self.login(world, monkeypatch, *found).rule == rule

    def test_a_chosen_challenge_is_refused(
        self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [(0, 1, b"alice"), (311, 11, bytes(16)), (311, 25, bytes(50))]
        assert self.login(world, monkeypatch, *found).rule == "eap.mschapv2.identifier"

    def test_our_proof_is_checked_by_the_peer(
        self, world: EAPWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def other(*given: Any) -> Any:
            return "S=" + "0" * 40, None

        monkeypatch.setattr("tmad.protocols.radius.eap.eapmschapv2.check", other)
        with pytest.raises(RefusedError):
            world.login(world.peer(method=TTLS, inner=inside("mschapv2")), ("eap-ttls",))
