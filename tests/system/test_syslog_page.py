"""The lines of docs/syslog.md, run as an administrator would."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.collectors import Rsyslog, wait_until
from tests.daemon import Daemon, free_ports
from tests.pki import Authority
from tests.system.commands import commands_of
from tmad.lifecycle.log_collectors import LogCollectorDocument

PAGE = Path(__file__).parents[2] / "docs" / "syslog.md"


def test_to_one_collector(tmp_path: Path) -> None:
    [block] = re.findall(
        r"## To one collector\n\n```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL
    )
    pki = Authority(tmp_path / "pki", kind="rsa")
    server = pki.issue("logs.example.test", uses=(ExtendedKeyUsageOID.SERVER_AUTH,))
    # Ports and directories of this test instead of those on the page.
    [secure, old] = free_ports(2)
    for there, here in (
        ("ca.pem", str(pki.path)),
        ("127.0.0.1:6514", f"127.0.0.1:{secure}"),
        ("127.0.0.1:1514", f"127.0.0.1:{old}"),
    ):
        assert there in block
        block = block.replace(there, here)
    node = Daemon(tmp_path / "node")
    collector: Rsyslog | None = None
    try:
        tmad = commands_of(node)
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["tmad", "init"] or words[0] == "export":
                continue
            if words == ["tmad", "run"]:
                authorities = tmp_path / "authorities.pem"
                authorities.write_text(node.pem("root").read_text() + pki.path.read_text())
                collector = Rsyslog(
                    tmp_path / "logs",
                    secure,
                    tls=(authorities, server.chain, server.key),
                    peers=("127.0.0.1",),
                )
                collector.start()
                node.start()
                continue
            tmad.run(*words[1:])
        assert collector is not None
        wait_until(lambda: "log-collector.tested" in "".join(collector.raw()), "nothing arrives")
    finally:
        node.kill()
        if collector is not None:
            collector.kill()


def test_every_setting_of_the_page_exists() -> None:
    table = PAGE.read_text("utf-8").partition("| Setting |")[2].partition("\n\n")[0]
    names = set(re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE))
    named = {name for cell in names for name in re.findall(r"`(\w+)`", cell)}
    assert named
    assert named <= set(LogCollectorDocument.model_fields)
