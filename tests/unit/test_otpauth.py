"""otpauth URIs and their QR codes, as apps expect them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tmad.errors import Fault
from tmad.events import Secret
from tmad.identity import otpauth

SEED = Secret(b"12345678901234567890")
TOTP: dict[str, Any] = {"kind": "totp", "issuer": "Example", "account": "bob", "seed": SEED}


def test_a_clocks_uri() -> None:
    found = otpauth.uri(**TOTP)
    assert repr(found) == "Secret()"
    assert found.reveal() == (
        b"otpauth://totp/Example:bob?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Example"
        b"&algorithm=SHA1&digits=6&period=30"
    )


def test_a_counters_uri() -> None:
    found = otpauth.uri(**TOTP | {"kind": "hotp", "algorithm": "sha256", "digits": 8, "counter": 4})
    assert found.reveal().endswith(b"&algorithm=SHA256&digits=8&counter=4")


@pytest.mark.parametrize(
    ("issuer", "account"),
    [
        ("Example & Söhne?", "bob@example.test"),
        ("", "bob"),
        ("A/B", "ä b:c&secret=x"),
        ("x", "%41"),
    ],
)
def test_labels_come_back_as_they_were(issuer: str, account: str) -> None:
    text = otpauth.uri(**TOTP | {"issuer": issuer, "account": account}).reveal().decode()
    parts = urlsplit(text)
    query = parse_qs(parts.query)
    found_issuer, _, found_account = parts.path.removeprefix("/").rpartition(":")
    assert (unquote(found_issuer), unquote(found_account)) == (issuer, account)
    assert query.get("issuer", [""]) == [issuer]
    assert query["secret"] == ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"]


@pytest.mark.parametrize(
    ("issuer", "account"),
    [("a:b", "bob"), ("", "a:b"), ("x", ""), ("x", " "), ("x", "a\nb"), ("x\x1b[2J", "bob")],
)
def test_labels_that_no_app_could_show(issuer: str, account: str) -> None:
    with pytest.raises(Fault) as caught:
        otpauth.uri(**TOTP | {"issuer": issuer, "account": account})
    assert caught.value.rule == "otp.label"


def test_qr_codes_are_images() -> None:
    found = otpauth.uri(**TOTP)
    assert otpauth.qr_png(found).startswith(b"\x89PNG\r\n")
    assert ET.fromstring(otpauth.qr_svg(found)).tag == "{http://www.w3.org/2000/svg}svg"
    lines = otpauth.qr_terminal(found).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_qr_code_has_its_limit() -> None:
    with pytest.raises(Fault) as caught:
        otpauth.qr_png(otpauth.uri(**TOTP | {"account": "x" * 2_000}))
    assert caught.value.rule == "otp.qr"
