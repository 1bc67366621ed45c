"""The lines of docs/directory.md, run as an administrator and a colleague would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon import free_ports
from tests.pages import Page
from tests.warm import COMMANDS, Forked

PAGE = Page("directory.md")


def test_from_nothing_to_encrypted_mail(
    tmp_path: Path, require_client: Callable[[str], str]
) -> None:
    require_client("ldapsearch")
    blocks = PAGE.scripts
    http, https, client, ops, ldap, ldaps = free_ports(6)
    node = tmp_path / "node"
    environment = dict(os.environ)

    def here(text: str) -> str:
        for name, value in {
            "/var/lib/tmad": str(node),
            "192.0.2.5:389": f"127.0.0.1:{ldap}",
            "192.0.2.5:636": f"127.0.0.1:{ldaps}",
            "ldap://ldap.example.test": f"ldap://127.0.0.1:{ldap}",
            "ldaps://ldap.example.test": f"ldaps://127.0.0.1:{ldaps}",
            # OpenLDAP's tools put the machine's own name in the place of "localhost".
            "ldap.example.test": "127.0.0.1",
        }.items():
            text = text.replace(name, value)
        return text

    said = ""
    for line in here(blocks[0]).splitlines():
        words = shlex.split(line, comments=True)
        if words == ["tmad", "run"]:
            break
        if words[0] == "export":
            environment.update([words[1].split("=")])
            continue
        if words[1] == "init":
            words += [f"--http=127.0.0.1:{http}", f"--https=127.0.0.1:{https}"]
            words += [f"--https-client=127.0.0.1:{client}", f"--ops=127.0.0.1:{ops}"]
        done = COMMANDS.run(tuple(words[1:]), environment, directory=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said += done.stdout
    password = re.search(r"^password +(\S+)$", said, re.MULTILINE)
    assert password is not None, said
    (tmp_path / "PASSWORD-FILE").write_text(password[1])
    # Only what this page is about listens.
    with (node / "tmad.toml").open("a") as settings:
        settings.write("\n[protocols.snmp]\nenabled = false\n")
        settings.write("\n[protocols.radius]\nenabled = false\n")
    daemon = COMMANDS.start(("run",), environment, tmp_path / "log")
    try:
        _wait(ldaps, daemon)
        answers = []
        script = [line for line in here(blocks[1]).splitlines() if line]
        export, *lines = script
        for line in lines:
            done = subprocess.run(
                ["bash", "-ec", f"{export}\n{line}"],
                cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            answers.append(done.stdout)
    finally:
        daemon.terminate()
        daemon.wait(30)
    assert "userCertificate;binary:: " in answers[0]
    assert "certificateRevocationList;binary:: " in answers[1]
    assert answers[2] == answers[3] == "dn:uid=alice,ou=people,o=example\n"
    assert "Traceback" not in (tmp_path / "log").read_text()


def _wait(port: int, daemon: subprocess.Popen[bytes] | Forked) -> None:
    import socket

    deadline = time.monotonic() + 60
    while daemon.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as opened:
                # A door that has no certificate yet hangs up at once.
                opened.settimeout(0.5)
                if opened.recv(1) != b"":
                    return
        except TimeoutError:
            return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("the daemon did not start")
