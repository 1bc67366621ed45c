"""ACME by dehydrated (bash, sed and curl), against the running daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.acme_world import ACMENode, a_node, dns_names, hook, run, web_server

pytestmark = pytest.mark.interop


node = a_node("dehydrated", "curl", "openssl")


@pytest.fixture
def webroot(node: ACMENode, tmp_path: Path) -> Iterator[Path]:
    with web_server(tmp_path / "web", node.http_port) as root:
        yield root


def configured(node: ACMENode, folder: Path, *lines: str) -> Path:
    config = folder / "config"
    config.write_text(
        f'CA="{node.directory()}"\nBASEDIR="{folder}"\nCURL_OPTS="--cacert {node.trust}"\n'
        "ACCOUNT_KEYSIZE=2048\n" + "".join(f"{line}\n" for line in lines)
    )
    return config


def dehydrated(folder: Path, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    return run(folder, "dehydrated", "-f", "config", *words, expect=expect)


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "certs" / name / "cert.pem").read_bytes())


def test_http_01_by_a_web_server(node: ACMENode, tmp_path: Path, webroot: Path) -> None:
    configured(node, tmp_path, f'WELLKNOWN="{webroot}"')
    (tmp_path / "domains.txt").write_text("a.example.test b.example.test\n")
    dehydrated(tmp_path, "--register", "--accept-terms")
    dehydrated(tmp_path, "-c")
    first = certificate(tmp_path, "a.example.test")
    assert sorted(dns_names(first)) == ["a.example.test", "b.example.test"]
    dehydrated(tmp_path, "-c", "--force")
    second = certificate(tmp_path, "a.example.test")
    assert second.serial_number != first.serial_number
    dehydrated(tmp_path, "-r", str(tmp_path / "certs" / "a.example.test" / "cert.pem"))
    assert node.daemon.json("cert", "show", f"{second.serial_number:x}")["status"] == "revoked"
    dehydrated(tmp_path, "--account")


def test_dns_01_by_a_hook(node: ACMENode, tmp_path: Path) -> None:
    node.names.zone = tmp_path
    script = tmp_path / "dehydrated-hook"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = deploy_challenge ] && {hook(tmp_path)} present '
        '"_acme-challenge.$2" "$4"\nexit 0\n'
    )
    script.chmod(0o755)
    configured(node, tmp_path, 'CHALLENGETYPE="dns-01"', f'HOOK="{script}"', "KEY_ALGO=rsa",
               "KEYSIZE=2048", "ACCOUNT_KEY_ALGO=secp384r1")  # fmt: skip
    (tmp_path / "domains.txt").write_text("*.wild.test > wild\n")
    dehydrated(tmp_path, "--register", "--accept-terms")
    dehydrated(tmp_path, "-c")
    assert dns_names(certificate(tmp_path, "wild")) == ["*.wild.test"]
