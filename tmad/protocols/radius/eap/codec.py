"""EAP packets and what methods put into them: octets and values, nothing else.

RFC 3748, 4 and 5 (EAP); RFC 5216, 3 (EAP-TLS); RFC 5281, 10 (AVPs of EAP-TTLS); [MS-PEAP] 2.2
(TLVs); draft-kamath-pppext-eap-mschapv2, 2 (EAP-MSCHAPv2).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tmad.errors import Fault, FaultCode

LONGEST_IDENTITY: Final = 253  # octets; RFC 7542, 2.3 by way of RADIUS' User-Name
MOST_AVPS: Final = 64
MOST_TLVS: Final = 32


class Code(enum.IntEnum):
    """The first octet of an EAP packet."""

    REQUEST = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


class Type(enum.IntEnum):
    """Methods, and the types that are no methods."""

    IDENTITY = 1
    NOTIFICATION = 2
    NAK = 3
    GTC = 6
    TLS = 13
    TTLS = 21
    PEAP = 25
    MSCHAPV2 = 26
    TLV = 33  # [MS-PEAP] 2.2.8: EAP extensions


# A member of an enumeration takes ten times as long to look up.
_REQUEST: Final = int(Code.REQUEST)
_RESPONSE: Final = int(Code.RESPONSE)
_HEAD: Final = struct.Struct("!BBHB")


class Response(NamedTuple):
    """What a peer answers."""

    identifier: int
    type: int
    data: bytes

    def __repr__(self) -> str:
        # The data may be a password.
        return f"Response({self.identifier}, {self.type}, octets={len(self.data)})"


def decode(octets: bytes) -> Response:
    """Return a peer's response; octets behind its end are padding (RFC 3748, 4.1)."""
    if len(octets) < 5:
        raise _malformed("an EAP response has at least five octets")
    code, identifier = octets[0], octets[1]
    length = octets[2] << 8 | octets[3]
    if code != _RESPONSE:
        raise _malformed("only responses come from a peer")
    if not 5 <= length <= len(octets):
        raise _malformed("the length of the EAP packet is wrong")
    return Response(identifier, octets[4], octets[5:length])


def request(identifier: int, type_: int, data: bytes) -> bytes:
    """Return a request."""
    return _HEAD.pack(_REQUEST, identifier, len(data) + 5, type_) + data


def success(identifier: int) -> bytes:
    """Return the packet that ends a login well."""
    return bytes((Code.SUCCESS, identifier, 0, 4))


def failure(identifier: int) -> bytes:
    """Return the packet that ends a login badly."""
    return bytes((Code.FAILURE, identifier, 0, 4))


def identity(data: bytes) -> str:
    """Return an identity as text, for display: nothing about it is authenticated.

    Whatever is not UTF-8 is shown escaped, so that it can be told from text.
    """
    if len(data) > LONGEST_IDENTITY:
        raise _malformed(f"an identity has at most {LONGEST_IDENTITY} octets")
    # Some peers append a display string behind a NUL (RFC 3748, 5.1).
    return data.split(b"\x00", 1)[0].decode("utf-8", "backslashreplace")


# -- TLS inside EAP ---------------------------------------------------------------------------

LENGTH: Final = 0x80
MORE: Final = 0x40
START: Final = 0x20


class Fragment(NamedTuple):
    """A piece of a TLS message; ``total`` is its whole length where the peer says it."""

    more: bool
    total: int | None
    data: bytes


def fragment(data: bytes) -> Fragment:
    """Read the data of an EAP-TLS, TTLS or PEAP response (RFC 5216, 3.2)."""
    # An acknowledgement has no data; some peers take that to include the flags.
    flags = data[0] if data else 0
    if flags & START:
        raise _malformed("a peer never sets the start flag")
    if not flags & LENGTH:
        return Fragment(bool(flags & MORE), None, data[1:])
    if len(data) < 5:
        raise _malformed("the TLS message length is cut off")
    return Fragment(bool(flags & MORE), int.from_bytes(data[1:5]), data[5:])


# -- AVPs of EAP-TTLS --------------------------------------------------------------------------

AVP_USER_NAME: Final = (0, 1)
AVP_USER_PASSWORD: Final = (0, 2)
AVP_EAP_MESSAGE: Final = (0, 79)
AVP_MS_CHAP_ERROR: Final = (311, 2)
AVP_MS_CHAP_CHALLENGE: Final = (311, 11)
AVP_MS_CHAP2_RESPONSE: Final = (311, 25)
AVP_MS_CHAP2_SUCCESS: Final = (311, 26)

_VENDOR: Final = 0x80
_MANDATORY: Final = 0x40


@dataclass(frozen=True, slots=True)
class AVP:
    """One attribute; ``vendor`` is 0 for RADIUS' and Diameter's own."""

    vendor: int
    code: int
    is_mandatory: bool
    data: bytes

    @property
    def key(self) -> tuple[int, int]:
        """What it is."""
        return self.vendor, self.code

    def __repr__(self) -> str:
        # The data may be a password.
        return f"AVP(vendor={self.vendor}, code={self.code}, octets={len(self.data)})"


def avps(octets: bytes) -> tuple[AVP, ...]:
    """Read a sequence of AVPs (RFC 5281, 10.1); the last one may lack its padding."""
    found: list[AVP] = []
    at, end = 0, len(octets)
    while at < end:
        if end - at < 8:
            raise _malformed("an AVP is cut off")
        if len(found) == MOST_AVPS:
            raise _malformed(f"there are more than {MOST_AVPS} AVPs")
        code, flags = struct.unpack_from("!IB", octets, at)
        length = int.from_bytes(octets[at + 5 : at + 8])
        head, vendor = 8, 0
        if flags & _VENDOR:
            head = 12
        if length < head or at + length > end:
            raise _malformed("the length of an AVP is wrong")
        if flags & _VENDOR:
            vendor = int.from_bytes(octets[at + 8 : at + 12])
        found.append(AVP(vendor, code, bool(flags & _MANDATORY), octets[at + head : at + length]))
        at += length + -length % 4
    return tuple(found)


def encode_avps(found: Iterable[tuple[tuple[int, int], bytes]]) -> bytes:
    """Return mandatory AVPs, each padded to four octets."""
    pieces: list[bytes] = []
    for (vendor, code), data in found:
        vendor_octets = vendor.to_bytes(4) if vendor else b""
        flags = _MANDATORY | (_VENDOR if vendor else 0)
        length = 8 + len(vendor_octets) + len(data)
        pieces += (
            struct.pack("!II", code, flags << 24 | length),
            vendor_octets,
            data,
            bytes(-length % 4),
        )
    return b"".join(pieces)


# -- TLVs of PEAP ------------------------------------------------------------------------------

TLV_RESULT: Final = 3
TLV_NAK: Final = 4
TLV_CRYPTO_BINDING: Final = 12
RESULT_SUCCESS: Final = 1
RESULT_FAILURE: Final = 2
_CRYPTO_BINDING_LENGTH: Final = 56


@dataclass(frozen=True, slots=True)
class CryptoBinding:
    """Proof that tunnel and inner method have the same two ends ([MS-PEAP] 2.2.8.1.1)."""

    version: int
    received_version: int
    is_response: bool
    nonce: bytes
    mac: bytes

    def encode(self, mac: bytes | None = None) -> bytes:
        """Return the TLV with its header; ``mac`` replaces the MAC."""
        return (
            struct.pack("!HH", TLV_CRYPTO_BINDING, _CRYPTO_BINDING_LENGTH)
            + bytes((0, self.version, self.received_version, int(self.is_response)))
            + self.nonce
            + (self.mac if mac is None else mac)
        )


@dataclass(frozen=True, slots=True)
class Extensions:
    """The TLVs that a peer sends at the end of PEAP."""

    result: int | None
    binding: CryptoBinding | None


def extensions(data: bytes) -> Extensions:
    """Read TLVs; one that is unknown and mandatory is refused ([MS-PEAP] 2.2.8.1)."""
    result: int | None = None
    binding: CryptoBinding | None = None
    at, end, count = 0, len(data), 0
    while at < end:
        count += 1
        if end - at < 4 or count > MOST_TLVS:
            raise _malformed("a TLV is cut off, or there are too many")
        kind, length = struct.unpack_from("!HH", data, at)
        value = data[at + 4 : at + 4 + length]
        if len(value) != length:
            raise _malformed("the length of a TLV is wrong")
        at += 4 + length
        if kind & 0x3FFF == TLV_RESULT:
            if length != 2 or result is not None:
                raise _malformed("the result TLV is wrong")
            result = int.from_bytes(value)
        elif kind & 0x3FFF == TLV_CRYPTO_BINDING:
            if length != _CRYPTO_BINDING_LENGTH or binding is not None:
                raise _malformed("the crypto-binding TLV is wrong")
            binding = CryptoBinding(value[1], value[2], value[3] == 1, value[4:36], value[36:])
        elif kind & 0x8000:
            raise _malformed(f"TLV {kind & 0x3FFF} is not known here")
    return Extensions(result, binding)


def encode_result(result: int) -> bytes:
    """Return a mandatory result TLV."""
    return struct.pack("!HHH", 0x8000 | TLV_RESULT, 2, result)


# -- EAP-MSCHAPv2 ------------------------------------------------------------------------------


class Op(enum.IntEnum):
    """The first octet of an EAP-MSCHAPv2 message."""

    CHALLENGE = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


@dataclass(frozen=True, slots=True, repr=False)
class MSCHAPv2Response:
    """A peer's answer to a challenge, in any packing."""

    identifier: int
    peer_challenge: bytes
    nt_response: bytes
    name: str


def mschapv2_challenge(identifier: int, challenge: bytes, name: bytes) -> bytes:
    """Return the message that asks for a response."""
    length = 5 + len(challenge) + len(name)
    return struct.pack("!BBHB", Op.CHALLENGE, identifier, length, len(challenge)) + challenge + name


def mschapv2_text(op: Op, identifier: int, text: str) -> bytes:
    """Return the message that tells a peer how it went."""
    octets = text.encode("ascii")
    return struct.pack("!BBH", op, identifier, 4 + len(octets)) + octets


def mschapv2(data: bytes) -> MSCHAPv2Response | Op:
    """Read a peer's message: its response, or that it has read how it went."""
    if not data:
        raise _malformed("the MSCHAPv2 message is empty")
    if data[0] in (Op.SUCCESS, Op.FAILURE):
        return Op(data[0])
    if data[0] != Op.RESPONSE or len(data) < 54:
        raise _malformed("this is no MSCHAPv2 response")
    length = data[2] << 8 | data[3]
    if not 54 <= length <= len(data) or data[4] != 49:
        raise _malformed("the length of the MSCHAPv2 response is wrong")
    return MSCHAPv2Response(data[1], data[5:21], data[29:53], _name(data[54:length]))


def mschap2_response(data: bytes, name: bytes) -> MSCHAPv2Response:
    """Read an MS-CHAP2-Response attribute (RFC 2548, 2.3.2)."""
    if len(data) != 50:
        raise _malformed("an MS-CHAP2-Response has 50 octets")
    return MSCHAPv2Response(data[0], data[2:18], data[26:50], _name(name))


def _name(octets: bytes) -> str:
    if len(octets) > LONGEST_IDENTITY:
        raise _malformed(f"a name has at most {LONGEST_IDENTITY} octets")
    return text(octets, "name")


# -- Text --------------------------------------------------------------------------------------


def text(octets: bytes, what: str) -> str:
    """Return what a person typed: a name or a password that is no UTF-8 is not guessed at."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed(f"the {what} is not UTF-8") from None


def _malformed(detail: str) -> Fault:
    return Fault(FaultCode.MALFORMED, detail, rule="eap.malformed")
