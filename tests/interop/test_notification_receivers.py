"""Notifications of a running node: to aiosmtpd over TLS, and to a receiver that checks signatures.

The receiver judges by the library of the Standard Webhooks scheme, which is not ours.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.daemon import Daemon, free_ports
from tests.gateways import Server, secret_file
from tests.pki import Authority, Identity

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("receivers"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("localhost", uses=(ExtendedKeyUsageOID.SERVER_AUTH,))


@pytest.fixture(scope="module")
def mailbox(
    tmp_path_factory: pytest.TempPathFactory, identity: Identity, request: pytest.FixtureRequest
) -> Iterator[tuple[Server, int]]:
    if not Path("/usr/lib/python3/dist-packages/aiosmtpd/__init__.py").exists():
        pytest.fail("python3-aiosmtpd is not installed")
    [port] = free_ports(1)
    server = Server(
        "/usr/bin/python3", HERE / "mail_server.py", str(port), identity.path, identity.key,
        "tmad", "p w", "starttls",
    )  # fmt: skip
    yield server, port
    server.stop()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, mailbox: tuple[Server, int], authority: Authority
) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("node")
    password = secret_file(directory / "secrets", "mail", "p w")
    daemon = Daemon(
        directory,
        settings=f'[delivery.mail]\nhost = "localhost"\nport = {mailbox[1]}\nuser = "tmad"\n'
        f'password_file = "{password}"\nsender = "tmad@example.test"\n'
        f'ca_file = "{authority.path}"\n',
    ).start()
    yield daemon
    daemon.kill()


@pytest.fixture
def receive(identity: Identity) -> Iterator[Callable[[Path], tuple[Server, int]]]:
    servers: list[Server] = []

    def start(secret: Path, port: int = 0) -> tuple[Server, int]:
        port = port or free_ports(1)[0]
        server = Server(
            sys.executable, HERE / "webhook_receiver.py", str(port), identity.path, identity.key,
            secret,
        )  # fmt: skip
        servers.append(server)
        return server, port

    yield start  # type: ignore[misc]  # the port is optional
    for server in servers:
        server.stop()


def hook(daemon: Daemon, name: str, url: str, authority: Authority, *more: str) -> str:
    """Create a notification of revocations; return the key that is shown."""
    made = daemon.tmad(
        "notification", "create", name, "--event", "certificate.revoked", "--webhook", url,
        "--authorities", str(authority.path), "-o", "json", *more,
    )  # fmt: skip
    return str(json.loads(made.stdout)["key"])


def revoke(daemon: Daemon, name: str) -> str:
    """Issue a certificate and revoke it; return its serial number."""
    directory = daemon.directory / name
    directory.mkdir()
    made = daemon.json("cert", "issue", name, "--profile", "device", "--out", str(directory))
    serial = str(made["serial"])
    daemon.tmad("cert", "revoke", serial, "--reason", "keyCompromise")
    return serial


def settled(daemon: Daemon, name: str, state: str, seconds: float = 60) -> dict[str, Any]:
    """Wait until the newest message of a notification is in a state; return it."""
    deadline = time.monotonic() + seconds
    while True:
        found: list[dict[str, Any]] = daemon.json("notification", "deliveries", name)
        if found and found[0]["state"] == state:
            return found[0]
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


def test_a_revocation_is_mailed(node: Daemon, mailbox: tuple[Server, int]) -> None:
    server, _ = mailbox
    node.tmad(
        "notification", "create", "revocations", "--event", "certificate.revoked",
        "--mail", "ops@example.test", "--mail", "nobody@example.test",
    )  # fmt: skip
    serial = revoke(node, "mailed.example.test")
    seen = json.loads(server.wait_for(r"\{"))
    assert (seen["to"], seen["tls"], seen["user"]) == (["ops@example.test"], True, "tmad")
    content = email.message_from_string(seen["content"], policy=email.policy.default)
    assert content["To"] == "ops@example.test, nobody@example.test"
    assert content["Subject"].startswith("[tmad] certificate.revoked ")
    assert serial in content.get_content()
    assert "CN=mailed.example.test" in content["Subject"]
    row = settled(node, "revocations", "delivered")
    assert row["outcome"] == f"{content['Message-ID']}, but not for nobody@example.test"


def test_a_test_message_says_what_the_server_answered(
    node: Daemon, mailbox: tuple[Server, int]
) -> None:
    node.tmad("notification", "create", "t1", "--event", "x.*", "--mail", "t1@example.test")
    assert "@example.test>" in node.tmad("notification", "test", "t1").stdout
    node.tmad("notification", "create", "t2", "--event", "x.*", "--mail", "nobody@example.test")
    refused = node.tmad("notification", "test", "t2", expect=2)
    assert "status 550" in refused.stderr


def test_the_lines_of_the_page_do_what_it_says(node: Daemon, tmp_path: Path) -> None:
    """docs/notifications.md, line by line; nothing of it is sent but the test message."""
    page = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text("utf-8")
    lines = [
        shlex.split(line)[1:]
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    token = secret_file(tmp_path, "chat-token", "T0/B0/x")
    # Here a notification of this name is there already.
    here = {"revocations": "on-page", "chat-token": token}
    lines = [[here.get(word, word) for word in line] for line in lines]
    assert len(lines) == 9
    for line in lines:
        if line[1] == "redeliver":
            # The filters that the page has set by now let it through.
            revoke(node, "page.example.test")
            line[2] = str(settled(node, "on-page", "delivered")["id"])
        node.tmad(*line)
    settled(node, "on-page", "delivered")


def test_a_webhook_is_verified_and_comes_again_after_a_503(
    tmp_path: Path,
    node: Daemon,
    authority: Authority,
    receive: Callable[[Path], tuple[Server, int]],
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + "A" * 32)
    server, port = receive(secret)
    secret.write_text(hook(node, "hooks", f"https://localhost:{port}/busy", authority))
    serial = revoke(node, "hooked.example.test")
    row = settled(node, "hooks", "delivered")
    first, second = (json.loads(line) for line in server.seen(r"\{"))
    assert (first["good"], second["good"]) == (True, True)
    assert first["id"] == second["id"] == row["message"]
    assert first["said"]["type"] == "certificate.revoked"
    [event] = first["said"]["data"]["events"]
    assert serial in json.dumps(event)
    assert (row["attempts"], row["outcome"]) == (2, "HTTP status 200")
    # A key that was changed on one side only: the receiver says so, and it is tried again.
    node.tmad("notification", "secret", "hooks")
    assert "401" in node.tmad("notification", "test", "hooks", expect=5).stderr


def test_an_unknown_certificate_gets_nothing(
    tmp_path: Path,
    node: Daemon,
    receive: Callable[[Path], tuple[Server, int]],
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + "A" * 32)
    server, port = receive(secret)
    url = f"https://localhost:{port}/hook"
    node.tmad("notification", "create", "stranger", "--event", "x.*", "--webhook", url)
    node.tmad("notification", "test", "stranger", expect=5)
    assert server.seen(r"\{") == []


def test_nothing_is_lost_when_receiver_and_daemon_are_killed(
    tmp_path: Path,
    node: Daemon,
    authority: Authority,
    receive: Callable[..., tuple[Server, int]],
) -> None:
    secret = tmp_path / "secret"
    [port] = free_ports(1)
    key = hook(node, "durable", f"https://localhost:{port}/hook", authority)
    secret.write_text(key)
    # Nobody listens.
    serial = revoke(node, "durable.example.test")
    deadline = time.monotonic() + 30
    while settled(node, "durable", "waiting")["attempts"] < 1:
        assert time.monotonic() < deadline
    assert node.process is not None
    os.killpg(node.process.pid, signal.SIGKILL)
    node.kill()
    later = revoke(node, "later.example.test")  # by the command line, while the daemon is down
    server, _ = receive(secret, port)
    node.start()
    deadline = time.monotonic() + 90
    while len(server.seen(r"\{")) < 2:
        assert time.monotonic() < deadline, node.json("notification", "deliveries", "durable")
        time.sleep(0.2)
    told = [json.loads(line) for line in server.seen(r"\{")]
    assert all(each["good"] for each in told)
    assert serial in json.dumps(told)
    assert later in json.dumps(told)
    states = [row["state"] for row in node.json("notification", "deliveries", "durable")]
    assert len(states) == 2
