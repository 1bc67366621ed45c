"""Files that tmad brings along: the preset profiles, the MIB module."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from tmad import documents
from tmad.cli.context import USAGE, Ended


def profiles() -> dict[str, Path]:
    """Return the preset profiles by name, from the source tree or from where a wheel put them."""
    source = Path(__file__).parents[2] / "conf" / "profiles"
    paths = list(source.glob("*.toml")) or _installed("profiles", ".toml")
    if not paths:
        raise Ended(USAGE, "cannot: the preset profiles are missing", "install tmad again")
    return {path.stem: path for path in sorted(paths)}


def mib() -> str:
    """Return TMAD-MIB."""
    source = Path(__file__).parents[2] / "conf" / "mibs" / "TMAD-MIB.txt"
    paths = [source] if source.exists() else _installed("mibs", ".txt")
    if not paths:
        raise Ended(USAGE, "cannot: the MIB module is missing", "install tmad again")
    return paths[0].read_text(encoding="ascii")


def document(path: Path) -> dict[str, Any]:
    """Return what one of these files says."""
    return documents.from_toml(path.read_text(encoding="utf-8"))


def _installed(folder: str, suffix: str) -> list[Path]:
    try:
        files = metadata.files("tmad") or []
    except metadata.PackageNotFoundError:
        return []
    # share/tmad, below whatever prefix the installation scheme chose.
    return [
        Path(str(file.locate())).resolve()
        for file in files
        if file.suffix == suffix and file.parts[-4:-1] == ("share", "tmad", folder)
    ]
