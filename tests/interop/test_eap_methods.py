"""Every EAP method against wpa_supplicant, with the keys of both sides compared (A-E1..14)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.eapol import Outcome, Peer, TLSVersion, login
from tests.pki import Identity
from tests.radius import RadiusNode

pytestmark = pytest.mark.interop

PASSWORD, WRONG = "correct horse", "battery staple"
VERSIONS: list[TLSVersion] = ["1.2", "1.3"]
ALL = ("eap-tls", "eap-ttls", "peap", "eap-gtc")


@pytest.fixture(scope="module", autouse=True)
def _program(require_client: Any) -> None:
    require_client("eapol_test")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadiusNode]:
    daemon = Daemon(tmp_path_factory.mktemp("p256"), radius="reject_delay = 0").start()
    yield prepared(daemon)
    daemon.kill()


@pytest.fixture(scope="module")
def rsa_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadiusNode]:
    radius = 'reject_delay = 0\nserver_keys = ["rsa-2048"]'
    daemon = Daemon(tmp_path_factory.mktemp("rsa"), radius=radius).start()
    yield prepared(daemon)
    daemon.kill()


def prepared(daemon: Daemon) -> RadiusNode:
    """Allow every method, make alice known."""
    node = RadiusNode(daemon)
    daemon.tmad("radius-client", "set", "lab", f"methods={list(ALL)}")
    daemon.tmad("user", "create", "alice", "--allow-mschap", "--password-file", "-", text=PASSWORD)
    return node


@pytest.fixture(scope="module")
def device(node: RadiusNode) -> Identity:
    return node.issue("laptop.example.test")


def person(node: RadiusNode, eap: str, inner: str = "", **changed: Any) -> Peer:
    values: dict[str, Any] = {
        "identity": "alice",
        "anonymous": "anonymous@example.test",
        "eap": eap,
        "inner": inner,
        "password": PASSWORD,
        "authority": node.authority,
    }
    return Peer(**(values | changed))


@pytest.mark.parametrize("version", VERSIONS)
class TestEAPTLS:
    def test_a_e1_5_full_and_resumed(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        outcome = login(node.nas(), node.peer(device, tls=version), again=2)
        outcome.check(3, resumed=2)
        assert outcome.key_names_matched == 3
        assert outcome.versions == (version,) * 3
        # A-E13: the commitment, in TLS 1.3 and at each login.
        assert outcome.commitments == (3 if version == "1.3" else 0)
        assert outcome.rounds[0] <= 6
        assert outcome.rounds[1:] == ((3, 3) if version == "1.2" else (4, 4))

    def test_a_e2_4_rsa(self, rsa_node: RadiusNode, version: TLSVersion) -> None:
        device = rsa_node.issue(f"rsa{version[-1]}.example.test", kind="rsa-2048")
        outcome = login(rsa_node.nas(), rsa_node.peer(device, tls=version), again=1)
        outcome.check(2, resumed=1)
        assert outcome.key_names_matched == 2

    def test_without_resumption(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        outcome = login(node.nas(), node.peer(device, tls=version), again=1, resume=False)
        outcome.check(2, resumed=0)

    @pytest.mark.parametrize("identity", ["@example.test", "anonymous@example.test"])
    def test_e_35_identity_privacy(
        self, node: RadiusNode, device: Identity, version: TLSVersion, identity: str
    ) -> None:
        outcome = login(node.nas(), node.peer(device, tls=version, identity=identity))
        outcome.check()
        assert b"laptop.example.test" in (outcome.final.first(1) or b"")

    def test_a_e9_small_fragments_of_the_client(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        login(node.nas(), node.peer(device, tls=version, fragment_size=200)).check()

    def test_a_e9_a_small_framed_mtu(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        outcome = login(node.nas(framed_mtu=576), node.peer(device, tls=version))
        outcome.check()
        for reply in outcome.replies:
            assert sum(len(piece) for piece in reply.all(79)) <= 572

    def test_a_e9_a_length_in_every_message(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        login(node.nas(), node.peer(device, tls=version, include_length=True)).check()

    def test_the_server_has_the_name_that_is_looked_for(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        wrong = node.peer(device, tls=version, server_name="other.example.test")
        login(node.nas(), wrong).check_refused()

    def test_a_e12_a_client_that_distrusts_us(
        self, node: RadiusNode, rsa_node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        peer = node.peer(device, tls=version, authority=rsa_node.authority)
        outcome = login(node.nas(), peer)
        outcome.check_refused()
        assert refused(node) == "network.peer-alert"

    def test_a_e8_a_certificate_of_another_authority(
        self, node: RadiusNode, rsa_node: RadiusNode, version: TLSVersion
    ) -> None:
        stranger = rsa_node.issue(f"stranger{version[-1]}.example.test")
        outcome = login(node.nas(), node.peer(stranger, tls=version))
        outcome.check_refused()
        assert "unknown CA" in " ".join(outcome.alerts_received)
        assert refused(node) == "network.wrong-authority"


def refused(node: RadiusNode) -> str:
    """Return the rule that refused the latest login."""
    events = node.daemon.json("audit", "tail", "-n", "50")
    found = [event for event in events if event["kind"] in ("network.refused", "request.refused")]
    return str(json.loads(found[-1]["data"])["rule"])


TUNNELS = [
    ("TTLS", "auth=PAP"),
    ("TTLS", "auth=MSCHAPV2"),
    ("TTLS", "autheap=GTC"),
    ("TTLS", "autheap=MSCHAPV2"),
    ("PEAP", "auth=GTC"),
    ("PEAP", "auth=MSCHAPV2"),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("eap", "inner"), TUNNELS)
class TestTunnels:
    def test_a_e14_twice_and_never_resumed(
        self, node: RadiusNode, eap: str, inner: str, version: TLSVersion
    ) -> None:
        outcome = login(node.nas(), person(node, eap, inner, tls=version), again=1)
        outcome.check(2, resumed=0)
        assert outcome.key_names_matched == 2
        assert outcome.final.first(1) == b"alice"

    def test_a_wrong_password(
        self, node: RadiusNode, eap: str, inner: str, version: TLSVersion
    ) -> None:
        peer = person(node, eap, inner, tls=version, identity="mallory", password=WRONG)
        login(node.nas(station=station(eap, inner, version)), peer).check_refused()

    def test_small_fragments(
        self, node: RadiusNode, eap: str, inner: str, version: TLSVersion
    ) -> None:
        peer = person(node, eap, inner, tls=version, fragment_size=200)
        login(node.nas(framed_mtu=400), peer).check()


def station(*of: str) -> str:
    """Return an address of its own for failures, which count together."""
    number = sum("".join(of).encode())
    return f"02:00:00:01:{number >> 8:02x}:{number & 0xFF:02x}"


@pytest.mark.parametrize("version", VERSIONS)
class TestPEAP:
    def test_a_certificate_inside(
        self, node: RadiusNode, device: Identity, version: TLSVersion
    ) -> None:
        peer = person(
            node,
            "PEAP",
            "auth=TLS",
            tls=version,
            identity="laptop.example.test",
            inner_authority=node.authority,
            inner_certificate=device.path,
            inner_key=device.key,
        )
        # The tunnel is made anew, and EAP-TLS inside it resumes: that is decided like any other.
        login(node.nas(), peer, again=1).check(2, resumed=1)

    @pytest.mark.parametrize("binding", ["0", "1", "2"])
    @pytest.mark.parametrize("inner", ["auth=MSCHAPV2", "auth=GTC"])
    def test_crypto_binding_off_on_and_required(
        self, node: RadiusNode, binding: str, inner: str, version: TLSVersion
    ) -> None:
        peer = person(node, "PEAP", inner, tls=version, phase1=f"crypto_binding={binding}")
        login(node.nas(), peer).check()


class TestNegotiation:
    def test_e_06_gtc_after_a_nak(self, node: RadiusNode) -> None:
        nas = node.nas(attributes=((61, 15),), wants_key_name=False)
        outcome = login(nas, person(node, "GTC", anonymous=""), keys=False)
        outcome.check(keys=False)

    def test_t_04_no_gtc_in_the_air(self, node: RadiusNode) -> None:
        nas = node.nas(attributes=((61, 19),), wants_key_name=False)
        login(nas, person(node, "GTC", anonymous=""), keys=False).check_refused()

    def test_e_06_a_nak_to_something_else(self, node: RadiusNode) -> None:
        outcome: Outcome = login(node.nas(), person(node, "MD5", anonymous=""), keys=False)
        outcome.check_refused()
        assert refused(node) == "eap.no-method"


def test_a_e9_small_fragments_of_the_server(node: RadiusNode, device: Identity) -> None:
    node.daemon.tmad("radius-client", "set", "lab", "fragment_size=300")
    try:
        for version in VERSIONS:
            login(node.nas(), node.peer(device, tls=version)).check()
    finally:
        node.daemon.tmad("radius-client", "set", "lab", "fragment_size=")


def test_e_32_the_server_staples_an_ocsp_answer(node: RadiusNode, device: Identity) -> None:
    for version in VERSIONS:
        login(node.nas(), node.peer(device, tls=version, ask_staple=True)).check()
