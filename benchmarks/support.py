"""What benchmark scripts share: looking at processes, and filling a node's tables in bulk."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.daemon import Daemon
from tmad.storage.status import serial_octets

DAY = 86_400 * 1_000_000


def family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += family(int(path.parent.name))
    return found


def memory(pids: Iterable[int]) -> tuple[float, float]:
    """Return the resident and the anonymous memory of these processes in MiB.

    The difference is files that are mapped: shared, and given back when memory is short.
    """
    resident = anonymous = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        values = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+)", text, re.M))
        resident += int(values["VmRSS"])
        anonymous += int(values["RssAnon"])
    return resident / 1024, anonymous / 1024


def first_answer(daemon: Daemon, path: str, body: bytes, content_type: str) -> float:
    """Start a daemon; return the seconds until it has answered this request with 200."""
    starter = threading.Thread(target=daemon.start)
    begin = time.perf_counter()
    starter.start()
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=10)
            connection.request("POST", path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            answer.read()
            connection.close()
            if answer.status == 200:
                break
        if time.perf_counter() - begin > 60:
            raise SystemExit("no answer within a minute of the start")
        time.sleep(0.005)
    took = time.perf_counter() - begin
    starter.join()
    return took


def fill(
    database: Path, issuer_id: int, serials: Sequence[int], certificate_der: bytes, *, every: int
) -> None:
    """Add a certificate for each serial number, every so-manieth revoked, past the daemon.

    The indexes are made anew afterwards, which is ten times faster than keeping them.
    """
    now = int(time.time() * 1_000_000)

    def rows() -> Iterator[tuple[object, ...]]:
        # In the order of their serial numbers, the rows go to the end of the unique index.
        for number, serial in enumerate(sorted(serials)):
            revoked = (now, 4) if number % every == 0 else (None, None)
            digest = os.urandom(32)
            yield (
                issuer_id, serial_octets(serial), f"CN=device-{number}", now - DAY,
                now + (1 + number % 365) * DAY, digest, digest, certificate_der, digest, now,
                *revoked,
            )  # fmt: skip

    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-400000")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master"
            " WHERE type = 'index' AND tbl_name = 'certificates' AND sql IS NOT NULL"
        ).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.executemany(
            "INSERT INTO certificates (tenant, issuer_id, serial, state, via, endpoint, profile,"
            " profile_revision, owner, subject, not_before, not_after, spki_sha256, tbs_sha256,"
            " certificate_der, sha256, created_at, revoked_at, reason) VALUES ('default', ?, ?,"
            " 'issued', 'benchmark', 'scep/default', 'device', 1, '', ?, ?, ?, ?, ?, ?, ?, ?, ?,"
            " ?)",
            rows(),
        )
        for _, sql in indexes:
            connection.execute(sql)
        # As whoever changes much at once does it: caches and the CRL start anew.
        connection.execute(
            "INSERT INTO changes (topic, key, at) VALUES ('status', ?, ?)", (f"{issuer_id}:*", now)
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes and their dead children have used."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")
