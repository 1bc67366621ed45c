"""tmad init: one command, no questions, repeatable, on every kind of database and key store."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres import Cluster, start_cluster
from tests.softhsm import create_token
from tests.warm import COMMANDS

ADDRESSES = [f"--{name}=127.0.0.1:1" for name in ("http", "https", "https-client", "ops")]
ORGANISATION = ["--name", "Example GmbH", "--host", "pki.example.test"]

Tmad = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tmad(tmp_path: Path) -> Tmad:
    """Run a command on the node in tmp_path/node."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = str(tmp_path / "node" / "tmad.toml")
        return COMMANDS.run(arguments, {**os.environ, "TMAD_CONFIG": settings, **environment})

    return call


@pytest.fixture
def init(tmad: Tmad, tmp_path: Path) -> Tmad:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        fixed = ["--dir", str(tmp_path / "node"), *ORGANISATION, *ADDRESSES]
        return tmad("init", *fixed, *arguments, **environment)

    return call


def contents(directory: Path) -> dict[str, str]:
    """Return a digest of each file but SQLite's, which a mere look may checkpoint."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if not path.name.startswith("tmad.db")
    }


def check_chain(node: Path) -> None:
    """Let OpenSSL say that the issuing CA is the root's."""
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", node / "root.pem", node / "issuing.pem"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr


def test_init_makes_everything_and_its_second_run_nothing(
    init: Tmad, tmad: Tmad, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    first = init()
    assert first.returncode == 0, first.stderr
    assert "Root SHA-256" in first.stdout
    assert "tmad.toml run\n" in first.stdout
    check_chain(node)
    before, exported = contents(node), tmad("export", "--all-tenants").stdout
    second = init()
    assert second.returncode == 3, second.stderr
    assert "nothing to do" in second.stderr
    assert contents(node) == before
    assert tmad("export", "--all-tenants").stdout == exported


def test_init_keeps_secrets_to_their_owner(init: Tmad, tmp_path: Path) -> None:
    done = init()
    node = tmp_path / "node"
    assert stat.S_IMODE(node.stat().st_mode) == 0o700
    public = {"root.pem", "issuing.pem"}
    for path in node.iterdir():
        if path.name not in public:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    passphrase = (node / "passphrase").read_text().strip()
    assert passphrase not in done.stdout + done.stderr
    assert passphrase not in (node / "tmad.toml").read_text()


def test_init_makes_what_is_missing(init: Tmad, tmad: Tmad) -> None:
    init()
    assert tmad("endpoint", "delete", "scep/default").returncode == 0
    assert tmad("profile", "delete", "code-signing").returncode == 0
    again = init()
    assert again.returncode == 0
    assert "endpoint scep/default" in again.stdout
    assert "1 profiles: code-signing" in again.stdout
    assert init().returncode == 3


def test_scep_06_a_fresh_install_offers_no_static_challenge(init: Tmad, tmad: Tmad) -> None:
    init()
    create = ("enroll-secret", "create", "--endpoint", "scep/default")
    refused = tmad(*create, "--static")
    assert refused.returncode == 2
    assert "allows no static secrets" in refused.stderr
    assert tmad("enroll-secret", "list", "-o", "name").stdout == ""
    assert tmad(*create, "-o", "name").returncode == 0


def test_a_node_without_its_passphrase_says_so_in_one_line(
    init: Tmad, tmad: Tmad, tmp_path: Path
) -> None:
    init()
    (tmp_path / "node" / "passphrase").write_text("another\n")
    done = tmad("profile", "list")
    assert done.returncode == 2
    assert "does not open the master key" in done.stderr
    assert "Traceback" not in done.stderr


def test_init_refuses_half_a_token(init: Tmad, tmp_path: Path) -> None:
    done = init("--keys", "pkcs11", "--pkcs11-module", "/nowhere.so")
    assert done.returncode == 1
    assert "--pkcs11-token" in done.stderr
    assert not (tmp_path / "node").exists()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    running = start_cluster()
    yield running
    running.remove()


def test_init_on_postgresql(init: Tmad, tmad: Tmad, tmp_path: Path, cluster: Cluster) -> None:
    first = init("--db", cluster.empty_database())
    assert first.returncode == 0, first.stderr
    check_chain(tmp_path / "node")
    assert init().returncode == 3
    assert tmad("endpoint", "list", "-o", "name").stdout == "scep-default\n"


def test_init_with_keys_in_a_token(
    init: Tmad,
    tmp_path: Path,
    require_client: Callable[[str], str],
) -> None:
    require_client("softhsm2-util")
    token = create_token(tmp_path / "token")
    first = init(
        *("--keys", "pkcs11", "--pkcs11-module", str(token.module)),
        *("--pkcs11-token", token.label, "--pin-file", str(token.pin_file)),
        **token.environment,
    )
    assert first.returncode == 0, first.stderr
    check_chain(tmp_path / "node")
    assert token.pin not in first.stdout + first.stderr
    assert init(**token.environment).returncode == 3
