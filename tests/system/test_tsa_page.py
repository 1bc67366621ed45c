"""The lines of docs/tsa.md, run as an administrator and a client would."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.daemon import Daemon
from tests.warm import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "tsa.md"


def test_a_file_is_stamped_and_checked(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "client"
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
        assert "the door is /tsa/default" in done.stdout + done.stderr
        assert "Verification: OK" in done.stdout + done.stderr
        node.tmad("endpoint", "set", "tsa/default", "options.accuracy_ms=500")
        refused = node.tmad(
            "endpoint", "create", "tsa", "bad", "--ca", "issuing", "--profile", "tsa-signer",
            expect=None,
        )  # fmt: skip
        assert refused.returncode != 0
        assert "options.policy" in refused.stderr
        node.tmad("endpoint", "disable", "tsa/default")
    finally:
        node.kill()
