"""The dictionary: names to octets and back, and what a policy may not write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tmad.errors import Fault, FaultCode
from tmad.network import attributes

FREERADIUS = Path("/usr/share/freeradius")


@pytest.mark.parametrize(
    ("name", "value", "number", "octets"),
    [
        # RFC 3580, 3.31: a tag octet of zero in the numbers, none in the text (2.6).
        ("Tunnel-Type", "VLAN", 64, "0000000d"),
        ("Tunnel-Medium-Type", "IEEE-802", 65, "00000006"),
        ("Tunnel-Private-Group-Id", "42", 81, "3432"),
        ("Tunnel-Type:1", 13, 64, "0100000d"),
        ("Tunnel-Private-Group-Id:31", "42", 81, "1f3432"),
        # RFC 4675, 2.1: tagged (0x31), VLAN 100.
        ("Egress-VLANID", 0x31000064, 56, "31000064"),
        ("filter-id", "guests", 11, "677565737473"),
        ("Service-Type", "administrative-user", 6, "00000006"),
        ("Idle-Timeout", "600", 28, "00000258"),
        ("Framed-IP-Address", "192.0.2.1", 8, "c0000201"),
        ("Framed-IPv6-Address", "2001:db8::1", 168, "20010db8000000000000000000000001"),
        ("Framed-IPv6-Prefix", "2001:db8::/56", 97, "003820010db8000000"),
        ("Login-LAT-Group", "0x00ff", 36, "00ff"),
        ("Cisco-AVPair", "shell:priv-lvl=15", 26, "000000090113" + b"shell:priv-lvl=15".hex()),
        ("Attr-26.9.1", "0x6162", 26, "0000000901046162"),
        ("Attr-240", "0x01", 240, "01"),
    ],
)
def test_names_become_octets(name: str, value: str | int, number: int, octets: str) -> None:
    assert attributes.check(name, value) is None
    assert attributes.encode(name, value) == (number, bytes.fromhex(octets))


@pytest.mark.parametrize(
    ("name", "value", "mistake"),
    [
        ("Filter-Ip", "x", "Filter-Id"),
        ("User-Password", "0x00", "tmad itself"),
        ("MS-MPPE-Recv-Key", "0x00", "tmad itself"),
        ("Attr-80", "0x00", "tmad itself"),
        ("Attr-26.311.17", "0x00", "tmad itself"),
        ("Attr-26", "0x00", "no attribute"),
        ("Attr-256", "0x00", "no attribute"),
        ("Tunnel-Type", "VLAM", "one of L2TP"),
        ("Tunnel-Type", 1 << 24, "below 16777216"),
        ("Idle-Timeout", 1 << 32, "below 4294967296"),
        ("Idle-Timeout", "soon", "is a number"),
        ("Idle-Timeout", "٣", "is a number"),
        ("Filter-Id", "", "not empty"),
        ("Filter-Id", "a\nb", "control characters"),
        ("Filter-Id", "x" * 254, "253 octets"),
        ("Cisco-AVPair", "x" * 248, "247 octets"),
        ("Filter-Id:1", "x", "has no tag"),
        ("Tunnel-Type:32", 13, "a tag is 1 to 31"),
        ("Framed-IP-Address", "::1", "IPv4"),
        ("Framed-IPv6-Address", "192.0.2.1", "IPv6"),
        ("Framed-IPv6-Prefix", "2001:db8::1/56", "IPv6 prefix"),
        ("Login-LAT-Group", "00ff", "hexadecimal"),
    ],
)
def test_mistakes_are_named(name: str, value: str | int, mistake: str) -> None:
    assert mistake in (attributes.check(name, value) or "")


def test_an_unknown_name_is_a_fault_when_encoded() -> None:
    with pytest.raises(Fault) as caught:
        attributes.encode("No-Such-Thing", 1)
    assert (caught.value.code, caught.value.rule) == (FaultCode.REJECTED, "network.attribute")


def test_what_comes_in_is_described_by_name() -> None:
    assert attributes.describe(
        [
            (40, b"\0\0\0\x01"),
            (49, b"\0\0\0\x63"),
            (64, b"\x02\0\0\x0d"),
            (81, b"\x0142"),
            (81, b"42"),
            (4, b"\xc0\0\2\1"),
            (1, b"b\xff"),
            (40, b"\0"),
            (250, b"\x01"),
            (26, b"\0\0\0\x09\x01\x04ab"),
            (26, b"\0\0\0\x63\x01\x04ab"),
            (26, b"\0\0\0\x09\x01"),
            (26, b""),
        ]
    ) == [
        ("Acct-Status-Type", "Start"),
        ("Acct-Terminate-Cause", 99),
        ("Tunnel-Type:2", "VLAN"),
        ("Tunnel-Private-Group-Id:1", "42"),
        ("Tunnel-Private-Group-Id", "42"),
        ("NAS-IP-Address", "192.0.2.1"),
        ("User-Name", "b\\xff"),
        ("Acct-Status-Type", "0x00"),
        ("Attr-250", "0x01"),
        ("Cisco-AVPair", "ab"),
        ("Attr-26.99.1", "0x6162"),
        ("Attr-26", "0x000000090 1".replace(" ", "")),
        ("Attr-26", "0x"),
    ]


def test_a_dictionary_with_a_mistake_names_the_line() -> None:
    for line in ("ATTRIBUTE X one string", "VALUE X Y 1", "ATTRIBUTE X 1 text", "NONSENSE"):
        with pytest.raises(ValueError, match="line 2"):
            attributes.parse(f"# comment\n{line}\n")


@pytest.mark.skipif(not FREERADIUS.is_dir(), reason="no dictionaries of FreeRADIUS here")
def test_numbers_agree_with_the_dictionaries_of_freeradius() -> None:
    """An independent list of the same facts (IANA, the vendors)."""
    theirs: dict[str, set[tuple[int, int]]] = {}
    for path in FREERADIUS.glob("dictionary.*"):
        vendor = 0
        vendors: dict[str, int] = {}
        for line in path.read_text("utf-8", "replace").splitlines():
            words = line.split()
            if words[:1] == ["VENDOR"] and words[2].isdigit():
                vendors[words[1]] = int(words[2])
            elif words[:1] == ["BEGIN-VENDOR"]:
                vendor = vendors.get(words[1], -1)
            elif words[:1] == ["END-VENDOR"]:
                vendor = 0
            elif words[:1] == ["ATTRIBUTE"] and re.fullmatch(r"\d+", words[2]):
                theirs.setdefault(words[1].lower(), set()).add((vendor, int(words[2])))
    ours = attributes.dictionary().by_name
    known = {name for name in ours if name in theirs}
    wrong = {name for name in known if (ours[name].vendor, ours[name].number) not in theirs[name]}
    assert wrong == set()
    assert len(known) > len(ours) * 0.9
