"""strongSwan's ``pki --estca`` and ``pki --est`` against the running daemon."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.system.commands import Commands, commands_of

pytestmark = pytest.mark.interop

WORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def daemon(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A node whose endpoint without a label takes secrets: version 5.9.8 knows no labels."""
    require_client("pki")
    node = Daemon(tmp_path_factory.mktemp("node"), settings="\n[protocols.est]\nrate = 0\n")
    node.start()
    yield node
    node.kill()


@pytest.fixture(scope="module")
def tmad(daemon: Daemon) -> Commands:
    commands = commands_of(daemon)
    commands.run("endpoint", "create", "est", "default", "--ca", "issuing", "--profile",
                 "device", "--set", "options.retry_after=1")  # fmt: skip
    return commands


def run(folder: Path, *command: str) -> bytes:
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def secret(tmad: Commands) -> str:
    answer = tmad.json("enroll-secret", "create", "--endpoint", "est/default")
    return str(answer["secret"])


@pytest.fixture
def folder(daemon: Daemon, tmp_path: Path) -> Path:
    """A folder with keys, requests and the authorities' certificates."""
    for name in ("issuing", "root"):
        (tmp_path / f"{name}.pem").write_text(daemon.pem(name).read_text())
    for name in ("dev", "new"):
        key = run(tmp_path, "pki", "--gen", "--type", "ecdsa", "--size", "256",
                  "--outform", "pem")  # fmt: skip
        (tmp_path / f"{name}.key").write_bytes(key)
        request(tmp_path, name, f"{name}.csr")
    return tmp_path


def request(folder: Path, key: str, out: str, dn: str = "C=NL, CN=gw.example.test") -> None:
    made = run(folder, "pki", "--req", "--type", "ecdsa", "--in", f"{key}.key", "--dn", dn,
               "--san", "gw.example.test", "--outform", "der")  # fmt: skip
    (folder / out).write_bytes(made)


def est(daemon: Daemon, *options: str, client: bool = False) -> list[str]:
    port = daemon.client_port if client else daemon.https_port
    return [
        "pki", "--est", "--url", f"https://127.0.0.1:{port}", "--cacert", "issuing.pem",
        "--cacert", "root.pem", "--outform", "pem", *options,
    ]  # fmt: skip


def verified(folder: Path, name: str, certificate: bytes) -> None:
    (folder / name).write_bytes(certificate)
    run(folder, "openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted",
        "issuing.pem", name)  # fmt: skip
    run(folder, "pki", "--verify", "--in", name, "--cacert", "issuing.pem",
        "--cacert", "root.pem")  # fmt: skip


def test_estca_writes_the_chain(daemon: Daemon, tmad: Commands, folder: Path) -> None:
    run(folder, "pki", "--estca", "--url", f"https://127.0.0.1:{daemon.https_port}",
        "--cacert", "root.pem", "--caout", "est", "--outform", "pem")  # fmt: skip
    written = sorted(folder.glob("est*"))
    found = {path.read_text().strip() for path in written}
    assert found == {
        daemon.pem("issuing").read_text().strip(),
        daemon.pem("root").read_text().strip(),
    }


def test_enrolment_by_password_then_renewal_by_certificate(
    daemon: Daemon, tmad: Commands, folder: Path
) -> None:
    first = run(folder, *est(daemon, "--in", "dev.csr", "--userpass", f"gw:{secret(tmad)}"))
    verified(folder, "gw.pem", first)
    again = run(folder, *est(daemon, "--in", "new.csr", "--cert", "gw.pem", "--key", "dev.key",
                             client=True))  # fmt: skip
    verified(folder, "gw2.pem", again)
    key = run(folder, "openssl", "pkey", "-in", "new.key", "-pubout")
    assert run(folder, "openssl", "x509", "-in", "gw2.pem", "-noout", "-pubkey") == key


def test_a_wrong_password_is_refused(daemon: Daemon, tmad: Commands, folder: Path) -> None:
    with pytest.raises(AssertionError, match="401"):
        run(folder, *est(daemon, "--in", "dev.csr", "--userpass", "gw:wrong"))


def test_another_name_is_no_renewal(daemon: Daemon, tmad: Commands, folder: Path) -> None:
    first = run(folder, *est(daemon, "--in", "dev.csr", "--userpass", f"gw:{secret(tmad)}"))
    (folder / "gw.pem").write_bytes(first)
    request(folder, "new", "other.csr", "C=NL, CN=other.example.test")
    with pytest.raises(AssertionError, match="400"):
        run(folder, *est(daemon, "--in", "other.csr", "--cert", "gw.pem", "--key", "dev.key",
                         client=True))  # fmt: skip


def test_est_23_pending_is_polled_until_approved(
    daemon: Daemon, tmad: Commands, folder: Path
) -> None:
    tmad.run("endpoint", "set", "est/default", "approval=manual")
    command = est(daemon, "--in", "dev.csr", "--userpass", f"gw:{secret(tmad)}", "--interval", "1",
                  "--maxpolltime", "40")  # fmt: skip
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        try:
            deadline = time.monotonic() + 25
            waiting: list[dict[str, str]] = []
            while not waiting and time.monotonic() < deadline:
                waiting = tmad.json("request", "list")
                time.sleep(0.2)
            assert waiting, "nothing waits for approval"
            tmad.run("request", "approve", str(waiting[0]["id"]))
            out, err = client.communicate(timeout=45)
        finally:
            client.kill()
    assert client.returncode == 0, err.decode()
    verified(folder, "gw.pem", out)
