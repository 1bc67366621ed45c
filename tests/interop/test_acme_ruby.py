"""ACME by Ruby's acme-client, which asks for notBefore and notAfter (RFC 8555, 7.4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.acme_world import ACMENode, a_node, dns_names, run, web_server

pytestmark = pytest.mark.interop

CLIENT = Path(__file__).with_name("acme_client.rb")


node = a_node("ruby")


def ordered(
    node: ACMENode, folder: Path, begin: str, end: str, *names: str, expect: int = 0
) -> str:
    with web_server(folder / "web", node.http_port) as root:
        done = run(folder, "ruby", str(CLIENT), node.directory(), str(node.trust), str(root),
                   begin, end, *names, expect=expect)  # fmt: skip
    return done.stdout if expect == 0 else done.stderr


def test_a_certificate_for_the_days_that_were_asked_for(node: ACMENode, tmp_path: Path) -> None:
    begin = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    end = begin + timedelta(days=7)
    told = ordered(node, tmp_path, begin.isoformat(), end.isoformat(),
                   "a.example.test", "b.example.test")  # fmt: skip
    certificate = x509.load_pem_x509_certificates(told.encode())[0]
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (begin, end)
    assert dns_names(certificate) == ["a.example.test", "b.example.test"]


def test_days_and_names_that_cannot_be_had_are_told(node: ACMENode, tmp_path: Path) -> None:
    end = (datetime.now(UTC) + timedelta(days=4000)).replace(microsecond=0).isoformat()
    told = ordered(node, tmp_path, "-", end, "a.example.test", expect=1)
    assert "Acme::Client::Error::Malformed: the profile does not allow this period" in told
    (tmp_path / "other").mkdir()
    told = ordered(node, tmp_path / "other", "-", "-", "a_b.example.test", "c_d.test", expect=1)
    assert "RejectedIdentifier: a_b.example.test: a host name has no underscore; c_d.test:" in told
