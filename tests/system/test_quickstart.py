"""tmad quickstart: what a fresh clone shows in one command."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

QUICKSTART = [sys.executable, "-m", "tmad.cli.main", "quickstart", "--dir"]


def test_demo_enrols_checks_revokes_and_sees_it_at_the_next_query(
    tmp_path: Path, require_client: Callable[[str], str]
) -> None:
    require_client("eapol_test")
    for run in ("first", "again"):
        began = time.monotonic()
        done = subprocess.run(
            [*QUICKSTART, str(tmp_path / "data"), "--demo"],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        steps = re.findall(r"^  (SCEP|OCSP|CRL|RADIUS|revoke) +(\w+)", done.stdout, re.MULTILINE)
        assert steps == [
            ("SCEP", "enrolled"),
            ("SCEP", "the"),
            ("OCSP", "good"),
            ("CRL", "good"),
            ("RADIUS", "EAP"),
            ("revoke", "tmad"),
            ("OCSP", "revoked"),
            ("CRL", "revoked"),
            ("RADIUS", "EAP"),
        ], run
        logins = re.findall(r"RADIUS +EAP-TLS login at \S+: (\w+)", done.stdout)
        assert logins == ["accepted", "refused"], run
        assert "challenge" in done.stdout  # the second use of the secret, refused
        assert time.monotonic() - began < 90


def test_quickstart_runs_until_it_is_stopped_and_avoids_taken_ports(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        with _running(tmp_path) as running:
            assert not running.url.startswith("http://127.0.0.1:8080/")
            with urllib.request.urlopen(f"{running.url}?operation=GetCACaps", timeout=10) as answer:
                assert b"POSTPKIOperation\n" in answer.read()
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(30) == 0, running.said()
    shown = running.said()
    assert "port 8080 is taken" in shown
    assert "openssl ocsp" in shown
    assert "pki --scep" in shown
    assert "Traceback" not in shown


def test_without_eapol_test_the_demo_says_so_and_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [*QUICKSTART, str(tmp_path / "data"), "--demo"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("eapol_test is not installed (Debian: eapoltest)") == 2
    assert "done: " in done.stdout


def test_the_lines_it_prints_work(tmp_path: Path, require_client: Callable[[str], str]) -> None:
    for program in ("eapol_test", "radtest", "pki", "ldapsearch", "curl", "lego"):
        require_client(program)
    with _running(tmp_path) as running:
        shown = running.said().split("in another terminal:\n")[1].split("  Ctrl-C stops")[0]
        lines = {part.split(":")[0]: part.partition("\n")[2] for part in shown.split("  # ")[1:]}
        radius = [part.partition("\n")[2] for part in shown.split("  # RADIUS: ")[1:]]
        for protocol in ("SCEP", "EST", "CMP", "CMC"):
            _shell(lines[protocol], tmp_path)
        lego, _, profile = shown.split("  # ACME: ")[1].partition("\n\n")
        _shell(lego.partition("\n")[2], tmp_path)
        for name in ("device.pem", "est.pem", "cmp.pem", "cmc.pem"):
            assert "-BEGIN CERTIFICATE-" in (tmp_path / name).read_text()
        assert (tmp_path / "lego" / "certificates" / "localhost.crt").exists()
        link = _shell(profile.split("\n")[1], tmp_path)
        assert re.search(r"^link +https://localhost:\d+/enroll/\S+$", link, re.MULTILINE)
        assert _shell(radius[0].split("\n\n")[0], tmp_path).endswith("SUCCESS\n")
        *commands, radtest = radius[1].split("\n\n")[0].splitlines()
        password = _shell("\n".join(commands), tmp_path)
        word = re.search(r"^password +(\S+)$", password, re.MULTILINE)
        assert word is not None, password
        said = _shell(radtest.replace("PASSWORD", word[1]), tmp_path)
        assert "Received Access-Accept" in said
        said = _shell(lines["LDAP"].split("\n\n")[0], tmp_path)
        assert "mail: carol@example.test" in said
        assert "userCertificate;binary:: " in said


def test_the_line_it_prints_for_snmp_works(
    tmp_path: Path, require_client: Callable[[str], str]
) -> None:
    require_client("snmpwalk")
    with _running(tmp_path) as running:
        line = running.said().split("  # SNMP: ")[1].partition("\n")[2].split("\n\n")[0]
        # Until the objects have been gathered the agent says that it has none yet.
        said = _shell(f"for i in $(seq 50); do {line} && exit; sleep 0.2; done; exit 1", tmp_path)
        assert "tmad" in said


def _shell(lines: str, directory: Path) -> str:
    """Run what was printed, as somebody would who pastes it; return what it says."""
    # The program is called as this environment calls it, wherever its script is.
    lines = re.sub(r"^  \S*tmad ", f"{sys.executable} -m tmad.cli.main ", lines, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-ec", lines],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, lines + done.stdout[-2000:] + done.stderr
    return done.stdout


class _Running(NamedTuple):
    """A quickstart that goes on; ``url`` is where SCEP is."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def said(self) -> str:
        return self.log.read_text()


@contextmanager
def _running(directory: Path) -> Iterator[_Running]:
    """Start one, and wait until somebody listens at the SCEP URL."""
    log = directory / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*QUICKSTART, str(directory / "data")],
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield _Running(process, log, _url(process, log))
    finally:
        process.kill()
        process.wait()


def _url(child: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        found = re.search(r"SCEP +(http://127\.0\.0\.1:(\d+)/scep/default)", log.read_text())
        if found:
            try:
                socket.create_connection(("127.0.0.1", int(found[2])), timeout=1).close()
            except OSError:
                pass
            else:
                return found[1]
        time.sleep(0.1)
    raise AssertionError(f"no door was opened\n{log.read_text()}")
