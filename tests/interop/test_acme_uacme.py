"""ACME by uacme (C, GnuTLS), against the running daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.acme_world import ACMENode, a_node, dns_names, hook, run, web_server

pytestmark = pytest.mark.interop

# It trusts what the system trusts and nothing else, so it gets a system of its own.
SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")
ENTER = f'mount --bind "$1" {SYSTEM} && shift && exec "$@"'


node = a_node("uacme", "unshare", str(SYSTEM))


def uacme(
    node: ACMENode, folder: Path, *words: str, label: str = "default", expect: int = 0
) -> subprocess.CompletedProcess[str]:
    return run(
        folder, "unshare", "-rm", "sh", "-c", ENTER, "sh", str(node.trust), "uacme", "-v", "-y",
        "-a", node.directory(label), "-c", str(folder / "uacme"), *words, expect=expect,
    )  # fmt: skip


def certificate(folder: Path, name: str) -> x509.Certificate:
    path = folder / "uacme" / name / "cert.pem"
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def serving(folder: Path, root: Path) -> str:
    """Return a hook that answers http-01 and leaves the rest."""
    script = folder / "http-hook"
    script.write_text(
        f'#!/bin/sh\n[ "$2" = http-01 ] || exit 1\n[ "$1" = begin ] && echo "$5" >"{root}/$4"\n'
        "exit 0\n"
    )
    script.chmod(0o755)
    return str(script)


def test_the_life_of_an_account_and_its_certificate(node: ACMENode, tmp_path: Path) -> None:
    uacme(node, tmp_path, "-t", "EC", "new", "a@example.com")
    uacme(node, tmp_path, "update", "b@example.com")
    with web_server(tmp_path / "web", node.http_port) as root:
        way = ("-h", serving(tmp_path, root), "-t", "EC")
        uacme(node, tmp_path, *way, "issue", "a.example.test", "b.example.test")
        first = certificate(tmp_path, "a.example.test")
        assert dns_names(first) == ["a.example.test", "b.example.test"]
        # Good, and OCSP says so: nothing to do.
        uacme(node, tmp_path, *way, "issue", "a.example.test", "b.example.test", expect=1)
        node.daemon.tmad("cert", "revoke", f"{first.serial_number:x}", "--reason", "superseded")
        # OCSP says revoked: another one, by itself.
        uacme(node, tmp_path, *way, "issue", "a.example.test", "b.example.test")
    second = certificate(tmp_path, "a.example.test")
    assert second.serial_number != first.serial_number
    uacme(node, tmp_path, "newkey")
    uacme(node, tmp_path, "-r", "4", "revoke", str(tmp_path / "uacme/a.example.test/cert.pem"))
    shown = node.daemon.json("cert", "show", f"{second.serial_number:x}")
    assert (shown["status"], shown["reason"]) == ("revoked", 4)
    uacme(node, tmp_path, "deactivate")
    (account,) = node.daemon.json("acme-account", "list")
    assert (account["state"], account["contacts"]) == ("deactivated", ["mailto:b@example.com"])


def test_an_external_account_and_dns_01(node: ACMENode, tmp_path: Path) -> None:
    node.endpoint("eab", "--set", "challenge.recoverable=true", external_account_required=True)
    node.names.zone = tmp_path
    present = hook(tmp_path)
    script = tmp_path / "dns-hook"
    script.write_text(
        '#!/bin/sh\n[ "$2" = dns-01 ] || exit 1\n'
        f'[ "$1" = begin ] && {present} present "_acme-challenge.$3" "$5"\nexit 0\n'
    )
    script.chmod(0o755)
    secret = node.external_account("eab")
    uacme(node, tmp_path, "new", label="eab", expect=2)
    bound = f"{secret['id']}:{secret['eab_hmac_key']}"
    uacme(node, tmp_path, "-e", bound, "new", label="eab")
    uacme(node, tmp_path, "-h", str(script), "issue", "*.wild.test", label="eab")
    assert dns_names(certificate(tmp_path, "wild.test")) == ["*.wild.test"]
