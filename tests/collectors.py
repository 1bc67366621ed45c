"""Real log collectors for tests: rsyslog and syslog-ng, started, killed and started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# tests/run unpacks it there: as packages it and rsyslog exclude one another.
SYSLOG_NG = (
    Path(os.environ.get("TMAD_UNPACKED", "~/.cache/tmad-tests")).expanduser() / "syslog-ng-core"
)

_RSYSLOG = """
global(workDirectory="{directory}" maxMessageSize="64k")
{tls}
module(load="imudp")
module(load="imtcp" {listener})
input(type="imudp" address="127.0.0.1" port="{port}")
input(type="imtcp" address="127.0.0.1" port="{port}")
template(name="raw" type="string" string="%rawmsg%\\n")
template(name="parsed" type="list") {{
  property(name="pri") constant(value="|") property(name="timereported" dateFormat="rfc3339")
  constant(value="|") property(name="hostname") constant(value="|") property(name="app-name")
  constant(value="|") property(name="msgid") constant(value="|")
  property(name="structured-data") constant(value="|") property(name="msg") constant(value="\\n")
}}
action(type="omfile" file="{directory}/raw" template="raw" flushOnTXEnd="on")
action(type="omfile" file="{directory}/parsed" template="parsed")
"""
_RSYSLOG_TLS = """
global(defaultNetstreamDriver="{driver}" defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}" defaultNetstreamDriverKeyFile="{key}")
"""
_SYSLOG_NG = """@version: 3.35
options {{ keep-hostname(yes); chain-hostnames(no); use-dns(no); time-reopen(1);
  log-msg-size(65536); }};
source s {{ {source}; }};
destination parsed {{ file("{directory}/parsed"
  template("$PRI|$ISODATE|$HOST|$PROGRAM|$MSGID|$SDATA|$MSG\\n")); }};
log {{ source(s); destination(parsed); }};
"""


class Collector:
    """A process that writes what it gets into files of its directory."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return what starts it, and its environment."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert self.process is None
        words, environment = self.command()
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )  # fmt: skip
        wait_until(self.is_listening, f"{words[0]} does not listen: {self.said()}")

    def is_listening(self) -> bool:
        """Whether it takes connections."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"it has ended: {self.said()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def said(self) -> str:
        """Return what it says of itself."""
        path = self.directory / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it hang."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def raw(self) -> list[str]:
        """Return the messages as they came, one a line."""
        return self._lines("raw")

    def parsed(self) -> list[list[str]]:
        """Return what it understood: PRI, time, host, application, id, SD, text."""
        return [line.split("|", 6) for line in self._lines("parsed")]

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    log_of_all = "raw"  # the file that is written at once

    def sequence(self) -> list[tuple[str, int]]:
        """Return writer and number of each record that came, in its order."""
        found = []
        for line in self._lines(self.log_of_all):
            match = re.search(r'seq="(\d+)" writer="([^"]*)"', line)
            if match:
                found.append((match[2], int(match[1])))
        return found


class Rsyslog(Collector):
    """rsyslogd with UDP and TCP, or TLS, on one port."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        tls: tuple[Path, Path, Path] | None = None,
        peers: tuple[str, ...] = (),
        driver: str = "gtls",
    ) -> None:
        """``tls``: CA, certificate and key; ``peers``: names that clients must prove."""
        super().__init__(directory, port)
        listener = security = ""
        if tls is not None:
            ca, certificate, key = tls
            security = _RSYSLOG_TLS.format(driver=driver, ca=ca, certificate=certificate, key=key)
            allowed = ",".join(f'"{peer}"' for peer in peers)
            listener = f'StreamDriver.Name="{driver}" StreamDriver.Mode="1" ' + (
                f'StreamDriver.AuthMode="x509/name" PermittedPeer=[{allowed}]'
                if peers
                else 'StreamDriver.AuthMode="anon"'
            )
        self.config = directory / "rsyslog.conf"
        self.config.write_text(
            _RSYSLOG.format(directory=directory, port=port, tls=security, listener=listener)
        )

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return what starts it."""
        pid = self.directory / "pid"
        # What a killed one leaves keeps the next from starting.
        pid.unlink(missing_ok=True)
        return ["/usr/sbin/rsyslogd", "-n", "-f", str(self.config), "-i", str(pid)], {}


class SyslogNG(Collector):
    """syslog-ng with one source."""

    log_of_all = "parsed"

    def __init__(self, directory: Path, port: int, source: str) -> None:
        """``source`` is the driver, with {port} in it."""
        super().__init__(directory, port)
        self.config = directory / "syslog-ng.conf"
        self.config.write_text(
            _SYSLOG_NG.format(
                directory=directory,
                source=source.replace("{port}", str(port)),
            )
        )

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return what starts it."""
        library = SYSLOG_NG / "usr/lib/syslog-ng"
        own = self.directory
        return [
            str(SYSLOG_NG / "usr/sbin/syslog-ng"), "-F", "-f", str(self.config), "--no-caps",
            "-p", str(own / "pid"), "-R", str(own / "persist"), "-c", str(own / "control"),
            "--module-path", str(library / "3.38"),
        ], {"LD_LIBRARY_PATH": str(library)}  # fmt: skip


def wait_until(condition: Callable[[], object], message: str, seconds: float = 60) -> None:
    """Wait for a condition; AssertionError when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(message)
        time.sleep(0.05)
