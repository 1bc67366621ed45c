"""The PDUs of SMPP 3.4 that a sender of short messages needs; pure, strict, bounded.

Section numbers are those of the SMPP Protocol Specification v3.4, issue 1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from tmad.errors import Fault, FaultCode

GENERIC_NACK: Final = 0x8000_0000
BIND_TRANSMITTER: Final = 0x02
SUBMIT_SM: Final = 0x04
DELIVER_SM: Final = 0x05
UNBIND: Final = 0x06
BIND_TRANSCEIVER: Final = 0x09
ENQUIRE_LINK: Final = 0x15
RESPONSE: Final = 0x8000_0000

OK: Final = 0x00
INVALID_COMMAND: Final = 0x03  # ESME_RINVCMDID

LARGEST: Final = 65_536  # octets of a PDU
LAST_SEQUENCE: Final = 0x7FFF_FFFF  # 3.2

_HEADER: Final = struct.Struct(">IIII")
_MESSAGE_PAYLOAD: Final = 0x0424
_SHORT_MESSAGE: Final = 254  # octets, 5.2.22
_MOST_OPTIONS: Final = 64

# Responses with one C-octet string: its longest size, NUL included (4.1, 4.4).
_TEXT_RESPONSES: Final = {
    BIND_TRANSMITTER | RESPONSE: 16,
    BIND_TRANSCEIVER | RESPONSE: 16,
    SUBMIT_SM | RESPONSE: 65,
}
_BARE: Final = frozenset(
    {GENERIC_NACK, UNBIND, UNBIND | RESPONSE, ENQUIRE_LINK, ENQUIRE_LINK | RESPONSE}
)


@dataclass(frozen=True, slots=True)
class Bare:
    """A PDU without a body: enquire_link, unbind, their responses, generic_nack."""

    command: int
    status: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Response:
    """What a bind or a submit_sm was answered; ``text`` is a system id or a message id."""

    command: int
    status: int
    sequence: int
    text: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """A short message or a receipt from the centre (4.6)."""

    sequence: int
    source: str
    destination: str
    esm_class: int
    data_coding: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that a sender does not know; a request among them wants a generic_nack."""

    command: int
    sequence: int


PDU: TypeAlias = Bare | Response | Deliver | Unknown


class Stream:
    """Cuts what arrives into PDUs."""

    def __init__(self) -> None:
        self._received = bytearray()

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Yield each PDU that is complete; Fault(MALFORMED) for an impossible length."""
        self._received += data
        while len(self._received) >= 4:
            length = int.from_bytes(self._received[:4])
            if not _HEADER.size <= length <= LARGEST:
                raise malformed(f"a PDU of {length} octets")
            if len(self._received) < length:
                return
            pdu = bytes(self._received[:length])
            del self._received[:length]
            yield pdu


def decode(data: bytes) -> PDU:
    """Read one PDU; Fault(MALFORMED)."""
    if len(data) < _HEADER.size or len(data) > LARGEST:
        raise malformed(f"a PDU of {len(data)} octets")
    length, command, status, sequence = _HEADER.unpack_from(data)
    if length != len(data):
        raise malformed("command_length is not the length")
    body = _Body(data)
    if command in _BARE:
        # 4.11: the body is empty; a nack's would mean nothing either.
        body.end()
        return Bare(command, status, sequence)
    if command in _TEXT_RESPONSES:
        text = ""
        if not (body.is_empty and status != OK):  # 4.1.2: no body where the status is not 0
            text = body.text(_TEXT_RESPONSES[command])
            body.options()
        return Response(command, status, sequence, text)
    if command == DELIVER_SM:
        return _deliver(sequence, body)
    return Unknown(command, sequence)


def bind(command: int, sequence: int, system_id: str, password: bytes, system_type: str) -> bytes:
    """Encode bind_transmitter or bind_transceiver (4.1); Fault(REJECTED) for what is too long."""
    if len(password) > 8 or not password.isascii() or b"\0" in password:
        raise Fault(
            FaultCode.REJECTED,
            "a password of SMPP 3.4 has at most 8 ASCII characters",
            rule="otp.smpp.password",
        )
    fields = (system_id.encode("ascii"), password, system_type.encode("ascii"))
    strings = b"".join(field + b"\0" for field in fields)
    # interface_version 3.4; addr_ton, addr_npi and address_range are the centre's business.
    return encode(command, OK, sequence, strings + b"\x34\0\0\0")


def submit(
    sequence: int,
    *,
    source: str,
    destination: str,
    data_coding: int,
    message: bytes,
    validity: int,
    receipt: bool = False,
) -> bytes:
    """Encode submit_sm (4.4). ``destination`` is E.164 without +, ``validity`` in seconds."""
    body = [
        b"\0",  # service_type: the default
        _source_address(source),
        b"\x01\x01" + destination.encode("ascii") + b"\0",  # international, E.164
        b"\0\0\0",  # esm_class, protocol_id, priority_flag
        b"\0",  # schedule_delivery_time: now
        _relative_time(validity),
        bytes((int(receipt), 0, data_coding, 0)),
    ]
    if len(message) <= _SHORT_MESSAGE:
        body.append(bytes((len(message),)) + message)
    else:
        body.append(b"\0" + struct.pack(">HH", _MESSAGE_PAYLOAD, len(message)) + message)
    return encode(SUBMIT_SM, OK, sequence, b"".join(body))


def encode(command: int, status: int, sequence: int, body: bytes = b"") -> bytes:
    """Encode any PDU from its body."""
    return _HEADER.pack(_HEADER.size + len(body), command, status, sequence) + body


def malformed(what: str) -> Fault:
    """Return the Fault for octets that are no SMPP."""
    return Fault(FaultCode.MALFORMED, f"not SMPP: {what}", rule="otp.smpp.malformed")


def _source_address(source: str) -> bytes:
    """Return ton, npi and address (5.2.5): international, short number, or a name."""
    if source.startswith("+"):
        ton, npi, source = 1, 1, source[1:]
    elif source.isdigit():
        ton, npi = (3, 0) if len(source) < 8 else (1, 1)
    else:
        ton, npi = (5, 0) if source else (0, 0)
    return bytes((ton, npi)) + source.encode("ascii") + b"\0"


def _relative_time(seconds: int) -> bytes:
    """Return a relative time (7.1.1.2): YYMMDDhhmmsstnnR; nothing for zero."""
    if seconds <= 0:
        return b"\0"
    minutes, second = divmod(min(seconds, 86_399), 60)
    hour, minute = divmod(minutes, 60)
    return f"000000{hour:02}{minute:02}{second:02}000R".encode() + b"\0"


def _deliver(sequence: int, body: _Body) -> Deliver:
    body.text(6)  # service_type
    body.skip(2)
    source = body.text(21)
    body.skip(2)
    destination = body.text(21)
    esm_class = body.octet()
    body.skip(2)  # protocol_id, priority_flag
    body.text(17)
    body.text(17)
    body.skip(2)  # registered_delivery, replace_if_present_flag
    data_coding = body.octet()
    body.skip(1)
    message = body.octets(body.octet())
    options = body.options()
    return Deliver(
        sequence,
        source,
        destination,
        esm_class,
        data_coding,
        message or options.get(_MESSAGE_PAYLOAD, b""),
    )


class _Body:
    """Reads a body from its begin to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = _HEADER.size

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)

    def octets(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise malformed("a field reaches beyond the end")
        found = self._data[self._at : end]
        self._at = end
        return found

    def octet(self) -> int:
        return self.octets(1)[0]

    def skip(self, length: int) -> None:
        self.octets(length)

    def text(self, size: int) -> str:
        """Read a C-octet string of at most ``size`` octets, NUL included (3.1)."""
        end = self._data.find(b"\0", self._at, self._at + size)
        if end < 0:
            raise malformed("a string without its end")
        found = self._data[self._at : end]
        self._at = end + 1
        try:
            return found.decode("ascii")
        except UnicodeDecodeError:
            raise malformed("a string that is not ASCII") from None

    def options(self) -> dict[int, bytes]:
        """Read the optional parameters up to the end (3.2.4.1)."""
        found: dict[int, bytes] = {}
        while not self.is_empty:
            if len(found) >= _MOST_OPTIONS:
                raise malformed("too many optional parameters")
            tag, length = struct.unpack(">HH", self.octets(4))
            if tag in found:
                raise malformed("an optional parameter twice")
            found[tag] = self.octets(length)
        return found

    def end(self) -> None:
        if not self.is_empty:
            raise malformed("octets after the end")
