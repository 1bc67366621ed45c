"""LDAP messages as a client writes and reads them (RFC 4511): bind, search, unbind.

Filters are built from attribute names and octets, never from text, so that nothing which
somebody typed can become a part of one (T-LDAP-04).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import ber, der

LARGEST: Final = 1 << 20  # octets of a message that is accepted
_ELEMENTS: Final = 20_000
_DEPTH: Final = 16

_BIND_REQUEST: Final = 0x60
_BIND_RESPONSE: Final = 0x61
_UNBIND_REQUEST: Final = 0x42
_SEARCH_REQUEST: Final = 0x63
_SEARCH_ENTRY: Final = 0x64
_SEARCH_DONE: Final = 0x65
_SEARCH_REFERENCE: Final = 0x73
_EXTENDED_RESPONSE: Final = 0x78
_ENUMERATED: Final = 0x0A
_SUBTREE: Final = b"\x02"
_BASE: Final = b"\x00"
_NEVER_DEREFERENCE: Final = b"\x00"
_IN_CHAIN: Final = b"1.2.840.113556.1.4.1941"  # MS-ADTS 3.1.1.3.4.4.3

SUCCESS: Final = 0
NO_SUCH_OBJECT: Final = 32
INVALID_CREDENTIALS: Final = 49
SIZE_LIMIT: Final = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One found entry; names of attributes are in lower case."""

    name: str
    attributes: Mapping[str, tuple[bytes, ...]]

    def text(self, attribute: str) -> str:
        """Return the first value of an attribute as text, or nothing."""
        values = self.attributes.get(attribute.lower(), ())
        try:
            return values[0].decode() if values else ""
        except UnicodeDecodeError:
            raise _broken(f"{attribute} is not UTF-8") from None

    def octets(self, attribute: str) -> bytes:
        """Return the first value of an attribute, or nothing."""
        values = self.attributes.get(attribute.lower(), ())
        return values[0] if values else b""

    def number(self, attribute: str) -> int:
        """Return the first value of an attribute as a number; 0 where there is none."""
        text = self.text(attribute)
        try:
            return int(text) if text else 0
        except ValueError:
            raise _broken(f"{attribute} is not a number") from None


@dataclass(frozen=True, slots=True)
class Result:
    """How an operation ended: a result code of RFC 4511, 4.1.9, and the server's words."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """The search goes on elsewhere; nobody follows that."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of the server; ``number`` is that of the request, 0 for a notice."""

    number: int
    content: Entry | Result | Reference


# -- requests ---------------------------------------------------------------------------------


def bind(number: int, name: str, password: Secret) -> bytes:
    """Return a simple bind. An empty password would be no proof at all (RFC 4513, 5.1.2)."""
    if not password:
        raise Fault(
            FaultCode.UNAUTHENTICATED, "an empty password proves nothing", rule="ldap.empty"
        )
    return _message(
        number,
        der.tlv(
            _BIND_REQUEST,
            der.integer(3),
            der.octets(name.encode()),
            der.tlv(0x80, password.reveal()),
        ),
    )


def unbind(number: int) -> bytes:
    """Return the message that ends a session."""
    return _message(number, der.tlv(_UNBIND_REQUEST))


def search(
    number: int,
    base: str,
    wanted: bytes,
    attributes: Iterable[str],
    *,
    limit: int,
    seconds: int,
    is_base_only: bool = False,
) -> bytes:
    """Return a search below ``base``; ``wanted`` is a filter, made by the functions below."""
    return _message(
        number,
        der.tlv(
            _SEARCH_REQUEST,
            der.octets(base.encode()),
            der.tlv(_ENUMERATED, _BASE if is_base_only else _SUBTREE),
            der.tlv(_ENUMERATED, _NEVER_DEREFERENCE),
            der.integer(limit),
            der.integer(seconds),
            der.tlv(der.BOOLEAN, b"\0"),
            wanted,
            der.sequence(*[der.octets(each.encode()) for each in attributes]),
        ),
    )


def equal(attribute: str, value: bytes) -> bytes:
    """Return the filter: the attribute has this value."""
    return der.tlv(0xA3, der.octets(attribute.encode()), der.octets(value))


def all_of(*filters: bytes) -> bytes:
    """Return the filter: all of these."""
    return der.tlv(0xA0, *filters)


def any_of(*filters: bytes) -> bytes:
    """Return the filter: any of these."""
    return der.tlv(0xA1, *filters)


def in_chain(attribute: str, name: str) -> bytes:
    """Return the filter: the attribute leads to this entry, over however many others."""
    return der.tlv(
        0xA9,
        der.tlv(0x81, _IN_CHAIN),
        der.tlv(0x82, attribute.encode()),
        der.tlv(0x83, name.encode()),
    )


def _message(number: int, operation: bytes) -> bytes:
    return der.sequence(der.integer(number), operation)


# -- replies ----------------------------------------------------------------------------------


def length_of(buffer: bytes | bytearray) -> int:
    """Return how long the first message is, 0 while that is not known; Fault(MALFORMED)."""
    if len(buffer) < 2:
        return 0
    if buffer[0] != der.SEQUENCE:
        raise _broken("it does not begin with a message")
    first = buffer[1]
    if first < 0x80:
        return 2 + first
    octets = first & 0x7F
    if not 1 <= octets <= 4:
        raise _broken("a message has no length")
    if len(buffer) < 2 + octets:
        return 0
    length = 2 + octets + int.from_bytes(buffer[2 : 2 + octets], "big")
    if length > LARGEST:
        raise _broken("a message is too long")
    return length


def decode(message: bytes) -> Reply:
    """Read one message; Fault(MALFORMED). Active Directory pads its lengths, so it is BER."""
    reader = der.read(ber.normalise(message, elements=_ELEMENTS, depth=_DEPTH), der.SEQUENCE)
    number = reader.integer()
    tag = reader.peek()
    if tag == _SEARCH_ENTRY:
        return Reply(number, _entry(reader.enter(tag)))
    if tag == _SEARCH_REFERENCE:
        return Reply(number, Reference())
    if tag in (_BIND_RESPONSE, _SEARCH_DONE, _EXTENDED_RESPONSE):
        return Reply(number, _result(reader.enter(tag)))
    raise _broken("an answer of another kind")


def _entry(reader: der.Reader) -> Entry:
    name = _utf8(reader.content(der.OCTET_STRING))
    attributes: dict[str, tuple[bytes, ...]] = {}
    listed = reader.enter(der.SEQUENCE)
    for _ in listed.each():
        one = listed.enter(der.SEQUENCE)
        description = _utf8(one.content(der.OCTET_STRING)).lower()
        values = one.enter(der.SET)
        attributes[description] = tuple([values.content(der.OCTET_STRING) for _ in values.each()])
    return Entry(name, attributes)


def _result(reader: der.Reader) -> Result:
    code = int.from_bytes(reader.content(_ENUMERATED)[:4], "big")
    reader.content(der.OCTET_STRING)  # matchedDN
    text = reader.content(der.OCTET_STRING)[:500].decode("utf-8", "replace")
    return Result(code, text)


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _broken("a name in it is not UTF-8") from None


def _broken(why: str) -> Fault:
    return Fault(FaultCode.MALFORMED, f"not an LDAP answer: {why}", rule="ldap.answer")


# -- what Active Directory stores ------------------------------------------------------------


def sid_text(value: bytes) -> str:
    """Return a SID as text, "S-1-5-21-…" (MS-DTYP 2.4.2); Fault(MALFORMED)."""
    if len(value) < 8 or value[0] != 1 or value[1] > 15 or len(value) != 8 + 4 * value[1]:
        raise _broken("a SID in it is broken")
    parts = [int.from_bytes(value[2:8], "big")]
    parts += [int.from_bytes(value[at : at + 4], "little") for at in range(8, len(value), 4)]
    return "S-1-" + "-".join(map(str, parts))


def sid_octets(text: str) -> bytes:
    """Return what a SID's text stands for; Fault(MALFORMED)."""
    pieces: Sequence[str] = text.split("-")
    try:
        if pieces[:2] != ["S", "1"] or not 3 <= len(pieces) <= 18:
            raise ValueError("not a SID")
        authority, *parts = [int(piece) for piece in pieces[2:]]
        head = bytes((1, len(parts))) + authority.to_bytes(6, "big")
        return head + b"".join([part.to_bytes(4, "little") for part in parts])
    except (ValueError, OverflowError):
        raise _broken("not the text of a SID") from None
