"""T-OTP-07: neither time nor octets of a refusal tell which users exist or are locked."""

from __future__ import annotations

import itertools
import math
import random
import re
import secrets
import select
import socket
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tmad.protocols.radius import codec

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800)]

_EXPLAIN = re.compile(rb"\[[0-9A-Z]{4}-[0-9A-Z]{4}\]")
TRIES = 2_000
AT_ONCE = 12
POLICY = """
[tenant.default.radius-policy.all]
order = 10
[[tenant.default.radius-policy.all.rules]]
name = "everybody"
then = "accept"
"""


class Door:
    """A daemon that answers refusals without RADIUS's own delay, and one client of it."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.daemon = Daemon(directory / "node", radius="reject_delay = 0.0")
        (directory / "policy.toml").write_text(POLICY)
        self.daemon.tmad("apply", str(directory / "policy.toml"))
        made = self.daemon.tmad(
            "radius-client", "create", "nas", "--prefix", "127.0.0.1", "--method", "pap",
            "--set", f"login.mode={mode}", "--set", "login.lock.failures=1000",
            "--set", "login.lock.source_failures=0", "--set", "login.lock.minutes=0",
        )  # fmt: skip
        self._secret = re.findall(r"^secret +(\S+)$", made.stdout, re.MULTILINE)[0].encode()
        self._identifiers = itertools.count()
        for name in ("known", "locked"):
            self.daemon.tmad("user", "create", name, "--generate")
            self.daemon.tmad("otp", "create", name, "--no-qr")
        self.daemon.start()

    def request(self, name: str) -> bytes:
        authenticator = secrets.token_bytes(16)
        hidden = codec.hide_password(b"wrong 000000", authenticator, self._secret)
        attributes = [(codec.USER_NAME, name.encode()), (codec.USER_PASSWORD, hidden)]
        number = next(self._identifiers) % 256
        return codec.encode_access(1, number, authenticator, attributes, self._secret)

    def refusals(self, names: Sequence[str]) -> tuple[dict[str, list[float]], set[bytes]]:
        """Log in by each name, some at once; return the times, and the answers' shapes."""
        times: dict[str, list[float]] = {}
        shapes = set()
        left = list(names)
        flying: dict[socket.socket, tuple[str, float]] = {}
        while left or flying:
            while left and len(flying) < AT_ONCE:
                name = left.pop()
                own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                own.bind(("127.0.0.1", 0))
                own.connect(("127.0.0.1", self.daemon.radius_port))
                octets = self.request(name)
                flying[own] = (name, time.perf_counter())
                own.send(octets)
            ready, _, _ = select.select(list(flying), [], [], 10)
            now = time.perf_counter()
            assert ready, "no answer"
            for own in ready:
                name, began = flying.pop(own)
                answer = own.recv(4_096)
                own.close()
                times.setdefault(name, []).append(now - began)
                # Identifier, authenticators and the explain id differ always.
                shapes.add(answer[:1] + answer[2:4] + _EXPLAIN.sub(b"[id]", answer[38:]))
        return times, shapes


def p_value(one: list[float], two: list[float]) -> float:
    """Return the two-sided p of the Mann-Whitney U test, by its normal approximation."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in two])
    rank_sum = sum(rank for rank, (_, which) in enumerate(ranked, 1) if which == 0)
    n, m = len(one), len(two)
    u = rank_sum - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


@pytest.mark.parametrize("mode", ["otp", "password", "password-otp"])
def test_t_otp_07_nobody_learns_which_users_exist(tmp_path: Path, mode: str) -> None:
    door = Door(tmp_path, mode)
    try:
        # Locked by the smallest number of guesses the rules know; the others get a thousand.
        door.daemon.tmad("radius-client", "set", "nas", "login.lock.failures=1")
        door.refusals(["locked"])
        door.daemon.tmad("radius-client", "set", "nas", "login.lock.failures=1000")
        # A true difference shows each time; one chance in a hundred does not three times.
        for attempt in range(3):
            door.daemon.tmad("user", "unlock", "known", expect=None)
            names = ["known", "locked", "nobody"] * (TRIES // 2)
            random.shuffle(names)
            times, shapes = door.refusals(names)
            assert len(shapes) == 1
            found = {
                f"{a}/{b}": p_value(times[a], times[b])
                for a, b in itertools.combinations(sorted(times), 2)
            }
            medians = {name: statistics.median(values) for name, values in times.items()}
            print(mode, attempt, found, medians)
            if min(found.values()) >= 0.01:
                return
        raise AssertionError(f"{found}, medians {medians}")
    finally:
        door.daemon.kill()
