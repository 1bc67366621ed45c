"""openssl, GnuTLS and strongSwan read our CRLs."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemon import Daemon
from tests.interop.device import enroll, run

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def openssl(require_client: Callable[[str], str]) -> str:
    return require_client("openssl")


def download(daemon: Daemon, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=10)
    connection.request("GET", path, None, {n.replace("_", "-"): v for n, v in headers.items()})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response, data


def save(daemon: Daemon, directory: Path, path: str) -> Path:
    response, data = download(daemon, path)
    assert response.status == 200
    file = directory / path.rpartition("/")[2]
    file.write_bytes(data)
    return file


def test_crl_11_verify_with_crl_check_at_the_very_next_download(
    daemon: Daemon, openssl: str, tmp_path: Path
) -> None:
    device = enroll(daemon, "crl-checked")
    chain = tmp_path / "chain.pem"
    chain.write_text(daemon.pem().read_text() + daemon.pem("root").read_text())

    def verify(expect: int) -> str:
        done = run(
            openssl, "verify", "-crl_check_all", "-CAfile", chain,
            "-CRLfile", save(daemon, tmp_path, "/crl/issuing.pem"),
            "-CRLfile", save(daemon, tmp_path, "/crl/root.pem"),
            device.path, expect=expect,
        )  # fmt: skip
        return done.stdout.decode() + done.stderr.decode()

    assert ": OK" in verify(0)
    daemon.tmad("cert", "hold", device.serial)
    assert "certificate revoked" in verify(2)
    daemon.tmad("cert", "release", device.serial)
    assert ": OK" in verify(0)
    daemon.tmad("cert", "revoke", device.serial, "--reason", "cessation-of-operation")
    assert "certificate revoked" in verify(2)


def test_crl_01_openssl_reads_and_verifies_it(daemon: Daemon, openssl: str, tmp_path: Path) -> None:
    device = enroll(daemon, "listed")
    daemon.tmad("cert", "revoke", device.serial, "--reason", "superseded")
    file = save(daemon, tmp_path, "/crl/issuing.crl")
    done = run(
        openssl, "crl", "-inform", "DER", "-in", file, "-noout", "-text",
        "-CAfile", daemon.pem(),
    )  # fmt: skip
    assert b"verify OK" in done.stderr
    text = done.stdout.decode()
    assert "Version 2" in text
    assert f"Serial Number: {device.certificate.serial_number:X}" in text.replace(": 0", ": ")
    assert "Superseded" in text
    assert "X509v3 CRL Number" in text
    assert "X509v3 Authority Key Identifier" in text


def test_crl_03_certtool_and_strongswan_read_it(
    daemon: Daemon, tmp_path: Path, require_client: Callable[[str], str]
) -> None:
    device = enroll(daemon, "read-by-others")
    daemon.tmad("cert", "revoke", device.serial, "--reason", "key-compromise")
    file = save(daemon, tmp_path, "/crl/issuing.crl")
    certtool = require_client("certtool")
    shown = run(certtool, "--crl-info", "--inder", "--infile", file).stdout.decode()
    assert device.serial in shown.replace(":", "").lower()
    verified = run(
        certtool, "--verify-crl", "--infile", save(daemon, tmp_path, "/crl/issuing.pem"),
        "--load-ca-certificate", daemon.pem(), expect=None,
    )  # fmt: skip
    assert b"Verified" in verified.stdout + verified.stderr
    pki = require_client("pki")
    shown = run(pki, "--print", "--type", "crl", "--in", file).stdout.decode()
    assert device.serial in shown.replace(":", "").lower()


def test_crl_03_an_empty_list_is_read(daemon: Daemon, openssl: str, tmp_path: Path) -> None:
    file = save(daemon, tmp_path, "/crl/root.crl")
    done = run(openssl, "crl", "-inform", "DER", "-in", file, "-noout", "-text")
    assert b"No Revoked Certificates" in done.stdout


def test_crl_13_conditional_and_partial_downloads(daemon: Daemon) -> None:
    response, whole = download(daemon, "/crl/issuing.crl")
    assert response.headers["Content-Type"] == "application/pkix-crl"
    again, nothing = download(daemon, "/crl/issuing.crl", If_None_Match=response.headers["ETag"])
    assert (again.status, nothing) == (304, b"")
    part, first = download(daemon, "/crl/issuing.crl", Range="bytes=0-99")
    assert (part.status, first) == (206, whole[:100])
    assert download(daemon, "/crl/nobody.crl")[0].status == 404


def test_crl_13_ca_certificate_and_chain(daemon: Daemon, openssl: str, tmp_path: Path) -> None:
    response, data = download(daemon, "/aia/issuing.cer")
    assert response.headers["Content-Type"] == "application/pkix-cert"
    pem = daemon.pem().read_bytes()
    assert x509.load_der_x509_certificate(data) == x509.load_pem_x509_certificate(pem)
    file = save(daemon, tmp_path, "/aia/issuing.p7c")
    done = run(openssl, "pkcs7", "-inform", "DER", "-in", file, "-print_certs", "-noout")
    assert done.stdout.count(b"subject=") == 2


def test_tmad_crl_build_and_show(daemon: Daemon, tmp_path: Path, openssl: str) -> None:
    [before] = daemon.json("crl", "build", "issuing")
    [after] = daemon.json("crl", "build", "issuing")
    assert after["number"] == before["number"] + 1
    [same] = daemon.json("crl", "build", "issuing", "--dry-run")
    assert daemon.json("crl", "show", "issuing")[0]["number"] == after["number"]
    assert same["number"] == after["number"] + 1
    file = tmp_path / "out.pem"
    daemon.tmad("crl", "show", "issuing", "--out", str(file))
    run(openssl, "crl", "-in", file, "-noout", "-CAfile", daemon.pem())
    assert daemon.tmad("crl", "show", "nobody", expect=2).stderr
