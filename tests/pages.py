"""The pages of docs/, whose lines are run as their readers would run them."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cached_property
from pathlib import Path

from tests.daemon import Daemon
from tests.warm import COMMANDS


class Page:
    """One page by its file name."""

    def __init__(self, name: str) -> None:
        self._path = Path(__file__).parents[1] / "docs" / name

    @cached_property
    def text(self) -> str:
        """The whole page."""
        return self._path.read_text("utf-8")

    @property
    def scripts(self) -> list[str]:
        """What it has one type, one after the other as it is read."""
        return re.findall(r"```sh\n(.*?)```", self.text, re.DOTALL)

    def run(self, node: Daemon, folder: Path, *scripts: str, **environment: str) -> str:
        """Run its scripts, or others, in a folder at a node's command line; return what they say.

        The first line that fails ends it. The host ca.example.test is the node.
        """
        folder.mkdir(exist_ok=True)
        script = COMMANDS.shell() + "".join(scripts or self.scripts)
        ports = {8080: node.http_port, 8443: node.https_port, 8444: node.client_port}
        for there, here in ports.items():
            script = script.replace(f"ca.example.test:{there}", f"127.0.0.1:{here}")
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120,
            check=False, env={**os.environ, "TMAD_CONFIG": str(node.config), **environment},
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said + (node.log.read_text()[-2000:] if node.process else "")
        return said
