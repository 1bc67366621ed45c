"""Logins whose packets reach several workers, and workers that die under them.

Workers share the UDP address (SO_REUSEPORT): the kernel chooses one by the source port. Here
each packet comes from a port of its own, as from a proxy that uses many.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from tests.daemon import Daemon
from tests.eap_peer import IDENTITY, TLS, Peer, client_context
from tests.radius import RadiusNode
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.conversations import worker_of

PASSWORD = secrets.token_urlsafe(12)


@dataclass
class Login:
    """How it ended, and which worker held it after each packet."""

    code: int
    owners: list[int]


class Node(RadiusNode):
    """Two workers, a device and a person."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Daemon(directory, workers=2, radius="reject_delay = 0"))
        self.device = self.issue("device-1.example.test")
        (directory / "password").write_text(PASSWORD)
        self.daemon.tmad("user", "create", "bob", "--password-file", str(directory / "password"))
        self.daemon.tmad(
            "radius-client", "set", "lab", "methods=['eap-tls', 'pap']",
            "login.mode=password-then-otp", "login.always_challenge=true",
        )  # fmt: skip
        self.daemon.start()

    def context(self, version: str = "1.3") -> SSL.Context:
        anchor = x509.load_pem_x509_certificate(self.authority.read_bytes())
        chain = x509.load_pem_x509_certificates(self.device.chain.read_bytes())
        key = load_pem_private_key(self.device.key.read_bytes(), None)
        return client_context(anchors=[anchor], chain=chain[:2], key=key, version=version)

    def ask(self, *attributes: Attribute, seconds: float = 5) -> Packet | None:
        """Send one Access-Request from a port of its own; return the answer, None for silence."""
        secret = self.secret.encode()
        octets = codec.encode_access(
            1, secrets.randbelow(256), secrets.token_bytes(16), attributes, secret
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(seconds)
            own.sendto(octets, ("127.0.0.1", self.daemon.radius_port))
            try:
                answer = codec.decode(own.recv(5_000))
            except TimeoutError:
                return None
        assert codec.is_reply(answer, octets, secret)
        return answer

    def eap(self, eap: bytes, state: bytes | None = None) -> Packet | None:
        own = [(codec.USER_NAME, b"anonymous"), *codec.eap_attributes(eap)]
        if state is not None:
            own.append((codec.STATE, state))
        return self.ask(*own)

    def begin(self, peer: Peer) -> tuple[bytes, bytes]:
        """Begin a login; return the peer's next message and the State."""
        answer = self.eap(peer.respond(0, IDENTITY, b"anonymous"))
        assert answer is not None
        return self.next(peer, answer)

    def login(self, peer: Peer) -> Login:
        """Log in."""
        message, state = self.begin(peer)
        owners = [worker_of(state)]
        while True:
            answer = self.eap(message, state)
            assert answer is not None
            if answer.code != Code.ACCESS_CHALLENGE:
                if answer.eap is not None:
                    peer.answer(answer.eap)
                return Login(answer.code, [owner for owner in owners if owner is not None])
            message, state = self.next(peer, answer)
            owners.append(worker_of(state))

    def next(self, peer: Peer, answer: Packet) -> tuple[bytes, bytes]:
        assert answer.code == Code.ACCESS_CHALLENGE
        assert answer.eap is not None
        state = answer.first(codec.STATE)
        assert state is not None
        following = peer.answer(answer.eap)
        assert following is not None
        return following, state

    def is_ready(self, worker: int) -> bool:
        port = self.daemon.ops_port + worker
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def requests(self, worker: int) -> int:
        """Return how many Access-Requests a worker has answered, by whichever one's words."""
        port = self.daemon.ops_port + worker
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = 'tmad_requests_total{door="auth",'
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(wanted))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node(tmp_path_factory.mktemp("workers"))
    yield made
    made.daemon.kill()


def test_each_packet_of_a_login_may_reach_another_worker(node: Node) -> None:
    before = [node.requests(worker) for worker in (0, 1)]
    context = node.context()
    rounds = 0
    for _ in range(10):
        peer = Peer(TLS, context)
        message, state = node.begin(peer)
        while True:
            answer = node.eap(message, state)
            assert answer is not None
            rounds += 1
            if answer.code != Code.ACCESS_CHALLENGE:
                break
            message, state = node.next(peer, answer)
        assert answer.code == Code.ACCESS_ACCEPT
        assert answer.eap is not None
        peer.answer(answer.eap)
        assert peer.success
        received = answer.vendor(codec.MICROSOFT, codec.MS_MPPE_RECV_KEY)
        assert received is not None
    after = [node.requests(worker) for worker in (0, 1)]
    # A worker alone would have had all or nothing; of 50 packets each one got some.
    assert all(new > old for new, old in zip(after, before, strict=True))
    assert sum(after) - sum(before) == rounds + 10


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("fragment", [1200, 200])
def test_a_session_is_resumed_whichever_worker_is_greeted(
    node: Node, version: str, fragment: int
) -> None:
    context = node.context(version)
    peer = Peer(TLS, context, fragment=fragment)
    assert node.login(peer).code == Code.ACCESS_ACCEPT
    assert not peer.resumed
    greeted, ended = set(), set()
    for _ in range(12):
        peer = Peer(TLS, context, session=peer.remembered(), fragment=fragment)
        login = node.login(peer)
        assert login.code == Code.ACCESS_ACCEPT
        assert peer.success
        assert peer.resumed
        greeted.add(login.owners[0])
        ended.add(login.owners[-1])
    # Each began some of them, and all went on where the session is.
    assert greeted == {0, 1}
    assert len(ended) == 1


def test_a_session_that_its_worker_took_along_is_made_anew(node: Node) -> None:
    context = node.context("1.2")
    peer = Peer(TLS, context)
    owner = node.login(peer).owners[-1]
    pid = _workers(node)[owner]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _workers(node).get(owner) in (None, pid) or not node.is_ready(owner):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = Peer(TLS, context, session=peer.remembered())
    assert node.login(again).code == Code.ACCESS_ACCEPT
    assert not again.resumed


def test_a_challenge_may_be_answered_at_another_worker(node: Node) -> None:
    owners = set()
    for _ in range(12):
        first = _password(node, PASSWORD)
        assert first is not None
        assert first.code == Code.ACCESS_CHALLENGE
        state = first.first(codec.STATE)
        assert state is not None
        owners.add(worker_of(state))
        # No token: any code is wrong, yet whoever held the question answered.
        answer = _password(node, "000000", (codec.STATE, state))
        assert answer is not None
        assert answer.code == Code.ACCESS_REJECT
    assert owners == {0, 1}
    audit = node.daemon.tmad("audit", "tail", "-n", "100", "-o", "json").stdout
    assert "radius.state" not in audit


def test_the_other_tenants_and_strangers_cannot_use_a_state(node: Node) -> None:
    first = _password(node, PASSWORD)
    assert first is not None
    state = first.first(codec.STATE)
    assert state is not None
    for forged in (
        state[:3] + secrets.token_bytes(13),
        b"\x01\x00\x09" + state[3:],  # a worker that there is not
        b"\x02" + state[1:],
        state[:-1],
    ):
        answer = _password(node, "000000", (codec.STATE, forged))
        assert answer is not None
        assert answer.code == Code.ACCESS_REJECT


def test_a_worker_that_dies_takes_its_conversations_and_nothing_else(node: Node) -> None:
    context = node.context()
    pids = _workers(node)
    peer = Peer(TLS, context)
    message, state = node.begin(peer)
    owner = worker_of(state)
    assert owner is not None
    os.kill(pids[owner], signal.SIGKILL)
    deadline = time.monotonic() + 30
    answer = None
    while answer is None:
        # Until the kernel has noticed, some datagrams go to the dead one.
        assert time.monotonic() < deadline
        answer = node.ask(
            (codec.USER_NAME, b"anonymous"), *codec.eap_attributes(message),
            (codec.STATE, state), seconds=1,
        )  # fmt: skip
    assert answer.code == Code.ACCESS_REJECT
    assert (answer.eap or b"")[:1] == b"\x04"
    while not all(node.is_ready(worker) for worker in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    outcome = node.login(Peer(TLS, context)).code
    assert outcome == Code.ACCESS_ACCEPT
    # The new worker took the number of the dead one, and its place in the directory.
    for _ in range(6):
        assert node.login(Peer(TLS, context)).code == Code.ACCESS_ACCEPT


def test_the_directory_of_the_workers_is_theirs_alone(node: Node) -> None:
    directory = node.daemon.directory / "run"
    assert directory.stat().st_mode & 0o777 == 0o700
    sockets = sorted(path.name for path in directory.iterdir() if path.is_socket())
    assert sockets == ["radius-conversations-0", "radius-conversations-1"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_no_worker_has_complained(node: Node) -> None:
    assert "Traceback" not in node.daemon.log.read_text()
    assert node.daemon.stop() == 0
    left = (node.daemon.directory / "run").iterdir()
    assert [path.name for path in left if path.is_socket()] == []


def _password(node: Node, text: str, *more: Attribute) -> Packet | None:
    authenticator = secrets.token_bytes(16)
    secret = node.secret.encode()
    hidden = codec.hide_password(text.encode(), authenticator, secret)
    octets = codec.encode_access(
        1, 1, authenticator, [(1, b"bob"), (codec.USER_PASSWORD, hidden), *more], secret
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(5)
        own.sendto(octets, ("127.0.0.1", node.daemon.radius_port))
        try:
            return codec.decode(own.recv(5_000))
        except TimeoutError:
            return None


def _workers(node: Node) -> dict[int, int]:
    """Return the process of each worker, by its number."""
    assert node.daemon.process is not None
    supervisor = node.daemon.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    found = {}
    for pid in children:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(arguments) > 1:  # one that has just died has none
            found[int(arguments[-2].split(b"/")[0])] = int(pid)
    return found
