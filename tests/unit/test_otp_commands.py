"""``tmad otp qr``, and what a person may hand to the other commands about files."""

from __future__ import annotations

import stat
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tmad.cli.context import Ended
from tmad.cli.main import cli
from tmad.cli.otp_import import _key
from tmad.events import Secret
from tmad.identity import otpauth

URI = otpauth.uri(kind="totp", issuer="Example", account="bob", seed=Secret(b"1" * 20))


def run(*words: str, text: bytes = URI.reveal()) -> click.testing.Result:
    return CliRunner().invoke(cli, ["otp", "qr", *words], input=text + b"\n", color=True)


def test_a_uri_becomes_a_picture_in_the_terminal() -> None:
    result = run()
    assert result.exit_code == 0
    assert result.output == otpauth.qr_terminal(URI) + "\n"


def test_pictures_are_private_files_and_never_overwritten(tmp_path: Path) -> None:
    png, svg = tmp_path / "code.png", tmp_path / "code.svg"
    assert run("--png", str(png), "--svg", str(svg)).exit_code == 0
    assert png.read_bytes() == otpauth.qr_png(URI)
    assert svg.read_bytes() == otpauth.qr_svg(URI)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (png, svg)} == {0o600}
    again = run("--png", str(png))
    assert isinstance(again.exception, Ended)
    assert "never overwritten" in again.exception.message


@pytest.mark.parametrize(
    "text", [b"", b"https://example.test/", b"otpauth://totp/a b", b"otpauth://ocra/x?secret=A"]
)
def test_only_otpauth_uris_are_drawn(text: bytes) -> None:
    result = run(text=text)
    assert isinstance(result.exception, Ended)
    assert (result.exception.exit_code, result.output) == (1, "")


@pytest.mark.parametrize("size", [16, 24, 32])
def test_keys_as_they_are_and_in_hexadecimal(size: int) -> None:
    key = bytes(range(100, 100 + size))
    grouped = b" ".join(key.hex().encode()[at : at + 4] for at in range(0, 2 * size, 4))
    for written in (key, key.hex().encode(), b"0x" + key.hex().encode() + b"\n", grouped):
        assert _key(written) == key


@pytest.mark.parametrize("content", [b"", b"abc", b"00" * 20, b"zz" * 20, bytes(17)])
def test_what_is_no_key(content: bytes) -> None:
    with pytest.raises(Ended):
        _key(content)
