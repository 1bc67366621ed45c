"""The lines of docs/device-profiles.md, run as an administrator and a laptop would."""

from __future__ import annotations

import re
from pathlib import Path

from tests.daemon import Daemon
from tests.pages import Page

PAGE = Page("device-profiles.md")


def test_a_phone_and_a_laptop_get_what_the_page_says(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node", "--host", "localhost").start()
    folder = tmp_path / "laptop"
    try:
        said = PAGE.run(node, folder, TMAD_CONNECTIONS="/nowhere")
        assert "subject=CN = alice-laptop" in said
        assert re.search(r"est/phones +shell +opened", said)
        assert (folder / "alice.mobileconfig").stat().st_mode & 0o777 == 0o600
        # The first certificate, and the one that renewed it.
        assert len(node.json("cert", "list", "--name", "alice-laptop")) == 2
    finally:
        node.kill()
