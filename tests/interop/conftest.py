"""A daemon for the outside clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running node with SQLite and software keys; one for each test module."""
    node = Daemon(tmp_path_factory.mktemp("node")).start()
    yield node
    node.kill()
