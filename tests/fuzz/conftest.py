"""What every fuzz test needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    """Keep the collector from being timed: a round over a whole test process takes a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
