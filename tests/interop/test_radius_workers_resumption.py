"""wpa_supplicant resumes its session whichever of two workers its packets reach."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.eapol import TLSVersion, login
from tests.radius import RadiusNode

pytestmark = pytest.mark.interop

AGAIN = 8


class Wandering:
    """Passes datagrams on to a server, each from a port of its own, as some proxies do.

    The kernel chooses the worker by the source port.
    """

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            datagram, asker = self._socket.recvfrom(5_000)
            if not datagram:
                return
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                own.settimeout(10)
                own.sendto(datagram, self._server)
                try:
                    self._socket.sendto(own.recv(5_000), asker)
                except TimeoutError:
                    continue


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, require_client: Any) -> Iterator[RadiusNode]:
    require_client("eapol_test")
    daemon = Daemon(
        tmp_path_factory.mktemp("workers"), workers=2, radius="reject_delay = 0"
    ).start()
    yield RadiusNode(daemon)
    daemon.kill()


@pytest.fixture
def way(node: RadiusNode) -> Iterator[Wandering]:
    made = Wandering(node.daemon.radius_port)
    yield made
    made.close()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("fragment_size", [1_398, 200])
def test_every_worker_resumes(
    node: RadiusNode, way: Wandering, version: TLSVersion, fragment_size: int
) -> None:
    device = node.issue(f"r{version[-1]}-{fragment_size}.example.test")
    peer = node.peer(device, tls=version, fragment_size=fragment_size)
    login(node.nas(port=way.port), peer, again=AGAIN).check(AGAIN + 1, resumed=AGAIN)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_revocation_ends_that_at_every_worker(
    node: RadiusNode, way: Wandering, version: TLSVersion
) -> None:
    device = node.issue(f"gone{version[-1]}.example.test")

    def revoke() -> None:
        node.daemon.tmad("cert", "revoke", device.serial)

    outcome = login(
        node.nas(port=way.port), node.peer(device, tls=version), again=1, between=revoke
    )
    outcome.check_refused()
    assert (outcome.logins, outcome.rejects) == (1, 1)
