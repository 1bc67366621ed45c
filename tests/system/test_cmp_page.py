"""The lines of docs/cmp.md, run as an administrator and a device would."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.pages import Page

PAGE = Page("cmp.md")


def test_a_device_gets_its_certificate_and_the_next_one(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "device"
    try:
        said = PAGE.run(node, folder)
        assert "device.pem: OK" in said
        assert "next.pem: OK" in said
        old, new = (
            x509.load_pem_x509_certificate((folder / name).read_bytes())
            for name in ("device.pem", "next.pem")
        )
        assert old.subject == new.subject
        shown = node.json("cert", "show", f"{old.serial_number:x}")
        assert "revoked" in str(shown)
        node.tmad("endpoint", "set", "cmp/default", "options.confirm_seconds=120")
    finally:
        node.kill()
