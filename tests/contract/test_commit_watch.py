"""SQLite's WAL index tells of commits, and watching it costs no locks (storage/sqlite.py)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tmad.storage.database import Database, migrate
from tmad.storage.sqlite import CommitWatch

_COMMIT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO leases VALUES (?, 'h', 1, 1)", (sys.argv[2],))
connection.execute(sys.argv[3])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tmad.db"
    migrate(f"sqlite:///{path}")
    return path


def commit(path: Path, name: str, end: str = "COMMIT") -> None:
    """Write in another process."""
    subprocess.run([sys.executable, "-c", _COMMIT, str(path), name, end], check=True)


def locks(path: Path) -> int:
    """Return how many locks this process holds on the index."""
    inode = os.stat(f"{path}-shm").st_ino
    own = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(
        fields[5].rpartition(":")[2] == str(inode) and fields[4] == str(os.getpid())
        for fields in own
        if len(fields) >= 8
    )


def test_each_commit_of_another_process_is_seen_at_once(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    version = database.watch_commits()
    assert version is not None
    seen = version()
    assert isinstance(seen, bytes), "the index is read, not a PRAGMA"
    for name in ("a", "b", "c"):
        commit(path, name)
        assert version() != seen
        seen = version()
        assert version() == seen
    database.close()


def test_what_is_rolled_back_is_no_news(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    version = database.watch_commits()
    assert version is not None
    seen = version()
    commit(path, "a", "ROLLBACK")
    assert version() == seen
    database.close()


def test_a_checkpoint_and_a_new_log_hide_no_commit(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    version = database.watch_commits()
    assert version is not None
    for number in range(3):
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA wal_checkpoint(RESTART)")
        seen = version()
        commit(path, f"after {number}")
        assert version() != seen
    database.close()


def test_closing_one_database_leaves_the_locks_of_another(path: Path) -> None:
    """POSIX drops every lock of a process on a file when it closes any descriptor of it."""
    first, second = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    one, two = first.watch_commits(), second.watch_commits()
    assert one is not None
    assert two is not None
    held = locks(path)
    assert held >= 1
    first.close()
    assert locks(path) >= 1
    seen = two()
    commit(path, "a")
    assert two() != seen
    second.close()
    assert not CommitWatch._open


def test_without_an_index_nothing_is_watched(tmp_path: Path) -> None:
    assert CommitWatch.of(str(tmp_path / "none.db")) is None
