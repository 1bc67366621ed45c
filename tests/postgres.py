"""A private PostgreSQL server for tests: a real one, with fsync, on a free loopback port."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from tmad.storage.database import migrate

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "120",
    "shared_buffers": "32MB",
    "logging_collector": "off",
}


class Cluster:
    """One server: start it, make databases in it, kill it, freeze it, start it again.

    Made from ``primary`` it is a hot standby of that one: it replays what the primary commits
    and answers reads only, until it is promoted.
    """

    def __init__(self, programs: Path, primary: Cluster | None = None) -> None:
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None
        self._home = Path(tempfile.mkdtemp(prefix="tmad-pg-"))
        if self._user:
            shutil.chown(self._home, self._user)
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._settings = dict(_SETTINGS)
        self.port = _free_port()
        if primary is None:
            make = ("initdb", "-A", "trust", "-U", "tmad", "-E", "UTF8")
        else:
            make = ("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-d",
                    primary._conninfo("postgres"))  # fmt: skip
        code = self._spawn(make[0], "-D", str(self._data), *make[1:]).wait(60)
        assert code == 0, (self._home / "log").read_text()[-2000:]
        atexit.register(self.remove)

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._home / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        arguments = ["-D", str(self._data), "-p", str(self.port), "-k", str(self._home)]
        for name, value in self._settings.items():
            arguments += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + 30
        self._process = self._spawn("postgres", *arguments)
        while True:
            try:
                psycopg.connect(self._conninfo("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise AssertionError((self._home / "log").read_text()[-2000:]) from None
                if self._process.poll() is not None:
                    # After a kill, shared memory is busy until the last old child has gone.
                    self._process = self._spawn("postgres", *arguments)
                time.sleep(0.05)

    def kill(self) -> None:
        """End the server like a crash: SIGKILL to every process of it."""
        if self._process is not None:
            for pid in [self._process.pid, *self._children()]:
                _signal(pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Stop every process of the server: connections stay open and say nothing."""
        assert self._process is not None
        for pid in [self._process.pid, *self._children()]:
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        for pid in [*self._children(), self._process.pid]:
            _signal(pid, signal.SIGCONT)

    def remove(self) -> None:
        """End the server and delete its files."""
        atexit.unregister(self.remove)
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def empty_database(self) -> str:
        """Return the URL of a new database without a schema."""
        return self._create("template0")

    def database(self) -> str:
        """Return the URL of a new database with the schema."""
        if not self._exists("tmad_template"):
            self._execute("CREATE DATABASE tmad_template TEMPLATE template0")
            migrate(self._url("tmad_template"))
        return self._create("tmad_template")

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._execute(f"DROP DATABASE {url.rsplit('/', 1)[1]} WITH (FORCE)")

    def standby(self, **settings: str) -> Cluster:
        """Start a hot standby of this server, with other settings than it."""
        other = Cluster(self._programs, self)
        other._settings.update(settings)
        other.start()
        return other

    def replay(self, primary: Cluster) -> None:
        """Wait until this standby has replayed all that its primary has committed so far."""
        with psycopg.connect(primary._conninfo("postgres"), autocommit=True) as connection:
            wanted = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        deadline = time.monotonic() + 30
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            while connection.execute(
                "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", wanted
            ).fetchone() != (True,):
                assert time.monotonic() < deadline, "the standby does not follow"
                time.sleep(0.02)

    def promote(self) -> None:
        """Make a primary of this standby."""
        self._execute("SELECT pg_promote()")

    def follow(self, url: str) -> str:
        """Return the URL that a database of the primary has here."""
        return self._url(url.rsplit("/", 1)[1])

    def connections(self) -> int:
        """Return how many clients are connected, this question aside."""
        with psycopg.connect(self._conninfo("postgres")) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def _children(self) -> list[int]:
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return [int(pid) for pid in listed.read_text().split()]
        except FileNotFoundError:
            return []

    def _create(self, template: str) -> str:
        name = f"tmad_{os.getpid()}_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._url(name)

    def _exists(self, name: str) -> bool:
        with psycopg.connect(self._conninfo("postgres")) as connection:
            return bool(
                connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", (name,)
                ).fetchone()
            )

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _conninfo(self, name: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=tmad dbname={name}"

    def _url(self, name: str) -> str:
        return f"postgresql://tmad@127.0.0.1:{self.port}/{name}"


def start_cluster() -> Cluster:
    """Start a server; fail the test (by hand: skip it) where PostgreSQL is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not versions:
        message = "PostgreSQL is missing; tests/run installs it"
        if os.environ.get("TMAD_REQUIRE_CLIENTS"):
            pytest.fail(message)
        pytest.skip(message)
    cluster = Cluster(versions[-1].parent)
    cluster.start()
    return cluster


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
