"""Codes on their way: Net::SMPP's centre, an HTTPS gateway, aiosmtpd, and smsd with a modem."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import select
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.daemon import Daemon, free_ports
from tests.gateways import Server, secret_file
from tests.pki import Authority, Identity

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
TEXT = "This is a test of code delivery."


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*words: str | Path) -> Server:
        servers.append(Server(*words))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("gateways"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("localhost", uses=(ExtendedKeyUsageOID.SERVER_AUTH,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Daemon, str]:
    """Return a node that is set up, but does not run: its command line does the sending."""
    daemon = Daemon(tmp_path_factory.mktemp("node"))
    return daemon, daemon.config.read_text()


@pytest.fixture
def node(home: tuple[Daemon, str]) -> Callable[[str], Daemon]:
    """Return a function that gives the node other settings."""
    daemon, config = home

    def configured(settings: str) -> Daemon:
        daemon.config.write_text(f"{config}\n{settings}")
        return daemon

    return configured


def send(daemon: Daemon, kind: str, to: str, *, expect: int = 0) -> str:
    done = daemon.tmad("otp", "test-delivery", kind, to, expect=expect)
    return done.stdout + done.stderr


# -- SMPP ------------------------------------------------------------------------------------


@pytest.fixture
def centre(
    tmp_path: Path,
    node: Callable[[str], Daemon],
    serve: Callable[..., Server],
    identity: Identity,
    require_client: Any,
) -> tuple[Server, Callable[..., Daemon]]:
    require_client("/usr/share/perl5/Net/SMPP.pm")
    port, tls_port = free_ports(2)
    server = serve("perl", HERE / "smsc.pl", str(port), "tmad", "secret08")
    serve(
        sys.executable, HERE / "tls_front.py", str(tls_port), identity.path, identity.key,
        str(port),
    )  # fmt: skip

    def make(password: str = "secret08", *, tls: bool = False, **more: str) -> Daemon:
        path = secret_file(tmp_path / "secrets", "smpp", password)
        lines = "".join(f'{name} = "{value}"\n' for name, value in more.items())
        host, port_used = ("localhost", tls_port) if tls else ("127.0.0.1", port)
        lines += f"tls = {str(tls).lower()}\n"
        return node(
            f'[delivery]\nsms = "smpp"\n[delivery.smpp]\nhost = "{host}"\nport = {port_used}\n'
            f'system_id = "tmad"\npassword_file = "{path}"\n{lines}',
        )

    return server, make


def test_smpp_binds_submits_and_unbinds(centre: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = centre
    daemon = make(source="Example")
    assert "took the message as id-1" in send(daemon, "sms", "+49 170 1234567")
    server.wait_for("closed")
    assert server.lines[1:] == [
        "bind good 34",
        "submit to=491701234567 from=Example ton=1 npi=1 coding=0 validity=000000000500000R"
        f" status=0 text={TEXT.encode().hex()}",
        "unbind",
        "closed",
    ]


def test_smpp_transmitter_and_refusals(centre: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = centre
    daemon = make(bind="transmitter")
    assert "0x0B" in send(daemon, "sms", "+491701230011", expect=2)
    # Throttled at first; a test does not try again by itself.
    assert "cannot be reached" in send(daemon, "sms", "+491701230058", expect=5)
    assert len(server.seen("bind good")) == 2


def test_smpp_wrong_password(centre: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = centre
    assert "refused the bind with status 0x0E" in send(
        make("wrong"), "sms", "+491701234567", expect=2
    )
    server.wait_for("bind bad")


def test_smpp_over_tls(centre: tuple[Server, Callable[..., Daemon]], authority: Authority) -> None:
    server, make = centre
    assert "took the message as id-1" in send(
        make(tls=True, ca_file=str(authority.path)), "sms", "+491701234567"
    )
    assert len(server.seen("bind good")) == 1
    # A certificate that nobody vouches for gets neither password nor code.
    assert "cannot be reached" in send(make(tls=True), "sms", "+491701234567", expect=5)
    assert len(server.seen("bind")) == 1


# -- HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def gateway(
    node: Callable[[str], Daemon],
    serve: Callable[..., Server],
    authority: Authority,
    identity: Identity,
) -> tuple[Server, Callable[..., Daemon]]:
    [port] = free_ports(1)
    server = serve(sys.executable, HERE / "sms_gateway.py", str(port), identity.path, identity.key)

    def make(path: str = "/send", more: str = "", ca: str = str(authority.path)) -> Daemon:
        trusted = f'ca_file = "{ca}"\n' if ca else ""
        return node(
            f'[delivery]\nsms = "http"\n[delivery.http]\nurl = "https://localhost:{port}{path}"\n'
            f'{trusted}success_pattern = "^OK"\n{more}',
        )

    return server, make


def message(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.wait_for(r"\{"))
    return found


def test_http_json_with_a_key_and_a_password(
    tmp_path: Path, gateway: tuple[Server, Callable[..., Daemon]]
) -> None:
    server, make = gateway
    more = (
        f'secret_file = "{secret_file(tmp_path / "s", "key", "k-1")}"\nuser = "u"\n'
        f'password_file = "{secret_file(tmp_path / "s", "password", "p")}"\n'
        'headers = { X-Key = "{{secret}}" }\n'
    )
    assert "took the message" in send(make(more=more), "sms", "+491701234567")
    assert message(server) == {
        "path": "/send",
        "message": {"to": "+491701234567", "text": TEXT},
        "key": "k-1",
        "authorization": "Basic dTpw",
    }


def test_http_forms_and_queries(gateway: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = gateway
    daemon = make("/q?number={{digits}}&message={{text}}", 'method = "GET"\n')
    send(daemon, "sms", "+491701234567")
    assert message(server)["message"] == {"number": "491701234567", "message": TEXT}
    form = 'content_type = "application/x-www-form-urlencoded"\nbody = "to={{to}}&text={{text}}"\n'
    text = daemon.config.read_text().replace('method = "GET"\n', form)
    daemon.config.write_text(re.sub(r"/q\?[^\"]*", "/form", text))
    send(daemon, "sms", "+491701234567")
    assert json.loads(server.lines[-1])["message"] == {"to": "+491701234567", "text": TEXT}


def test_http_redirects_are_not_followed(gateway: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = gateway
    assert "status 302" in send(make("/redirect"), "sms", "+491701234567", expect=2)
    assert len(server.seen(r"\{")) == 1


def test_http_a_busy_gateway(gateway: tuple[Server, Callable[..., Daemon]]) -> None:
    _, make = gateway
    assert "cannot be reached" in send(make("/busy"), "sms", "+491701234567", expect=5)


def test_http_an_unknown_certificate_gets_nothing(
    gateway: tuple[Server, Callable[..., Daemon]],
) -> None:
    server, make = gateway
    assert "cannot be reached" in send(make(ca=""), "sms", "+491701234567", expect=5)
    assert server.seen(r"\{") == []


# -- mail ------------------------------------------------------------------------------------


@pytest.fixture(params=["starttls", "tls"])
def mail(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    node: Callable[[str], Daemon],
    serve: Callable[..., Server],
    authority: Authority,
    identity: Identity,
    require_client: Any,
) -> tuple[Server, Callable[..., Daemon]]:
    require_client("/usr/lib/python3/dist-packages/aiosmtpd/__init__.py")
    [port] = free_ports(1)
    server = serve(
        "/usr/bin/python3", HERE / "mail_server.py", str(port), identity.path, identity.key,
        "tmad", "p w", request.param,
    )  # fmt: skip

    def make(password: str = "p w", ca: str = str(authority.path)) -> Daemon:
        path = secret_file(tmp_path / "secrets", "mail", password)
        trusted = f'ca_file = "{ca}"\n' if ca else ""
        return node(
            f'[delivery.mail]\nhost = "localhost"\nport = {port}\ntls = "{request.param}"\n'
            f'user = "tmad"\npassword_file = "{path}"\nsender = "tmad@example.test"\n{trusted}',
        )

    return server, make


def test_mail(mail: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = mail
    shown = send(make(), "mail", "bob@example.test")
    seen = message(server)
    assert (seen["from"], seen["to"], seen["tls"], seen["user"]) == (
        "tmad@example.test",
        ["bob@example.test"],
        True,
        "tmad",
    )
    content = email.message_from_string(seen["content"], policy=email.policy.default)
    assert content["To"] == "bob@example.test"
    assert content["Subject"] == "Login code"
    assert content["Auto-Submitted"] == "auto-generated"
    assert content["Message-ID"] in shown
    assert content.get_content().strip() == TEXT


def test_mail_refusals(mail: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = mail
    assert "status 550" in send(make(), "mail", "nobody@example.test", expect=2)
    assert server.seen(r"\{") == []


def test_mail_wrong_password(mail: tuple[Server, Callable[..., Daemon]]) -> None:
    server, make = mail
    assert "status 535" in send(make("wrong"), "mail", "bob@example.test", expect=2)
    assert server.seen(r"\{") == []


def test_mail_an_unknown_certificate_gets_nothing(
    mail: tuple[Server, Callable[..., Daemon]],
) -> None:
    server, make = mail
    assert "cannot be reached" in send(make(ca=""), "mail", "bob@example.test", expect=5)
    assert server.seen(r"\{") == []


# -- SMS Server Tools ------------------------------------------------------------------------


class Modem:
    """A GSM modem at the other end of a pseudo-terminal; says OK to everything, keeps PDUs."""

    def __init__(self) -> None:
        self.end, inner = os.openpty()
        tty.setraw(inner)
        self.path = os.ttyname(inner)
        self.pdus: list[str] = []
        self._inner = inner
        self._running = True
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        received = b""
        while self._running:
            if not select.select([self.end], [], [], 0.1)[0]:
                continue
            received += os.read(self.end, 4_096)
            while match := re.match(rb"[^\r\n\x1a]*[\r\n\x1a]", received):
                line = received[: match.end()]
                received = received[match.end() :]
                os.write(self.end, self._answer(line))

    def _answer(self, line: bytes) -> bytes:
        if line.endswith(b"\x1a"):
            self.pdus.append(line[:-1].decode())
            return b"\r\n+CMGS: 1\r\n\r\nOK\r\n"
        words = line.strip()
        if not words:
            return b""
        if words.startswith(b"AT+CMGS"):
            return b"\r\n> "
        if words.startswith(b"AT+CREG?"):
            return b"\r\n+CREG: 0,1\r\n\r\nOK\r\n"
        if words.startswith(b"AT+CPIN?"):
            return b"\r\n+CPIN: READY\r\n\r\nOK\r\n"
        if words.startswith(b"AT+CSQ"):
            return b"\r\n+CSQ: 20,0\r\n\r\nOK\r\n"
        return b"\r\nOK\r\n"

    def close(self) -> None:
        self._running = False
        self._thread.join()
        os.close(self.end)
        os.close(self._inner)


@pytest.fixture
def smsd(tmp_path: Path, require_client: Any) -> Iterator[tuple[Modem, Path]]:
    program = require_client("/usr/sbin/smsd")
    spool = tmp_path / "sms"
    for name in ("outgoing", "checked", "sent", "failed", "incoming"):
        (spool / name).mkdir(parents=True)
    modem = Modem()
    config = tmp_path / "smsd.conf"
    config.write_text(
        f"devices = GSM1\noutgoing = {spool}/outgoing\nchecked = {spool}/checked\n"
        f"sent = {spool}/sent\nfailed = {spool}/failed\nincoming = {spool}/incoming\n"
        f"logfile = {tmp_path}/smsd.log\nloglevel = 7\ndelaytime = 1\nerrorsleeptime = 1\n"
        f"infofile = {tmp_path}/smsd.info\npidfile = {tmp_path}/smsd.pid\n"
        f"[GSM1]\ndevice = {modem.path}\nincoming = no\ncheck_network = 0\nbaudrate = 19200\n"
    )
    process = subprocess.Popen(
        [program, "-t", f"-c{config}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    yield modem, spool
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    modem.close()


def test_smsd_sends_what_we_spool(node: Callable[[str], Daemon], smsd: tuple[Modem, Path]) -> None:
    modem, spool = smsd
    daemon = node(
        f'[delivery]\nsms = "spool"\n[delivery.spool]\noutgoing = "{spool}/outgoing"\n'
        f'sent = "{spool}/sent"\nfailed = "{spool}/failed"\nwait_seconds = 40\n',
    )
    assert "took the message as tmad-" in send(daemon, "sms", "+491701234567")
    [pdu] = modem.pdus
    # 3GPP TS 23.040: the number's digits in swapped pairs, in international form.
    assert "0C91947110325476" in pdu
    [sent] = (spool / "sent").iterdir()
    assert TEXT in sent.read_text()
