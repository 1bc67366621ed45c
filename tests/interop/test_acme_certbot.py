"""ACME by certbot as Debian has it, against the running daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.acme_world import ACMENode, a_node, dns_names, hook, run

pytestmark = pytest.mark.interop


node = a_node("certbot")


def certbot(
    node: ACMENode, folder: Path, *words: str, label: str = "default", expect: int = 0
) -> subprocess.CompletedProcess[str]:
    # Debian's Python, not the one of the tests: its own packages, and none of ours.
    return run(
        folder, "certbot", *words, "-n", "--server", node.directory(label),
        *(word for name in ("config", "work", "logs") for word in (f"--{name}-dir", "cb")),
        expect=expect,
        environment={"REQUESTS_CA_BUNDLE": str(node.trust), "PYTHONPATH": "", "VIRTUAL_ENV": ""},
    )  # fmt: skip


def order(
    node: ACMENode, folder: Path, *words: str, label: str = "default", expect: int = 0
) -> subprocess.CompletedProcess[str]:
    return certbot(
        node, folder, "certonly", "--standalone", "--http-01-port", str(node.http_port),
        "--http-01-address", "127.0.0.1", "--agree-tos", "-m", "a@example.com", *words,
        label=label, expect=expect,
    )  # fmt: skip


def certificate(folder: Path, name: str) -> x509.Certificate:
    path = folder / "cb" / "live" / name / "fullchain.pem"
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_the_life_of_a_certificate_and_its_account(node: ACMENode, tmp_path: Path) -> None:
    order(node, tmp_path, "-d", "b.example.test", "-d", "www.example.test")
    first = certificate(tmp_path, "b.example.test")
    assert sorted(dns_names(first)) == ["b.example.test", "www.example.test"]
    certbot(node, tmp_path, "renew", "--force-renewal", "--no-random-sleep-on-renew")
    second = certificate(tmp_path, "b.example.test")
    assert second.serial_number != first.serial_number
    live = tmp_path / "cb" / "live" / "b.example.test"
    # By the certificate's own key, and by the account.
    archive = tmp_path / "cb" / "archive" / "b.example.test"
    certbot(node, tmp_path, "revoke", "--cert-path", str(archive / "cert1.pem"), "--key-path",
            str(archive / "privkey1.pem"), "--no-delete-after-revoke")  # fmt: skip
    certbot(node, tmp_path, "revoke", "--cert-path", str(live / "cert.pem"), "--reason",
            "superseded", "--no-delete-after-revoke")  # fmt: skip
    for each in (first, second):
        assert node.daemon.json("cert", "show", f"{each.serial_number:x}")["status"] == "revoked"
    certbot(node, tmp_path, "revoke", "--cert-path", str(live / "cert.pem"),
            "--no-delete-after-revoke", expect=1)  # fmt: skip
    assert "alreadyRevoked" in (tmp_path / "cb" / "letsencrypt.log").read_text()
    certbot(node, tmp_path, "update_account", "-m", "new@example.com")
    (account,) = [
        each for each in node.daemon.json("acme-account", "list")
        if "mailto:new@example.com" in each["contacts"]
    ]  # fmt: skip
    certbot(node, tmp_path, "unregister")
    assert node.daemon.json("acme-account", "show", account["id"])["state"] == "deactivated"


def test_a_wildcard_by_dns_01(node: ACMENode, tmp_path: Path) -> None:
    node.names.zone = tmp_path
    script = hook(tmp_path)
    certbot(
        node, tmp_path, "certonly", "--manual", "--preferred-challenges", "dns",
        "--manual-auth-hook",
        f"{script} present _acme-challenge.$CERTBOT_DOMAIN $CERTBOT_VALIDATION",
        "--agree-tos", "-m", "a@example.com", "-d", "*.wild.test", "-d", "wild.test",
    )  # fmt: skip
    assert sorted(dns_names(certificate(tmp_path, "wild.test"))) == ["*.wild.test", "wild.test"]


@pytest.mark.long  # lego has the external account in each run
def test_an_rsa_key_and_an_external_account(node: ACMENode, tmp_path: Path) -> None:
    node.endpoint("eab", "--set", "challenge.recoverable=true", external_account_required=True)
    secret = node.external_account("eab")
    order(node, tmp_path, "--key-type", "rsa", "--rsa-key-size", "2048", "-d", "a.example.test",
          "--eab-kid", secret["id"], "--eab-hmac-key", secret["eab_hmac_key"],
          label="eab")  # fmt: skip
    assert certificate(tmp_path, "a.example.test")
