"""GnuTLS's ocsptool asks the running daemon."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.daemon import Daemon
from tests.interop.device import enroll, run

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("nonce", ["--nonce", "--no-nonce"])
def test_ocsp_20_good_then_revoked(
    nonce: str, daemon: Daemon, require_client: Callable[[str], str]
) -> None:
    ocsptool = require_client("ocsptool")
    device = enroll(daemon, f"gnutls{nonce}")

    def ask() -> str:
        done = run(
            ocsptool, f"--ask={daemon.url}/ocsp/issuing", nonce, "--load-cert", device.path,
            "--load-issuer", daemon.pem(), expect=None,
        )  # fmt: skip
        output = done.stdout.decode() + done.stderr.decode()
        assert "Verifying OCSP Response: Success" in output, output
        return output

    assert "Certificate Status: good" in ask()
    daemon.tmad("cert", "revoke", device.serial, "--reason", "key-compromise")
    assert "Certificate Status: revoked" in ask()
