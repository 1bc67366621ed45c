"""Token files that python-pskc (csv2pskc) makes and pskctool approves; QR codes that zbar reads."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tmad.events import Secret
from tmad.identity import otpauth
from tmad.identity.tokenfiles import TokenFile, Wishes, read

pytestmark = pytest.mark.interop

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SEED = b"12345678901234567890"  # RFC 4226, appendix D
KEY = "00112233445566778899aabbccddeeff"  # of nothing but this test
URN = "urn:ietf:params:xml:ns:keyprov:pskc"
LIST = (
    "id,serial,secret,algorithm,algorithm_suite,response_length,response_encoding,counter,"
    "time_interval\n"
    f"1,HW1,{SEED.hex()},{URN}:hotp,,6,DECIMAL,7,\n"
    f"2,HW2,{(SEED + SEED[:12]).hex()},{URN}:totp,HMAC-SHA256,8,DECIMAL,,60\n"
)
FOUND = [
    ("HW1", "hotp", "sha1", 6, 0, 7, SEED),
    ("HW2", "totp", "sha256", 8, 60, 0, SEED + SEED[:12]),
]


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def pskc(tool: str, *words: str) -> None:
    """Run one of Debian's python3-pskc scripts, which it ships as modules only."""
    program = f"from pskc.scripts.{tool} import main; main()"
    run("/usr/bin/python3", "-c", program, *words)


@pytest.fixture
def keys(tmp_path: Path, require_client: Any) -> Path:
    require_client("pskctool")
    require_client("/usr/lib/python3/dist-packages/pskc/__init__.py")
    (tmp_path / "keys.csv").write_text(LIST)
    return tmp_path


def load(path: Path, **wishes: Any) -> TokenFile:
    return read(path.read_bytes(), NOW, Wishes(**wishes))


def tokens(file: TokenFile) -> list[tuple[Any, ...]]:
    assert file.mistakes == []
    return [
        (s.serial, s.kind, s.algorithm, s.digits, s.period, s.counter, s.seed.reveal())
        for s in file.seeds
    ]


def test_plain(keys: Path) -> None:
    path = keys / "plain.xml"
    pskc("csv2pskc", "-e", "hex", "-o", str(path), str(keys / "keys.csv"))
    assert "OK" in run("pskctool", "--validate", str(path))
    assert tokens(load(path)) == FOUND
    # What pskctool reads in it is what we do.
    shown = run("pskctool", "--info", str(path))
    assert re.findall(r"SerialNo: (\S+)", shown) == ["HW1", "HW2"]
    assert re.findall(r"Key Counter: (\S+)", shown) == ["7"]
    assert re.findall(r"Key TimeInterval: (\S+)", shown) == ["60"]


def test_a_shared_key(keys: Path) -> None:
    path = keys / "sealed.xml"
    pskc("csv2pskc", "-e", "hex", "-s", KEY, "-o", str(path), str(keys / "keys.csv"))
    assert SEED.hex() not in path.read_text()
    assert tokens(load(path, key=Secret(bytes.fromhex(KEY)))) == FOUND


def test_a_passphrase(keys: Path) -> None:
    path = keys / "passphrase.xml"
    pskc("csv2pskc", "-e", "hex", "-p", "open sesame", "-o", str(path), str(keys / "keys.csv"))
    assert tokens(load(path, passphrase=Secret("open sesame"))) == FOUND


def test_a_container_that_was_sealed_anew(keys: Path) -> None:
    first, second = keys / "first.xml", keys / "second.xml"
    pskc("csv2pskc", "-e", "hex", "-s", KEY, "-o", str(first), str(keys / "keys.csv"))
    other = KEY[::-1]
    pskc("pskc2pskc", "-s", KEY, "--new-secret", other, "-o", str(second), str(first))
    assert tokens(load(second, key=Secret(bytes.fromhex(other)))) == FOUND


# -- QR codes --------------------------------------------------------------------------------

URI = otpauth.uri(
    kind="totp", issuer="Example Ltd", account="bob@example.test", seed=Secret(SEED), digits=8
)


def read_code(path: Path) -> bytes:
    return run("zbarimg", "-q", "--raw", "-Sdisable", "-Sqrcode.enable", str(path)).strip().encode()


def test_zbar_reads_the_png(tmp_path: Path, require_client: Any) -> None:
    require_client("zbarimg")
    path = tmp_path / "code.png"
    path.write_bytes(otpauth.qr_png(URI))
    assert read_code(path) == URI.reveal()


def test_zbar_reads_the_svg(tmp_path: Path, require_client: Any) -> None:
    require_client("zbarimg")
    require_client("rsvg-convert")
    source, path = tmp_path / "code.svg", tmp_path / "code.png"
    source.write_bytes(otpauth.qr_svg(URI))
    run("rsvg-convert", "--background-color=black", "-o", str(path), str(source))
    assert read_code(path) == URI.reveal()


def test_zbar_reads_the_terminal(tmp_path: Path, require_client: Any) -> None:
    """Draw the characters as a terminal does, eight pixels a module, black around them."""
    require_client("zbarimg")
    halves = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    rows: list[list[int]] = []
    for line in otpauth.qr_terminal(URI).splitlines():
        pairs = [halves[c] for c in re.sub(r"\x1b\[[0-9;]*m", "", line)]
        rows += [[upper for upper, _ in pairs], [lower for _, lower in pairs]]
    width, size = len(rows[0]), 8
    pixels = bytearray()
    dark = bytes((width + 4) * size) * size
    for row in rows:
        line = b"".join(bytes((255 * light,)) * size for light in (0, 0, *row, 0, 0))
        pixels += line * size
    path = tmp_path / "terminal.pgm"
    height = (len(rows) + 4) * size
    head = f"P5 {(width + 4) * size} {height} 255\n".encode()
    path.write_bytes(head + dark * 2 + pixels + dark * 2)
    assert read_code(path) == URI.reveal()
