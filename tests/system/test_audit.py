"""tmad audit and tmad explain, against a node that has done something."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from tests.daemon import Daemon


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    """A node that was set up and is not running: the command line is enough."""
    return Daemon(tmp_path_factory.mktemp("node"))


def test_the_tail_shows_the_newest_last(node: Daemon) -> None:
    node.tmad("tenant", "create", "acme")
    newest = node.json("audit", "tail", "-n", "3", "--all-tenants")
    assert len(newest) == 3
    assert newest[-1]["kind"].startswith("tenant.")
    assert [record["seq"] for record in newest] == sorted(record["seq"] for record in newest)
    assert all(
        record["tenant"] == "acme" for record in node.json("audit", "tail", "--tenant", "acme")
    )


def test_a_refusal_can_be_explained_by_its_id(node: Daemon) -> None:
    refused = node.tmad(
        "endpoint", "create", "scep", "default", "--ca", "nobody", "--profile", "device",
        expect=2,
    )  # fmt: skip
    (explain_id,) = set(re.findall(r"[0-9A-Z]{4}-[0-9A-Z]{4}", refused.stderr))
    answer = node.json("explain", explain_id.lower().replace("-", ""))
    assert answer["id"] == explain_id
    assert answer["kind"] == "request.refused"
    assert answer["rule"]
    node.tmad("explain", "0000-0000", expect=2)
    # What happened in one tenant is not explained to another.
    node.tmad("explain", explain_id, "--tenant", "acme", expect=2)


def test_an_export_is_verified_offline_and_a_change_in_it_is_named(
    node: Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "journal.jsonl"
    node.tmad("audit", "export", "--out", str(file))
    report = node.json("audit", "verify", str(file))
    assert report["intact"] is True
    assert report["records"] > 10
    lines = file.read_text().splitlines(keepends=True)
    (fifth,) = (number for number, line in enumerate(lines) if '"seq":5,"tenant"' in line)
    lines[fifth] = lines[fifth].replace('"actor":"', '"actor":"not ')
    file.write_text("".join(lines))
    bad = node.tmad("audit", "verify", str(file), expect=2)
    assert ":5: " in bad.stderr


def test_a_changed_row_in_the_database_is_named(node: Daemon) -> None:
    assert node.json("audit", "verify")["intact"] is True
    (path,) = node.directory.rglob("*.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE journal SET actor = 'nobody' WHERE seq = 7")
    bad = node.tmad("audit", "verify", expect=2)
    assert ":7: " in bad.stderr
    assert "altered" in bad.stderr
