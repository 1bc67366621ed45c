"""Files that are whole or not there, whatever ends the process in between.

Each is written beside its place, synced, and renamed; a leftover of a power cut has a fixed name
and is replaced by the next attempt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

PRIVATE: Final = 0o600
_BESIDE: Final = ".tmad-new"


class Owner(NamedTuple):
    """Whose a file is; -1 leaves it as the system makes it."""

    user: int = -1
    group: int = -1


OWN: Final = Owner()


def write(path: Path, content: bytes, *, mode: int = PRIVATE, owner: Owner = OWN) -> None:
    """Put a file in its place at once; it is on the disk when this returns. Raise OSError."""
    beside = _beside(path)
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    os.replace(beside, path)
    sync(path.parent)


def write_directory(path: Path, contents: Mapping[str, bytes]) -> None:
    """Put a directory of private files in its place at once, instead of one that is there."""
    beside = _beside(path)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    for name, content in contents.items():
        write(beside / name, content)
    remove_directory(path)
    os.rename(beside, path)
    sync(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory and what is in it; never half of it."""
    gone = path.with_name(f".{path.name}.tmad-old")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    sync(path.parent)
    shutil.rmtree(gone, ignore_errors=True)


def point(link: Path, target: Path) -> None:
    """Let a symbolic link lead somewhere else, at once. Raise OSError."""
    beside = _beside(link)
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
    sync(link.parent)


def remove(path: Path) -> None:
    """Remove a file or a link, if it is there."""
    path.unlink(missing_ok=True)
    sync(path.parent)


def sync(directory: Path) -> None:
    """Let renames in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_BESIDE}")
