"""A VPN gateway in front: strongSwan asks, opens and closes its tunnels as tmad says.

Gateway and device are Debian's charon (tests/vpn.py); EAP-TLS goes through IKEv2 and RADIUS.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.cable import may_make_namespaces
from tests.daemon import Daemon
from tests.pki import Identity
from tests.radius import RadiusNode
from tests.vpn import GATEWAY, INSIDE, NAS_IDENTIFIER, VPN, Server

pytestmark = pytest.mark.interop

UNPACKED = Path(os.environ.get("TMAD_UNPACKED", Path.home() / ".cache" / "tmad-tests"))
SECONDS = 5.0  # from the command to the closed tunnel
POLICY = """
[tenant.default.radius-policy.default]
order = 1000

[[tenant.default.radius-policy.default.rules]]
name = "vpn"
when = { port_types = ["virtual"] }
reply = { session_timeout = 3600 }
"""


def _identity(path: Path) -> Identity:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return Identity(certificate, path, path.with_suffix(".key"), path.with_suffix(".chain.pem"))


class Site:
    """A node and its gateway."""

    def __init__(self, directory: Path, charon: Path) -> None:
        self.directory = directory
        self.daemon = Daemon(directory / "node", workers=2, radius="reject_delay = 0")
        self.node = RadiusNode(self.daemon, policy=POLICY)
        self.daemon.start()
        self._charon = charon
        self._count = 0
        self.daemon.tmad(
            "cert", "issue", GATEWAY, "--profile", "tls-server", "--san", f"dns:{GATEWAY}",
            "--out", str(directory),
        )  # fmt: skip
        self.gateway = _identity(directory / f"{GATEWAY}.crt")

    def device(self) -> Identity:
        """Return a device with a new certificate."""
        self._count += 1
        return self.node.issue(f"laptop{self._count}.example.test")

    def person(self, name: str) -> Identity:
        """Return somebody's certificate for an address of theirs."""
        address = f"{name}@example.test"
        self.daemon.tmad("user", "create", name, "--mail", address)
        self.daemon.tmad(
            "cert", "issue", address, "--profile", "user", "--san", f"email:{address}",
            "--algorithm", "p256", "--out", str(self.directory),
        )  # fmt: skip
        return _identity(self.directory / f"{address}.crt")

    def vpn(self, name: str) -> VPN:
        """Return a gateway that takes our orders, and a device without a certificate yet."""
        server = Server(
            auth_port=self.daemon.radius_port,
            accounting_port=self.daemon.radius_acct_port,
            secret=self.node.secret,
            name="127.0.0.1",
            root=self.daemon.pem("root"),
            issuing=self.daemon.pem("issuing"),
        )
        vpn = VPN(self.directory / name, self._charon, server, self.gateway)
        self.daemon.tmad("radius-client", "set", "lab", f"coa.port={vpn.das_port}")
        return vpn


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Site]:
    charon = UNPACKED / "charon-systemd/usr/sbin/charon-systemd"
    for program in ("swanctl", "ip", str(charon)):
        require_client(program)
    if not may_make_namespaces():
        if os.environ.get("TMAD_REQUIRE_CLIENTS"):
            pytest.fail("a network namespace needs root")
        pytest.skip("a network namespace needs root")
    made = Site(tmp_path_factory.mktemp("vpn"), charon)
    yield made
    made.daemon.kill()


class Inside:
    """A server in the network behind the gateway."""

    def __init__(self) -> None:
        self._socket = socket.create_server((INSIDE, 0))
        self._port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def is_reached(self, vpn: VPN) -> bool:
        """Tell whether the device reaches it, which it can through the tunnel alone."""
        reach = f"exec 3<>/dev/tcp/{INSIDE}/{self._port}"
        command = ["ip", "netns", "exec", vpn.namespace, "timeout", "2", "bash", "-c", reach]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def session(site: Site, vpn: VPN, state: str = "open") -> dict[str, Any]:
    """Return the one session from a device, once the gateway has told of it."""
    deadline = time.monotonic() + 10
    while True:
        found = site.daemon.json("session", "list", "--all", "--station", vpn.device_address)
        newest = found[:1]
        if [each["state"] for each in newest] == [state]:
            return dict(site.daemon.json("session", "show", newest[0]["id"]))
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_a_tunnel_its_lifetime_and_its_accounting(site: Site) -> None:
    device = site.device()
    with site.vpn("whole") as vpn, Inside() as inside:
        vpn.dial(device)
        assert "negotiated TLS 1.2" in vpn.log("device")  # of 1.3 charon 5.9.8 dies
        assert inside.is_reached(vpn)
        shown = session(site, vpn)
        assert (shown["method"], shown["user_name"]) == ("eap-tls", device.path.stem)
        assert shown["framed_address"] == vpn.address
        assert shown["nas_identifier"] == NAS_IDENTIFIER
        # Session-Timeout, and Class that comes back with the accounting.
        assert "received AUTH_LIFETIME of 3600s" in vpn.log("gateway")
        told = site.daemon.json("session", "accounting", shown["id"])
        assert [each["status"] for each in told] == ["start"]
        vpn.hang_up()
        over = session(site, vpn, "closed")
        assert over["id"] == shown["id"]
        assert over["octets_in"] > 0
        assert not inside.is_reached(vpn)


@pytest.mark.parametrize("person", ["", "alice"], ids=["device", "person"])
def test_a_revoked_certificate_loses_its_tunnel_and_stays_out(site: Site, person: str) -> None:
    """charon looks for a tunnel by nothing but the name that its device gave itself."""
    device = site.person(person) if person else site.device()
    with site.vpn(f"revoked{person}") as vpn:
        vpn.dial(device)
        shown = session(site, vpn)
        assert shown["user_name"] == (person or device.path.stem)
        begin = time.monotonic()
        site.daemon.tmad("cert", "revoke", device.serial)
        vpn.wait_down(SECONDS - (time.monotonic() - begin))
        over = session(site, vpn, "closed")
        [tried] = over["disconnects"]
        assert (tried["reason"], tried["outcome"]) == ("certificate-revoked", "acknowledged")
        vpn.dial(device, expect=False)
        assert "network.revoked" in site.daemon.tmad("audit", "tail", "--limit", "50").stdout
        vpn.dial(site.device())
