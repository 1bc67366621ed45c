"""The DER pre-scan, reader and writer."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from asn1crypto import core
from pyasn1.codec.der import encoder as pyasn1_encoder
from pyasn1.type import univ

from tmad.errors import Fault, FaultCode
from tmad.wire import der


def refused(data: bytes, *, elements: int = 100, depth: int = 8) -> Fault:
    with pytest.raises(Fault) as caught:
        der.scan(data, elements=elements, depth=depth)
    assert caught.value.code is FaultCode.MALFORMED
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        "0500",
        "3000",
        "30020500",
        "3004300205 00",
        "a0803000".replace("80", "02"),
        "0481 80" + "00" * 128,
    ],
)
def test_scan_accepts_der(data: str) -> None:
    der.scan(bytes.fromhex(data), elements=100, depth=8)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ("", "wire.der"),
        ("30", "wire.der"),
        ("0501", "wire.der"),
        ("300405", "wire.der"),
        ("3003050200", "wire.der"),  # the child reaches beyond its parent
        ("0500ff", "wire.der.trailing"),
        ("30000500", "wire.der.trailing"),
        ("30800000", "wire.der"),  # indefinite
        ("048100", "wire.der"),  # padded length
        ("04820001ff", "wire.der"),
        ("0485000000000100", "wire.der"),  # five octets of length
        ("04ff", "wire.der"),
        ("24020400", "wire.der"),  # an OCTET STRING in pieces
        ("1f8101", "wire.der"),  # tag number above 30
        ("0000", "wire.der"),
        ("1000", "wire.der"),  # a primitive SEQUENCE
    ],
)  # fmt: skip
def test_scan_refuses(data: str, rule: str) -> None:
    assert refused(bytes.fromhex(data)).rule == rule


def test_scan_caps_depth() -> None:
    data = b""
    for _ in range(9):
        data = der.sequence(data)
    assert refused(data).rule == "wire.der.depth"
    der.scan(data, elements=100, depth=9)


def test_scan_caps_elements() -> None:
    data = der.sequence(*[der.NULL_DER] * 100)
    assert refused(data).rule == "wire.der.elements"
    der.scan(data, elements=101, depth=8)


def test_g_bad_3_scan_is_quick_on_the_worst_input() -> None:
    many = der.sequence(*[der.NULL_DER] * 30_000)
    deep = b"\x30\x80" * 30_000
    started = time.process_time()
    for data in (many, deep):
        refused(data, elements=1_500, depth=32)
    with pytest.raises(Fault):
        der.scan(many, elements=30_000, depth=32)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("value", [0, 1, -1, 127, 128, -128, -129, 255, 256, 2**159, -(2**64)])
def test_integer_agrees_with_asn1crypto(value: int) -> None:
    data = der.integer(value)
    assert data == core.Integer(value).dump()
    assert der.Reader(data).integer() == value


@pytest.mark.parametrize(
    "dotted", ["1.2.840.113549.1.1.1", "2.16.840.1.113733.1.9.7", "2.999.3", "0.9.2342", "1.39.1"]
)
def test_oid_agrees_with_pyasn1(dotted: str) -> None:
    data = der.oid(dotted)
    assert data == pyasn1_encoder.encode(univ.ObjectIdentifier(dotted))
    assert der.dotted(data) == dotted


def test_cve_2026_23490_long_arcs_are_not_computed() -> None:
    data = der.tlv(der.OBJECT_IDENTIFIER, b"\x2a" + b"\xff" * 100_000 + b"\x01")
    assert len(der.dotted(data)) <= 128


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 65_535, 65_536])
def test_tlv_agrees_with_pyasn1(size: int) -> None:
    assert der.octets(bytes(size)) == pyasn1_encoder.encode(univ.OctetString(bytes(size)))


def test_set_of_is_sorted() -> None:
    parts = [der.integer(3), der.NULL_DER, der.integer(1)]
    assert der.set_of(parts) == der.tlv(der.SET, der.integer(1), der.integer(3), der.NULL_DER)


def test_reader_walks_and_refuses_what_is_left() -> None:
    reader = der.read(der.sequence(der.integer(5), der.octets(b"x"), der.NULL_DER), der.SEQUENCE)
    assert reader.peek() == der.INTEGER
    assert reader.integer() == 5
    assert reader.content(der.OCTET_STRING) == b"x"
    assert reader.rest() == der.NULL_DER
    with pytest.raises(Fault):
        reader.finish()
    assert reader.raw() == der.NULL_DER
    assert reader.peek() == -1
    reader.finish()
    with pytest.raises(Fault):
        reader.raw()


@pytest.mark.parametrize(
    "data", ["0201", "0200", "028001", "0285000000000101", "020205", "0281", "30"]
)
def test_reader_stays_inside(data: str) -> None:
    with pytest.raises(Fault):
        der.Reader(bytes.fromhex(data)).integer()


def test_reader_never_reads_beyond_its_parent() -> None:
    outer = der.Reader(bytes.fromhex("30030204ff") + b"abcdef")
    with pytest.raises(Fault):
        outer.enter(der.SEQUENCE).integer()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("0c02c3a9", "é"),
        ("13024142", "AB"),
        ("1602 4142", "AB"),
        ("1401e9", "é"),
        ("1e0400410042", "AB"),
        ("1c0400000041", "A"),
        ("0c00", ""),
    ],
)
def test_scep_41_text_of_every_string_type(data: str, text: str) -> None:
    assert der.text(bytes.fromhex(data)) == text


@pytest.mark.parametrize("data", ["0c01ff", "1301e9", "1e0141", "0400", "", "0c0000"])
def test_text_refuses(data: str) -> None:
    with pytest.raises(Fault):
        der.text(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("tag", "body", "expected"),
    [
        (der.UTC_TIME, b"261123120000Z", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        (der.UTC_TIME, b"500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (der.UTC_TIME, b"491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (der.GENERALIZED_TIME, b"20500101000000Z", datetime(2050, 1, 1, tzinfo=UTC)),
    ],
)
def test_instant(tag: int, body: bytes, expected: datetime) -> None:
    assert der.instant(der.tlv(tag, body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"2611231200Z",
        b"261123120000+0100",
        b"261323120000Z",
        b"26112312000 Z",
        b"261123120000z",
        b"",
    ],
)
def test_instant_refuses(body: bytes) -> None:
    with pytest.raises(Fault):
        der.instant(der.tlv(der.UTC_TIME, body))
