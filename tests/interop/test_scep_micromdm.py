"""Debian's ``scepclient`` (micromdm 2.1): it speaks SHA-1 and single DES and nothing else."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from asn1crypto import cms

from tests import scep_client as client
from tests.daemon import Daemon

pytestmark = pytest.mark.interop


def fingerprint_of_ra(url: str) -> str:
    """Return the SHA-256 of the RA certificate: without it the client encrypts to every one."""
    _, _, body = client.fetch(url, "GetCACert")
    first = cms.ContentInfo.load(body)["content"]["certificates"][0]
    return hashlib.sha256(first.chosen.dump()).hexdigest()


def scepclient(folder: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scepclient", "-private-key", "k.pem", "-certificate", "c.pem", "-server-url", url,
         "-cn", "c1.example.test", "-ca-fingerprint", fingerprint_of_ra(url), "-debug", *options],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def serial(folder: Path, daemon: Daemon) -> str:
    """Check the certificate with openssl; return its serial number."""
    chain = ["-CAfile", str(daemon.pem("root")), "-untrusted", str(daemon.pem("issuing"))]
    subprocess.run(["openssl", "verify", *chain, "c.pem"], cwd=folder, check=True)
    done = subprocess.run(
        ["openssl", "x509", "-in", "c.pem", "-noout", "-serial"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_enrolment_and_renewal_where_insecure_algorithms_are_allowed(
    require_client,
    daemon: Daemon,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    require_client("scepclient")
    url = daemon.endpoint(
        "mdm", "--authenticate", "challenge", "--authenticate", "certificate",
        "--set", "options.legacy_insecure=true",
    )  # fmt: skip
    done = scepclient(tmp_path, url, "-challenge", daemon.secret("scep/mdm"))
    assert done.returncode == 0, done.stdout + done.stderr
    first = serial(tmp_path, daemon)
    done = scepclient(tmp_path, url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert serial(tmp_path, daemon) != first


def test_t_scep_04_refused_by_default(
    require_client,
    daemon: Daemon,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    require_client("scepclient")
    url = daemon.endpoint("mdm-strict")
    done = scepclient(tmp_path, url, "-challenge", daemon.secret("scep/mdm-strict"))
    assert done.returncode != 0
    assert "badAlg" in done.stdout + done.stderr
    assert not (tmp_path / "c.pem").exists()
