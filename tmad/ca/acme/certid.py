"""The name of a certificate in renewal information: key identifier and serial (RFC 9773, 4.1)."""

from __future__ import annotations

import base64
import binascii

from tmad.ca.acme.faults import deny
from tmad.errors import Fault, FaultCode

_LONGEST = 64  # octets of either part


def encode(key_identifier: bytes, serial: int) -> str:
    """Return the name of the certificate with this serial number below this issuer's key."""
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{_text(key_identifier)}.{_text(octets)}"


def decode(text: str) -> tuple[bytes, int]:
    """Return key identifier and serial number; Fault(MALFORMED) for any other spelling."""
    parts = text.split(".")
    if len(parts) != 2:
        raise _malformed(text)
    key_identifier, octets = (_octets(part, text) for part in parts)
    serial = int.from_bytes(octets, "big", signed=True)
    if serial < 0 or encode(key_identifier, serial) != text:
        raise _malformed(text)
    return key_identifier, serial


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _octets(part: str, whole: str) -> bytes:
    if len(part) > 2 * _LONGEST:
        raise _malformed(whole)
    try:
        octets = base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), b"-_", True)
    except (binascii.Error, ValueError):
        raise _malformed(whole) from None
    if not 1 <= len(octets) <= _LONGEST:
        raise _malformed(whole)
    return octets


def _malformed(text: str) -> Fault:
    return deny(
        FaultCode.MALFORMED,
        "malformed",
        "not the name of a certificate",
        "acme.certificate-id",
        name=text,
    )
