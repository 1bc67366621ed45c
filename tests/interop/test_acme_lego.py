"""ACME by lego (Go's xenolf client), against the running daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.acme_world import ACMENode, a_node, dns_names, hook, run

pytestmark = pytest.mark.interop


node = a_node("lego", "openssl")


def lego(
    node: ACMENode,
    folder: Path,
    *words: str,
    domains: tuple[str, ...] = ("a.example.test",),
    label: str = "default",
    how: tuple[str, ...] = (),
    expect: int = 0,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    how = how or ("--http", "--http.port", f"127.0.0.1:{node.http_port}")
    names = [word for name in domains for word in ("--domains", name)]
    return run(
        folder, "lego", "--accept-tos", "--server", node.directory(label), "--email",
        "a@example.com", *names, "--path", "lego", *how, *words, expect=expect,
        environment={"LEGO_CA_CERTIFICATES": str(node.trust), **environment},
    )  # fmt: skip


def certificate(folder: Path, name: str = "a.example.test") -> x509.Certificate:
    path = folder / "lego" / "certificates" / f"{name}.crt"
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_the_life_of_a_certificate(node: ACMENode, tmp_path: Path) -> None:
    lego(node, tmp_path, "run", domains=("a.example.test", "b.example.test"))
    first = certificate(tmp_path)
    assert dns_names(first) == ["a.example.test", "b.example.test"]
    chain = tmp_path / "lego" / "certificates" / "a.example.test.crt"
    run(tmp_path, "openssl", "verify", "-x509_strict", "-CAfile", str(node.trust), "-untrusted",
        str(chain), str(chain))  # fmt: skip
    lego(node, tmp_path, "renew", "--days", "400", "--no-random-sleep",
         domains=("a.example.test", "b.example.test"))  # fmt: skip
    second = certificate(tmp_path)
    assert second.serial_number != first.serial_number
    lego(node, tmp_path, "revoke", "--reason", "4")
    shown = node.daemon.json("cert", "show", f"{second.serial_number:x}")
    assert (shown["status"], shown["reason"]) == ("revoked", 4)
    assert node.daemon.json("cert", "show", f"{first.serial_number:x}")["status"] == "good"


def test_tls_alpn_01(node: ACMENode, tmp_path: Path) -> None:
    how = ("--tls", "--tls.port", f"127.0.0.1:{node.tls_port}")
    lego(node, tmp_path, "run", domains=("b.example.test",), how=how)
    assert dns_names(certificate(tmp_path, "b.example.test")) == ["b.example.test"]


def test_a_wildcard_by_dns_01(node: ACMENode, tmp_path: Path) -> None:
    node.names.zone = tmp_path
    how = ("--dns", "exec", "--dns.disable-cp", "--dns.resolvers", node.names.address)
    lego(node, tmp_path, "run", domains=("*.wild.test", "wild.test"), how=how,
         EXEC_PATH=str(hook(tmp_path)), EXEC_POLLING_INTERVAL="1",
         EXEC_SEQUENCE_INTERVAL="1")  # fmt: skip
    assert dns_names(certificate(tmp_path, "_.wild.test")) == ["*.wild.test", "wild.test"]


@pytest.mark.long  # the others have P-256
@pytest.mark.parametrize("kind", ["rsa2048", "ec384"])
def test_kinds_of_keys(node: ACMENode, tmp_path: Path, kind: str) -> None:
    lego(node, tmp_path, "--key-type", kind, "run")
    assert certificate(tmp_path)


def test_a_name_whose_caa_record_forbids_it_fails_with_the_reason(
    node: ACMENode, tmp_path: Path
) -> None:
    node.endpoint("caa", **{"validation.caa_identities": ["ca.test"]})
    node.names.records["www.example.test", "CAA"] = [(False, "issue", "other.test")]
    node.names.records["host.example.test", "CAA"] = [(False, "issue", "ca.test")]
    refused = lego(node, tmp_path, "run", domains=("www.example.test",), label="caa", expect=1)
    assert "urn:ietf:params:acme:error:caa" in refused.stderr
    lego(node, tmp_path, "run", domains=("host.example.test",), label="caa")
    assert certificate(tmp_path, "host.example.test")


def test_each_name_that_cannot_be_had_is_told(node: ACMENode, tmp_path: Path) -> None:
    """RFC 8555, 6.7.1: lego shows every subproblem."""
    names = ("a.example.test", "a_b.example.test", "192.0.2.1.example.test", "c_d.example.test")
    refused = lego(node, tmp_path, "run", domains=names, expect=1)
    told = refused.stdout + refused.stderr
    assert told.count('problem: "urn:ietf:params:acme:error:rejectedIdentifier"') == 2, told


@pytest.mark.long  # ten seconds of retries
def test_a_name_that_is_not_there_fails_with_the_reason(node: ACMENode, tmp_path: Path) -> None:
    done = lego(node, tmp_path, "run", domains=("nowhere.example.test",), expect=1)
    assert "urn:ietf:params:acme:error:dns" in done.stderr
    assert "nowhere.example.test" in done.stderr


def test_an_external_account(node: ACMENode, tmp_path: Path) -> None:
    node.endpoint("eab", "--set", "challenge.recoverable=true", external_account_required=True)
    refused = lego(node, tmp_path, "run", label="eab", expect=1)
    assert "requires External Account Binding" in refused.stderr
    secret = node.external_account("eab")
    bound = ("--eab", "--kid", secret["id"], "--hmac", secret["eab_hmac_key"])
    wrong = ("--eab", "--kid", secret["id"], "--hmac", secret["eab_hmac_key"][:-4] + "AAAA")
    assert "unauthorized" in lego(node, tmp_path, *wrong, "run", label="eab", expect=1).stderr
    lego(node, tmp_path, *bound, "run", label="eab")
    assert certificate(tmp_path)
    # Bound once: another account finds it used up.
    (tmp_path / "other").mkdir()
    again = lego(node, tmp_path / "other", *bound, "run", label="eab", expect=1)
    assert "unauthorized" in again.stderr
