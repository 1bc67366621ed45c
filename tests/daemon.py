"""A real daemon on loopback, set up and driven through its command line, as a person would."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.warm import COMMANDS, Forked

START_SECONDS = 30


def free_ports(count: int) -> list[int]:
    """Return neighbouring ports of loopback that nobody listens on just now.

    They lie below the range from which the kernel takes ports for outgoing connections, and
    each process of a test run has a range of its own: else one could be taken between this
    call and the daemon's start.
    """
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    width = (32_000 - 10_000) // parts
    lowest = 10_000 + part * width
    while True:
        first = random.randrange(lowest, lowest + width - count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    one = stack.enter_context(socket.socket())
                    one.bind(("127.0.0.1", port))
            except OSError:
                continue
        return list(range(first, first + count))


class Daemon:
    """One node in a directory of its own; ``start`` runs it, ``stop`` and ``kill`` end it.

    With ``snmp`` (True, or lines of [protocols.snmp]) the SNMP agent answers, else it is off.
    ``settings`` are sections of tmad.toml, ``radius`` and ``ldap`` further lines of
    [protocols.radius] and [protocols.ldap]; without ``ldap`` and ``radsec`` those stay closed.
    """

    def __init__(
        self,
        directory: Path,
        *init: str,
        workers: int = 1,
        settings: str = "",
        radius: str = "",
        radsec: bool = False,
        ldap: str | bool = False,
        snmp: bool | str = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.environment = {**os.environ, **(environment or {})}
        self.directory = directory
        self.config = directory / "tmad.toml"
        self.workers = workers
        self.process: subprocess.Popen[bytes] | Forked | None = None
        # Each worker has the ops port after the one before it: the last ones stay free.
        (
            self.http_port, self.https_port, self.client_port,
            self.radius_port, self.radius_acct_port, self.radsec_port, self.snmp_port,
            self.ldap_port, self.ldaps_port,
            self.ops_port, *_,
        ) = free_ports(14)  # fmt: skip
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.https_url = f"https://127.0.0.1:{self.https_port}"
        self.ops_url = f"http://127.0.0.1:{self.ops_port}"
        self.log = directory / "daemon.log"
        directory.mkdir(parents=True, exist_ok=True)
        self.tmad(
            "init", "--dir", str(directory), "--name", "Test Org", "--host", "127.0.0.1",
            "--http", f"127.0.0.1:{self.http_port}", "--https", f"127.0.0.1:{self.https_port}",
            "--https-client", f"127.0.0.1:{self.client_port}",
            "--ops", f"127.0.0.1:{self.ops_port}", *init,
        )  # fmt: skip
        with self.config.open("a", encoding="utf-8") as file:
            file.write(
                "\n[protocols.radius]\n"
                f'auth = ["127.0.0.1:{self.radius_port}"]\n'
                f'accounting = ["127.0.0.1:{self.radius_acct_port}"]\n'
                f"{radius}\n"
                + (f'radsec = ["127.0.0.1:{self.radsec_port}"]\n' if radsec else "")
                + "[protocols.ldap]\n"
                f'listen = ["127.0.0.1:{self.ldap_port}"]\n'
                f'tls = ["127.0.0.1:{self.ldaps_port}"]\n'
                f"{ldap if isinstance(ldap, str) else ''}\n"
                f"{'' if ldap is not False else 'enabled = false'}"
                "\n[protocols.snmp]\n"
                f'listen = ["127.0.0.1:{self.snmp_port}"]\n'
                f"{snmp if isinstance(snmp, str) else f'enabled = {str(snmp).lower()}'}\n"
                # Last, so that tests can go on with the last section of it.
                f"{settings}"
            )

    # -- the command line ---------------------------------------------------------------

    def tmad(
        self, *arguments: str, expect: int | None = 0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``tmad ARGUMENTS`` against this node; fail on another exit code than expected."""
        environment = {**self.environment, "TMAD_CONFIG": str(self.config)}
        done = COMMANDS.run(arguments, environment, text)
        if expect is not None and done.returncode != expect:
            raise AssertionError(
                f"tmad {' '.join(arguments)}: exit {done.returncode}, not {expect}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        """Return what ``tmad ARGUMENTS -o json`` prints."""
        return json.loads(self.tmad(*arguments, "-o", "json").stdout)

    def endpoint(self, label: str, *arguments: str, protocol: str = "scep") -> str:
        """Create an endpoint of the issuing authority; return its URL."""
        defaults = {"--ca": "issuing", "--profile": "device"}
        for option, value in defaults.items():
            if option not in arguments:
                arguments = (*arguments, option, value)
        self.tmad("endpoint", "create", protocol, label, *arguments)
        return f"{self.url}/{protocol}/{label}"

    def secret(self, endpoint: str = "scep/default", *arguments: str) -> str:
        """Return a fresh one-time challenge of an endpoint."""
        answer = self.json("enroll-secret", "create", "--endpoint", endpoint, *arguments)
        return str(answer["secret"])

    def pem(self, authority: str = "issuing") -> Path:
        """Return the file with an authority's certificate."""
        path = self.directory / f"{authority}.pem"
        if not path.exists():
            path.write_text(self.tmad("ca", "export", authority).stdout)
        return path

    # -- the process --------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> Daemon:
        """Start the daemon and, if asked to, wait until it answers."""
        assert self.process is None
        workers = ("--workers", str(self.workers)) if self.workers > 1 else ()
        self.process = COMMANDS.start(
            ("--config", str(self.config), "run", *workers), self.environment, self.log
        )
        if not wait:
            return self
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.is_ready():
                return self
            time.sleep(0.05)
        output = self.log.read_text(errors="replace")[-4000:]
        self.kill()
        raise AssertionError(f"the daemon did not become ready\n{output}")

    def is_ready(self) -> bool:
        """Whether /readyz says so and the HTTP door is open."""
        try:
            with socket.create_connection(("127.0.0.1", self.http_port), timeout=1):
                pass
            # A supervisor's workers listen on the port after the configured one.
            port = self.ops_port + (1 if self.workers > 1 else 0)
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            ) as connection:
                connection.request("GET", "/readyz")
                answer = connection.getresponse()
                answer.read()
                ready = answer.status == 200
        except (OSError, http.client.HTTPException):
            return False
        return ready

    def stop(self) -> int:
        """Ask it to end; return the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            code = self.process.wait(timeout=30)
        finally:
            self.kill()
        return code

    def kill(self) -> None:
        """End every process of it at once, as a power cut does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            # Its workers are not our children: one that the kernel is still ending keeps the
            # ports from the next start.
            deadline = time.monotonic() + START_SECONDS
            while self._listens() and time.monotonic() < deadline:
                time.sleep(0.02)

    def _listens(self) -> bool:
        for port in (self.http_port, self.https_port, self.client_port):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
        return False
