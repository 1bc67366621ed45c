"""The lines of docs/cmc.md, run as an administrator and a device would: openssl cms and curl."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.daemon import Daemon
from tests.pages import Page

PAGE = Page("cmc.md")


def test_a_device_gets_its_certificate_and_the_next_one(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    folder = tmp_path / "device"
    try:
        said = PAGE.run(node, folder)
        assert "device.pem: OK" in said
        assert "renewed.pem: OK" in said
        old, new = (
            x509.load_pem_x509_certificates((folder / name).read_bytes())[0]
            for name in ("device.pem", "renewed.pem")
        )
        assert old.subject == new.subject
        assert old.public_key() != new.public_key()
        node.tmad("endpoint", "set", "cmc/devices", "options.confirm=true")
    finally:
        node.kill()
