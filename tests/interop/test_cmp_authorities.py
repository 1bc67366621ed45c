"""`openssl cmp` and authorities of other kinds: a key in a token, RSA, another tenant."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.softhsm import create_token

pytestmark = pytest.mark.interop
SETTINGS = "\n[protocols.cmp]\nrate = 0\n"
OPEN = ("--profile", "device", "--set", "challenge.recoverable=true",
        "--set", "challenge.static=true")  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node with a token beside its software keys; what signs the answers lives there, too."""
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    node = Daemon(
        tmp_path_factory.mktemp("node"),
        settings=token.toml + SETTINGS,
        environment=token.environment,
    )
    node.tmad("ca", "create", "token", "--parent", "root", "--algorithm", "p256",
              "--store", "pkcs11")  # fmt: skip
    node.tmad("ca", "create", "rsa", "--parent", "root", "--algorithm", "rsa-2048")
    node.tmad("endpoint", "create", "cmp", "token", "--ca", "token", *OPEN,
              "--set", "options.ra_store=pkcs11")  # fmt: skip
    node.tmad("endpoint", "create", "cmp", "rsa", "--ca", "rsa", *OPEN)
    (node.directory / "root.pem").write_text(node.tmad("ca", "export", "root").stdout)
    node.start()
    yield node
    node.kill()


@pytest.mark.parametrize("label", ["token", "rsa"])
def test_enrolment_update_and_revocation(daemon: Daemon, label: str, tmp_path: Path) -> None:
    made = daemon.json(
        "enroll-secret", "create", "--endpoint", f"cmp/{label}", "--recoverable", "--static"
    )
    secret = ("-ref", made["reference"], "-secret", f"pass:{made['secret']}")
    root = str(daemon.directory / "root.pem")

    def run(*command: str, expect: int = 0) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def cmp(command: str, *options: str, where: str = label, expect: int = 0) -> str:
        return run(
            "openssl", "cmp", "-config", "", "-server", f"127.0.0.1:{daemon.http_port}",
            "-path", f"/.well-known/cmp/p/{where}", "-recipient", "/CN=CA", "-trusted", root,
            "-cmd", command, *options, expect=expect,
        )  # fmt: skip

    for name in ("one", "two"):
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout",
            "-out", f"{name}.key")  # fmt: skip
    cmp("ir", *secret, "-newkey", "one.key", "-subject", "/CN=dev", "-certout", "one.pem",
        "-chainout", "chain.pem")  # fmt: skip
    run("openssl", "verify", "-CAfile", root, "-untrusted", "chain.pem", "one.pem")
    own = ("-cert", "one.pem", "-key", "one.key", "-extracerts", "chain.pem")
    cmp("kur", *own, "-newkey", "two.key", "-certout", "two.pem")
    run("openssl", "verify", "-CAfile", root, "-untrusted", "chain.pem", "two.pem")
    # T-EST-02: the other authority's endpoint takes neither the certificate nor the secret.
    other = "rsa" if label == "token" else "token"
    refused = cmp("genm", *own, "-infotype", "caCerts", where=other, expect=1)
    assert "notAuthorized" in refused
    refused = cmp("genm", *secret, "-infotype", "caCerts", where=other, expect=1)
    assert "badMessageCheck" in refused
    cmp("rr", *own, "-oldcert", "one.pem", "-revreason", "1")
    assert "certRevoked" in cmp("kur", *own, "-newkey", "two.key", "-certout", "x.pem", expect=1)
