"""The lines of docs/snmp.md, run as an administrator would, against a daemon."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon import Daemon
from tests.system.commands import commands_of

PAGE = Path(__file__).parents[2] / "docs" / "snmp.md"
_PATIENCE = 60.0


def test_every_command_of_the_page_works(
    tmp_path: Path, require_client: Callable[[str], str]
) -> None:
    for program in ("snmpwalk", "snmptable"):
        require_client(program)
    node = Daemon(tmp_path / "node", snmp=True)
    try:
        tmad = commands_of(node)
        node.start()
        said = ""
        for line in _lines(node):
            words = shlex.split(line)[1:]
            if line.startswith("tmad snmp test"):
                # Nobody takes informs there; it need not be tried for a minute.
                tmad.run("snmp", "target", "set", "noc", "timeout=1", "retries=0")
                assert "192.0.2.7" in tmad.run(*words, expect=5).err
            elif line.startswith("tmad "):
                said += tmad.run(*words).out
            else:
                _shell(_with_passphrases(line, said), tmp_path)
        assert "0x80001f8805" in said
        assert tmad.run("snmp", "user", "list", "-o", "name").out.split() == ["ops"]
        assert tmad.run("snmp", "community", "list", "-o", "name").out == ""
    finally:
        node.kill()


def _lines(node: Daemon) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    text = "".join(blocks).replace("\\\n", "").replace("127.0.0.1:1161", _address(node))
    root = PAGE.parents[1]
    text = text.replace("conf/mibs/", f"{root}/conf/mibs/").replace("~/.snmp", "mibs/.snmp")
    # The IETF's modules, as a manager has them.
    text = text.replace("-m +TMAD-MIB", f"-M {root}/tests/vectors/mibs:mibs/.snmp/mibs -m TMAD-MIB")
    return [line for line in text.splitlines() if line]


def _address(node: Daemon) -> str:
    return f"127.0.0.1:{node.snmp_port}"


def _with_passphrases(line: str, said: str) -> str:
    """Type what the command for the first user has printed."""
    for option, name in (("-A", "authentication"), ("-X", "privacy")):
        found = re.search(rf"^{name}_passphrase +(\S+)$", said, re.MULTILINE)
        assert found is not None, said
        line = line.replace(f"{option} PASSPHRASE", f"{option} {found[1]}")
    return line


def _shell(line: str, directory: Path) -> None:
    """Run a line until it works: an agent that has begun just now has no sample yet."""
    (directory / "mibs" / ".snmp" / "mibs").mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _PATIENCE
    while True:
        done = subprocess.run(
            ["bash", "-ec", line], cwd=directory, capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
        if done.returncode == 0 and "No entries" not in done.stdout:
            return
        assert time.monotonic() < end, f"{line}\n{done.stdout}{done.stderr}"
        time.sleep(0.5)
