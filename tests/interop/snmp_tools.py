"""Net-snmp's own programs, as an operator starts them: the command line, snmptrapd, snmpd."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.daemon import Daemon, free_ports

ROOT = Path(__file__).resolve().parents[2]
# Debian ships none of the modules that ours imports (tests/vectors/mibs/README.md).
MIBS = f"{ROOT / 'tests' / 'vectors' / 'mibs'}:{ROOT / 'conf' / 'mibs'}"
TMAD = "1.3.6.1.4.1.8072.9999.9999.2026"
AUTH, PRIV = "test-passphrase-1", "test-passphrase-2"
WAIT_SECONDS = 40.0


def eventually(found: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Return what ``found`` returns once it is true."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)
    return result


def environment(directory: Path) -> dict[str, str]:
    """Return an environment in which net-snmp keeps to a directory and to our MIB modules."""
    directory.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "SNMP_PERSISTENT_DIR": str(directory),
        "SNMPCONFPATH": str(directory),
        "MIBDIRS": MIBS,
        "MIBS": "TMAD-MIB",
    }


def run(program: str, *arguments: str, directory: Path) -> str:
    """Run one of net-snmp's programs; return what it prints, fail when it fails."""
    done = _run(program, *arguments, directory=directory)
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
    return done.stdout


def attempt(program: str, *arguments: str, directory: Path) -> str:
    """Run one of net-snmp's programs; return what it prints, nothing when it fails."""
    done = _run(program, *arguments, directory=directory)
    return "" if done.returncode else done.stdout


def _run(program: str, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=environment(directory),
    )  # fmt: skip


def user_options(name: str = "ops") -> list[str]:
    """Return what a manager types for a user that ``add_user`` has made."""
    return [
        "-v3", "-l", "authPriv", "-u", name, "-a", "SHA-256", "-A", AUTH, "-x", "AES", "-X", PRIV,
    ]  # fmt: skip


def add_user(daemon: Daemon, name: str = "ops") -> None:
    """Let a user ask the daemon's agent."""
    secrets = daemon.directory / "passphrases"
    secrets.write_text(f"{AUTH}\n{PRIV}\n")
    daemon.tmad("snmp", "user", "add", name, "--secret-file", str(secrets))


class Server:
    """A server of net-snmp in the foreground, with a directory and a log of its own."""

    def __init__(self, program: str, directory: Path, configuration: str, *listen: str) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.program = program
        self._listen = listen
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = environment(directory)
        (directory / "conf").write_text(configuration)

    def start(self) -> None:
        """Start it; it may take a moment until it listens."""
        self._process = subprocess.Popen(
            [self.program, "-f", "-C", "-c", str(self.directory / "conf"),
             "-Lf", str(self.log), *self._listen],
            env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(lambda: "NET-SNMP version" in self.text(), f"{self.program} starts")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def text(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class TrapReceiver(Server):
    """snmptrapd, which knows one user (for ``engine``'s traps, and for informs) and a community."""

    def __init__(self, directory: Path, *, engine: str, community: str) -> None:
        (self.port,) = free_ports(1)
        environment(directory)
        super().__init__(
            "/usr/sbin/snmptrapd",
            directory,
            f"createUser -e {engine} ops SHA-256 {AUTH} AES {PRIV}\n"
            f"createUser ops SHA-256 {AUTH} AES {PRIV}\n"
            "authUser log ops priv\n"
            f"authCommunity log {community}\n"
            "format2 GOT %P %v\\n\n",
            "-n",
            f"udp:127.0.0.1:{self.port}",
        )

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def received(self, *words: str) -> list[str]:
        """Return the notifications in which all of these words stand."""
        lines = [line for line in self.text().splitlines() if line.startswith("GOT ")]
        return [line for line in lines if all(word in line for word in words)]


class Master(Server):
    """snmpd, which others may join; its traps go to ``trap_address``."""

    def __init__(self, directory: Path, *, trap_address: str, community: str) -> None:
        self.port, agentx = free_ports(2)
        self.agentx = f"127.0.0.1:{agentx}"
        environment(directory)
        super().__init__(
            "/usr/sbin/snmpd",
            directory,
            "rocommunity public 127.0.0.1\nmaster agentx\n"
            f"agentXSocket tcp:{self.agentx}\n"
            f"trap2sink {trap_address} {community}\n",
            f"udp:127.0.0.1:{self.port}",
        )
