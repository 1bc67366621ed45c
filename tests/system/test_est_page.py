"""The lines of docs/est.md, run as an administrator and a device would."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.pages import Page

PAGE = Page("est.md")


def test_a_device_gets_its_certificate_and_the_next_one(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "device"
    try:
        appliance, first, following, _ = PAGE.scripts
        said = PAGE.run(node, folder, appliance, first, following)
        assert "device.pem: OK" in said
        assert "next.pem: OK" in said
        old, new = (
            x509.load_pem_x509_certificate((folder / name).read_bytes())
            for name in ("device.pem", "next.pem")
        )
        assert old.subject == new.subject
        assert old.public_key() != new.public_key()
    finally:
        node.kill()


def test_the_lines_about_manufacturers_are_understood(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node")
    script = PAGE.scripts[-1]
    # There is no such host.
    script = script.replace("tmad trust-anchor refresh maker\n", "")
    (tmp_path / "maker-ca.pem").write_text(node.pem("root").read_text())
    PAGE.run(node, tmp_path, script)
    shown = node.json("endpoint", "show", "est/factory")
    assert shown["manufacturers"] == ["maker"]
    assert shown["authenticate"] == ["manufacturer"]
