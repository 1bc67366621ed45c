"""The lines of docs/tsa.md, run as an administrator and a client would."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import Daemon
from tests.pages import Page

PAGE = Page("tsa.md")


def test_a_file_is_stamped_and_checked(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "client"
    try:
        said = PAGE.run(node, folder)
        assert "the door is /tsa/default" in said
        assert "Verification: OK" in said
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
