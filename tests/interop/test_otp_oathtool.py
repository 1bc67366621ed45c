"""One-time passwords against oathtool, by the command line and over RADIUS by radclient."""

from __future__ import annotations

import re
import secrets
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.daemon import Daemon
from tmad.protocols.radius import codec

pytestmark = pytest.mark.interop

POLICY = """
[tenant.default.radius-policy.all]
order = 10
[[tenant.default.radius-policy.all.rules]]
name = "everybody"
then = "accept"
"""
ACCEPT, REJECT = 2, 3
CLIENTS = {
    "codes": ("127.0.0.1", ("login.mode=otp", "login.lock.failures=1000")),
    "strict": ("127.0.0.2", ("login.mode=otp",)),
    "pin": ("127.0.0.3", ("login.mode=pin-otp",)),
}


class Token:
    """What a phone would hold: the URI's content, shown by oathtool."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.kind = parts.netloc
        self._options = ["-b", "-d", asked["digits"]]
        if self.kind == "totp":
            self._options += [f"--totp={asked['algorithm'].lower()}", "-s", f"{asked['period']}s"]
        else:
            self._options.append("--hotp")
        self.period = int(asked.get("period", 0))
        self._secret = asked["secret"]

    def code(self, *, counter: int = 0, at: float | None = None) -> str:
        """Return a code of HOTP by its counter, of TOTP by an instant (default: now)."""
        where = ["-c", str(counter)]
        if self.kind == "totp":
            instant = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at or time.time()))
            where = ["-N", instant]
        done = subprocess.run(
            ["oathtool", *self._options, *where, self._secret],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()


class Appliance:
    """Two workers, three RADIUS clients with their own rules, and people with tokens."""

    def __init__(self, directory: Path) -> None:
        self.daemon = Daemon(directory / "node", workers=2, radius="reject_delay = 0.0")
        (directory / "policy.toml").write_text(POLICY)
        self.daemon.tmad("apply", str(directory / "policy.toml"))
        self.secrets: dict[str, str] = {}
        for name, (address, settings) in CLIENTS.items():
            options = [part for setting in settings for part in ("--set", setting)]
            answer = self.daemon.tmad(
                "radius-client", "create", name, "--prefix", address, "--method", "pap", *options
            )
            self.secrets[name] = re.findall(r"^secret +(\S+)$", answer.stdout, re.MULTILINE)[0]

    def token(self, person: str, *options: str) -> tuple[str, Token]:
        """Make a person, if there is none yet, and a token; return its serial number and it."""
        self.daemon.tmad("user", "create", person, expect=None)
        made = self.daemon.json("otp", "create", person, "--no-qr", *options)
        return made["serial"], Token(made["uri"])

    def radclient(self, name: str, typed: str, client: str = "codes") -> str:
        """Log in with radclient; return what it says."""
        done = subprocess.run(
            ["radclient", "-x", "-r1", "-t5", f"127.0.0.1:{self.daemon.radius_port}", "auth",
             self.secrets[client]],
            input=f'User-Name="{name}",User-Password="{typed}",Message-Authenticator=0x00,'
            f"Packet-Src-IP-Address={CLIENTS[client][0]}",
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def at_once(self, name: str, typed: str, times: int, client: str = "codes") -> list[int]:
        """Send the same login from as many ports; return the codes of the answers."""
        sockets = []
        for number in range(times):
            own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            own.bind((CLIENTS[client][0], 0))
            own.connect(("127.0.0.1", self.daemon.radius_port))
            sockets.append((own, self._request(name, typed, number, client)))
        for own, octets in sockets:
            own.send(octets)
        waiting = {own for own, _ in sockets}
        answers = []
        end = time.monotonic() + 20
        while waiting and time.monotonic() < end:
            ready, _, _ = select.select(list(waiting), [], [], 1)
            for own in ready:
                answers.append(own.recv(4_096)[0])
                waiting.discard(own)
        for own, _ in sockets:
            own.close()
        assert not waiting, f"{len(waiting)} of {times} were not answered"
        return answers

    def _request(self, name: str, typed: str, number: int, client: str) -> bytes:
        secret = self.secrets[client].encode()
        authenticator = secrets.token_bytes(16)
        return codec.encode_access(
            1,
            number % 256,
            authenticator,
            [
                (codec.USER_NAME, name.encode()),
                (
                    codec.USER_PASSWORD,
                    codec.hide_password(typed.encode(), authenticator, secret),
                ),
            ],
            secret,
        )


@pytest.fixture(scope="module")
def appliance(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Appliance]:
    for program in ("radclient", "oathtool"):
        require_client(program)
    made = Appliance(tmp_path_factory.mktemp("otp"))
    made.daemon.start()
    yield made
    made.daemon.kill()


@pytest.mark.parametrize(
    ("algorithm", "digits", "period"),
    [("sha1", 6, 30), ("sha256", 7, 60), ("sha512", 8, 30), ("sha1", 8, 60)],
)
def test_o_20_totp_of_every_shape(
    appliance: Appliance, algorithm: str, digits: int, period: int
) -> None:
    person = f"{algorithm}-{digits}"
    serial, token = appliance.token(
        person, "--algorithm", algorithm, "--digits", str(digits), "--period", str(period)
    )
    appliance.daemon.tmad("otp", "activate", serial, token.code(at=time.time() - period))
    code = token.code()
    assert len(code) == digits
    assert "Received Access-Accept" in appliance.radclient(person, code)
    # RFC 6238, 5.2: not twice, whatever the spelling
    assert "Received Access-Reject" in appliance.radclient(person, code)
    assert "Received Access-Reject" in appliance.radclient(person, f"{code[:3]} {code[3:]}")
    assert "Received Access-Accept" in appliance.radclient(
        person, token.code(at=time.time() + period)
    )


@pytest.mark.parametrize("digits", [6, 8])
def test_o_11_hotp_ahead_and_resynchronised(appliance: Appliance, digits: int) -> None:
    person = f"hotp-{digits}"
    serial, token = appliance.token(person, "--kind", "hotp", "--digits", str(digits))
    assert "Received Access-Accept" in appliance.radclient(person, token.code(counter=0))
    assert "Received Access-Accept" in appliance.radclient(person, token.code(counter=11))
    assert "Received Access-Reject" in appliance.radclient(person, token.code(counter=23))
    first, second = (token.code(counter=counter) for counter in (80, 81))
    appliance.daemon.tmad("otp", "resync", serial, first, second)
    appliance.daemon.tmad("otp", "resync", serial, first, second, expect=2)
    assert "Received Access-Reject" in appliance.radclient(person, second)
    assert "Received Access-Accept" in appliance.radclient(person, token.code(counter=82))


def test_a_pin_in_front_of_the_code(appliance: Appliance, tmp_path: Path) -> None:
    serial, token = appliance.token("pinned", "--kind", "hotp")
    appliance.daemon.tmad("otp", "set-pin", serial, "--pin-file", "-", text="4711\n")
    code = token.code()
    assert "Received Access-Reject" in appliance.radclient("pinned", code, "pin")
    assert "Received Access-Reject" in appliance.radclient("pinned", f"4712{code}", "pin")
    assert "Received Access-Accept" in appliance.radclient("pinned", f"4711{code}", "pin")
    assert "Received Access-Reject" in appliance.radclient("pinned", f"4711{code}", "pin")


def test_t_otp_03_fifty_at_two_workers_then_a_kill(appliance: Appliance) -> None:
    _, token = appliance.token("racer", "--kind", "hotp")
    code = token.code()
    answers = appliance.at_once("racer", code, 50)
    assert sorted(set(answers)) == [ACCEPT, REJECT]
    assert answers.count(ACCEPT) == 1
    # and right after an accept: kill -9, start, replay
    code = token.code(counter=1)
    assert appliance.at_once("racer", code, 1) == [ACCEPT]
    appliance.daemon.kill()
    appliance.daemon.start()
    assert appliance.at_once("racer", code, 10) == [REJECT] * 10
    assert appliance.at_once("racer", token.code(counter=2), 10).count(ACCEPT) == 1


def test_t_otp_04_guesses_lock_across_workers_and_a_kill(appliance: Appliance) -> None:
    serial, token = appliance.token("guessed", "--kind", "hotp")
    # Each a code of this token, but of no counter that is near.
    for number in range(6):
        wrong = token.code(counter=1_000 + number)
        assert appliance.at_once("guessed", wrong, 1, "strict") == [REJECT]
    appliance.daemon.kill()
    appliance.daemon.start()
    shown = appliance.daemon.json("user", "show", "guessed")
    assert (shown["failures"], shown["locked_until"]) == (6, None)
    appliance.at_once("guessed", token.code(counter=2_000), 20, "strict")
    shown = appliance.daemon.json("user", "show", "guessed")
    assert shown["failures"] == 10
    assert shown["locked_until"]
    assert appliance.at_once("guessed", token.code(), 3, "strict") == [REJECT] * 3
    appliance.daemon.tmad("user", "unlock", "guessed")
    appliance.daemon.tmad("otp", "unlock", serial)
    assert appliance.at_once("guessed", token.code(), 3, "strict").count(ACCEPT) == 1


def test_why_a_login_was_refused(appliance: Appliance) -> None:
    _, token = appliance.token("curious", "--kind", "hotp")
    appliance.radclient("curious", token.code(counter=500))
    tail = appliance.daemon.tmad("audit", "tail", "-o", "json").stdout
    assert '"otp.wrong"' in tail.replace("\\", "")
    assert token.code(counter=500) not in tail


def test_a_disabled_user_is_out_with_the_next_code(appliance: Appliance) -> None:
    _, token = appliance.token("leaver", "--kind", "hotp")
    assert "Received Access-Accept" in appliance.radclient("leaver", token.code())
    appliance.daemon.tmad("user", "disable", "leaver")
    assert "Received Access-Reject" in appliance.radclient("leaver", token.code(counter=1))
    appliance.daemon.tmad("user", "enable", "leaver")
    assert "Received Access-Accept" in appliance.radclient("leaver", token.code(counter=1))
