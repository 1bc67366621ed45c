"""Settings that every test layer shares."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    max_examples=300,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# The same examples each time, so that the test command is repeatable; TMAD_FUZZ=explore looks
# for new ones, as docs/fuzzing.md's coverage-guided targets do at length.
hypothesis.settings.register_profile(
    "repeatable", hypothesis.settings.get_profile("ci"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("TMAD_FUZZ") == "explore" else "repeatable")


@pytest.fixture(scope="session")
def require_client():  # type: ignore[no-untyped-def]
    """Return a function that gives a program's path, or fails (by hand: skips) without it."""

    def find(program: str) -> str:
        path = shutil.which(program) or (program if Path(program).exists() else None)
        if path:
            return path
        message = f"{program} is missing; tests/run installs it"
        if os.environ.get("TMAD_REQUIRE_CLIENTS"):
            pytest.fail(message)
        pytest.skip(message)

    return find
