"""Logins by MAC address over RADIUS (R-17), asked by FreeRADIUS's radclient."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.system.commands import Commands, commands_of
from tmad.protocols.radius import codec

pytestmark = pytest.mark.interop

MAC, UNKNOWN, LAPTOP = "0200aabbccdd", "0200aabbccee", "0200aabbccff"
POLICY = """
[tenant.default.radius-policy.all]
order = 10
[[tenant.default.radius-policy.all.rules]]
name = "everybody"
[[tenant.default.radius-policy.all.rules]]
name = "printers"
when = { methods = ["mac"], devices = ["printer-*"] }
reply = { vlan = "90" }
"""
# Each on a loopback address of its own.
CLIENTS = {
    "switch": ("127.0.0.1", ("mac",), "yes"),
    "people": ("127.0.0.2", ("pap",), "yes"),
    "old": ("127.0.0.3", ("mac",), "no"),
}
# What each writes into User-Name and Calling-Station-Id.
FORMS = {
    "cisco": ("0200aabbccdd", "02-00-AA-BB-CC-DD"),
    "hp": ("0200aa-bbccdd", "02-00-aa-bb-cc-dd"),
    "mikrotik": ("02:00:AA:BB:CC:DD", "02-00-AA-BB-CC-DD"),
    "meraki": ("0200AABBCCDD", "02-00-AA-BB-CC-DD"),
    "dots": ("0200.aabb.ccdd", "0200.aabb.ccdd"),
}


class NAS:
    """Takes Disconnect-Requests at the port of RFC 5176 and obeys them."""

    def __init__(self, secret: bytes) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.asked: list[codec.Packet] = []
        self._secret = secret
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            octets, sender = self._socket.recvfrom(5_000)
            packet = codec.decode(octets)
            self.asked.append(packet)
            self._socket.sendto(
                codec.encode_reply(packet, codec.Code.DISCONNECT_ACK, [], self._secret), sender
            )


class Network:
    def __init__(self, directory: Path) -> None:
        self.daemon = Daemon(directory / "node", radius="reject_delay = 0", workers=2)
        self.tmad: Commands = commands_of(self.daemon)
        (directory / "policy.toml").write_text(POLICY)
        self.tmad.run("apply", str(directory / "policy.toml"))
        self.secrets: dict[str, str] = {}
        for name, (address, methods, signs) in CLIENTS.items():
            answer = self.tmad.run(
                "radius-client", "create", name, "--prefix", address,
                *(part for method in methods for part in ("--method", method)),
                "--set", f"require_message_authenticator={signs}",
            )  # fmt: skip
            [self.secrets[name]] = re.findall(r"^secret +(\S+)$", answer.out, re.MULTILINE)
        self.nas = NAS(self.secrets["switch"].encode())
        self.tmad.run("radius-client", "set", "switch", f"coa.port={self.nas.port}")
        self.tmad.run("device", "create", "printer-1", "--mac", MAC)
        self.tmad.run("device", "create", "laptop-7", "--mac", LAPTOP)
        self.daemon.start()

    def ask(
        self, name: str, station: str, *more: str, client: str = "switch", chap: bool = False,
        password: str | None = None, signed: bool = True,
    ) -> str:  # fmt: skip
        """Ask with radclient; return what it says."""
        words = [
            f'User-Name="{name}"',
            f'{"CHAP" if chap else "User"}-Password="{name if password is None else password}"',
            f'Calling-Station-Id="{station}"',
            *more,
            f"Packet-Src-IP-Address={CLIENTS[client][0]}",
        ]
        done = subprocess.run(
            ["radclient", "-x", "-r1", "-t3", f"127.0.0.1:{self.daemon.radius_port}", "auth",
             self.secrets[client]],
            input=",".join([*words, *(["Message-Authenticator=0x00"] if signed else [])]),
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def explained(self, said: str) -> str:
        """Return what `tmad explain` says of a refusal."""
        assert "Received Access-Reject" in said, said
        found = re.search(r'Reply-Message = "[^\[]+\[(\S+)\]"', said)
        assert found is not None, said
        return self.tmad.run("explain", found[1]).out


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Network]:
    require_client("radclient")
    made = Network(tmp_path_factory.mktemp("network"))
    yield made
    made.daemon.kill()


@pytest.mark.parametrize("chap", [False, True], ids=["pap", "chap"])
@pytest.mark.parametrize("maker", FORMS)
def test_the_address_in_every_makers_form(network: Network, maker: str, chap: bool) -> None:
    said = network.ask(*FORMS[maker], "Service-Type=Call-Check", chap=chap)
    assert "Received Access-Accept" in said, said
    assert 'Tunnel-Private-Group-Id = "90"' in said or 'Tunnel-Private-Group-Id:0 = "90"' in said
    assert 'User-Name = "printer-1"' in said


def test_without_call_check_and_unsigned_as_hostapd_2_10_asks(network: Network) -> None:
    said = network.ask(*FORMS["cisco"], "NAS-Port-Type=Wireless-802.11", client="old", signed=False)
    assert "Received Access-Accept" in said, said


def test_an_address_gets_what_its_rule_says_and_no_more(network: Network) -> None:
    """The rule for everybody stands before the one for printers, and is for nobody of these."""
    call_check = "Service-Type=Call-Check"
    said = network.ask(UNKNOWN, UNKNOWN, call_check)
    assert "network.unlisted" in network.explained(said)
    assert "Tunnel-" not in said.partition("Received")[2]
    said = network.ask(LAPTOP, LAPTOP, call_check)
    assert "network.policy" in network.explained(said)
    said = network.ask(*FORMS["cisco"], call_check, client="people")
    assert "radius.method.mac" in network.explained(said)
    said = network.ask(*FORMS["cisco"], call_check, password="secret")
    assert "radius.mac.password" in network.explained(said)
    said = network.ask(MAC, UNKNOWN, call_check)
    assert "radius.mac.station" in network.explained(said)


def test_a_block_holds_at_the_next_request(network: Network) -> None:
    """And ends the session, letter for letter as the switch has named the station."""
    call_check = "Service-Type=Call-Check"
    station = "02-00-AA-BB-CC-DD"
    assert "Received Access-Accept" in network.ask(MAC, station, call_check)
    network.nas.asked.clear()
    network.tmad.run("device", "block", "printer-1")
    try:
        for _ in range(4):  # of either worker
            said = network.ask(MAC, station, call_check)
            assert "Received Access-Reject" in said
        assert "network.device-blocked" in network.explained(said)
        deadline = time.monotonic() + 5
        while not network.nas.asked:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [request] = network.nas.asked
        assert request.text(codec.CALLING_STATION_ID) == station
    finally:
        network.tmad.run("device", "unblock", "printer-1")
    assert "Received Access-Accept" in network.ask(MAC, station, call_check)


def test_the_command_says_what_would_become_of_it(network: Network) -> None:
    found = network.tmad.json("radius-policy", "test", "--client", "switch", "--mac", MAC)
    assert (found["verdict"], found["rule"]) == ("accept", "printers")
    done = network.tmad.run(
        "radius-policy", "test", "--client", "switch", "--mac", UNKNOWN, expect=None
    )
    assert "UNKNOWN_DEVICE" in done.out
    network.tmad.run("radius-policy", "rule", "all", "x", "--method", "mac", "--unlisted",
                     "--vlan", "99")  # fmt: skip
    found = network.tmad.json("radius-policy", "test", "--client", "switch", "--mac", UNKNOWN)
    assert (found["verdict"], found["rule"]) == ("accept", "x")
    assert "Received Access-Accept" in network.ask(UNKNOWN, UNKNOWN, "Service-Type=Call-Check")
