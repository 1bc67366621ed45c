"""Files that tmad brings along: the preset profiles."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from tmad import documents
from tmad.cli.context import USAGE, Ended


def profiles() -> dict[str, Path]:
    """Return the preset profiles by name, from the source tree or from where a wheel put them."""
    places = (
        Path(__file__).parents[2] / "conf" / "profiles",
        Path(sysconfig.get_path("data")) / "share" / "tmad" / "profiles",
    )
    for place in places:
        found = {path.stem: path for path in sorted(place.glob("*.toml"))}
        if found:
            return found
    raise Ended(USAGE, "cannot: the preset profiles are missing", "install tmad again")


def document(path: Path) -> dict[str, Any]:
    """Return what one of these files says."""
    return documents.from_toml(path.read_text(encoding="utf-8"))
