"""kill -9 in the middle of EST enrolments: what a device was told is so, and asking again helps.

Every device repeats its request until it is answered, as RFC 7030, 4.2.3 lets it: each has one
certificate in the end, and never two (G-LOSS-1, G-LOSS-5).
"""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.est_client import Answer, basic, make_csr, post
from tests.postgres import start_cluster
from tests.system.commands import commands_of

DEVICES = 8
CLIENTS = 4


def ask(node: Daemon, csr_der: bytes, authorization: str) -> Answer | None:
    """Send one request; None when the connection broke."""
    try:
        return post(node, "simpleenroll", csr_der, authorization=authorization)
    except (OSError, http.client.HTTPException):
        return None


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def test_each_device_gets_one_certificate_whatever_dies(database: str, tmp_path: Path) -> None:
    options = ("--db", start_cluster().empty_database()) if database == "postgresql" else ()
    node = Daemon(tmp_path / "node", *options, workers=2, settings="\n[protocols.est]\nrate = 0\n")
    tmad = commands_of(node)
    tmad.run("endpoint", "create", "est", "default", "--ca", "issuing", "--profile", "device",
             "--set", "challenge.failures_per_minute=6000")  # fmt: skip
    words = [
        basic("x", tmad.json("enroll-secret", "create", "--endpoint", "est/default")["secret"])
        for _ in range(DEVICES)
    ]
    requests = [make_csr(f"device-{number}") for number in range(DEVICES)]
    promised: dict[int, bytes] = {}
    problems: list[str] = []
    node.start()

    def client(numbers: range) -> None:
        for number in numbers:
            deadline = time.monotonic() + 60
            while number not in promised:
                answer = ask(node, requests[number], words[number])
                if answer is not None and answer.status == 200:
                    promised[number] = answer.body
                elif answer is not None and answer.status not in (202, 503):
                    problems.append(f"{number}: {answer.status} {answer.body!r}")
                    return
                elif time.monotonic() > deadline:
                    problems.append(f"{number}: never answered")
                    return
                else:
                    time.sleep(0.1)

    threads = [
        threading.Thread(target=client, args=(range(n, DEVICES, CLIENTS),)) for n in range(CLIENTS)
    ]
    try:
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        node.kill()
        node.start()
        for thread in threads:
            thread.join()
        assert problems == []
        # A copy gets what was promised, from whichever worker.
        for number in range(0, DEVICES, 5):
            answer = ask(node, requests[number], words[number])
            assert answer is not None
            assert answer.body == promised[number]
        issued = tmad.json("cert", "list", "--state", "issued")
        subjects = [row["subject"] for row in issued]
        for number in range(DEVICES):
            assert subjects.count(f"CN=device-{number}") == 1
    finally:
        node.kill()
