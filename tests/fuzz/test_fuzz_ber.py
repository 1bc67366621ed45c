"""The BER normaliser: every spelling of a value becomes its one DER spelling."""

from __future__ import annotations

import random
import tracemalloc

from asn1crypto import parser
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.mutations import judge, mutated
from tests.fuzz.test_fuzz_der import trees
from tmad.errors import Fault, FaultCode
from tmad.wire import ber, der


def normalise(data: bytes) -> bytes:
    return ber.normalise(data, elements=1_500, depth=32)


def spell(data: bytes, dice: random.Random) -> bytes:
    """Write DER as BER: lengths padded or indefinite, OCTET STRINGs in pieces."""
    tag, content = data[0], parser.parse(data)[4]
    if tag & 0x20:
        parts = []
        while content:
            size = parser.peek(content)
            parts.append(spell(content[:size], dice))
            content = content[size:]
        return frame(tag, b"".join(parts), dice)
    # Neither half is empty: a dice that always says yes must come to an end.
    if tag == 0x04 and 1 < len(content) < 64 and dice.random() < 0.5:
        at = dice.randrange(1, len(content))
        halves = [der.octets(content[:at]), der.octets(content[at:])]
        return frame(0x24, b"".join(spell(half, dice) for half in halves), dice)
    return frame(tag, content, dice)


def frame(tag: int, content: bytes, dice: random.Random) -> bytes:
    choice = dice.random()
    if choice < 0.4 and tag & 0x20:
        return bytes((tag, 0x80)) + content + b"\0\0"
    if choice < 0.7:
        octets = dice.randrange(3, 5)
        return bytes((tag, 0x80 | octets)) + len(content).to_bytes(octets) + content
    return der.tlv(tag, content)


@given(trees, st.randoms(use_true_random=False))
def test_every_spelling_becomes_der(data: bytes, dice: random.Random) -> None:
    spelled = spell(data, dice)
    result = judge(normalise, spelled)
    if isinstance(result, Fault):
        assert result.rule in ("wire.der.depth", "wire.der.elements")
    else:
        assert result == data


@given(trees)
def test_der_stays_as_it_is(data: bytes) -> None:
    result = judge(normalise, data)
    assert isinstance(result, Fault) or result is data


@given(st.binary(max_size=300) | mutated(trees | st.just(bytes.fromhex("3080248004016100000000"))))
@example(b"\x30\x80" * 40)
@example(b"\x24\x80" * 20 + b"\x04\x01a" + b"\0\0" * 20)
@example(b"\x30\x80\x30\x04\x30\x80\x05\x00\x00\x00\x00\x00")
def test_output_is_der_and_stable(data: bytes) -> None:
    result = judge(normalise, data)
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED
    else:
        der.scan(result, elements=1_500, depth=32)
        assert normalise(result) is result
        assert len(result) <= len(data)


def test_g_bad_3_memory_is_bounded() -> None:
    worst = [
        b"\x24\x80" * 31 + der.octets(bytes(65_000)) + b"\0\0" * 31,
        b"\x30\x80" + der.octets(bytes(40)) * 1_498 + b"\0\0",
        b"\x30\x80" * 32_000,
        b"\x30\x88" + b"\x7f" * 8 + bytes(65_000),
    ]
    for data in worst:
        tracemalloc.start()
        try:
            judge(normalise, data)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()
