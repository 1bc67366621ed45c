"""One life of a certificate, by outside clients, on every kind of node.

strongSwan enrols, openssl asks for the status and checks the CRL; the revocation is seen at the
very next query, on each database, with two workers, and with all CA keys in a token.
"""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.postgres import start_cluster
from tests.softhsm import create_token

KINDS = ["sqlite-2-workers", "postgresql-1-worker", "postgresql-2-workers", "softhsm"]
# Two workers share a port by the kernel's choice: this many fresh connections meet both.
BOTH = 12


@pytest.fixture(params=KINDS, scope="module")
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A running node of each kind."""
    directory = tmp_path_factory.mktemp("node") / "tmad"
    kind: str = request.param
    options: list[str] = []
    environment: dict[str, str] = {}
    if kind.startswith("postgresql"):
        options = ["--db", start_cluster().empty_database()]
    if kind == "softhsm":
        token = create_token(tmp_path_factory.mktemp("token"))
        environment = token.environment
        options = [
            "--keys", "pkcs11", "--pkcs11-module", str(token.module),
            "--pkcs11-token", token.label, "--pin-file", str(token.pin_file),
        ]  # fmt: skip
    daemon = Daemon(
        directory, *options, workers=2 if "2-workers" in kind else 1, environment=environment
    )
    daemon.start()
    yield daemon
    daemon.kill()


def run(*arguments: object, expect: int | None = 0) -> str:
    done = subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, timeout=60, check=False
    )
    output = done.stdout + done.stderr
    assert expect is None or done.returncode == expect, output
    return done.stdout if expect == 0 else output


def strongswan(node: Daemon, pki: str, name: str) -> Path:
    """Enrol with strongSwan's pki; return the file with the certificate."""
    home, url = node.directory, f"{node.url}/scep/default"
    ca, ra = home / "scep-ca", home / "scep-ra"
    run(pki, "--scepca", "--url", url, "--caout", ca, "--raout", ra, "--outform", "pem", "--force")
    key = home / f"{name}.key"
    run("openssl", "genrsa", "-traditional", "-out", key, "2048")
    certificate = run(
        pki, "--scep", "--url", url, "--in", key, "--dn", f"C=NL, CN={name}",
        "--san", f"{name}.example.test", "--password", node.secret(),
        "--cacert-enc", f"{ra}.pem", "--cacert-sig", f"{ra}.pem",
        "--cacert", f"{ca}.pem", "--cacert", f"{ca}-1.pem", "--outform", "pem",
    )  # fmt: skip
    path = home / f"{name}.pem"
    path.write_text(certificate)
    return path


def status(node: Daemon, certificate: Path, *options: str) -> str:
    """Return what ``openssl ocsp`` says, having verified the answer."""
    output = run(
        "openssl", "ocsp", "-issuer", node.pem(), "-cert", certificate,
        "-url", f"{node.url}/ocsp", "-CAfile", node.pem("root"), *options, expect=None,
    )  # fmt: skip
    assert "Response verify OK" in output, output
    return output.split(f"{certificate}: ")[1].split("\n")[0]


def crl_check(node: Daemon, certificate: Path) -> str:
    """Return what ``openssl verify -crl_check`` says with a CRL fetched just now."""
    crl = node.directory / "now.crl.pem"
    with urllib.request.urlopen(f"{node.url}/crl/issuing.pem", timeout=10) as answer:
        crl.write_bytes(answer.read())
    chain = node.directory / "chain.pem"
    chain.write_text(node.pem("root").read_text() + node.pem().read_text())
    return run(
        "openssl", "verify", "-crl_check", "-CRLfile", crl, "-CAfile", chain, certificate,
        expect=None,
    )  # fmt: skip


def test_a_revocation_is_seen_at_the_very_next_query(
    node: Daemon, require_client: Callable[[str], str]
) -> None:
    certificate = strongswan(node, require_client("pki"), "r1")
    for _ in range(BOTH):
        assert status(node, certificate, "-no_nonce") == "good"
    assert crl_check(node, certificate).strip().endswith("OK")
    serial = run("openssl", "x509", "-in", certificate, "-noout", "-serial").split("=")[1].strip()
    node.tmad("cert", "revoke", serial, "--reason", "superseded")
    # No pause: whoever is asked, both workers among them, has to know.
    for _ in range(BOTH):
        assert status(node, certificate, "-no_nonce") == "revoked"
        assert "certificate revoked" in crl_check(node, certificate)
    assert status(node, certificate) == "revoked"
    node.tmad("audit", "verify")


def test_a_hold_is_seen_and_released_at_once(
    node: Daemon, require_client: Callable[[str], str]
) -> None:
    certificate = strongswan(node, require_client("pki"), "r2")
    serial = run("openssl", "x509", "-in", certificate, "-noout", "-serial").split("=")[1].strip()
    for _ in range(2):
        node.tmad("cert", "hold", serial)
        assert status(node, certificate, "-no_nonce") == "revoked"
        assert "certificate revoked" in crl_check(node, certificate)
        node.tmad("cert", "release", serial)
        assert status(node, certificate, "-no_nonce") == "good"
        assert crl_check(node, certificate).strip().endswith("OK")


def test_the_daemon_stops_when_it_is_told_to_and_starts_again(node: Daemon) -> None:
    assert node.stop() == 0
    node.start()
    with urllib.request.urlopen(f"{node.url}/crl/issuing.crl", timeout=10) as answer:
        assert answer.status == 200
