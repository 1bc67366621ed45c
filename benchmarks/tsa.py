"""Time-stamps a second: tmad beside ``openssl ts -reply``, same key, same request.

    python -m benchmarks.tsa [--seconds 3] [--connections 8]

The client is this process: threads with a connection each, which is why the server's CPU a token
stands beside the rate. The peer is a command: it starts, reads its files and signs one token a run,
as it does behind a web server that calls it. With journal=each a token costs a transaction.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.support import family, processor_seconds
from tests.daemon import Daemon

_POLICY = "1.3.6.1.4.1.32473.1"
_KIND = {"Content-Type": "application/timestamp-query"}
_CONFIGURATION = f"""
[tsa]
default_tsa = own
[own]
serial = serial
signer_digest = sha256
default_policy = {_POLICY}
digests = sha256
accuracy = secs:1
"""


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "data").write_bytes(b"what is stamped")
        openssl(home, "ts", "-query", "-data", "data", "-sha256", "-cert", "-out", "q.tsq")
        print(f"{'':28}{'tokens/s':>10}{'CPU each':>12}")
        daemon = Daemon(home / "node")
        for journal in ("each", "count"):
            daemon.endpoint(
                journal, "--profile", "tsa-signer", "--set", f"options.policy={_POLICY}",
                "--set", "options.clock=vouched", "--set", f"options.journal={journal}",
                protocol="tsa",
            )  # fmt: skip
        daemon.start()
        try:
            for journal in ("count", "each"):
                measure(daemon, journal, (home / "q.tsq").read_bytes(), options)
        finally:
            daemon.kill()
        peer(home, options.seconds)


def openssl(home: Path, *arguments: str) -> None:
    """Run openssl in a directory."""
    subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)


def ask(daemon: Daemon, label: str, query: bytes, end: float, counts: list[int]) -> None:
    """Ask over one connection until the time is over."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=30)
    count = 0
    while time.monotonic() < end:
        connection.request("POST", f"/tsa/{label}", query, _KIND)
        body = connection.getresponse().read()
        if b"\x30\x03\x02\x01\x00" not in body[:12]:
            raise SystemExit(f"no token: {body[:80]!r}")
        count += 1
    counts.append(count)


def measure(daemon: Daemon, label: str, query: bytes, options: argparse.Namespace) -> None:
    """Print what one endpoint does."""
    assert daemon.process is not None
    ask(daemon, label, query, time.monotonic() + 0.5, [])
    counts: list[int] = []
    pids = family(daemon.process.pid)
    spent, begin = processor_seconds(pids), time.monotonic()
    threads = [
        threading.Thread(target=ask, args=(daemon, label, query, begin + options.seconds, counts))
        for _ in range(options.connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != len(threads):
        raise SystemExit("a connection failed")
    took, spent = time.monotonic() - begin, processor_seconds(pids) - spent
    report(f"tmad, journal={label}", sum(counts) / took, spent / sum(counts))


def peer(home: Path, seconds: float) -> None:
    """Print what ``openssl ts -reply`` does with a P-256 key."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        home, "req", "-x509", *curve, "-keyout", "key.pem", "-out", "tsa.pem", "-subj", "/CN=tsa",
        "-addext", "extendedKeyUsage=critical,timeStamping",
    )  # fmt: skip
    (home / "ts.cnf").write_text(_CONFIGURATION)
    before = os.times()
    begin, count = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        openssl(
            home, "ts", "-reply", "-config", "ts.cnf", "-queryfile", "q.tsq", "-signer", "tsa.pem",
            "-inkey", "key.pem", "-out", "r.tsr",
        )  # fmt: skip
        count += 1
    took, after = time.monotonic() - begin, os.times()
    spent = (
        after.children_user + after.children_system
        - before.children_user - before.children_system
    )  # fmt: skip
    report("openssl ts -reply", count / took, spent / count)


def report(name: str, rate: float, each: float) -> None:
    """Print one line."""
    print(f"{name:28}{rate:10.0f}{each * 1e6:9.0f} µs")


if __name__ == "__main__":
    main()
