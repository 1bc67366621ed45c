"""The lines of docs/agent.md, run as an administrator of the appliance and of a machine would."""

from __future__ import annotations

import re
from pathlib import Path

from tests.agent_world import same_pair
from tests.daemon import Daemon
from tests.pages import Page
from tmad.agent import settings as agent_settings

PAGE = Page("agent.md")


def test_a_machine_gets_its_certificate(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "machine"
    try:
        appliance, machine, units, listing, *_ = PAGE.scripts
        said = PAGE.run(
            node, folder, appliance, machine, units, listing, TMAD_AGENT_DIR=str(tmp_path / "agent")
        )
        assert "tls/certificate.pem: OK" in said
        same_pair(folder / "tls/key.pem", folder / "tls/fullchain.pem")
        assert f"TMAD_AGENT_DIR={tmp_path / 'agent'}" in (folder / "tmad-agent.service").read_text()
        (row,) = node.json("agent", "list")
        assert (row["label"], row["state"]) == ("www.example.test", "good")
        # The example of settings is one: it says the rest of what enroll has written.
        example = re.search(r"```toml\n(.*?)```", PAGE.text, re.DOTALL)
        assert example is not None
        settings = tmp_path / "agent/www.example.test/settings.toml"
        settings.write_text(settings.read_text() + "\n" + example[1])
        assert agent_settings.load(settings.parent).reload.command[0] == "systemctl"
    finally:
        node.kill()
