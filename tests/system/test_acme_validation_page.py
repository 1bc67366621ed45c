"""The lines of docs/acme-validation.md, run as an administrator would; and its tables are whole."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.daemon import Daemon
from tests.warm import COMMANDS
from tmad.ca.validation.contract import ChallengeKind, Problem, ValidationRules

PAGE = Path(__file__).parents[2] / "docs" / "acme-validation.md"


def test_the_lines_of_the_page(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node")
    script = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    done = subprocess.run(
        ["bash", "-e", "-c", COMMANDS.shell() + script], cwd=tmp_path, capture_output=True,
        text=True, timeout=120, check=False, env={**os.environ, "TMAD_CONFIG": str(node.config)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    validation = node.json("endpoint", "show", "acme/inside")["options"]["validation"]
    assert validation["denied_networks"] == ["10.0.9.0/24"]
    assert validation["caa_identities"] == ["ca.example.test"]
    devices = node.json("endpoint", "show", "acme/devices")["options"]
    assert len(devices["validation"]["attestation_roots"]) == 1


def test_the_tables_name_everything() -> None:
    text = PAGE.read_text("utf-8")
    ours = (Problem.MALFORMED, Problem.SERVER_INTERNAL)
    for word in (*ChallengeKind, *(each for each in Problem if each not in ours)):
        assert f"| `{word.value}` |" in text
    for name in ValidationRules.model_fields:
        assert f"`{name}`" in text
