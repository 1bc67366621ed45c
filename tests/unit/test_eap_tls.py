"""EAP-TLS against a peer of our own making: RFC 5216, RFC 9190."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.x509 import ocsp
from twisted.internet.defer import Deferred, ensureDeferred

from tests.eap_peer import Peer
from tests.eap_world import HOST, EAPWorld, run
from tests.hierarchy_world import ADMIN
from tests.support import drive
from tmad.ca.service_wishes import eap_scope
from tmad.errors import Fault, FaultCode
from tmad.protocols.ocsp.responder import OCSPResponder
from tmad.protocols.radius.eap.tls import TLSRules
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import changes

VERSIONS = ["1.2", "1.3"]


@pytest.fixture(scope="module")
def shared() -> EAPWorld:
    return EAPWorld()


@pytest.fixture
def world(shared: EAPWorld) -> EAPWorld:
    shared.core.__init__()  # type: ignore[misc]  what one test said must not be another's
    return shared


def assert_success(step: Any, peer: Peer) -> None:
    assert step.fault is None, str(step.fault)
    assert step.outcome == "success"
    assert peer.success is True
    assert step.keys is not None
    assert step.keys.msk == peer.msk
    assert step.keys.session_id == peer.session_id
    assert len(step.keys.msk) == 64
    assert len(step.keys.session_id) == 65


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        (b"TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        (b"TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    ],
    ids=["both", "192-bit", "chacha20"],
)
def test_the_server_chooses_the_cipher(world: EAPWorld, offered: bytes, chosen: str) -> None:
    peer = world.peer(world.client(), version="1.3")
    assert peer.context is not None
    peer.context.set_tls13_ciphersuites(offered)
    assert_success(world.login(peer), peer)
    (login,) = world.core.logins
    assert login.cipher == chosen


@pytest.mark.parametrize("version", VERSIONS)
class TestFullAndResumed:
    def test_both_ends_have_the_same_keys(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(world.client(), version=version)
        step = world.login(peer)
        assert_success(step, peer)
        assert step.admitted.user_name == "CN=laptop"
        assert step.method == "eap-tls"
        (login,) = world.core.logins
        assert (login.version, login.resumed) == (f"TLSv{version}", False)
        assert login.outer_identity == "anonymous"
        assert login.cipher

    def test_the_core_sees_the_verified_chain(self, world: EAPWorld, version: str) -> None:
        identity = world.client()
        world.login(world.peer(identity, version=version))
        assert world.core.chains == [(identity.chain[0], world.issuer.certificate)]

    def test_a_e5_6_a_resumed_login_is_decided_anew(self, world: EAPWorld, version: str) -> None:
        first = world.peer(world.client(), version=version)
        world.login(first)
        second = Peer(first.method, first.context, session=first.remembered())
        step = world.login(second)
        assert_success(step, second)
        assert second.resumed
        assert [login.resumed for login in world.core.logins] == [False, True]
        # The same objects: what was parsed of them stays parsed.
        assert [id(c) for c in world.core.chains[0]] == [id(c) for c in world.core.chains[1]]
        # Identity and start, then one flight, and the commitment in TLS 1.3.
        assert second.rounds == {"1.2": 3, "1.3": 4}[version]
        assert second.msk != first.msk

    def test_a_e7_a_refusal_ends_a_resumed_login(self, world: EAPWorld, version: str) -> None:
        first = world.peer(world.client(), version=version)
        world.login(first)
        world.core.fault = Fault(FaultCode.FORBIDDEN, "revoked", rule="network.revoked")
        second = Peer(first.method, first.context, session=first.remembered())
        step = world.login(second)
        assert second.resumed
        assert (step.outcome, step.fault.rule) == ("failure", "network.revoked")
        assert second.success is False
        assert not second.commitment
        assert step.keys is None

    def test_a_refusal_ends_a_full_login(self, world: EAPWorld, version: str) -> None:
        world.core.fault = Fault(FaultCode.FORBIDDEN, "held", rule="network.held")
        peer = world.peer(world.client(), version=version)
        step = world.login(peer)
        assert (step.outcome, step.fault.rule) == ("failure", "network.held")
        assert not peer.commitment
        # Nobody resumes what was refused.
        world.core.fault = None
        again = Peer(peer.method, peer.context, session=peer.remembered())
        assert_success(world.login(again), again)
        assert not again.resumed

    def test_a_post_quantum_key_exchange_is_only_longer(
        self, world: EAPWorld, version: str
    ) -> None:
        peer = world.peer(world.client(), version=version, groups=b"X25519MLKEM768:P-256")
        assert_success(world.login(peer), peer)

    @pytest.mark.parametrize("fragment", [200, 1000])
    @pytest.mark.parametrize("server", [200, 300, 1002])
    def test_a_e9_fragments(
        self, world: EAPWorld, version: str, fragment: int, server: int
    ) -> None:
        peer = world.peer(world.client(), version=version, fragment=fragment)
        assert_success(world.login(peer, fragment_size=server), peer)

    def test_a_e9_every_message_may_say_its_length(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(world.client(), version=version, include_length=True)
        assert_success(world.login(peer), peer)

    def test_a_e9_the_framed_mtu_is_kept(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(world.client(), version=version)
        assert_success(world.login(peer, framed_mtu=576), peer)

    @pytest.mark.parametrize("identity", [b"", b"@realm.test", b"anonymous@realm.test", b"\xff"])
    def test_e_35_the_outer_identity_is_nothing(
        self, world: EAPWorld, version: str, identity: bytes
    ) -> None:
        peer = world.peer(world.client(), version=version, identity=identity)
        assert_success(world.login(peer), peer)


def test_e_30_the_commitment_comes_in_13_only(world: EAPWorld) -> None:
    new, old = (world.peer(world.client(), version=version) for version in ("1.3", "1.2"))
    world.login(new)
    world.login(old)
    assert new.commitment
    assert not old.commitment
    again = Peer(new.method, new.context, session=new.remembered())
    world.login(again)
    assert again.resumed
    assert again.commitment


class TestKeysOfTheServer:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize(
        "keys", [(KeyAlgorithm.RSA_2048,), (KeyAlgorithm.P256, KeyAlgorithm.RSA_2048)]
    )
    def test_rsa_serves_too(self, version: str, keys: tuple[KeyAlgorithm, ...]) -> None:
        world = EAPWorld(keys=keys)
        peer = world.peer(world.client(algorithm=KeyAlgorithm.RSA_2048), version=version)
        assert_success(world.login(peer), peer)

    def test_a_renewed_certificate_is_shown_at_once(self) -> None:
        world = EAPWorld()
        identity = world.client()
        first = world.peer(identity)
        world.login(first)
        shown = first.tunnel().get_peer_certificate(as_cryptography=True)
        world.ca.clock.advance(days=250)
        drive(world.ca.service_certificates.renew_due())
        second = world.peer(identity)
        step = world.login(second)
        now = second.tunnel().get_peer_certificate(as_cryptography=True)
        # The machine's clock has not moved, the world's has: it is not valid yet, but shown.
        assert step.outcome == "failure"
        assert now is None or now.serial_number != shown.serial_number

    def test_a_login_under_way_ends_with_what_it_began_with(self) -> None:
        world = EAPWorld()
        peer = world.peer(world.client())
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        for _ in range(3):
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        world.trust(*world.trusted.certificates)
        other = world.peer(world.client("other"))
        assert_success(world.login(other), other)
        while (reply := peer.answer(step.eap)) is not None:
            step = drive(conversation.receive(reply))
        assert_success(step, peer)

    def test_a_login_that_is_taken_back_before_the_last_message_fails(self) -> None:
        world = EAPWorld()
        peer = world.peer(world.client())
        conversation = world.converse()
        step = drive(conversation.receive(b""))
        while not world.core.asked:
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        assert step.outcome == "continue"
        world.core.fault = Fault(FaultCode.UNAUTHENTICATED, "revoked", rule="network.revoked")
        while step.outcome == "continue":
            step = drive(conversation.receive(peer.answer(step.eap) or b""))
        assert step.outcome == "failure"
        assert step.fault.rule == "network.revoked"
        assert step.keys is None

    def test_an_anchor_that_is_gone_counts_at_once(self) -> None:
        world = EAPWorld()
        identity = world.client()
        peer = world.peer(identity)
        assert_success(world.login(peer), peer)
        other = world.ca.create("other")
        assert other.certificate is not None
        world.trust(other.certificate)
        again = Peer(peer.method, peer.context, session=peer.remembered())
        step = world.login(again)
        assert step.fault.rule == "network.wrong-authority"

    def test_who_comes_while_new_anchors_are_looked_up_waits_for_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = EAPWorld()
        drive(world.engine.mutual())
        late: list[Deferred[None]] = []
        trusted = world._trust

        async def slowly(tenant: str) -> Any:
            found = await trusted(tenant)
            late.append(Deferred())
            await late[-1]
            return found

        monkeypatch.setattr(world.engine, "_trust", slowly)
        made_of: list[object] = []
        versions = []

        def ask() -> None:
            def note(_: object) -> None:
                made_of.append(world.engine._made_of[0])

            ensureDeferred(world.engine.mutual()).addCallback(note)

        for _ in range(2):
            world.trust(*world.trusted.certificates)
            versions.append(world.trusted.version)
            ask()
            ask()
        assert made_of == []
        while late:
            late.pop().callback(None)
        # The first two were right when they came; the others know of the second change.
        assert len(made_of) == 4
        assert made_of[2:] == [versions[1]] * 2
        assert world.engine._made_of[0] == versions[1]

    def test_a_server_certificate_that_is_revoked_is_followed_by_another_at_once(self) -> None:
        world = EAPWorld()
        drive(world.engine.mutual())
        [before] = world.engine._found
        serial = before.certificate.serial_number
        drive(world.ca.revocation.revoke(ADMIN, "default", before.issuer_id, serial, 1))
        drive(world.engine.mutual())
        [after] = world.engine._found
        assert after.id != before.id

    def test_a_server_certificate_that_is_revoked_is_not_said_to_be_good(self) -> None:
        answers = iter((b"good", b"revoked"))

        async def staple(found: Any) -> bytes:
            return next(answers)

        world = EAPWorld(staple=staple)
        for expected in (b"good", b"revoked"):
            for _ in range(2):
                drive(world.engine.mutual())
                assert list(world.engine._staples.values()) == [expected]
            drive(world.ca.database.write(changes.record, "status", "1:0a"))

    def test_the_certificate_in_use_serves_while_none_can_be_made(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = EAPWorld()
        identity = world.client()
        world.login(world.peer(identity))

        async def away(purpose: str, scope: str) -> Any:
            raise Fault(FaultCode.UNAVAILABLE, "the database is away")

        monkeypatch.setattr(world.ca.service_certificates, "current", away)
        world.trust(*world.trusted.certificates)
        peer = world.peer(identity)
        assert_success(world.login(peer), peer)
        fresh = EAPWorld()
        monkeypatch.setattr(fresh.ca.service_certificates, "current", away)
        step = fresh.login(fresh.peer(identity))
        assert step.fault.code is FaultCode.UNAVAILABLE

    def test_tls_13_can_be_switched_off(self) -> None:
        world = EAPWorld(rules=TLSRules(highest="1.2"))
        peer = world.peer(world.client())
        assert_success(world.login(peer), peer)
        assert world.core.logins[0].version == "TLSv1.2"

    def test_resumption_can_be_switched_off(self) -> None:
        world = EAPWorld(rules=TLSRules(resumption=0))
        for version in VERSIONS:
            first = world.peer(world.client(), version=version)
            world.login(first)
            second = Peer(first.method, first.context, session=first.remembered())
            assert_success(world.login(second), second)
            assert not second.resumed


@pytest.mark.parametrize("version", VERSIONS)
class TestRefusedByTLS:
    def refusal(self, world: EAPWorld, peer: Peer) -> Fault:
        step = world.login(peer)
        assert step.outcome == "failure"
        assert step.fault is not None
        assert peer.success is False
        assert not [asked for asked in world.core.asked if asked[0] == "certificate"]
        return step.fault

    def test_a_e8_no_certificate(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(version=version)
        assert self.refusal(world, peer).rule == "network.no-certificate"
        assert "alert" in peer.alert

    def test_a_e8_another_authority(self, world: EAPWorld, version: str) -> None:
        stranger = EAPWorld()
        fault = self.refusal(world, world.peer(stranger.client("spy"), version=version))
        assert fault.rule == "network.wrong-authority"
        assert fault.values["subject"] == "CN=spy"
        assert "CN=sub" in fault.values["issuer"]

    def test_a_e8_the_alert_names_the_reason(self, world: EAPWorld, version: str) -> None:
        peer = world.peer(EAPWorld().client("spy"), version=version)
        world.login(peer)
        assert "unknown ca" in peer.alert

    def test_a_e8_expired(self, world: EAPWorld, version: str) -> None:
        old = EAPWorld()
        identity = old.expired_client()
        old_peer = old.peer(identity, version=version)
        step = old.login(old_peer)
        assert step.fault.rule == "network.expired"
        assert "certificate expired" in old_peer.alert

    def test_a_e8_another_purpose(self, world: EAPWorld, version: str) -> None:
        leaf = world.client("server", profile="leaf")
        assert self.refusal(world, world.peer(leaf, version=version)).rule == "network.purpose"

    def test_a_e12_the_client_distrusts_us(self, world: EAPWorld, version: str) -> None:
        stranger = EAPWorld()
        peer = world.peer(world.client(), version=version, anchors=(stranger.root,))
        fault = self.refusal(world, peer)
        assert fault.rule == "network.peer-alert"
        assert fault.values["alert"] == "unknown_ca"

    def test_a_version_that_is_off(self, world: EAPWorld, version: str) -> None:
        other = {"1.2": "1.3", "1.3": "1.2"}[version]
        strict = EAPWorld(rules=TLSRules(lowest=other, highest=other))
        step = strict.login(strict.peer(strict.client(), version=version))
        assert step.fault.rule == "eap.tls"


class TestStaple:
    def test_e_32_a_client_that_asks_gets_it(self) -> None:
        seen: list[bytes] = []
        asked: list[Any] = []

        async def staple(found: Any) -> bytes:
            asked.append(found)
            return world.ocsp(found)

        for version in VERSIONS:
            world = EAPWorld(staple=staple)
            peer = world.peer(
                world.client(),
                version=version,
                ask_status=True,
                ask_status_of=lambda octets: bool(seen.append(octets)) or True,
            )
            assert_success(world.login(peer), peer)
            assert seen.pop() == world.ocsp(asked.pop())

    def test_the_responder_provides_it(self) -> None:
        world = EAPWorld()
        ca = world.ca
        found = drive(ca.service_certificates.current("eap", eap_scope("default", HOST)))
        assert drive(ca.service_certificates.staple(found)) is None
        services = SimpleNamespace(
            now=ca.clock,
            changes=ca.changes,
            status=ca.status,
            keyring=ca.keyring,
            hierarchy=ca.hierarchy,
            service_certificates=ca.service_certificates,
        )
        responder = OCSPResponder(cast("Any", services), cache_octets=1 << 20)
        ca.service_certificates.staple_by(responder.staple)
        answer = ocsp.load_der_ocsp_response(drive(ca.service_certificates.staple(found)) or b"")
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
        assert answer.serial_number == found.certificate.serial_number

    def test_one_that_cannot_be_had_keeps_nobody_out(self) -> None:
        async def staple(found: Any) -> bytes:
            raise Fault(FaultCode.UNAVAILABLE, "the responder's key is away")

        world = EAPWorld(staple=staple)
        peer = world.peer(world.client())
        assert_success(world.login(peer), peer)


def test_a_session_of_one_engine_is_nothing_to_another() -> None:
    one, other = EAPWorld(), EAPWorld()
    first = one.peer(one.client())
    one.login(first)
    other.trusted = one.trusted
    second = Peer(first.method, first.context, session=first.remembered())
    step = run(other.converse(), second)
    assert step.outcome == "failure"
    assert not other.core.logins
