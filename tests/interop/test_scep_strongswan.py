"""strongSwan's ``pki --scep`` against the running daemon; openssl checks each certificate."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.daemon import Daemon

pytestmark = pytest.mark.interop


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture
def pki(require_client, daemon: Daemon, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A folder with two device keys and the authorities' certificates."""
    require_client("pki")
    for name in ("dev", "new"):
        run(tmp_path, "openssl", "genrsa", "-traditional", "-out", f"{name}.key", "2048")
    for name in ("issuing", "root"):
        (tmp_path / f"{name}.pem").write_text(daemon.pem(name).read_text())
    return tmp_path


def scep(folder: Path, url: str, out: str, *options: str) -> None:
    """Fetch the RA certificate, once as a client would, then enrol with ``options``."""
    if not (folder / "ra.pem").exists():
        run(folder, "pki", "--scepca", "--url", url, "--caout", "ca", "--raout", "ra",
            "--outform", "pem")  # fmt: skip
    done = run(
        folder, "pki", "--scep", "--url", url, "--dn", "C=NL, CN=r1.example.test",
        "--cacert-enc", "ra.pem", "--cacert-sig", "ra.pem", "--cacert", "issuing.pem",
        "--cacert", "root.pem", "--outform", "pem", *options,
    )  # fmt: skip
    (folder / out).write_bytes(done.stdout)
    run(folder, "openssl", "verify", "-CAfile", "root.pem", "-untrusted", "issuing.pem", out)


def public_key(folder: Path, *command: str) -> bytes:
    return run(folder, "openssl", *command).stdout


def enrol(daemon: Daemon, folder: Path, label: str) -> str:
    url = daemon.endpoint(label, "--authenticate", "challenge", "--authenticate", "certificate")
    scep(folder, url, "r1.pem", "--in", "dev.key", "--san", "r1.example.test",
         "--password", daemon.secret(f"scep/{label}"))  # fmt: skip
    return url


def test_scep_35_enrolment(daemon: Daemon, pki: Path) -> None:
    enrol(daemon, pki, "swan-enrol")
    assert public_key(pki, "x509", "-in", "r1.pem", "-noout", "-pubkey") == public_key(
        pki, "pkey", "-in", "dev.key", "-pubout"
    )


def test_scep_42_renewal_with_a_new_key(daemon: Daemon, pki: Path) -> None:
    url = enrol(daemon, pki, "swan-renew")
    scep(pki, url, "r2.pem", "--cert", "r1.pem", "--key", "dev.key", "--in", "new.key",
         "--san", "r1.example.test")  # fmt: skip
    assert public_key(pki, "x509", "-in", "r2.pem", "-noout", "-pubkey") == public_key(
        pki, "pkey", "-in", "new.key", "-pubout"
    )


def test_used_challenge_is_refused(daemon: Daemon, pki: Path) -> None:
    url = daemon.endpoint("swan-once")
    secret = daemon.secret("scep/swan-once")
    scep(pki, url, "r1.pem", "--in", "dev.key", "--password", secret)
    with pytest.raises(AssertionError, match="badRequest"):
        scep(pki, url, "r2.pem", "--in", "new.key", "--password", secret)


def test_scep_46_pending_is_polled_until_approved(daemon: Daemon, pki: Path) -> None:
    url = daemon.endpoint("swan-poll", "--approval", "manual")
    run(pki, "pki", "--scepca", "--url", url, "--caout", "ca", "--raout", "ra",
        "--outform", "pem")  # fmt: skip
    command = [
        "pki", "--scep", "--url", url, "--in", "dev.key", "--dn", "C=NL, CN=r1.example.test",
        "--password", daemon.secret("scep/swan-poll"), "--interval", "1", "--maxpolltime", "40",
        "--cacert-enc", "ra.pem", "--cacert-sig", "ra.pem", "--cacert", "issuing.pem",
        "--cacert", "root.pem", "--outform", "pem",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=pki, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        try:
            deadline = time.monotonic() + 20
            waiting: list[dict[str, str]] = []
            while not waiting and time.monotonic() < deadline:
                waiting = daemon.json("request", "list")
                time.sleep(0.2)
            assert waiting, "nothing waits for approval"
            daemon.tmad("request", "approve", str(waiting[0]["id"]))
            out, err = client.communicate(timeout=40)
        finally:
            client.kill()
    assert client.returncode == 0, err.decode()
    (pki / "r1.pem").write_bytes(out)
    run(pki, "openssl", "verify", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "r1.pem")
