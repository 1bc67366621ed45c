"""What one decision about a login costs: µs, beside the commit that writes it down.

    python benchmarks/decision.py [--people 1000] [--certificates 5000] [--rules 20]

On SQLite, in this process, with a busy database: another process commits all the time, so that
each decision asks what has changed. The certificate, whose facts are remembered, is read from
the database each time; so are its holder and what is known against them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.network_world import NetworkWorld, a_visit
from tests.support import drive
from tmad.events import Event
from tmad.network.logins import TLSLogin
from tmad.storage.database import Database, migrate

_LOGIN = TLSLogin(
    method="eap-tls",
    version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    resumed=False,
    outer_identity="anonymous@example.test",
)


def timed(function: Callable[[], object], count: int) -> tuple[float, float]:
    """Return the median and the 99th percentile in µs."""
    took = []
    for _ in range(count):
        began = time.thread_time_ns()
        function()
        took.append((time.thread_time_ns() - began) / 1000)
    took.sort()
    return statistics.median(took), took[int(len(took) * 0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--certificates", type=int, default=500)
    parser.add_argument("--rules", type=int, default=20)
    parser.add_argument("--count", type=int, default=5000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/tmad.db"
        migrate(url)
        world = NetworkWorld(database=Database(url)).prepare()
        world.policy(
            *(
                {"name": f"rule-{n}", "when": {"groups": [f"group-{n}"], "ssids": [f"net-{n}"]}}
                for n in range(chosen.rules)
            ),
            {"name": "all", "reply": {"vlan": "vlan-{person}", "acl": "staff"}},
        )
        for number in range(chosen.people):
            world.person(f"person-{number}", mail=f"p{number}@example.test", groups=("staff",))
        certificates = [
            world.issue(f"person-{number}") for number in range(min(20, chosen.certificates))
        ]
        visit = a_visit()
        admission: Any = world.admission
        other = NetworkWorld(world, database=Database(url))
        noise = Event(kind="benchmark.noise", tenant="default", actor="benchmark")

        turn = iter(range(10**9))

        def decide() -> None:
            certificate = certificates[next(turn) % len(certificates)]
            case, rules = drive(
                admission._findings.by_certificate(visit, (certificate,), "eap-tls", world.clock())
            )
            drive(admission._rulings.answer(case, rules))

        def decide_after_a_commit() -> float:
            drive(other.journal.write(noise))
            began = time.thread_time_ns()
            decide()
            return (time.thread_time_ns() - began) / 1000

        def whole() -> None:
            drive(admission.certificate(visit, (certificates[0],), _LOGIN))

        decide()
        median, slow = timed(decide, chosen.count)
        print(f"decision, quiet database      {median:7.1f} µs   p99 {slow:7.1f}")
        after = sorted(decide_after_a_commit() for _ in range(min(500, chosen.count)))
        print(
            f"decision after a commit       {statistics.median(after):7.1f} µs"
            f"   p99 {after[int(len(after) * 0.99)]:7.1f}"
        )
        median, slow = timed(whole, min(500, chosen.count))
        print(f"with its record, one a commit {median:7.1f} µs   p99 {slow:7.1f}")
        print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
