"""The rig proves itself: eapol_test and its reader against FreeRADIUS, which nobody here wrote."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.eapol import NAS, Peer, login
from tests.freeradius import FreeRADIUS
from tests.pki import Authority, Identity

pytestmark = pytest.mark.interop

PASSWORD = secrets.token_hex(8)


class Site:
    """An authority, a server with a certificate of it, and a device."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "pki")
        server = self.authority.issue(
            "radius.example.test", uses=(ExtendedKeyUsageOID.SERVER_AUTH,)
        )
        self.device = self.authority.issue("device-1")
        self.server = FreeRADIUS(
            directory / "server", self.authority.path, server,
            secret=secrets.token_hex(16), users={"bob": PASSWORD},
        )  # fmt: skip
        self.nas = NAS(port=self.server.port, secret=self.server.secret)

    def peer(self, identity: Identity | None = None, **values: object) -> Peer:
        device = identity or self.device
        settings: dict[str, object] = {
            "identity": "device-1",
            "authority": self.authority.path,
            "certificate": device.path,
            "key": device.key,
            **values,
        }
        return Peer(**settings)  # type: ignore[arg-type]  # the test names them


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Site]:
    require_client("eapol_test")
    require_client(FreeRADIUS.program)
    made = Site(tmp_path_factory.mktemp("site"))
    made.server.start()
    yield made
    made.server.stop()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_full_and_resumed_logins_are_told_apart(site, version) -> None:
    outcome = login(site.nas, site.peer(tls=version), again=1)
    outcome.check(2, resumed=1)
    assert outcome.key_names_matched == 2
    assert outcome.versions == (version,) * 2
    assert outcome.commitments == (2 if version == "1.3" else 0)
    assert outcome.rounds[1] < outcome.rounds[0]
    full = login(site.nas, site.peer(tls=version), again=1, resume=False)
    full.check(2, resumed=0)


def test_the_attributes_of_replies_are_read(site) -> None:
    outcome = login(site.nas, site.peer())
    accept = outcome.final
    assert accept.code == 2
    assert accept.first(1) == b"device-1"
    assert [value[:6].hex() for value in accept.all(26)] == ["000001371134", "000001371034"]
    assert (accept.first(79) or b"")[:1] == b"\x03"
    assert len(accept.first(102) or b"") == 65
    assert len(outcome.replies) == outcome.rounds[0]


def test_fragments_and_lengths(site) -> None:
    large = site.authority.issue("device-2", padding=3000)
    outcome = login(
        site.nas, site.peer(large, fragment_size=200, include_length=True), again=1, resume=False
    )
    outcome.check(2)
    assert outcome.rounds[0] > 15


def test_refusals_by_either_side(site, tmp_path) -> None:
    # FreeRADIUS ends a handshake without its alert, so only the device's is seen here.
    alien = Authority(tmp_path / "alien", "Alien CA")
    refused = login(site.nas, site.peer(alien.issue("device-1"), tls="1.3"))
    refused.check_refused()
    mistrusted = login(site.nas, site.peer(authority=alien.path))
    assert not mistrusted.accepted
    assert mistrusted.alerts_sent == ("unknown CA",)


def test_something_happens_between_two_logins(site) -> None:
    seen: list[str] = []
    outcome = login(
        site.nas, site.peer(), again=1, between=lambda: seen.append("between"), resume=False
    )
    outcome.check(2)
    assert seen == ["between"]


def test_a_server_that_goes_away_between_two_logins_is_a_time_out(site, tmp_path) -> None:
    other = Site(tmp_path)
    other.server.start()
    try:
        nas = NAS(port=other.nas.port, secret=other.nas.secret, timeout=3)
        outcome = login(nas, other.peer(), again=1, between=other.server.stop)
    finally:
        other.server.stop()
    assert (outcome.accepted, outcome.logins, outcome.timed_out) == (False, 1, True)


@pytest.mark.parametrize(
    ("eap", "inner"),
    [
        ("TTLS", "auth=PAP"),
        ("TTLS", "autheap=GTC"),
        ("PEAP", "auth=MSCHAPV2"),
        ("PEAP", "auth=GTC"),
    ],
)
def test_passwords_in_a_tunnel(site, eap, inner) -> None:
    peer = Peer(
        identity="bob", anonymous="anonymous@example.test", eap=eap, inner=inner, tls="1.2",
        password=PASSWORD, authority=site.authority.path, server_name="radius.example.test",
    )  # fmt: skip
    login(site.nas, peer).check()
    wrong = Peer(
        identity="bob", eap=eap, inner=inner, password="-", authority=site.authority.path,
        tls="1.2",
    )  # fmt: skip
    assert not login(site.nas, wrong).accepted


def test_a_method_without_keys_and_attributes_of_the_access_point(site) -> None:
    nas = NAS(
        port=site.nas.port, secret=site.nas.secret, station="02:aa:bb:cc:dd:ee", framed_mtu=576,
        attributes=((30, "00-11-22-33-44-55:office"), (32, "ap-1"), (87, None)),
    )  # fmt: skip
    peer = Peer(identity="bob", eap="GTC", password=PASSWORD)
    outcome = login(nas, peer, keys=False)
    outcome.check(keys=False)
    assert "'02-AA-BB-CC-DD-EE'" in outcome.transcript
    assert "'00-11-22-33-44-55:office'" in outcome.transcript
    assert "Framed-MTU) length=6\n      Value: 576" in outcome.transcript
