"""Logins that wpa_supplicant tries and our database decides (A-E7, A-E8, A-R6; the issue's 3)."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.daemon import Daemon
from tests.eapol import Outcome, TLSVersion, login
from tests.pki import Authority, Identity
from tests.radius import RadiusNode

pytestmark = pytest.mark.interop

POLICY = """
[tenant.default.radius-policy.staff]
order = 10
[[tenant.default.radius-policy.staff.rules]]
name = "engineers-vpn"
when = { groups = ["engineering"], methods = ["pap"] }
reply = { vlan = "42", acl = "staff", attributes = { Cisco-AVPair = "shell:roles={person}" } }
[[tenant.default.radius-policy.staff.rules]]
name = "engineers"
when = { groups = ["engineering"] }
reply = { vlan = "42", acl = "staff", session_timeout = 3600, attributes = { \
Cisco-AVPair = ["shell:roles={person}", "subject={subject.CN}"], Aruba-User-Role = "nobody" } }
[[tenant.default.radius-policy.staff.rules]]
name = "clients"
when = { profiles = ["wifi-client", "user"] }
[[tenant.default.radius-policy.staff.rules]]
name = "partners"
when = { anchors = ["partner"] }
reply = { vlan = "guests" }
"""
STATIONS = itertools.count(1)
VERSIONS: list[TLSVersion] = ["1.2", "1.3"]


@pytest.fixture(scope="module", autouse=True)
def _program(require_client: Any) -> None:
    require_client("eapol_test")
    require_client("radclient")


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("partner"), "Partner CA")


class Shelf:
    """A real HTTP server with the partner's CRL."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self._directory = directory
        self._authority = authority
        handler = functools.partial(Quiet, directory=str(directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/partner.crl"
        self._since = datetime.now(UTC) - timedelta(hours=1)

    def publish(self, *revoked: int, ends: timedelta = timedelta(days=1)) -> None:
        """Publish a CRL, newer than the last one, with these serial numbers."""
        self._since += timedelta(minutes=1)
        crl = self._authority.crl(revoked, begins=self._since, ends=self._since + ends)
        (self._directory / "partner.crl").write_bytes(crl)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, partner: Authority) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"), partner)
    yield shelf
    shelf.close()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, partner: Authority, shelf: Shelf
) -> Iterator[RadiusNode]:
    daemon = Daemon(tmp_path_factory.mktemp("node"), radius="reject_delay = 0").start()
    shelf.publish()
    daemon.tmad("trust-anchor", "add", "partner", str(partner.path), "--crl-url", shelf.url)
    node = RadiusNode(daemon, policy=POLICY)
    daemon.tmad("radius-client", "set", "lab", "vendor=cisco", 'methods=["eap-tls", "pap"]')
    yield node
    daemon.kill()


def station() -> str:
    """Return an address that no other test has: refusals of one station share explain ids."""
    return f"02:00:00:00:{next(STATIONS):02x}:01"


def refusal(node: RadiusNode) -> dict[str, Any]:
    """Return what `tmad explain` says about the latest refusal."""
    events = node.daemon.json("audit", "tail", "-n", "50")
    newest = [event for event in events if event["kind"] == "network.refused"][-1]
    explained: dict[str, Any] = node.daemon.json("explain", newest["trace"])
    return explained


def refused(node: RadiusNode, device: Identity, **nas: Any) -> dict[str, Any]:
    """Log in, be refused with EAP-Failure and nothing else of use; return the explanation."""
    outcome = login(node.nas(**({"station": station()} | nas)), node.peer(device))
    outcome.check_refused()
    # R-62: no VLAN, no keys.
    assert {kind for kind, _ in outcome.final.attributes} <= {18, 33, 79, 80}
    return refusal(node)


def accepted(node: RadiusNode, device: Identity, **nas: Any) -> Outcome:
    outcome = login(node.nas(**({"station": station()} | nas)), node.peer(device))
    outcome.check(1)
    return outcome


# -- A-E7: between two logins ---------------------------------------------------------------------


def revoke(node: RadiusNode, device: Identity) -> None:
    node.daemon.tmad("cert", "revoke", device.serial)


def hold(node: RadiusNode, device: Identity) -> None:
    node.daemon.tmad("cert", "hold", device.serial)


def disable(node: RadiusNode, device: Identity) -> None:
    node.daemon.tmad("user", "disable", device.path.stem)


def block(node: RadiusNode, device: Identity) -> None:
    node.daemon.tmad("device", "block", device.path.stem)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [(revoke, "REVOKED"), (hold, "HOLD"), (disable, "OWNER_DISABLED"), (block, "OWNER_DISABLED")],
)
def test_a_e7_what_changes_between_two_logins_holds_for_the_resumed_one(
    node: RadiusNode,
    version: TLSVersion,
    change: Callable[[RadiusNode, Identity], None],
    reason: str,
) -> None:
    name = f"{change.__name__}-{version[-1]}.example.test"
    device = node.issue(name)
    node.daemon.tmad("user", "create", name)
    node.daemon.tmad("device", "create", name)
    outcome = login(
        node.nas(station=station(), timeout=30),
        node.peer(device, tls=version),
        again=1,
        between=lambda: change(node, device),
    )
    outcome.check_refused()
    assert (outcome.logins, outcome.rejects) == (1, 1)
    explained = refusal(node)
    assert explained["reason"] == reason
    assert explained["resumed"] is True
    assert explained["serial"].lstrip("0") == device.serial
    assert explained["tls"].endswith(version)


# -- A-E8: at the first login ----------------------------------------------------------------------


def test_a_e8_revoked(node: RadiusNode) -> None:
    device = node.issue("lost.example.test")
    revoke(node, device)
    explained = refused(node, device)
    assert (explained["rule"], explained["reason"]) == ("network.revoked", "REVOKED")
    assert explained["values"]["since"]


def test_held_and_released(node: RadiusNode) -> None:
    device = node.issue("held.example.test")
    hold(node, device)
    assert refused(node, device)["rule"] == "network.held"
    node.daemon.tmad("cert", "release", device.serial)
    accepted(node, device)


def test_a_e8_an_unknown_authority(node: RadiusNode, tmp_path: Path) -> None:
    alien = Authority(tmp_path, "Alien CA").issue("alien.example.test")
    outcome = login(node.nas(station=station()), node.peer(alien))
    outcome.check_refused()
    assert outcome.alerts_received == ("unknown CA",)
    assert refusal(node)["reason"] == "WRONG_CA"


def test_a_e8_expired(node: RadiusNode, partner: Authority) -> None:
    device = partner.issue("expired.test", begins=timedelta(days=-9), ends=timedelta(days=-1))
    outcome = login(node.nas(station=station()), node.peer(device))
    outcome.check_refused()
    assert refusal(node)["reason"] == "EXPIRED"


def test_a_e8_not_yet_valid(node: RadiusNode, partner: Authority) -> None:
    device = partner.issue("early.test", begins=timedelta(days=1))
    outcome = login(node.nas(station=station()), node.peer(device))
    outcome.check_refused()
    assert refusal(node)["reason"] == "NOT_YET_VALID"


def test_a_e8_for_another_purpose(node: RadiusNode, partner: Authority) -> None:
    server = (ExtendedKeyUsageOID.SERVER_AUTH,)
    for device in (
        node.issue("www.example.test", profile="tls-server"),
        partner.issue("server.test", uses=server),
    ):
        outcome = login(node.nas(station=station()), node.peer(device))
        outcome.check_refused()
        assert refusal(node)["reason"] == "EKU"


def test_a_profile_that_no_rule_lists(node: RadiusNode) -> None:
    device = node.issue("service.example.test", profile="tls-client")
    explained = refused(node, device)
    assert explained["rule"] in ("network.policy", "network.profile")
    assert "profiles: wants wifi-client, user, got tls-client" in str(explained["values"])


def test_another_tenants_certificate(node: RadiusNode) -> None:
    daemon = node.daemon
    daemon.tmad("tenant", "create", "other")
    daemon.tmad("--tenant", "other", "profile", "preset", "--all")
    for arguments in (
        ("root2", "--subject", "CN=Other Root"),
        ("sub2", "--parent", "root2", "--subject", "CN=Other CA"),
    ):
        daemon.tmad("--tenant", "other", "ca", "create", *arguments)
    home = daemon.directory / "other"
    daemon.tmad(
        "--tenant", "other", "cert", "issue", "spy.example.test", "--ca", "sub2",
        "--profile", "wifi-client", "--out", str(home),
    )  # fmt: skip
    path = home / "spy.example.test.crt"
    spy = Identity(
        x509.load_pem_x509_certificate(path.read_bytes()),
        path,
        home / "spy.example.test.key",
        home / "spy.example.test.chain.pem",
    )
    outcome = login(node.nas(station=station()), node.peer(spy))
    outcome.check_refused()
    assert refusal(node)["reason"] == "WRONG_CA"


# -- people and devices ----------------------------------------------------------------------------


def test_a_disabled_owner_and_enabled_again(node: RadiusNode) -> None:
    device = node.issue("carol", profile="user")
    node.daemon.tmad("user", "create", "carol")
    accepted(node, device)
    node.daemon.tmad("user", "disable", "carol")
    explained = refused(node, device)
    assert (explained["rule"], explained["values"]["person"]) == ("network.owner-disabled", "carol")
    node.daemon.tmad("user", "enable", "carol")
    accepted(node, device)


def test_a_blocked_device_by_its_mac_address(node: RadiusNode) -> None:
    device = node.issue("tablet.example.test")
    mac = station()
    accepted(node, device, station=mac)
    node.daemon.tmad("device", "create", "stolen", "--mac", mac)
    node.daemon.tmad("device", "block", "stolen")
    assert refused(node, device, station=mac)["values"]["known_by"] == "its MAC address"
    node.daemon.tmad("device", "unblock", "stolen")
    accepted(node, device, station=mac)


# -- what an answer holds --------------------------------------------------------------------------


def vendor_attributes(outcome: Outcome) -> dict[tuple[int, int], list[bytes]]:
    found: dict[tuple[int, int], list[bytes]] = {}
    for value in outcome.final.all(26):
        found.setdefault((int.from_bytes(value[:4]), value[4]), []).append(value[6:])
    return found


def test_a_r6_vlan_and_vendor_attributes_for_eap(node: RadiusNode) -> None:
    node.daemon.tmad("user", "create", "dave", "--group", "engineering")
    device = node.issue("dave", profile="user")
    outcome = login(node.nas(station=station()), node.peer(device, anonymous="mallory@evil.test"))
    outcome.check(1)
    final = outcome.final
    assert final.first(64) == b"\x00\x00\x00\x0d"  # Tunnel-Type: VLAN
    assert final.first(65) == b"\x00\x00\x00\x06"  # Tunnel-Medium-Type: IEEE-802
    assert final.first(81) == b"42"  # without a tag octet
    assert final.first(27) == (3600).to_bytes(4)
    assert final.first(29) == (1).to_bytes(4)  # Termination-Action: RADIUS-Request
    assert final.first(1) == b"dave"  # never what the client called itself
    assert len(final.first(25) or b"") == 26  # Class: the session
    vendor = vendor_attributes(outcome)
    assert vendor[9, 1] == [b"shell:roles=dave", b"subject=dave"]
    assert (14823, 1) not in vendor  # Aruba's is for Aruba's


def test_a_r6_radclient_decodes_the_vlan(node: RadiusNode) -> None:
    node.daemon.tmad(
        "user", "create", "erin", "--group", "engineering", "--password-file", "-",
        text="correct horse",
    )  # fmt: skip
    done = subprocess.run(
        [shutil.which("radclient") or "radclient", "-x", "-r", "1", "-t", "5",
         f"127.0.0.1:{node.daemon.radius_port}", "auth", node.secret],
        input='User-Name = "erin", User-Password = "correct horse", Message-Authenticator = 0x00',
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "Received Access-Accept" in done.stdout, done.stdout + done.stderr
    assert "Tunnel-Type:0 = VLAN" in done.stdout
    assert "Tunnel-Medium-Type:0 = IEEE-802" in done.stdout
    assert 'Tunnel-Private-Group-Id:0 = "42"' in done.stdout
    assert 'Filter-Id = "staff"' in done.stdout
    assert 'Cisco-AVPair = "shell:roles=erin"' in done.stdout
    assert "Aruba" not in done.stdout


def test_the_session_never_outlives_the_certificate(node: RadiusNode) -> None:
    node.daemon.tmad("profile", "set", "wifi-client", "validity.min=1h", expect=None)
    home = node.daemon.directory / "short"
    node.daemon.tmad(
        "cert", "issue", "short.example.test", "--profile", "wifi-client", "--lifetime", "1d",
        "--out", str(home),
    )  # fmt: skip
    path = home / "short.example.test.crt"
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    device = Identity(certificate, path, home / "short.example.test.key", path)
    final = accepted(node, device).final
    left = (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()
    assert left - 60 < int.from_bytes(final.first(27) or b"") <= left + 2


# -- somebody else's certificates ------------------------------------------------------------------


def test_a_foreign_certificate_is_as_good_as_its_crl(
    node: RadiusNode, partner: Authority, shelf: Shelf
) -> None:
    device = partner.issue("guest.partner.test")
    shelf.publish()
    node.daemon.tmad("trust-anchor", "refresh", "partner")
    assert accepted(node, device).final.first(81) == b"guests"
    shelf.publish(device.certificate.serial_number)
    node.daemon.tmad("trust-anchor", "refresh", "partner")
    explained = refused(node, device)
    assert (explained["rule"], explained["values"]["trust-anchor"]) == (
        "network.revoked",
        "partner",
    )


def test_a_stale_crl_refuses_until_it_is_fetched(
    node: RadiusNode, partner: Authority, shelf: Shelf
) -> None:
    device = partner.issue("visitor.partner.test")
    shelf.publish(ends=timedelta(minutes=1))
    node.daemon.tmad("trust-anchor", "refresh", "partner")
    assert refused(node, device)["rule"] == "network.crl-stale"
    node.daemon.tmad("trust-anchor", "set", "partner", "revocation=soft")
    accepted(node, device)
    node.daemon.tmad("trust-anchor", "set", "partner", "revocation=required")
    shelf.publish()
    node.daemon.tmad("trust-anchor", "refresh", "partner")
    accepted(node, device)


# -- several workers -------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_two_workers_see_a_revocation_at_once(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "two", workers=2, radius="reject_delay = 0").start()
    try:
        node = RadiusNode(daemon)
        device = node.issue("laptop.example.test")
        # Other source ports each time, so other workers.
        for _ in range(8):
            accepted(node, device)
        revoke(node, device)
        for _ in range(8):
            login(node.nas(station=station()), node.peer(device)).check_refused()
        events = daemon.json("audit", "tail", "-n", "200")
        decided = [event for event in events if event["kind"].startswith("network.")]
        assert [event["kind"] for event in decided].count("network.admitted") == 8
        refusals = [json.loads(e["data"]) for e in decided if e["kind"] == "network.refused"]
        assert [each["rule"] for each in refusals] == ["network.revoked"] * 8
        answered = [_answered(daemon.ops_port + number) for number in (0, 1)]
        assert all(answered), answered
    finally:
        daemon.kill()


def _answered(port: int) -> float:
    """Return how many RADIUS packets a worker has counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("tmad_requests") and "radius" in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)
