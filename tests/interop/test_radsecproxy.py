"""RADIUS over TLS: radsecproxy in front, and certificates that must not get in (RFC 6614)."""

from __future__ import annotations

import re
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemon import Daemon, free_ports
from tests.eapol import NAS, Peer, login
from tests.pki import Authority
from tests.radius import OPEN_POLICY
from tests.system.commands import commands_of
from tmad.protocols.radius import codec

pytestmark = pytest.mark.interop

SECRET = b"radsec"  # RFC 6614, 2.3: the word itself
PASSWORD = secrets.token_urlsafe(12)
PROXY = "proxy.example.test"


class Site:
    """A daemon with a RadSec door, and certificates for those who want to come in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemon = Daemon(directory / "node", radsec=True)
        self.pki = directory / "pki"
        (directory / "password").write_text(PASSWORD)
        tmad = commands_of(self.daemon)
        self.daemon.tmad("apply", "-", text=OPEN_POLICY)
        tmad.run(
            "radius-client", "create", "proxy", "--radsec-name", PROXY,
            "--method", "eap-tls", "--method", "pap",
        )  # fmt: skip
        tmad.run("user", "create", "bob", "--password-file", str(directory / "password"))
        for name, profile in (
            (PROXY, "tls-client"),
            ("stranger.example.test", "tls-client"),
            ("device-1", "device"),
        ):
            tmad.run(
                "cert", "issue", name, "--profile", profile, "--out", str(self.pki),
                *(("--san", f"dns:{name}") if profile == "tls-client" else ()),
            )  # fmt: skip
        self.root = self.daemon.pem("root")
        self.daemon.start()

    def serial(self, name: str) -> str:
        pem = (self.pki / f"{name}.crt").read_bytes()
        return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"

    def connect(
        self, name: str = PROXY, *, chain: Path | None = None, key: Path | None = None
    ) -> ssl.SSLSocket:
        """Open a connection with a certificate of ours, or with another one."""
        context = ssl.create_default_context(cafile=str(self.root))
        if name:
            context.load_cert_chain(
                chain or self.pki / f"{name}.chain.pem", key or self.pki / f"{name}.key"
            )
        deadline = time.monotonic() + 10
        while True:
            raw = socket.create_connection(("127.0.0.1", self.daemon.radsec_port), timeout=5)
            try:
                return context.wrap_socket(raw, server_hostname="127.0.0.1")
            except ConnectionResetError:
                # The door has no certificate in its first second.
                raw.close()
                assert time.monotonic() < deadline
                time.sleep(0.2)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Site]:
    for program in ("radsecproxy", "radclient", "eapol_test"):
        require_client(program)
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.daemon.kill()


def status(identifier: int = 1) -> bytes:
    return codec.encode_access(12, identifier, secrets.token_bytes(16), [], SECRET)


def is_closed(connection: ssl.SSLSocket, seconds: float = 5) -> bool:
    """Tell whether the other end hangs up without a word."""
    connection.settimeout(seconds)
    try:
        return connection.recv(5_000) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


# -- radsecproxy ---------------------------------------------------------------------------------


class Proxy:
    def __init__(self, site: Site) -> None:
        [self.port] = free_ports(1)
        self.secret = secrets.token_hex(16)
        self.log = site.directory / "radsecproxy.log"
        self.config = site.directory / "radsecproxy.conf"
        self.config.write_text(
            f"""
ListenUDP 127.0.0.1:{self.port}
LogLevel 2
tls default {{
    CACertificateFile {site.root}
    CertificateFile {site.pki / f"{PROXY}.chain.pem"}
    CertificateKeyFile {site.pki / f"{PROXY}.key"}
}}
client 127.0.0.1 {{
    type udp
    secret {self.secret}
}}
server 127.0.0.1 {{
    type tls
    port {site.daemon.radsec_port}
    secret radsec
    statusserver on
}}
realm * {{
    server 127.0.0.1
}}
"""
        )

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                ["radsecproxy", "-f", "-c", str(self.config)], stdout=log, stderr=log
            )
        try:
            yield self
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def proxy(site: Site) -> Iterator[Proxy]:
    with Proxy(site).running() as running:
        deadline = time.monotonic() + 20
        while "RadSec: proxy is connected" not in site.daemon.log.read_text():
            assert time.monotonic() < deadline, running.log.read_text()
            time.sleep(0.1)
        yield running


def test_a_password_through_radsecproxy(site: Site, proxy: Proxy) -> None:
    """A-R11."""
    for password, answer in ((PASSWORD, "Access-Accept"), ("wrong", "Access-Reject")):
        done = subprocess.run(
            ["radclient", "-x", "-r3", "-t3", f"127.0.0.1:{proxy.port}", "auth", proxy.secret],
            input=f'User-Name=bob,User-Password="{password}",Message-Authenticator=0x00',
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert f"Received {answer}" in done.stdout, proxy.log.read_text()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_eap_tls_through_radsecproxy(site: Site, proxy: Proxy, version: str) -> None:
    """A-R11: keys are hidden with the word on one side and with the secret on the other."""
    outcome = login(
        NAS(port=proxy.port, secret=proxy.secret),
        Peer(
            identity="device-1",
            tls=version,
            authority=site.root,
            certificate=site.pki / "device-1.crt",
            key=site.pki / "device-1.key",
        ),
        again=1,
    )
    outcome.check(2, resumed=1)


# -- our own client ------------------------------------------------------------------------------


def test_packets_follow_each_other_however_they_are_cut(site: Site) -> None:
    with site.connect() as connection:
        asked = [status(number) for number in range(20)]
        stream = b"".join(asked)
        for at in range(0, len(stream), 7):
            connection.sendall(stream[at : at + 7])
        received = b""
        while len(received) < 38 * len(asked):
            received += connection.recv(5_000)
    answers = {received[at + 1]: received[at : at + 38] for at in range(0, len(received), 38)}
    for number, sent in enumerate(asked):
        assert codec.is_reply(codec.decode(answers[number]), sent, SECRET)


def test_what_is_not_served_is_answered_with_protocol_error(site: Site) -> None:
    """R-03."""
    with site.connect() as connection:
        sent = codec.encode_access(40, 3, secrets.token_bytes(16), [], SECRET)
        connection.sendall(sent)
        answer = codec.decode(connection.recv(5_000))
        assert codec.is_reply(answer, sent, SECRET)
        assert (answer.code, answer.number(codec.ERROR_CAUSE)) == (52, 406)
        connection.sendall(status())
        assert connection.recv(5_000)[0] == 2


@pytest.mark.parametrize(
    "octets",
    [
        b"\x01\x01\x13\x88" + bytes(16),  # 5000
        b"\x01\x01\x00\x13" + bytes(16),  # 19
        b"\x01\x01\x00\x17" + bytes(16) + b"\x01\x02\x03",
        codec.encode_access(12, 1, bytes(16), [], b"another"),
        codec.encode_access(1, 1, bytes(16), [(79, b"")], b"another"),
    ],
    ids=["length 5000", "length 19", "stray octet", "forged status", "forged login"],
)
def test_what_cannot_be_trusted_closes_the_connection(site: Site, octets: bytes) -> None:
    """R-70, A-R11."""
    with site.connect() as connection:
        connection.sendall(octets)
        assert is_closed(connection)
    with site.connect() as connection:
        connection.sendall(status())
        assert connection.recv(5_000)[0] == 2


def test_certificates_that_name_no_client_are_not_let_in(site: Site) -> None:
    """A-R11: one of ours that no radius-client names; one of a foreign CA with the right name."""
    foreign = Authority(site.directory / "foreign").issue(PROXY)
    for connect in (
        lambda: site.connect("stranger.example.test"),
        lambda: site.connect("foreign", chain=foreign.path, key=foreign.key),
    ):
        with connect() as connection:
            assert is_closed(connection)
    with pytest.raises((ssl.SSLError, ConnectionError)), site.connect("") as connection:
        # In TLS 1.3 the client learns of it when it reads.
        connection.recv(1)
    log = site.daemon.log.read_text()
    assert re.search(r"radsec: dropped .* unknown-client no radius-client names", log)
    assert "not issued by an authority" in log
    assert "Traceback" not in log


def test_a_device_certificate_is_no_radsec_client_unless_its_name_is_listed(site: Site) -> None:
    with site.connect("device-1") as connection:
        assert is_closed(connection)


def test_a_revoked_certificate_takes_its_connection_with_it(site: Site) -> None:
    """R-74: an idle connection within seconds, a busy one with its next packet."""
    with site.connect() as idle, site.connect() as busy:
        for connection in (idle, busy):
            connection.sendall(status())
            assert connection.recv(5_000)[0] == 2
        site.daemon.tmad("cert", "hold", site.serial(PROXY))
        busy.sendall(status(2))
        assert is_closed(busy)
        assert is_closed(idle, 15)
    with site.connect() as connection:
        assert is_closed(connection)
    site.daemon.tmad("cert", "release", site.serial(PROXY))
    with site.connect() as connection:
        connection.sendall(status())
        assert connection.recv(5_000)[0] == 2


def test_a_client_that_is_deleted_loses_its_connection(site: Site) -> None:
    site.daemon.tmad("radius-client", "create", "guest", "--radsec-name", "stranger.example.test")
    with site.connect("stranger.example.test") as connection:
        connection.sendall(status())
        assert connection.recv(5_000)[0] == 2
        site.daemon.tmad("radius-client", "delete", "guest")
        assert is_closed(connection, 15)


def test_an_open_connection_does_not_delay_the_end(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(status())
        assert connection.recv(5_000)[0] == 2
        began = time.monotonic()
        assert site.daemon.stop() == 0
        assert time.monotonic() - began < 10
