"""SNMP's values: against pysnmp's and pyasn1's encoder, and at the ends of their ranges."""

from __future__ import annotations

import pytest
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import rfc1902, rfc1905

from tmad.errors import Fault, FaultCode
from tmad.protocols.snmp import values
from tmad.protocols.snmp.values import (
    END_OF_MIB_VIEW,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    NULL,
    Counter32,
    Counter64,
    Gauge32,
    Integer,
    IPAddress,
    ObjectID,
    Octets,
    Opaque,
    TimeTicks,
)

PAIRS = [
    *((Integer(n), rfc1902.Integer32(n)) for n in (0, 1, -1, 127, 128, -128, -129, 2**31 - 1)),
    (Integer(-(2**31)), rfc1902.Integer32(-(2**31))),
    *((Octets(s), rfc1902.OctetString(s)) for s in (b"", b"a", b"x" * 127, b"x" * 128, b"y" * 300)),
    *(
        (kind(n), theirs(n))
        for kind, theirs in (
            (Counter32, rfc1902.Counter32),
            (Gauge32, rfc1902.Gauge32),
            (TimeTicks, rfc1902.TimeTicks),
        )
        for n in (0, 127, 128, 0x8000_0000, 0xFFFF_FFFF)
    ),
    *((Counter64(n), rfc1902.Counter64(n)) for n in (0, 128, 2**63, 2**64 - 1)),
    (IPAddress(b"\xc0\x00\x02\x01"), rfc1902.IpAddress("192.0.2.1")),
    (Opaque(b"\x9f\x78"), rfc1902.Opaque(b"\x9f\x78")),
    *(
        (ObjectID(oid), rfc1902.ObjectIdentifier(oid))
        for oid in ((1, 3), (0, 0), (2, 999, 3), (1, 3, 6, 1, 4, 1, 2**32 - 1, 127, 128, 16_384))
    ),
    (NO_SUCH_OBJECT, rfc1905.NoSuchObject("")),
    (NO_SUCH_INSTANCE, rfc1905.NoSuchInstance("")),
    (END_OF_MIB_VIEW, rfc1905.EndOfMibView("")),
    (NULL, rfc1905.unSpecified),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda each: repr(each)[:60])
def test_a_value_is_what_pysnmp_encodes(ours: values.Value, theirs: object) -> None:
    encoded = encoder.encode(theirs)
    # pyasn1 pads the least number of each size: X.690, 8.3.2 wants the fewest octets.
    if encoded[2:4] != b"\xff\x80":
        assert bytes(ours) == encoded
    tag, start, stop = values.read(encoded, 0, len(encoded))
    again = values.value_of(tag, encoded[start:stop])
    assert (type(again), again, again.value) == (type(ours), ours, ours.value)
    assert decoder.decode(bytes(ours), asn1Spec=theirs) == (theirs, b"")


def test_counters_wrap_and_gauges_stick() -> None:
    assert Counter32(2**32 + 5).value == TimeTicks(2**32 + 5).value == 5
    assert Counter64(2**64 + 5).value == 5
    assert Gauge32(2**40).value == 2**32 - 1
    assert Gauge32(-3).value == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Integer(2**31),
        lambda: Octets(bytes(65_536)),
        lambda: IPAddress(b"123"),
        lambda: ObjectID((1,)),
        lambda: ObjectID((1, 40)),
        lambda: ObjectID((3, 1)),
        lambda: ObjectID((1, 3, -1)),
        lambda: ObjectID((1, 3, 2**32)),
        lambda: ObjectID((1, 3) + (1,) * 127),
    ],
)
def test_what_no_type_has_cannot_be_made(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"bits|octets|identifier"):
        wrong()  # type: ignore[operator]  # each is a function


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (0x02, b""),
        (0x02, bytes(6)),
        (0x02, b"\0\x80\0\0\0"),
        (0x05, b"x"),
        (0x06, b""),
        (0x06, b"\x2b\x80\x01"),  # a padded subidentifier
        (0x06, b"\x2b\x86"),  # a subidentifier without its end
        (0x06, b"\x2b\x90\x80\x80\x80\x00"),  # 2**32
        (0x06, b"\x2b" * 129),
        (0x40, b"\x7f\0\0"),
        (0x41, b"\x01\0\0\0\0"),  # 2**32
        (0x41, b""),
        (0x46, b"\xff" * 9),
        (0x81, b"\0"),
        (0x1E, b"x"),
        (0x24, b"\x04\x01x"),  # a string in pieces
    ],
)
def test_what_no_type_has_is_refused(tag: int, content: bytes) -> None:
    with pytest.raises(Fault) as caught:
        values.value_of(tag, content)
    assert caught.value.code is FaultCode.MALFORMED
    assert caught.value.rule == "snmp.malformed"


def test_a_big_counter_without_its_leading_zero_is_taken() -> None:
    assert values.value_of(0x41, b"\xff\xff\xff\xfe").value == 2**32 - 2


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", 0),
        (b"\x30", 1),
        (b"\x30\x80\0\0", 4),  # indefinite
        (b"\x30\x85\0\0\0\0\x01\0", 8),
        (b"\x30\x82\x01", 3),
        (b"\x30\x05ab", 4),
        (b"\x30\x84\xff\xff\xff\xff", 6),
    ],
)
def test_an_element_stays_inside_its_bounds(data: bytes, end: int) -> None:
    with pytest.raises(Fault, match="malformed"):
        values.read(data, 0, end)


def test_a_padded_length_is_read() -> None:
    assert values.read(b"\x30\x82\x00\x01x", 0, 5) == (0x30, 4, 5)
