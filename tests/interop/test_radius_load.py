"""RADIUS under load, in bad networks, and beside clients that never finish (A-E10, 11 and 15)."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import selectors
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.support import family, memory
from tests.daemon import Daemon
from tests.eap_load import Generator
from tests.eapol import login
from tests.pki import Identity
from tests.radius import RadiusNode

pytestmark = [pytest.mark.interop, pytest.mark.long, pytest.mark.timeout(300)]

CONVERSATIONS = 256
SETTINGS = f"reject_delay = 0\nrate = 0\nconversations = {CONVERSATIONS}\n"


class Site:
    """A node, devices with certificates, and the load generator."""

    def __init__(self, directory: Path) -> None:
        self.daemon = Daemon(directory / "node", radius=SETTINGS).start()
        self.node = RadiusNode(self.daemon)
        self.devices = [self.node.issue(f"r{number}.example.test") for number in range(4)]
        self.generator = Generator(directory / "load")
        self.who = self.generator.lines(
            "devices", [(device.path, device.key) for device in self.devices * 10]
        )

    @property
    def device(self) -> Identity:
        return self.devices[0]

    def resident(self) -> float:
        """Return the anonymous memory of the daemon in MiB."""
        assert self.daemon.process is not None
        return memory(family(self.daemon.process.pid))[1]

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.daemon.ops_url}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, require_client: Callable[[str], str]
) -> Iterator[Site]:
    require_client("eapol_test")
    require_client("cc")
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.daemon.kill()


# -- a client of its own, which may break every rule -----------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value) + 2)) + value


def access_request(
    secret: str, identifier: int, eap: bytes, *, station: str, state: bytes | None = None
) -> bytes:
    """Return a signed Access-Request around an EAP message (RFC 2865, RFC 3579)."""
    body = attribute(1, b"anonymous@example.test") + attribute(31, station.encode())
    for start in range(0, len(eap), 253):
        body += attribute(79, eap[start : start + 253])
    if state is not None:
        body += attribute(24, state)
    unsigned = attribute(80, bytes(16))
    head = bytes((1, identifier)) + (20 + len(body) + 18).to_bytes(2, "big") + os.urandom(16)
    digest = hmac.digest(secret.encode(), head + body + unsigned, hashlib.md5)
    return head + body + attribute(80, digest)


def attributes(packet: bytes) -> Iterator[tuple[int, bytes]]:
    place = 20
    while place < len(packet):
        yield packet[place], packet[place + 2 : place + packet[place + 1]]
        place += packet[place + 1]


def first(packet: bytes, kind: int) -> bytes:
    return next(value for number, value in attributes(packet) if number == kind)


def identity(name: bytes = b"anonymous@example.test") -> bytes:
    return bytes((2, 0)) + (5 + len(name)).to_bytes(2, "big") + b"\x01" + name


class Client:
    """One socket of a NAS."""

    def __init__(self, site: Site) -> None:
        self._secret = site.node.secret
        self._identifier = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", site.daemon.radius_port))
        self._socket.settimeout(10)

    def ask(self, eap: bytes, *, station: str, state: bytes | None = None) -> bytes:
        """Return the answer to a request."""
        self._identifier = (self._identifier + 1) % 256
        packet = access_request(self._secret, self._identifier, eap, station=station, state=state)
        self._socket.send(packet)
        answer = self._socket.recv(4096)
        assert answer[1] == self._identifier
        return answer

    def close(self) -> None:
        self._socket.close()


def response(request: bytes, data: bytes) -> bytes:
    """Return an EAP response to an EAP request."""
    return bytes((2, request[1])) + (4 + len(data)).to_bytes(2, "big") + data


def is_held(client: Client, station: str, state: bytes, request: bytes) -> bool:
    """Tell whether a conversation goes on: its first fragment of several is acknowledged."""
    part = b"\x0d\xc0" + (100).to_bytes(4, "big") + b"\x16\x03\x01"
    answer = client.ask(response(request, part), station=station, state=state)
    if answer[0] == 3:
        assert first(answer, 79)[:1] == b"\x04"  # EAP-Failure in the Access-Reject
        return False
    assert answer[0] == 11
    return True


def test_a_e10_a_thousand_half_open_conversations(site: Site) -> None:
    login(site.node.nas(), site.node.peer(site.device)).check()
    before = site.resident()
    clients = [Client(site) for _ in range(8)]
    states = []
    for number in range(2_000):
        station = f"02-00-00-00-{number >> 8:02X}-{number & 255:02X}"
        answer = clients[number % 8].ask(identity(), station=station)
        assert answer[0] == 11  # Access-Challenge
        states.append((station, first(answer, 24), first(answer, 79)))
    # Each of them was given a place; no more are held than allowed, the oldest went.
    assert not is_held(clients[0], *states[0])
    assert not is_held(clients[0], *states[-CONVERSATIONS - 50])
    assert is_held(clients[0], *states[-1])
    assert site.resident() - before < 20
    # Whoever means it still gets in.
    login(site.node.nas(station="02:11:22:33:44:55"), site.node.peer(site.device)).check()
    for client in clients:
        client.close()
    assert "Traceback" not in site.daemon.log.read_text()


def test_a_e10_one_station_cannot_take_everything(site: Site) -> None:
    client = Client(site)
    one, other = "02-AA-AA-AA-AA-AA", "02-BB-BB-BB-BB-BB"

    def begin(station: str) -> tuple[str, bytes, bytes]:
        answer = client.ask(identity(), station=station)
        assert answer[0] == 11
        return station, first(answer, 24), first(answer, 79)

    others = [begin(other) for _ in range(2)]
    mine = [begin(one) for _ in range(100)]
    assert [is_held(client, *each) for each in mine] == [False] * 96 + [True] * 4  # E-08
    assert all(is_held(client, *each) for each in others)
    client.close()


def test_a_e10_states_cannot_be_replayed_or_guessed(site: Site) -> None:
    client = Client(site)
    station = "02-CC-CC-CC-CC-CC"
    answer = client.ask(identity(), station=station)
    eap, state = first(answer, 79), first(answer, 24)
    empty = response(eap, b"\x0d\x00")  # where the ClientHello should be: E-26
    for wrong in (os.urandom(len(state)), state[:-1], state + b"\x00", b""):
        refused = client.ask(empty, station=station, state=wrong or b"\x00")
        assert refused[0] == 3
    ended = client.ask(empty, station=station, state=state)
    assert ended[0] == 3
    again = client.ask(
        bytes((2, eap[1] + 1 & 255)) + (6).to_bytes(2, "big") + b"\x0d\x00",
        station=station, state=state,
    )  # fmt: skip
    assert again[0] == 3
    client.close()


# -- a bad network -------------------------------------------------------------------------------


class LossyRelay:
    """Passes datagrams on in both ways and loses some, by dice that fall the same each time."""

    def __init__(self, port: int, share: float) -> None:
        self._target = ("127.0.0.1", port)
        self._share = share
        self._dice = random.Random(7)
        self._selector = selectors.DefaultSelector()
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._selector.register(self._front, selectors.EVENT_READ, None)
        self._behind: dict[object, socket.socket] = {}
        self._ends = False
        self.lost = 0
        self.passed = 0
        self.port = int(self._front.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select(0.2):
                assert isinstance(key.fileobj, socket.socket)
                data, source = key.fileobj.recvfrom(65_535)
                if self._dice.random() < self._share:
                    self.lost += 1
                    continue
                self.passed += 1
                if key.data is None:
                    self._socket_for(source).send(data)
                else:
                    self._front.sendto(data, key.data)

    def _socket_for(self, source: tuple[str, int]) -> socket.socket:
        found = self._behind.get(source)
        if found is None:
            found = self._behind[source] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            found.connect(self._target)
            self._selector.register(found, selectors.EVENT_READ, source)
        return found

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        for one in (self._front, *self._behind.values()):
            one.close()
        self._selector.close()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_e11_five_percent_are_lost_each_way(site: Site, version: str) -> None:
    relay = LossyRelay(site.daemon.radius_port, 0.05)
    try:
        report = site.generator.run(
            relay.port, site.node.secret, site.who, count=200, parallel=20, version=version,
            authority=site.node.authority,
        )  # fmt: skip
    finally:
        relay.close()
    assert (report.accepted, report.refused) == (200, 0)
    assert report.retransmissions >= relay.lost > 20
    assert "Traceback" not in site.daemon.log.read_text()


# -- load --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_e15_six_hundred_logins_ten_at_a_time(site: Site, version: str) -> None:
    def run(count: int) -> float:
        report = site.generator.run(
            site.daemon.radius_port, site.node.secret, site.who, count=count, parallel=10,
            version=version, authority=site.node.authority,
        )  # fmt: skip
        assert (report.accepted, report.refused) == (count, 0)
        return report.rate

    run(300)  # caches and sessions of that many
    before = site.resident()
    rate = run(600)
    assert site.resident() - before < 20
    assert rate >= 100
    assert "Traceback" not in site.daemon.log.read_text()


def test_a_flood_of_refusals_harms_nobody(site: Site) -> None:
    """Rejects for strangers are made while others log in; the journal is not flooded."""
    stranger = Client(site)
    ends = threading.Event()
    refused = 0

    def strange() -> None:
        nonlocal refused
        while not ends.is_set():
            answer = stranger.ask(identity(b"x"), station="02-DD-DD-DD-DD-DD", state=b"\x01" * 16)
            refused += answer[0] == 3

    thread = threading.Thread(target=strange)
    thread.start()
    try:
        began = time.monotonic()
        for _ in range(3):
            login(site.node.nas(), site.node.peer(site.device)).check()
        assert time.monotonic() - began < 10
    finally:
        ends.set()
        thread.join()
        stranger.close()
    assert refused > 100
