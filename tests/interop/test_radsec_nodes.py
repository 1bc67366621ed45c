"""Two nodes on one database: a session ends down the connection to the other node.

One process of all looks for what must end. FreeRADIUS, as a proxy behind NAT, is connected to a
node that is not it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.test_radsec_disconnect import Site
from tests.postgres import start_cluster
from tests.system.test_standby import beside

pytestmark = pytest.mark.interop
_LEADS = "this process now runs what only one of all runs"


class TwoNodes(Site):
    """The proxy's node, and before it one that leads."""

    def __init__(self, directory: Path) -> None:
        self.cluster = start_cluster()
        super().__init__(directory, "--db", self.cluster.empty_database())

    def start(self) -> None:
        """Start a node that leads, then the one that the proxy will be connected to."""
        self.leader = self.daemon
        self.leader.start()
        assert _LEADS in self.leader.log.read_text()
        url = next(
            line.split('"')[1]
            for line in self.leader.config.read_text().splitlines()
            if line.startswith("url = ")
        )
        self.daemon = beside(self.leader, self.leader.directory.with_name("second"), url)
        self.daemon.start()

    def end(self) -> None:
        self.proxy.stop()
        self.daemon.kill()
        self.leader.kill()
        self.cluster.remove()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[TwoNodes]:
    for program in ("/usr/sbin/freeradius", "radclient"):
        require_client(program)
    made = TwoNodes(tmp_path_factory.mktemp("site"))
    yield made
    made.end()


def test_who_has_the_connection_sends_what_another_node_has_found(site: TwoNodes) -> None:
    sessions = [site.login(f"02-00-00-00-00-0{number}") for number in range(1, 4)]
    site.tmad.run("user", "disable", "bob")
    for session in sessions:
        found = site.ended(session, "acknowledged")
        assert (found["state"], found["cause"]) == ("closed", "disconnected")
    site.tmad.run("user", "enable", "bob")
    assert _LEADS not in site.daemon.log.read_text()


def test_who_connects_to_another_node_is_told_what_has_waited(site: TwoNodes) -> None:
    site.asks_who_is_away_and_back()
