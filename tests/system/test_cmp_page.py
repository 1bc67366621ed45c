"""The lines of docs/cmp.md, run as an administrator and a device would."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.warm import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "cmp.md"


def test_a_device_gets_its_certificate_and_the_next_one(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "device"
    folder.mkdir()
    try:
        script = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
        script = COMMANDS.shell() + script.replace(
            "ca.example.test:8080", f"127.0.0.1:{node.http_port}"
        )
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120,
            check=False, env={**os.environ, "TMAD_CONFIG": str(node.config)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "device.pem: OK" in done.stdout
        assert "next.pem: OK" in done.stdout
        old, new = (
            x509.load_pem_x509_certificate((folder / name).read_bytes())
            for name in ("device.pem", "next.pem")
        )
        assert old.subject == new.subject
        shown = node.json("cert", "show", f"{old.serial_number:x}")
        assert "revoked" in str(shown)
        node.tmad("endpoint", "set", "cmp/default", "options.confirm_seconds=120")
    finally:
        node.kill()
