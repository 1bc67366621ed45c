"""The elements that LDAP messages are made of (RFC 4511, 5.1): BER with definite lengths.

Padded lengths are legal, and Windows sends them; what is written here is as short as it can be.
"""

from __future__ import annotations

from typing import Final

from tmad.errors import Fault, FaultCode

HIGHEST_ID: Final = 2**31 - 1  # RFC 4511, 4.1.1

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTETS: Final = 0x04
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
SET: Final = 0x31


def malformed(what: str) -> Fault:
    """Return the Fault for octets that are not LDAP."""
    return Fault(FaultCode.MALFORMED, what, rule="ldap.malformed")


def element(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return an element's tag, and where its content begins and ends."""
    if position + 2 > end:
        raise malformed("an element is missing")
    length = data[position + 1]
    start = position + 2
    if length >= 0x80:
        octets = length - 0x80
        if not 1 <= octets <= 4:
            raise malformed("a length is indefinite or longer than four octets")
        start += octets
        length = int.from_bytes(data[position + 2 : start])
    stop = start + length
    if stop > end:
        raise malformed("an element reaches beyond what holds it")
    return data[position], start, stop


def expect(data: bytes, position: int, end: int, tag: int) -> tuple[int, int]:
    found, start, stop = element(data, position, end)
    if found != tag:
        raise malformed(f"tag {tag:#04x} is expected, not {found:#04x}")
    return start, stop


def integer(data: bytes, start: int, stop: int) -> int:
    """Return a number that is not negative and fits in 31 bits."""
    if not 1 <= stop - start <= 5:
        raise malformed("a number is too long or empty")
    number = int.from_bytes(data[start:stop], signed=True)
    if not 0 <= number <= HIGHEST_ID:
        raise malformed("a number is out of its range")
    return number


def boolean(data: bytes, start: int, stop: int) -> bool:
    if stop - start != 1:
        raise malformed("a BOOLEAN has one octet")
    return data[start] != 0


def text(data: bytes, start: int, stop: int) -> str:
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise malformed("a string is not UTF-8") from None


def number(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1)


def tlv(tag: int, content: bytes) -> bytes:
    """Return one element."""
    # Formatting copies the content once and makes nothing else.
    size = len(content)
    if size < 0x80:
        return b"%c%c%b" % (tag, size, content)
    if size < 0x100:
        return b"%c\x81%c%b" % (tag, size, content)
    if size < 0x10000:
        return b"%c\x82%c%c%b" % (tag, size >> 8, size & 0xFF, content)
    return b"%c\x84%b%b" % (tag, size.to_bytes(4), content)


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE."""
    return tlv(SEQUENCE, b"".join(parts))
