"""Logins over RADIUS with codes that were sent, printed, or made by an imported token.

radclient asks, Net::SMPP's centre and aiosmtpd take the codes, oathtool is the hardware token.
"""

from __future__ import annotations

import email
import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.daemon import Daemon, free_ports
from tests.gateways import Server, secret_file
from tests.pki import Authority

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
PASSWORD = secrets.token_urlsafe(12)
SEED = secrets.token_bytes(20).hex()
POLICY = """
[tenant.default.radius-policy.all]
order = 10
[[tenant.default.radius-policy.all.rules]]
name = "everybody"
"""
# Each on a loopback address of its own, with its own rules.
CLIENTS = {
    "sms": ("127.0.0.1", "password-then-sms"),
    "mail": ("127.0.0.2", "password-then-mail"),
    "otp": ("127.0.0.3", "password-then-otp"),
}


class Network:
    """A node that sends codes, two people who have passwords, one who has a token."""

    def __init__(self, directory: Path) -> None:
        self.servers: list[Server] = []
        authority = Authority(directory / "ca")
        identity = authority.issue("localhost", uses=(ExtendedKeyUsageOID.SERVER_AUTH,))
        sms, mail = free_ports(2)
        self.centre = self.serve("perl", HERE / "smsc.pl", str(sms), "tmad", "secret08")
        self.mail = self.serve(
            "/usr/bin/python3", HERE / "mail_server.py", str(mail), identity.path, identity.key,
            "tmad", "p w", "starttls",
        )  # fmt: skip
        self.daemon = Daemon(
            directory / "node",
            radius="reject_delay = 0.2",
            settings=(
                f'[delivery]\nsms = "smpp"\ntext = "Your code: {{{{code}}}}"\nperson_per_hour = 6\n'
                f'[delivery.smpp]\nhost = "127.0.0.1"\nport = {sms}\nsystem_id = "tmad"\n'
                "enquire_seconds = 1\nidle_seconds = 8\n"
                f'password_file = "{secret_file(directory, "smpp", "secret08")}"\n'
                f'[delivery.mail]\nhost = "localhost"\nport = {mail}\nuser = "tmad"\n'
                f'password_file = "{secret_file(directory, "mail", "p w")}"\n'
                f'sender = "tmad@example.test"\nca_file = "{authority.path}"\n'
            ),
        )
        self.daemon.tmad("apply", "-", text=POLICY)
        self.secrets = {}
        for name, (address, mode) in CLIENTS.items():
            answer = self.daemon.json(
                "radius-client", "create", name, "--prefix", address, "--method", "pap",
                "--set", f"login.mode={mode}", "--set", "login.emergency_codes=true",
                "--set", "login.tries=3",
            )  # fmt: skip
            self.secrets[name] = answer["secret"]
        password = secret_file(directory, "password", PASSWORD)
        numbers = {"bob": "+49 170 1234567", "eve": "+49 170 0000058", "joe": "+49 170 0000070"}
        for person, number in numbers.items():
            self.daemon.tmad(
                "user", "create", person, "--password-file", password, "--phone", number,
                "--mail", f"{person}@example.test",
            )  # fmt: skip
        self.daemon.start()

    def serve(self, *words: str | Path) -> Server:
        self.servers.append(Server(*words))
        return self.servers[-1]

    def login(self, client: str, name: str, password: str, state: str = "") -> str:
        more = f",State={state}" if state else ""
        done = subprocess.run(
            ["radclient", "-x", "-r1", "-t3", f"127.0.0.1:{self.daemon.radius_port}", "auth",
             self.secrets[client]],
            input=f'User-Name="{name}",User-Password="{password}",Message-Authenticator=0x00,'
            f"Packet-Src-IP-Address={CLIENTS[client][0]}{more}",
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def challenge(self, client: str, name: str, password: str = PASSWORD) -> str:
        said = self.login(client, name, password)
        assert "Received Access-Challenge" in said, said
        return re.findall(r"State = (0x[0-9a-f]+)", said)[0]

    def journal(self, kind: str) -> list[dict[str, object]]:
        found = self.daemon.json("audit", "tail", "-n", "200")
        return [record for record in found if record["kind"] == kind]


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Network]:
    for program in (
        "radclient",
        "oathtool",
        "/usr/share/perl5/Net/SMPP.pm",
        "/usr/lib/python3/dist-packages/aiosmtpd/__init__.py",
    ):
        require_client(program)
    made = Network(tmp_path_factory.mktemp("network"))
    yield made
    made.daemon.kill()
    for server in made.servers:
        server.stop()


def sent(network: Network, number: str, after: int = 0) -> str:
    """Return the code in the next message that the centre took for a number."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = network.centre.seen(f"submit to={number} .*status=0 ")
        if len(found) > after:
            text = bytes.fromhex(found[after].rpartition("text=")[2]).decode()
            assert text.startswith("Your code: ")
            return text.removeprefix("Your code: ")
        time.sleep(0.05)
    raise AssertionError(network.centre.lines)


def test_password_then_sms(network: Network) -> None:
    """O-01, O-05: the challenge comes at once, the code by telephone, and it works once."""
    state = network.challenge("sms", "bob")
    code = sent(network, "491701234567")
    said = network.login("sms", "bob", f"{code[:3]} {code[3:]}", state)
    assert "Received Access-Accept" in said, said
    again = network.challenge("sms", "bob")
    sent(network, "491701234567", after=1)
    assert "Received Access-Accept" not in network.login("sms", "bob", code, again)
    data = json.loads(str(network.journal("code.delivered")[0]["data"]))
    assert (data["person"], data["kind"], data["to"]) == ("bob", "sms", "+49…567")
    assert code not in json.dumps(network.daemon.json("audit", "tail", "-n", "200"))


def test_a_centre_that_is_busy_is_asked_again(network: Network) -> None:
    """Status 0x58 at first; the login does not notice."""
    state = network.challenge("sms", "eve")
    code = sent(network, "491700000058")
    assert "Received Access-Accept" in network.login("sms", "eve", code, state)
    assert len(network.centre.seen("submit to=491700000058 .*status=88 ")) == 1


def test_what_the_centre_asks_is_answered_and_an_idle_line_is_given_up(network: Network) -> None:
    """It delivers a person's answer, asks whether we are there, and is unbound after a while."""
    before = len(network.centre.seen("unbind"))
    state = network.challenge("sms", "joe")
    network.centre.wait_for("answer 80000005 seq=501 status=0")
    network.centre.wait_for("answer 80000015 seq=502 status=0")
    network.centre.wait_for("enquire")
    deadline = time.monotonic() + 20
    while len(network.centre.seen("unbind")) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(network.centre.seen("unbind")) > before
    code = sent(network, "491700000070")
    assert "Received Access-Accept" in network.login("sms", "joe", code, state)


def test_a_wrong_password_sends_nothing(network: Network) -> None:
    """O-03."""
    before = len(network.centre.seen("submit"))
    said = network.login("sms", "bob", "wrong")
    assert "Received Access-Reject" in said
    time.sleep(0.5)
    assert len(network.centre.seen("submit")) == before


def test_password_then_mail(network: Network) -> None:
    state = network.challenge("mail", "eve")
    seen = json.loads(network.mail.wait_for(r"\{"))
    assert seen["to"] == ["eve@example.test"]
    text = email.message_from_string(seen["content"]).get_payload()
    [code] = re.findall(r"Your code: (\d{6})", str(text))
    # A code for the mailbox is none for the telephone.
    other = network.challenge("sms", "eve")
    assert "Received Access-Accept" not in network.login("sms", "eve", code, other)
    assert "Received Access-Accept" in network.login("mail", "eve", code, state)


def test_an_imported_token_and_its_journal(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text(f"serial,secret,type,person\nHW1,{SEED},hotp,bob\nHW2,{SEED},hotp,\n")
    assert SEED not in network.daemon.tmad("otp", "import", str(path), "--preview").stdout
    assert network.daemon.json("otp", "list") == []
    network.daemon.tmad("otp", "import", str(path))
    network.daemon.tmad("otp", "import", str(path), expect=3)
    listed = {token["serial"]: token["person"] for token in network.daemon.json("otp", "list")}
    assert listed == {"HW1": "bob", "HW2": None}
    code = subprocess.run(
        ["oathtool", "--hotp", "-c", "3", SEED], capture_output=True, text=True, check=True
    ).stdout.strip()
    state = network.challenge("otp", "bob")
    assert "Received Access-Accept" in network.login("otp", "bob", code, state)
    assert SEED not in json.dumps(network.daemon.json("audit", "tail", "-n", "200"))


def test_emergency_codes_stand_in_for_the_token(network: Network) -> None:
    codes = [each["code"] for each in network.daemon.json("otp", "emergency", "bob")]
    assert len(codes) == 10
    state = network.challenge("otp", "bob")
    assert "Received Access-Accept" in network.login("otp", "bob", codes[4].lower(), state)
    assert network.daemon.json("otp", "emergency", "bob", "--count")["left"] == 9
    state = network.challenge("otp", "bob")
    assert "Received Access-Accept" not in network.login("otp", "bob", codes[4], state)
    network.daemon.tmad("otp", "emergency", "bob", "--revoke")
    state = network.challenge("otp", "bob")
    assert "Received Access-Accept" not in network.login("otp", "bob", codes[5], state)


def test_nobody_gets_more_codes_than_allowed(network: Network) -> None:
    """O-40: beyond six an hour the person sees the same challenge, and gets nothing."""
    before = len(network.centre.seen("submit to=491701234567 "))
    for _ in range(before, 8):
        network.challenge("sms", "bob")
    time.sleep(1)
    assert len(network.centre.seen("submit to=491701234567 ")) == 6
    refused = network.journal("request.refused")
    assert any("otp.code.limit-person" in json.dumps(record) for record in refused)


def test_the_log_shows_no_code(network: Network) -> None:
    log = network.daemon.log.read_text()
    for line in network.centre.seen("submit"):
        text = bytes.fromhex(line.rpartition("text=")[2]).decode()
        assert text.removeprefix("Your code: ") not in log
    assert "Traceback" not in log
