"""Passwords and codes over RADIUS, asked by FreeRADIUS's radclient and by raw sockets."""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.daemon import Daemon
from tests.system.commands import commands_of
from tests.unit.test_radius_codec import MALFORMED
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute

pytestmark = pytest.mark.interop

PASSWORD = secrets.token_urlsafe(12)
POLICY = """
[tenant.default.radius-policy.all]
order = 10
[[tenant.default.radius-policy.all.rules]]
name = "vlan"
then = "accept"
[tenant.default.radius-policy.all.rules.reply]
vlan = "42"
session_timeout = 600
attributes = { "Filter-Id" = "guests", "Cisco-AVPair" = "shell:priv-lvl=15" }
"""
# Each on a loopback address of its own, with its own rules.
CLIENTS = {
    "plain": ("127.0.0.1", ("vendor=cisco",)),
    "auto": ("127.0.0.2", ("require_message_authenticator=auto",)),
    "old": ("127.0.0.3", ("require_message_authenticator=no",)),
    "otp": ("127.0.0.4", ("login.mode=password-then-otp", "login.tries=2")),
    "joined": ("127.0.0.5", ("login.mode=password-otp",)),
    "ring": ("127.0.0.6", ("login.mode=otp",)),
}


class Network:
    """A daemon that answers on every loopback address, and its clients."""

    def __init__(self, directory: Path) -> None:
        self.daemon = Daemon(directory / "node", radius="reject_delay = 0.2")
        self.secrets: dict[str, str] = {}
        (directory / "policy.toml").write_text(POLICY)
        password = directory / "password"
        password.write_text(PASSWORD)
        self.keys: dict[str, str] = {}
        tmad = commands_of(self.daemon)
        tmad.run("apply", str(directory / "policy.toml"))
        for name, (address, settings) in CLIENTS.items():
            options = [part for setting in settings for part in ("--set", setting)]
            answer = tmad.run(
                "radius-client", "create", name, "--prefix", address, "--method", "pap",
                *options,
            )  # fmt: skip
            [self.secrets[name]] = re.findall(r"^secret +(\S+)$", answer.out, re.MULTILINE)
        for person in ("bob", "eve"):
            tmad.run("user", "create", person, "--password-file", str(password))
            token = tmad.json("otp", "create", person, "--kind", "hotp", "--no-qr")
            self.keys[person] = parse_qs(urlsplit(token["uri"]).query)["secret"][0]
            tmad.run("otp", "activate", token["serial"], self.code(person, 0))
        self.daemon.start()

    def code(self, person: str, counter: int) -> str:
        """Return an HOTP code, as oathtool computes it."""
        done = subprocess.run(
            ["oathtool", "--hotp", "-b", "-c", str(counter), self.keys[person]],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def radclient(
        self,
        attributes: str,
        *,
        client: str = "plain",
        command: str = "auth",
        port: int = 0,
        secret: str = "",
        timeout: float = 3,
    ) -> str:
        """Ask with radclient; return what it says."""
        address = CLIENTS[client][0]
        done = subprocess.run(
            ["radclient", "-x", "-r1", f"-t{timeout}",
             f"127.0.0.1:{port or self.daemon.radius_port}",
             command, secret or self.secrets[client]],
            input=f"{attributes},Packet-Src-IP-Address={address}",
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def login(self, name: str, password: str, more: str = "", client: str = "plain") -> str:
        return self.radclient(
            f'User-Name="{name}",User-Password="{password}",Message-Authenticator=0x00{more}',
            client=client,
        )

    def send(self, octets: bytes, client: str = "plain", *, wait: float = 3) -> bytes | None:
        """Send a datagram; return what comes back, or None for silence."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((CLIENTS[client][0], 0))
            own.settimeout(wait)
            own.sendto(octets, ("127.0.0.1", self.daemon.radius_port))
            try:
                return own.recv(5_000)
            except TimeoutError:
                return None

    def request(
        self, *attributes: Attribute, client: str = "plain", signed: bool = True, code: int = 1
    ) -> bytes:
        secret = self.secrets[client].encode()
        authenticator = secrets.token_bytes(16)
        hidden = codec.hide_password(PASSWORD.encode(), authenticator, secret)
        own = [(codec.USER_NAME, b"bob"), (codec.USER_PASSWORD, hidden)] if code == 1 else []
        octets = codec.encode_access(
            code, secrets.randbelow(256), authenticator, [*own, *attributes], secret
        )
        if signed:
            return octets
        length = len(octets) - 18
        return octets[:2] + length.to_bytes(2, "big") + octets[4:20] + octets[38:]


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Network]:
    for program in ("radclient", "oathtool"):
        require_client(program)
    made = Network(tmp_path_factory.mktemp("network"))
    yield made
    made.daemon.kill()


# -- radclient -----------------------------------------------------------------------------------


def test_a_password_opens_the_network_with_what_the_policy_says(network: Network) -> None:
    """A-R6."""
    said = network.login("bob", PASSWORD)
    assert "Received Access-Accept" in said
    for line in (
        'User-Name = "bob"',
        "Tunnel-Type:0 = VLAN",
        "Tunnel-Medium-Type:0 = IEEE-802",
        'Tunnel-Private-Group-Id:0 = "42"',
        "Session-Timeout = 600",
        'Filter-Id = "guests"',
        'Cisco-AVPair = "shell:priv-lvl=15"',
    ):
        assert line in said
    assert re.search(r"Class = 0x[0-9a-f]{52}\n", said)


@pytest.mark.parametrize("name", ["bob", "nobody", "BOB"])
def test_a_wrong_password_is_refused_with_an_id_to_ask_about(network: Network, name: str) -> None:
    said = network.login(name, "wrong")
    assert "Received Access-Reject" in said
    found = re.search(r'Reply-Message = "login refused \[(\S+)\]"', said)
    assert found is not None
    assert "Tunnel-" not in said
    assert "login." in network.daemon.tmad("explain", found[1]).stdout


def test_an_empty_password_is_refused(network: Network) -> None:
    """O-04."""
    assert "Received Access-Reject" in network.login("bob", "")


def test_another_secret_is_met_with_silence(network: Network) -> None:
    said = network.radclient(
        f'User-Name="bob",User-Password="{PASSWORD}",Message-Authenticator=0x00',
        secret="another-secret",
        timeout=1,
    )
    assert "No reply from server" in said


def test_status_server_on_both_ports(network: Network) -> None:
    """A-R2."""
    ask = "Message-Authenticator=0x00"
    said = network.radclient(ask, command="status")
    assert "Received Access-Accept" in said
    said = network.radclient(ask, command="status", port=network.daemon.radius_acct_port)
    assert "Received Accounting-Response" in said


def test_proxy_states_come_back_once_and_in_order(network: Network) -> None:
    """A-R3."""
    said = network.login("bob", PASSWORD, ",Proxy-State=0x01,Proxy-State=0x0202,Proxy-State=0x03")
    answer = said.partition("Received Access-Accept")[2]
    assert re.findall(r"Proxy-State = (\S+)", answer) == ["0x01", "0x0202", "0x03"]


@pytest.mark.parametrize("method", ["chap", "mschap"])
def test_chap_is_refused_with_its_reason_in_the_journal(network: Network, method: str) -> None:
    """R-14: also with the right password, which nobody here could compare."""
    attribute = {"chap": "CHAP-Password", "mschap": "MS-CHAP-Password"}[method]
    said = network.radclient(f'User-Name="bob",{attribute}="{PASSWORD}",Message-Authenticator=0x00')
    assert "Received Access-Reject" in said
    found = re.search(rf'Reply-Message = "{method} needs [^\[]+\[(\S+)\]"', said)
    assert found is not None
    assert f"radius.method.{method}" in network.daemon.tmad("explain", found[1]).stdout


def test_a_client_without_eap_refuses_it_at_once(network: Network) -> None:
    said = network.radclient(
        'User-Name="bob",EAP-Message=0x0201000801626f62,Message-Authenticator=0x00'
    )
    assert "Received Access-Reject" in said
    assert "EAP-Message = 0x04010004" in said


# -- challenges ----------------------------------------------------------------------------------


def _challenge(said: str) -> str:
    assert "Received Access-Challenge" in said
    assert 'Reply-Message = "Enter the code:"' in said
    assert "Prompt = No-Echo" in said
    # The request shows its own State, too.
    state: str = re.findall(r"State = (0x[0-9a-f]{32})\n", said)[-1]
    return state


def test_password_then_code_by_challenge(network: Network) -> None:
    """A-O2: the State is good once, for its person and its client."""
    state = _challenge(network.login("bob", PASSWORD, client="otp"))
    code = network.code("bob", 1)
    stolen = network.login("eve", code, f",State={state}", client="otp")
    assert "Received Access-Reject" in stolen
    state = _challenge(network.login("bob", PASSWORD, client="otp"))
    assert "Received Access-Reject" in network.login("bob", code, f",State={state}", "plain")
    said = network.login("bob", code, f",State={state}", client="otp")
    assert "Received Access-Accept" in said
    again = network.login("bob", network.code("bob", 2), f",State={state}", client="otp")
    assert "Received Access-Reject" in again


def test_a_mistyped_code_may_be_typed_again(network: Network) -> None:
    state = _challenge(network.login("bob", PASSWORD, client="otp"))
    second = _challenge(network.login("bob", "000000", f",State={state}", client="otp"))
    assert second != state
    code = network.code("bob", 3)
    assert "Received Access-Accept" in network.login("bob", code, f",State={second}", "otp")
    third = _challenge(network.login("bob", PASSWORD, client="otp"))
    # RFC 4226, 7.2: a code works once.
    fourth = _challenge(network.login("bob", code, f",State={third}", client="otp"))
    assert "Received Access-Reject" in network.login("bob", code, f",State={fourth}", "otp")


def test_a_forged_state_is_refused(network: Network) -> None:
    for state in (f"0x{secrets.token_hex(16)}", f"0x01{secrets.token_hex(15)}", "0x00"):
        said = network.login("bob", network.code("bob", 5), f",State={state}", client="otp")
        assert "Received Access-Reject" in said


def test_password_and_code_in_one_field(network: Network) -> None:
    both = PASSWORD + network.code("eve", 1)
    assert "Received Access-Accept" in network.login("eve", both, client="joined")
    assert "Received Access-Reject" in network.login("eve", both, client="joined")
    assert "Received Access-Reject" in network.login("eve", PASSWORD, client="joined")


def test_a_code_alone(network: Network) -> None:
    code = network.code("eve", 4)
    assert "Received Access-Accept" in network.login("eve", code, client="ring")
    assert "Received Access-Reject" in network.login("eve", code, client="ring")


# -- raw sockets ---------------------------------------------------------------------------------


def test_malformed_packets_get_no_answer_and_harm_nothing(network: Network) -> None:
    """A-R1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(0.5)
        for make in MALFORMED.values():
            own.sendto(make(), ("127.0.0.1", network.daemon.radius_port))
        with pytest.raises(TimeoutError):
            own.recv(5_000)
    assert "Traceback" not in network.daemon.log.read_text()
    assert network.send(network.request()) is not None


def test_a_request_sent_again_is_answered_with_the_same_octets(network: Network) -> None:
    """A-R4."""
    request = network.request()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(3)
        address = ("127.0.0.1", network.daemon.radius_port)
        for _ in range(3):
            own.sendto(request, address)
        first = own.recv(5_000)
        own.sendto(request, address)
        assert own.recv(5_000) == first
    admitted = network.daemon.tmad("audit", "tail", "-n", "3", "-o", "json").stdout
    [session] = codec.decode(first).all(codec.CLASS)
    assert admitted.count('"network.admitted"') >= 1
    assert session.decode() in admitted


def test_requests_without_message_authenticator(network: Network) -> None:
    """A-R7."""
    assert network.send(network.request(signed=False), wait=0.5) is None
    old = network.request(client="old", signed=False)
    answer = network.send(old, "old")
    assert answer is not None
    assert codec.is_reply(codec.decode(answer), old, network.secrets["old"].encode())
    unsigned = network.request(client="auto", signed=False)
    assert network.send(unsigned, "auto") is not None
    assert network.send(network.request(client="auto"), "auto") is not None
    unsigned = network.request(client="auto", signed=False)
    assert network.send(unsigned, "auto", wait=0.5) is None
    state = network.daemon.tmad("radius-client", "state", "auto").stdout
    assert re.search(r"^signed_since +20", state, re.MULTILINE)


def test_a_proxied_request_without_message_authenticator(network: Network) -> None:
    """A-R8."""
    proxied = network.request((codec.PROXY_STATE, b"x"), client="old", signed=False)
    assert network.send(proxied, "old", wait=0.5) is None
    proxied = network.request((codec.PROXY_STATE, b"x"), client="old")
    assert network.send(proxied, "old") is not None


def test_every_answer_begins_with_a_message_authenticator(network: Network) -> None:
    """A-R9."""
    requests = {
        "plain": network.request(),
        "old": network.request(client="old", signed=False),
        "otp": network.request(client="otp"),
        "ring": network.request(client="ring"),
    }
    seen = set()
    for client, request in requests.items():
        answer = network.send(request, client)
        assert answer is not None
        assert answer[20:22] == b"\x50\x12"
        assert codec.is_reply(codec.decode(answer), request, network.secrets[client].encode())
        seen.add(answer[0])
    assert seen == {2, 3, 11}


def test_the_log_never_shows_a_traceback_a_password_or_a_secret(network: Network) -> None:
    log = network.daemon.log.read_text()
    assert "Traceback" not in log
    for secret in (PASSWORD, *network.secrets.values(), *network.keys.values()):
        assert secret not in log
