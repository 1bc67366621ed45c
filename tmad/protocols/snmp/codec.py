"""SNMP messages: octets to values and back (RFC 1157, 1901, 3412, 3414, 3416).

A message is read in steps, so that a stranger buys no more than he is trusted for: ``decode``
reads the envelope, ``decode_pdu`` and ``decode_scoped`` what is inside, once the community is
known or the digest is right. All of it is iterative and linear in the octets received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from tmad.errors import FaultCode
from tmad.protocols.snmp.values import (
    NULL,
    Value,
    integer_of,
    malformed,
    name_of,
    read,
    tlv,
    value_of,
)

V1: Final = 0
V2C: Final = 1
V3: Final = 3

LONGEST_IN: Final = 8_192  # octets of a message that we take (security 6.3)
LONGEST_OUT: Final = 65_507  # octets that fit into a datagram
SMALLEST_MAXIMUM: Final = 484  # RFC 3412, 6: every engine takes as much
MOST_BINDINGS: Final = 512  # in one question

USM: Final = 3  # msgSecurityModel
AUTHENTICATED: Final = 1  # msgFlags
ENCRYPTED: Final = 2
REPORTABLE: Final = 4

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_NULL: Final = 0x05
_NAME: Final = 0x06


class Kind(IntEnum):
    """The PDUs that tmad reads or writes (RFC 3416, 3)."""

    GET = 0xA0
    GETNEXT = 0xA1
    RESPONSE = 0xA2
    SET = 0xA3
    GETBULK = 0xA5
    INFORM = 0xA6
    TRAP = 0xA7
    REPORT = 0xA8


QUESTIONS: Final = frozenset({Kind.GET, Kind.GETNEXT, Kind.GETBULK, Kind.SET})
# RFC 3411, 2.8: to these an engine reports what is wrong with them.
CONFIRMED: Final = QUESTIONS | {Kind.INFORM}


class Status(IntEnum):
    """error-status (RFC 3416, 3)."""

    NO_ERROR = 0
    TOO_BIG = 1
    NO_SUCH_NAME = 2
    BAD_VALUE = 3
    READ_ONLY = 4
    GEN_ERR = 5
    NO_ACCESS = 6
    WRONG_TYPE = 7
    WRONG_LENGTH = 8
    WRONG_ENCODING = 9
    WRONG_VALUE = 10
    NO_CREATION = 11
    INCONSISTENT_VALUE = 12
    RESOURCE_UNAVAILABLE = 13
    COMMIT_FAILED = 14
    UNDO_FAILED = 15
    AUTHORIZATION_ERROR = 16
    NOT_WRITABLE = 17
    INCONSISTENT_NAME = 18


FAULTS: Final[Mapping[FaultCode, Status]] = {
    FaultCode.MALFORMED: Status.GEN_ERR,
    FaultCode.UNSUPPORTED: Status.GEN_ERR,
    FaultCode.BAD_ALGORITHM: Status.GEN_ERR,
    FaultCode.BAD_INTEGRITY: Status.GEN_ERR,
    FaultCode.BAD_TIME: Status.GEN_ERR,
    FaultCode.BAD_PROOF: Status.GEN_ERR,
    FaultCode.UNAUTHENTICATED: Status.AUTHORIZATION_ERROR,
    FaultCode.FORBIDDEN: Status.AUTHORIZATION_ERROR,
    FaultCode.REJECTED: Status.GEN_ERR,
    FaultCode.NOT_FOUND: Status.GEN_ERR,
    FaultCode.CONFLICT: Status.GEN_ERR,
    FaultCode.RATE_LIMITED: Status.RESOURCE_UNAVAILABLE,
    FaultCode.UNAVAILABLE: Status.RESOURCE_UNAVAILABLE,
    FaultCode.INTERNAL: Status.GEN_ERR,
}


class VarBind(NamedTuple):
    """One variable: its name encoded (``values.encode_oid``) and its value."""

    name: bytes
    value: Value


class PDU(NamedTuple):
    """One question, answer or notification.

    ``status`` and ``error_index`` are what the names say; of a GETBULK they are the
    non-repeaters and max-repetitions.
    """

    kind: int
    request_id: int
    status: int
    error_index: int
    bindings: Sequence[VarBind]


class CommunityMessage(NamedTuple):
    """SNMPv1 or SNMPv2c; ``pdu`` is not decoded yet."""

    version: int
    community: bytes
    pdu: bytes


class SecureMessage(NamedTuple):
    """SNMPv3 with the User-based Security Model (RFC 3412, 6; RFC 3414, 2.4).

    ``data`` is the scoped PDU with its tag, or the content of the encrypted one.
    ``digest_at`` is where the digest stands in ``octets``, for whoever checks it.
    """

    message_id: int
    max_size: int
    flags: int
    engine_id: bytes
    boots: int
    time: int
    user: bytes
    digest: bytes
    salt: bytes
    data: bytes
    octets: bytes = b""
    digest_at: int = 0


class ForeignModel(NamedTuple):
    """SNMPv3 with a security model that is not ours."""

    model: int


Message: TypeAlias = CommunityMessage | SecureMessage | ForeignModel


class ScopedPDU(NamedTuple):
    """A PDU with the context that it is about (RFC 3412, 6.8); ``pdu`` is not decoded yet."""

    engine_id: bytes
    context: bytes
    pdu: bytes


# -- reading ---------------------------------------------------------------------------------------


def _number(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return an INTEGER of at most 32 bits, and where it ends."""
    tag, start, stop = read(data, position, end)
    if tag != _INTEGER:
        raise malformed(f"type {tag:02x} where an INTEGER belongs")
    if stop - start == 1:
        octet = data[start]
        return octet - 0x100 if octet >= 0x80 else octet, stop
    return integer_of(data[start:stop]), stop


class _Reader:
    """Reads the elements of one constructed value in their order."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def next(self, tag: int) -> tuple[int, int]:
        """Move over an element; return where its content begins and ends."""
        found, start, stop = read(self.data, self.position, self.end)
        if found != tag:
            raise malformed(f"type {found:02x} where {tag:02x} belongs")
        self.position = stop
        return start, stop

    def enter(self, tag: int) -> _Reader:
        return _Reader(self.data, *self.next(tag))

    def octets(self, *, most: int = LONGEST_OUT) -> bytes:
        start, stop = self.next(_OCTETS)
        if stop - start > most:
            raise malformed("a string is too long")
        return self.data[start:stop]

    def integer(self) -> int:
        number, self.position = _number(self.data, self.position, self.end)
        return number

    def natural(self, least: int = 0) -> int:
        number = self.integer()
        if number < least:
            raise malformed("a number is too small")
        return number

    def rest(self) -> bytes:
        """Return what is left."""
        start, self.position = self.position, self.end
        return self.data[start : self.end]

    def finish(self) -> None:
        if self.position != self.end:
            raise malformed("octets follow the end")


def decode(datagram: bytes) -> Message:
    """Return the envelope of a message; Fault(MALFORMED)."""
    outer = _Reader(datagram, 0, len(datagram))
    reader = outer.enter(_SEQUENCE)
    outer.finish()
    version = reader.integer()
    if version in (V1, V2C):
        return CommunityMessage(version, reader.octets(), reader.rest())
    if version != V3:
        raise malformed("no known version of SNMP", "snmp.version")
    return _decode_secure(reader)


def _decode_secure(reader: _Reader) -> SecureMessage | ForeignModel:
    header = reader.enter(_SEQUENCE)
    message_id = header.natural()
    max_size = header.natural(SMALLEST_MAXIMUM)
    flags = header.octets(most=1)
    model = header.natural(1)
    header.finish()
    if len(flags) != 1:
        raise malformed("msgFlags has one octet")
    if model != USM:
        return ForeignModel(model)
    start, stop = reader.next(_OCTETS)
    parameters = _Reader(reader.data, start, stop)
    security = parameters.enter(_SEQUENCE)
    parameters.finish()
    engine_id = security.octets(most=32)
    boots, time = security.natural(), security.natural()
    user = security.octets(most=32)
    digest_at, digest_end = security.next(_OCTETS)
    salt = security.octets()
    security.finish()
    if flags[0] & ENCRYPTED:
        data = reader.octets()
        reader.finish()
    else:
        data = reader.rest()
    return SecureMessage(
        message_id=message_id,
        max_size=max_size,
        flags=flags[0],
        engine_id=engine_id,
        boots=boots,
        time=time,
        user=user,
        digest=reader.data[digest_at:digest_end],
        salt=salt,
        data=data,
        octets=reader.data,
        digest_at=digest_at,
    )


def decode_scoped(octets: bytes) -> ScopedPDU:
    """Return a scoped PDU; Fault(MALFORMED)."""
    outer = _Reader(octets, 0, len(octets))
    reader = outer.enter(_SEQUENCE)
    outer.finish()
    return ScopedPDU(reader.octets(), reader.octets(), reader.rest())


def decode_pdu(octets: bytes) -> PDU:
    """Return a PDU; Fault(MALFORMED), and for one of SNMPv1's traps, too."""
    kind, start, stop = read(octets, 0, len(octets))
    if stop != len(octets):
        raise malformed("octets follow the end")
    if kind not in _KINDS:
        raise malformed(f"no known PDU: {kind:02x}")
    request_id, at = _number(octets, start, stop)
    status, at = _number(octets, at, stop)
    index, at = _number(octets, at, stop)
    tag, at, end = read(octets, at, stop)
    if tag != _SEQUENCE or end != stop:
        raise malformed("no list of variables, or octets after it")
    bindings: list[VarBind] = []
    while at < end:
        tag, at, stop = read(octets, at, end)
        if tag != _SEQUENCE:
            raise malformed("a variable is no sequence")
        tag, start, middle = read(octets, at, stop)
        if tag != _NAME:
            raise malformed("a variable has no name")
        name = name_of(octets[start:middle])
        tag, start, at = read(octets, middle, stop)
        if at != stop:
            raise malformed("octets follow a variable's value")
        is_null = tag == _NULL and start == stop
        value = NULL if is_null else value_of(tag, octets[start:stop])
        bindings.append(VarBind(name, value))
        if len(bindings) > MOST_BINDINGS:
            raise malformed(f"more than {MOST_BINDINGS} variables")
    return PDU(kind, request_id, status, index, bindings)


_KINDS: Final = frozenset(Kind)


# -- writing ---------------------------------------------------------------------------------------


def _integer(number: int) -> bytes:
    size = (number + (number < 0)).bit_length() // 8 + 1
    return bytes((_INTEGER, size)) + number.to_bytes(size, signed=True)


def encode_binding(name: bytes, value: bytes) -> bytes:
    """Return one variable, of a name and a value that are encoded."""
    length = len(name) + len(value)
    if length < 0x80:
        return b"%c%c%b%b" % (_SEQUENCE, length, name, value)
    return tlv(_SEQUENCE, name + value)


def encode_pdu(
    kind: int, request_id: int, status: int, index: int, bindings: Iterable[bytes]
) -> bytes:
    """Return a PDU of variables that are encoded."""
    return tlv(
        kind,
        _integer(request_id)
        + _integer(status)
        + _integer(index)
        + tlv(_SEQUENCE, b"".join(bindings)),
    )


def pdu_octets(pdu: PDU) -> bytes:
    """Return a PDU, encoded."""
    bindings = [encode_binding(name, value) for name, value in pdu.bindings]
    return encode_pdu(pdu.kind, pdu.request_id, pdu.status, pdu.error_index, bindings)


def encode_community(version: int, community: bytes, pdu: bytes) -> bytes:
    """Return a message of SNMPv1 or SNMPv2c around a PDU that is encoded."""
    return tlv(_SEQUENCE, _integer(version) + tlv(_OCTETS, community) + pdu)


def encode_scoped(engine_id: bytes, context: bytes, pdu: bytes) -> bytes:
    """Return a scoped PDU around a PDU that is encoded."""
    return tlv(_SEQUENCE, tlv(_OCTETS, engine_id) + tlv(_OCTETS, context) + pdu)


def encode_secure(message: SecureMessage) -> bytes:
    """Return a message of SNMPv3 as it stands."""
    return splice_secure(message, message.digest, message.salt, message.data)[0]


def splice_secure(
    message: SecureMessage, digest: bytes, salt: bytes, data: bytes
) -> tuple[bytes, int]:
    """Return a message with another digest, salt and data, and where the digest stands in it."""
    header = tlv(
        _SEQUENCE,
        _integer(message.message_id)
        + _integer(message.max_size)
        + bytes((_OCTETS, 1, message.flags, _INTEGER, 1, USM)),
    )
    own_salt = tlv(_OCTETS, salt)
    security = tlv(
        _SEQUENCE,
        tlv(_OCTETS, message.engine_id)
        + _integer(message.boots)
        + _integer(message.time)
        + tlv(_OCTETS, message.user)
        + tlv(_OCTETS, digest)
        + own_salt,
    )
    if message.flags & ENCRYPTED:
        data = tlv(_OCTETS, data)
    octets = tlv(_SEQUENCE, _V3 + header + tlv(_OCTETS, security) + data)
    return octets, len(octets) - len(data) - len(own_salt) - len(digest)


_V3: Final = _integer(V3)
