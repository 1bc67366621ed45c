"""The BER normaliser."""

from __future__ import annotations

import time

import pytest
from pyasn1.codec.ber import decoder as ber_decoder
from pyasn1.codec.der import encoder as der_encoder

from tmad.errors import Fault, FaultCode
from tmad.wire import ber, der


def normalise(data: str | bytes, *, elements: int = 1_500, depth: int = 32) -> bytes:
    raw = bytes.fromhex(data) if isinstance(data, str) else data
    return ber.normalise(raw, elements=elements, depth=depth)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("30800000", "3000"),
        ("3080 0500 0000", "30020500"),
        ("3080 3080 0500 0000 0000", "300430020500"),
        ("3081020500", "30020500"),
        ("3083000002 0500", "30020500"),
        ("24 80 0401aa 0402bbcc 0000", "0403aabbcc"),
        ("24 07 0401aa 0402bbcc", "0403aabbcc"),
        ("2480 2480 0401aa 0000 0401bb 0000", "0402aabb"),
        ("2400", "0400"),
        ("23 80 030200aa 030204b0 0000", "030304aab0"),
        ("a0 80 24 80 0401aa 0000 0000", "a0030401aa"),
        # an IMPLICIT string in pieces stays as it is: only the structure can tell
        ("a0 80 0401aa 0401bb 0000", "a0060401aa0401bb"),
        ("30 06 3080 0500 0000".replace(" ", ""), "300430020500"),
    ],
)
def test_ber_becomes_der(given: str, expected: str) -> None:
    assert normalise(given).hex() == expected


@pytest.mark.parametrize("given", ["308005000000", "308030800500 0000 0000", "30 81 02 0500"])
def test_agrees_with_pyasn1(given: str) -> None:
    raw = bytes.fromhex(given)
    value, rest = ber_decoder.decode(raw)
    assert rest == b""
    assert normalise(raw) == der_encoder.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        "3080",
        "30800500",
        "308005000000ff",  # bytes follow
        "0480010000",  # primitive of indefinite length
        "3004308005000000",  # an indefinite element reaches beyond its parent
        "3003308000 00",
        "2480050000 00",  # NULL is no piece of an OCTET STRING
        "2380030204b0030200aa0000",  # unfinished octet before the last piece
        "23800000",
        "2380030000 00",
        "2c800c01410000",  # other strings in pieces
        "30890000000000000000020500",
        "3080000005",
        "3080ff0000",
        "1f80",
    ],
)
def test_refuses(data: str) -> None:
    with pytest.raises(Fault) as caught:
        normalise(data)
    assert caught.value.code is FaultCode.MALFORMED


def test_der_is_returned_as_it_is() -> None:
    data = der.sequence(der.integer(1), der.explicit(0, der.octets(b"x" * 300)))
    assert normalise(data) is data


def test_depth_and_elements_are_capped_in_ber_too() -> None:
    deep = b"\x30\x80" * 33 + b"\0\0" * 33
    with pytest.raises(Fault, match="deep"):
        normalise(deep)
    assert normalise(deep, depth=33) == _nested(33)
    with pytest.raises(Fault, match="many"):
        normalise(b"\x30\x80" + b"\x05\x00" * 1_500 + b"\0\0")


def _nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        data = der.sequence(data)
    return data


def test_g_bad_3_no_quadratic_growth() -> None:
    """Nested pieces are copied once a level; 64 kB at the caps cost a few milliseconds."""
    payload = b"\x04\x83\x00\xf0\x00" + bytes(0xF000)
    data = b"\x24\x80" * 31 + payload + b"\0\0" * 31
    flat = b"\x24\x80" + b"\x04\x81\x28" + bytes(40) + b"\x04\x28" + bytes(40)
    flat += (b"\x04\x28" + bytes(40)) * 1_490 + b"\0\0"
    started = time.process_time()
    assert normalise(data) == der.octets(bytes(0xF000))
    assert len(normalise(flat)) > 59_000
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("given", ["8003aabbcc", "a0 07 0401aa 0402bbcc", "a0050403aabbcc"])
def test_pieces_of_an_implicit_string(given: str) -> None:
    reader = der.Reader(bytes.fromhex(given))
    assert ber.pieces(reader, 0) == bytes.fromhex("aabbcc")
    reader.finish()


def test_pieces_must_be_octet_strings() -> None:
    with pytest.raises(Fault):
        ber.pieces(der.Reader(bytes.fromhex("a0020500")), 0)
