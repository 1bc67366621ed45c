"""certmonger's ``scep-submit``: what it reads before it enrols."""

from __future__ import annotations

import subprocess

import pytest

from tests.daemon import Daemon

pytestmark = pytest.mark.interop
PROGRAM = "/usr/lib/certmonger/scep-submit"


def submit(url: str, option: str) -> str:
    done = subprocess.run(
        [PROGRAM, "-u", url, option], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_capabilities(require_client, daemon: Daemon) -> None:  # type: ignore[no-untyped-def]
    require_client(PROGRAM)
    words = submit(f"{daemon.url}/scep/default", "-c").split()
    assert {"AES", "POSTPKIOperation", "Renewal", "SCEPStandard", "SHA-256"} <= set(words)
    assert not {"DES3", "SHA-1"} & set(words)


def test_certificates_begin_with_the_ra(require_client, daemon: Daemon) -> None:  # type: ignore[no-untyped-def]
    require_client(PROGRAM)
    printed = submit(f"{daemon.url}/scep/default", "-C")
    assert printed.count("BEGIN CERTIFICATE") == 3
    for name in ("issuing", "root"):
        body = "".join(daemon.pem(name).read_text().split("-----")[2].split())
        assert body in "".join(printed.split())
