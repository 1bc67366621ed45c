"""A-R10: a switch port that our answer opened closes when its certificate is no longer good.

hostapd is the switch, wpa_supplicant the device: programs of Debian's, over a veth pair.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cable import may_make_namespaces
from tests.daemon import Daemon
from tests.pki import Identity
from tests.radius import RadiusNode
from tests.wired import WiredPort

SECONDS = 5.0  # from the command to the closed port


class Site:
    """A node of two workers and its switch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemon = Daemon(directory / "node", workers=2, radius="reject_delay = 0")
        self.node = RadiusNode(self.daemon)
        self.daemon.start()
        self._count = 0

    def device(self) -> Identity:
        """Return a device with a new certificate."""
        self._count += 1
        return self.node.issue(f"laptop{self._count}.example.test")

    def port(self, device: Identity) -> WiredPort:
        """Return a port with this device in it; its switch takes our orders."""
        port = WiredPort(
            self.directory / device.path.stem,
            self.node.peer(device),
            auth_port=self.daemon.radius_port,
            accounting_port=self.daemon.radius_acct_port,
            secret=self.node.secret,
        )
        self.daemon.tmad("radius-client", "set", "lab", f"coa.port={port.das_port}")
        return port

    def session(self, port: WiredPort) -> str:
        """Return the session of the device in a port, once the switch has told of it."""
        deadline = time.monotonic() + 10
        while True:
            found = self.daemon.json("session", "list", "--station", port.station)
            if [each["state"] for each in found] == ["open"]:
                return str(found[0]["id"])
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def journal(self) -> str:
        return self.daemon.tmad("audit", "tail", "--limit", "200").stdout


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Site]:
    for program in ("hostapd", "hostapd_cli", "wpa_supplicant", "wpa_cli", "ip"):
        require_client(program)
    if not may_make_namespaces():
        if os.environ.get("TMAD_REQUIRE_CLIENTS"):
            pytest.fail("a network namespace needs root")
        pytest.skip("a network namespace needs root")
    made = Site(tmp_path_factory.mktemp("wired"))
    yield made
    made.daemon.kill()


def refused(port: WiredPort) -> None:
    """See that the device tries again and does not get in."""
    before = port.log("device").count("CTRL-EVENT-EAP-FAILURE")
    port.log_in_again()
    deadline = time.monotonic() + 10
    while port.log("device").count("CTRL-EVENT-EAP-FAILURE") == before:
        assert time.monotonic() < deadline, port.log("device")[-2000:]
        time.sleep(0.05)
    assert not port.is_open


def test_a_r10_a_revoked_certificate_loses_its_port_and_stays_out(site: Site) -> None:
    device = site.device()
    with site.port(device) as port:
        port.wait_open()
        session = site.session(port)
        begin = time.monotonic()
        site.daemon.tmad("cert", "revoke", device.serial)
        port.wait_closed(SECONDS - (time.monotonic() - begin))
        assert "RADIUS DAS: Found a matching session" in port.log("switch")
        refused(port)
        shown = site.daemon.json("session", "show", session)
        assert (shown["state"], shown["cause"]) == ("closed", "disconnected")
        [tried] = shown["disconnects"]
        assert (tried["reason"], tried["outcome"]) == ("certificate-revoked", "acknowledged")
        assert port.log("switch").count("RADIUS DAS: Found a matching session") == 1
        journal = site.journal()
        assert "network.disconnected" in journal
        assert "network.revoked" in journal


def test_a_hold_closes_the_port_and_a_release_lets_the_device_back(site: Site) -> None:
    device = site.device()
    with site.port(device) as port:
        port.wait_open()
        site.session(port)
        site.daemon.tmad("cert", "hold", device.serial)
        port.wait_closed(SECONDS)
        port.wait_forgotten()
        site.daemon.tmad("cert", "release", device.serial)
        port.log_in_again()
        port.wait_open()


def test_the_command_ends_a_session_and_the_device_may_come_back(site: Site) -> None:
    device = site.device()
    with site.port(device) as port:
        port.wait_open()
        first = site.session(port)
        site.daemon.tmad("session", "disconnect", first)
        port.wait_closed(SECONDS)
        port.wait_forgotten()
        port.log_in_again()
        port.wait_open()
        assert site.session(port) != first


def test_a_r10_a_switch_that_does_not_hear_is_told_when_it_does(site: Site) -> None:
    device = site.device()
    with site.port(device) as port:
        port.wait_open()
        session = site.session(port)
        port.pause_switch()
        site.daemon.tmad("cert", "revoke", device.serial)
        deadline = time.monotonic() + 20
        while "network.disconnect-failed" not in site.journal():
            assert time.monotonic() < deadline, site.journal()
            time.sleep(0.5)
        port.resume_switch()
        # What had waited in its socket is answered now, three times to the same request.
        port.wait_closed(20)
        deadline = time.monotonic() + 20
        while site.daemon.json("session", "show", session)["state"] != "closed":
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_session_of_before_a_crash_is_ended_after_it(site: Site) -> None:
    device = site.device()
    with site.port(device) as port:
        port.wait_open()
        site.session(port)
        # The revocation is committed while nobody is there to act upon it.
        site.daemon.kill()
        site.daemon.tmad("cert", "revoke", device.serial)
        site.daemon.start()
        port.wait_closed(30)
