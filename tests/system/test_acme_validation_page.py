"""The lines of docs/acme-validation.md, run as an administrator would; and its tables are whole."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import Daemon
from tests.pages import Page
from tmad.ca.validation.contract import ChallengeKind, Problem, ValidationRules

PAGE = Page("acme-validation.md")


def test_the_lines_of_the_page(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node")
    PAGE.run(node, tmp_path)
    validation = node.json("endpoint", "show", "acme/inside")["options"]["validation"]
    assert validation["denied_networks"] == ["10.0.9.0/24"]
    assert validation["caa_identities"] == ["ca.example.test"]
    devices = node.json("endpoint", "show", "acme/devices")["options"]
    assert len(devices["validation"]["attestation_roots"]) == 1


def test_the_tables_name_everything() -> None:
    text = PAGE.text
    ours = (Problem.MALFORMED, Problem.SERVER_INTERNAL)
    for word in (*ChallengeKind, *(each for each in Problem if each not in ours)):
        assert f"| `{word.value}` |" in text
    for name in ValidationRules.model_fields:
        assert f"`{name}`" in text
