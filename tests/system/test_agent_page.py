"""The lines of docs/agent.md, run as an administrator of the appliance and of a machine would."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.agent_world import same_pair
from tests.daemon import Daemon
from tests.warm import COMMANDS
from tmad.agent import settings as agent_settings

PAGE = Path(__file__).parents[2] / "docs" / "agent.md"


def blocks() -> list[str]:
    """Return the page's scripts, one after the other as they are read."""
    return re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_a_machine_gets_its_certificate(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "machine"
    folder.mkdir()
    try:
        appliance, machine, units, listing, *_ = blocks()
        script = (COMMANDS.shell() + appliance + machine + units + listing).replace(
            "ca.example.test:8444", f"127.0.0.1:{node.client_port}"
        )
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120,
            check=False,
            env={
                **os.environ, "TMAD_CONFIG": str(node.config),
                "TMAD_AGENT_DIR": str(tmp_path / "agent"),
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "tls/certificate.pem: OK" in done.stdout
        same_pair(folder / "tls/key.pem", folder / "tls/fullchain.pem")
        assert f"TMAD_AGENT_DIR={tmp_path / 'agent'}" in (folder / "tmad-agent.service").read_text()
        (row,) = node.json("agent", "list")
        assert (row["label"], row["state"]) == ("www.example.test", "good")
        # The example of settings is one: it says the rest of what enroll has written.
        example = re.search(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        assert example is not None
        settings = tmp_path / "agent/www.example.test/settings.toml"
        settings.write_text(settings.read_text() + "\n" + example[1])
        assert agent_settings.load(settings.parent).reload.command[0] == "systemctl"
    finally:
        node.kill()
