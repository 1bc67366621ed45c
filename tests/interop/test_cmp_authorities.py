"""`openssl cmp` and authorities of other kinds: a key in a token, RSA, another tenant."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.softhsm
from tests.daemon import Daemon
from tests.softhsm import RemoteToken, create_token

pytestmark = pytest.mark.interop
softhsm, remote_token = tests.softhsm.softhsm, tests.softhsm.remote_token
SETTINGS = "\n[protocols.cmp]\nrate = 0\n"
OPEN = ("--profile", "device", "--set", "challenge.recoverable=true",
        "--set", "challenge.static=true")  # fmt: skip


class Client:
    """`openssl cmp` in a directory of its own, with a secret of an endpoint."""

    def __init__(self, daemon: Daemon, label: str, directory: Path) -> None:
        self.label = label
        self._daemon = daemon
        self._directory = directory
        self.root = str(daemon.directory / "root.pem")
        made = daemon.json(
            "enroll-secret", "create", "--endpoint", f"cmp/{label}", "--recoverable", "--static"
        )
        self.secret = ("-ref", made["reference"], "-secret", f"pass:{made['secret']}")
        self.own = ("-cert", "one.pem", "-key", "one.key", "-extracerts", "chain.pem")
        for name in ("one", "two"):
            self.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout",
                     "-out", f"{name}.key")  # fmt: skip

    def run(self, *command: str, expect: int | None = 0) -> str:
        done = subprocess.run(
            command, cwd=self._directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert expect in (None, done.returncode), done.stdout + done.stderr
        return done.stdout + done.stderr

    def cmp(
        self, command: str, *options: str, where: str | None = None, expect: int | None = 0
    ) -> str:
        return self.run(
            "openssl", "cmp", "-config", "", "-server", f"127.0.0.1:{self._daemon.http_port}",
            "-path", f"/.well-known/cmp/p/{where or self.label}", "-recipient", "/CN=CA",
            "-trusted", self.root, "-cmd", command, *options, expect=expect,
        )  # fmt: skip

    def enrol(self) -> None:
        self.cmp("ir", *self.secret, "-newkey", "one.key", "-subject", "/CN=dev",
                 "-certout", "one.pem", "-chainout", "chain.pem")  # fmt: skip
        self.run("openssl", "verify", "-CAfile", self.root, "-untrusted", "chain.pem", "one.pem")


def a_node_with_token(directory: Path, token: str, environment: dict[str, str]) -> Daemon:
    """A node whose authority "token" has its key in a token, and what signs its answers, too."""
    node = Daemon(directory, settings=token + SETTINGS, environment=environment)
    node.tmad("ca", "create", "token", "--parent", "root", "--algorithm", "p256",
              "--store", "pkcs11")  # fmt: skip
    node.tmad("endpoint", "create", "cmp", "token", "--ca", "token", *OPEN,
              "--set", "options.ra_store=pkcs11")  # fmt: skip
    (node.directory / "root.pem").write_text(node.tmad("ca", "export", "root").stdout)
    return node


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node with a token beside its software keys; what signs the answers lives there, too."""
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    node = a_node_with_token(tmp_path_factory.mktemp("node"), token.toml, token.environment)
    node.tmad("ca", "create", "rsa", "--parent", "root", "--algorithm", "rsa-2048")
    node.tmad("endpoint", "create", "cmp", "rsa", "--ca", "rsa", *OPEN)
    node.start()
    yield node
    node.kill()


@pytest.mark.parametrize("label", ["token", "rsa"])
def test_enrolment_update_and_revocation(daemon: Daemon, label: str, tmp_path: Path) -> None:
    client = Client(daemon, label, tmp_path)
    client.enrol()
    client.cmp("kur", *client.own, "-newkey", "two.key", "-certout", "two.pem")
    client.run("openssl", "verify", "-CAfile", client.root, "-untrusted", "chain.pem", "two.pem")
    # T-EST-02: the other authority's endpoint takes neither the certificate nor the secret.
    other = "rsa" if label == "token" else "token"
    ask = ("-infotype", "caCerts")
    assert "notAuthorized" in client.cmp("genm", *client.own, *ask, where=other, expect=1)
    assert "badMessageCheck" in client.cmp("genm", *client.secret, *ask, where=other, expect=1)
    client.cmp("rr", *client.own, "-oldcert", "one.pem", "-revreason", "1")
    refused = client.cmp("kur", *client.own, "-newkey", "two.key", "-certout", "x.pem", expect=1)
    assert "certRevoked" in refused


def test_a_token_that_hangs_is_told_of_as_far_as_it_can_be(
    remote_token: RemoteToken, tmp_path: Path
) -> None:
    """RFC 9810, 5.1.3: a secret protects what a key that hangs cannot."""
    node = a_node_with_token(tmp_path / "node", remote_token.toml, remote_token.environment)
    node.start()
    try:
        client = Client(node, "token", tmp_path)
        client.enrol()
        remote_token.signal(signal.SIGSTOP)
        ask = ("-infotype", "caCerts")
        client.cmp("genm", *client.secret, *ask)
        again = ("-newkey", "two.key", "-subject", "/CN=two", "-certout", "two.pem")
        assert "systemUnavail" in client.cmp("ir", *client.secret, *again, expect=1)
        # What nobody could sign is believed by those only who say that they will.
        refused = client.cmp("genm", *client.own, *ask, expect=1)
        assert "missing protection" in refused
        refused = client.cmp("genm", *client.own, *ask, "-unprotected_errors", expect=1)
        assert "systemUnavail" in refused
        remote_token.signal(signal.SIGCONT)
        deadline = time.monotonic() + 30
        while "error" in client.cmp("genm", *client.own, *ask, expect=None):
            assert time.monotonic() < deadline
        client.cmp("ir", *client.secret, *again)
    finally:
        remote_token.signal(signal.SIGCONT)
        node.kill()
