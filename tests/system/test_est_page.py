"""The lines of docs/est.md, run as an administrator and a device would."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.warm import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "est.md"


def blocks() -> list[str]:
    """Return the page's script, one after the other as it is read."""
    return re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_a_device_gets_its_certificate_and_the_next_one(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "device"
    folder.mkdir()
    try:
        appliance, first, following, _ = blocks()
        script = (COMMANDS.shell() + appliance + first + following).replace(
            "ca.example.test:8443", f"127.0.0.1:{node.https_port}"
        )
        script = script.replace("ca.example.test:8444", f"127.0.0.1:{node.client_port}")
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
        assert old.public_key() != new.public_key()
    finally:
        node.kill()


def test_the_lines_about_manufacturers_are_understood(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node")
    script = blocks()[-1].replace("tmad trust-anchor refresh maker\n", "")  # there is no such host
    (tmp_path / "maker-ca.pem").write_text(node.pem("root").read_text())
    done = subprocess.run(
        ["bash", "-c", COMMANDS.shell() + script], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False, env={**os.environ, "TMAD_CONFIG": str(node.config)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shown = node.json("endpoint", "show", "est/factory")
    assert shown["manufacturers"] == ["maker"]
    assert shown["authenticate"] == ["manufacturer"]
