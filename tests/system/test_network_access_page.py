"""The lines of docs/network-access.md, run as an administrator would."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from tests.warm import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "network-access.md"


def test_from_nothing_to_wifi(tmp_path: Path) -> None:
    [block] = re.findall(
        r"## From nothing to Wi-Fi\n\n```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL
    )
    block = block.replace("/var/lib/tmad", str(tmp_path / "node"))
    said, environment = "", dict(os.environ)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words == ["tmad", "run"]:
            break
        if words[0] == "export":
            environment.update([words[1].split("=")])
            continue
        serial = re.search(r"^serial +([0-9a-f]+)", said, re.MULTILINE)
        if "SERIAL" in words:
            assert serial is not None, said
            words[words.index("SERIAL")] = serial[1]
        done = COMMANDS.run(tuple(words[1:]), environment, directory=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said += done.stdout
    assert "secret" in said
    assert "staff" in said.partition("radius-policy default")[2]
    assert (tmp_path / "laptop-1.example.test.key").exists()
