"""The lines of docs/device-profiles.md, run as an administrator and a laptop would."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.daemon import Daemon
from tests.warm import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "device-profiles.md"


def test_a_phone_and_a_laptop_get_what_the_page_says(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node", "--host", "localhost").start()
    folder = tmp_path / "laptop"
    folder.mkdir()
    try:
        script = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
        done = subprocess.run(
            ["bash", "-c", COMMANDS.shell() + script], cwd=folder, capture_output=True, text=True,
            timeout=120, check=False,
            env={**os.environ, "TMAD_CONFIG": str(node.config), "TMAD_CONNECTIONS": "/nowhere"},
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "subject=CN = alice-laptop" in said
        assert re.search(r"est/phones +shell +opened", said)
        assert (folder / "alice.mobileconfig").stat().st_mode & 0o777 == 0o600
        # The first certificate, and the one that renewed it.
        assert len(node.json("cert", "list", "--name", "alice-laptop")) == 2
    finally:
        node.kill()
