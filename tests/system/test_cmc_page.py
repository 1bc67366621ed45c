"""The lines of docs/cmc.md, run as an administrator and a device would: openssl cms and curl."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.warm import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "cmc.md"


def test_a_device_gets_its_certificate_and_the_next_one(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "device"
    folder.mkdir()
    try:
        script = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
        script = COMMANDS.shell() + script.replace(
            "ca.example.test:8443", f"127.0.0.1:{node.https_port}"
        )
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120,
            check=False, env={**os.environ, "TMAD_CONFIG": str(node.config)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr + node.log.read_text()[-2000:]
        assert "device.pem: OK" in done.stdout
        assert "renewed.pem: OK" in done.stdout
        old, new = (
            x509.load_pem_x509_certificates((folder / name).read_bytes())[0]
            for name in ("device.pem", "renewed.pem")
        )
        assert old.subject == new.subject
        assert old.public_key() != new.public_key()
        node.tmad("endpoint", "set", "cmc/devices", "options.confirm=true")
    finally:
        node.kill()
