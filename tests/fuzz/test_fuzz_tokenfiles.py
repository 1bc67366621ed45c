"""Token files: whatever the octets, a file, or a Fault; in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.mutations import judge
from tests.unit.test_tokenfiles import DERIVED, SEED_HEX, SHARED, SHARED_KEY, YUBICO, container, key
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.tokenfiles import TokenFile, Wishes, read

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WISHES = Wishes(key=Secret(SHARED_KEY), passphrase=Secret("qwerty"), kind="totp")
SEEDS = [
    SHARED.encode(),
    DERIVED.encode(),
    container(key(), key("T2", "hotp", more="<Counter><PlainValue>7</PlainValue></Counter>")),
    YUBICO.encode(),
    f"serial,secret,type\nt1,{SEED_HEX},totp\n".encode(),
    f"2600215704919  {SEED_HEX}\n".encode(),
    f"<Tokens><Token serial='1'><Applications><Application><Seed>{SEED_HEX}</Seed></Application>"
    f"</Applications></Token></Tokens>".encode(),
]
WORDS = [
    b"<KeyPackage>",
    b"</Key>",
    b"<!DOCTYPE x>",
    b"&amp;",
    b"&#x41;",
    b"<![CDATA[x]]>",
    b"<PlainValue>",
    b"<Counter><PlainValue>1</PlainValue></Counter>",
    b'Length="99999999999999999999"',
    b'Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:totp"',
    b"http://www.w3.org/2001/04/xmlenc#kw-aes128",
    b"<ExpiryDate>2026-01-01T00:00:00Z</ExpiryDate>",
    b"\xff",
    b"\0",
    b"\n",
    b",",
    b";",
    b'"',
    b"\xd9\xa3",
    b"=",
]


@pytest.fixture(scope="module", autouse=True)
def cheap_passphrases() -> Iterator[None]:
    """A file may ask for a second of PBKDF2; here that would count as slow."""
    with patch("tmad.identity.pskc._MOST_ITERATIONS", 10_000):
        yield


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        piece = draw(
            st.sampled_from(WORDS)
            | st.binary(max_size=8)
            | st.just(data[at:end] * 2)
            | st.just(draw(st.sampled_from(SEEDS))[at:end])
        )
        data = data[:at] + piece + data[end:]
    return data


def check(data: bytes, wishes: Wishes) -> None:
    result = judge(read, data, NOW, wishes)
    if isinstance(result, Fault):
        assert result.code is not FaultCode.INTERNAL
        assert result.rule.startswith("otp."), result.rule
        return
    assert isinstance(result, TokenFile)
    assert result.seeds or result.mistakes
    for seed in result.seeds:
        assert 16 <= len(seed.seed.reveal()) <= 128
        assert 6 <= seed.digits <= 8
        assert seed.serial.isascii()
        assert seed.serial == seed.serial.upper()
        assert 0 <= seed.counter < 1 << 63
        assert (seed.period == 0) is (seed.kind == "hotp")


@given(altered())
@example(b"<KeyContainer xmlns='\xc3\xa9'/>")
@example(b"\xff\xfe<\0")
def test_altered_files(data: bytes) -> None:
    check(data, WISHES)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_octets(data: bytes) -> None:
    check(data, WISHES)


@given(altered(), st.sampled_from(["pskc", "csv", "yubico", "feitian", "safenet"]))
def test_files_read_as_what_they_are_not(data: bytes, form: Any) -> None:
    check(data, Wishes(format=form, kind="hotp", encoding="hex"))
