"""LDAP messages (RFC 4511): strict BER in, DER out; paging, sorting and their controls
(RFC 2696, 2891), passwords excepted, which are Secrets from here on.

Only what RFC 4511, 5.1 allows is read: definite lengths, primitive strings. Padded lengths are
legal, and Windows sends them. Everything is iterative and bounded: how deep, how many, how long.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.ldap import ber, filter_codec
from tmad.protocols.ldap.ber import malformed, sequence, tlv
from tmad.protocols.ldap.filters import Filter

MOST_ATTRIBUTES: Final = 512
MOST_CONTROLS: Final = 16

PAGED: Final = "1.2.840.113556.1.4.319"
SORT: Final = "1.2.840.113556.1.4.473"
SORTED: Final = "1.2.840.113556.1.4.474"
MANAGE_DSA_IT: Final = "2.16.840.1.113730.3.4.2"
CANCEL: Final = "1.3.6.1.1.8"
WHO_AM_I: Final = "1.3.6.1.4.1.4203.1.11.3"
START_TLS: Final = "1.3.6.1.4.1.1466.20037"
DISCONNECTION: Final = "1.3.6.1.4.1.1466.20036"


class Result(enum.IntEnum):
    """Result codes that this server uses (RFC 4511, appendix A; RFC 3909; RFC 2891)."""

    SUCCESS = 0
    OPERATIONS_ERROR = 1
    PROTOCOL_ERROR = 2
    TIME_LIMIT = 3
    SIZE_LIMIT = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    AUTH_METHOD_NOT_SUPPORTED = 7
    STRONGER_AUTH_REQUIRED = 8
    ADMIN_LIMIT = 11
    UNAVAILABLE_CRITICAL_EXTENSION = 12
    CONFIDENTIALITY_REQUIRED = 13
    NO_SUCH_ATTRIBUTE = 16
    UNDEFINED_ATTRIBUTE_TYPE = 17
    INAPPROPRIATE_MATCHING = 18
    INVALID_ATTRIBUTE_SYNTAX = 21
    NO_SUCH_OBJECT = 32
    INVALID_DN_SYNTAX = 34
    INAPPROPRIATE_AUTHENTICATION = 48
    INVALID_CREDENTIALS = 49
    INSUFFICIENT_ACCESS = 50
    BUSY = 51
    UNAVAILABLE = 52
    UNWILLING = 53
    OTHER = 80
    CANCELED = 118
    NO_SUCH_OPERATION = 119
    TOO_LATE = 120
    CANNOT_CANCEL = 121


FAULTS: Final[Mapping[FaultCode, Result]] = {
    FaultCode.MALFORMED: Result.PROTOCOL_ERROR,
    FaultCode.UNSUPPORTED: Result.UNWILLING,
    FaultCode.BAD_ALGORITHM: Result.UNWILLING,
    FaultCode.BAD_INTEGRITY: Result.INVALID_CREDENTIALS,
    FaultCode.BAD_TIME: Result.UNWILLING,
    FaultCode.BAD_PROOF: Result.INVALID_CREDENTIALS,
    FaultCode.UNAUTHENTICATED: Result.INVALID_CREDENTIALS,
    FaultCode.FORBIDDEN: Result.INSUFFICIENT_ACCESS,
    FaultCode.REJECTED: Result.UNWILLING,
    FaultCode.NOT_FOUND: Result.NO_SUCH_OBJECT,
    FaultCode.CONFLICT: Result.UNWILLING,
    FaultCode.RATE_LIMITED: Result.BUSY,
    FaultCode.UNAVAILABLE: Result.UNAVAILABLE,
    FaultCode.INTERNAL: Result.OTHER,
}


# Where a rule says more than the code of its Fault.
RESULTS: Final[Mapping[str, Result]] = {
    "ldap.dn": Result.INVALID_DN_SYNTAX,
    "ldap.unindexed": Result.ADMIN_LIMIT,
    "ldap.version": Result.PROTOCOL_ERROR,
    "ldap.extended": Result.PROTOCOL_ERROR,
    "ldap.scope": Result.PROTOCOL_ERROR,
    "ldap.control": Result.UNAVAILABLE_CRITICAL_EXTENSION,
    "ldap.confidentiality": Result.CONFIDENTIALITY_REQUIRED,
    "ldap.empty-password": Result.UNWILLING,
    "ldap.mechanism": Result.AUTH_METHOD_NOT_SUPPORTED,
    "ldap.no-certificate": Result.INAPPROPRIATE_AUTHENTICATION,
    "ldap.holder": Result.INAPPROPRIATE_AUTHENTICATION,
    "ldap.tls": Result.OPERATIONS_ERROR,
    "ldap.undefined-type": Result.UNDEFINED_ATTRIBUTE_TYPE,
    "ldap.no-such-attribute": Result.NO_SUCH_ATTRIBUTE,
    "ldap.inappropriate-matching": Result.INAPPROPRIATE_MATCHING,
    "ldap.assertion": Result.INVALID_ATTRIBUTE_SYNTAX,
}


class Bind(NamedTuple):
    """Who the client wants to be; ``mechanism`` is empty for a simple bind."""

    version: int
    name: str
    mechanism: str
    secret: Secret | None  # the password, or what came with the mechanism, if anything did


class Unbind(NamedTuple):
    """The client goes away."""


class Scope(enum.IntEnum):
    """How far a search reaches."""

    BASE = 0
    ONE = 1
    SUBTREE = 2


class Search(NamedTuple):
    """What to look for; limits of 0 mean that the client sets none.

    ``scope`` is as sent: one that there is not is refused where there is an answer to give.
    """

    base: str
    scope: int
    size_limit: int
    time_limit: int
    types_only: bool
    filter: Filter
    attributes: tuple[str, ...]


class Compare(NamedTuple):
    """Whether an entry's attribute has a value."""

    name: str
    attribute: str
    value: bytes


class Abandon(NamedTuple):
    """Stop an operation, and say nothing."""

    message_id: int


class Extended(NamedTuple):
    """An operation that is named by an OID."""

    name: str
    value: bytes | None


class Write(NamedTuple):
    """A Modify, Add, Delete or ModifyDN: only refused here. ``answer`` is its answer's tag."""

    answer: int


Operation: TypeAlias = Bind | Unbind | Search | Compare | Abandon | Extended | Write


class Control(NamedTuple):
    """What is asked, or said, beside an operation."""

    oid: str
    critical: bool
    value: bytes | None


class Message(NamedTuple):
    """One request."""

    id: int
    operation: Operation
    controls: tuple[Control, ...]


class SortKey(NamedTuple):
    """One thing to sort by; ``rule`` is empty for the attribute's own."""

    attribute: str
    rule: str
    reverse: bool


_CONTROLS: Final = 0xA0

_BIND: Final = 0x60
_UNBIND: Final = 0x42
_SEARCH: Final = 0x63
_ABANDON: Final = 0x50
_COMPARE: Final = 0x6E
_EXTENDED: Final = 0x77
# The four that change something, and the tags of their answers.
_WRITES: Final[Mapping[int, int]] = {0x66: 0x67, 0x68: 0x69, 0x4A: 0x6B, 0x6C: 0x6D}

BIND_RESPONSE: Final = 0x61
SEARCH_ENTRY: Final = 0x64
SEARCH_DONE: Final = 0x65
COMPARE_RESPONSE: Final = 0x6F
EXTENDED_RESPONSE: Final = 0x78


def length_of(buffer: bytes | bytearray, position: int = 0) -> int:
    """Return how long the message is that begins here, or 0 while that is not yet known.

    Raise Fault(MALFORMED) when no message begins like that.
    """
    size = len(buffer) - position
    if size < 2:
        if size and buffer[position] != ber.SEQUENCE:
            raise malformed("a message is a SEQUENCE")
        return 0
    if buffer[position] != ber.SEQUENCE:
        raise malformed("a message is a SEQUENCE")
    length = buffer[position + 1]
    if length < 0x80:
        return length + 2
    octets = length - 0x80
    if not 1 <= octets <= 4:
        raise malformed("a message has a definite length of at most four octets")
    if size < 2 + octets:
        return 0
    return int.from_bytes(buffer[position + 2 : position + 2 + octets]) + 2 + octets


# -- reading ----------------------------------------------------------------------------------


def decode(data: bytes) -> Message:
    """Return the request that these octets are; raise Fault(MALFORMED)."""
    end = len(data)
    position, stop = ber.expect(data, 0, end, ber.SEQUENCE)
    if stop != end:
        raise malformed("octets follow the message")
    start, position = ber.expect(data, position, end, ber.INTEGER)
    number = ber.integer(data, start, position)
    tag, start, position = ber.element(data, position, end)
    read = _READERS.get(tag)
    if read is not None:
        operation = read(data, start, position)
    elif tag in _WRITES:
        operation = Write(_WRITES[tag])
    else:
        raise malformed(f"there is no operation {tag:#04x}")
    controls: tuple[Control, ...] = ()
    if position != end:
        start, position = ber.expect(data, position, end, _CONTROLS)
        if position != end:
            raise malformed("something follows the controls")
        controls = _controls(data, start, end)
    if number == 0:
        raise malformed("message number 0 is the server's")
    return Message(number, operation, controls)


def _controls(data: bytes, position: int, end: int) -> tuple[Control, ...]:
    found: list[Control] = []
    while position != end:
        if len(found) == MOST_CONTROLS:
            raise malformed("too many controls")
        start, position = ber.expect(data, position, end, ber.SEQUENCE)
        stop = position
        first, here = ber.expect(data, start, stop, ber.OCTETS)
        oid, critical, value = ber.text(data, first, here), False, None
        if here != stop and data[here] == ber.BOOLEAN:
            first, here = ber.expect(data, here, stop, ber.BOOLEAN)
            critical = ber.boolean(data, first, here)
        if here != stop:
            first, here = ber.expect(data, here, stop, ber.OCTETS)
            value = data[first:here]
        if here != stop:
            raise malformed("a control has too much in it")
        found.append(Control(oid, critical, value))
    return tuple(found)


def _bind(data: bytes, position: int, end: int) -> Bind:
    start, position = ber.expect(data, position, end, ber.INTEGER)
    version = ber.integer(data, start, position)
    start, position = ber.expect(data, position, end, ber.OCTETS)
    name = ber.text(data, start, position)
    tag, start, position = ber.element(data, position, end)
    if position != end:
        raise malformed("a bind has too much in it")
    if tag == 0x80:
        return Bind(version, name, "", Secret(data[start:position]))
    if tag != 0xA3:
        # RFC 4511, 4.2: a choice that may grow; it is answered, not a broken message.
        return Bind(version, name, f"[{tag & 0x1F}]", None)
    start, position = ber.expect(data, start, end, ber.OCTETS)
    mechanism = ber.text(data, start, position)
    secret = None
    if position != end:
        start, position = ber.expect(data, position, end, ber.OCTETS)
        secret = Secret(data[start:position])
    if position != end or not mechanism:
        raise malformed("SASL credentials are a mechanism and what it needs")
    return Bind(version, name, mechanism, secret)


def _unbind(data: bytes, start: int, stop: int) -> Unbind:
    if start != stop:
        raise malformed("an unbind is empty")
    return Unbind()


def _search(data: bytes, position: int, end: int) -> Search:
    start, position = ber.expect(data, position, end, ber.OCTETS)
    base = ber.text(data, start, position)
    (scope, aliases, size_limit, time_limit, types_only), position = _options(data, position, end)
    if aliases > 3:
        raise malformed("there is no such way to treat aliases")
    wanted, position = filter_codec.read(data, position, end)
    position, stop = ber.expect(data, position, end, ber.SEQUENCE)
    if stop != end:
        raise malformed("a search has too much in it")
    attributes: list[str] = []
    while position != end:
        if len(attributes) == MOST_ATTRIBUTES:
            raise malformed("too many attributes are asked for")
        start, position = ber.expect(data, position, end, ber.OCTETS)
        attributes.append(ber.text(data, start, position))
    return Search(base, scope, size_limit, time_limit, bool(types_only), wanted, tuple(attributes))


def _options(data: bytes, position: int, end: int) -> tuple[Sequence[int], int]:
    """Return scope, dereferencing, both limits and typesOnly of a search, and where they end."""
    # Nearly always each has one octet: then it is worth not to look at them one by one.
    found = data[position : min(position + 15, end)]
    if found[::3] == b"\x0a\x0a\x02\x02\x01" and found[1::3] == b"\x01\x01\x01\x01\x01":
        values = found[2::3]
        if len(values) == 5 and max(values[:4]) < 0x80:
            return values, position + 15
    numbers: list[int] = []
    for tag in (ber.ENUMERATED, ber.ENUMERATED, ber.INTEGER, ber.INTEGER):
        start, position = ber.expect(data, position, end, tag)
        numbers.append(ber.integer(data, start, position))
    start, position = ber.expect(data, position, end, ber.BOOLEAN)
    return (*numbers, ber.boolean(data, start, position)), position


def _compare(data: bytes, position: int, end: int) -> Compare:
    start, position = ber.expect(data, position, end, ber.OCTETS)
    name = ber.text(data, start, position)
    position, stop = ber.expect(data, position, end, ber.SEQUENCE)
    if stop != end:
        raise malformed("a compare has too much in it")
    return Compare(name, *filter_codec.assertion(data, position, end))


def _abandon(data: bytes, start: int, stop: int) -> Abandon:
    return Abandon(ber.integer(data, start, stop))


def _extended(data: bytes, position: int, end: int) -> Extended:
    start, position = ber.expect(data, position, end, 0x80)
    name, value = ber.text(data, start, position), None
    if position != end:
        start, position = ber.expect(data, position, end, 0x81)
        value = data[start:position]
    if position != end:
        raise malformed("an extended operation has too much in it")
    return Extended(name, value)


_READERS: Final[Mapping[int, Callable[[bytes, int, int], Operation]]] = {
    _BIND: _bind,
    _UNBIND: _unbind,
    _SEARCH: _search,
    _ABANDON: _abandon,
    _COMPARE: _compare,
    _EXTENDED: _extended,
}


# -- control values ---------------------------------------------------------------------------


def decode_paged(value: bytes | None) -> tuple[int, bytes]:
    """Return the page size and the cookie of a paged search (RFC 2696, 2)."""
    data = value or b""
    position, end = ber.expect(data, 0, len(data), ber.SEQUENCE)
    start, position = ber.expect(data, position, end, ber.INTEGER)
    size = ber.integer(data, start, position)
    start, position = ber.expect(data, position, end, ber.OCTETS)
    if position != end or end != len(data):
        raise malformed("the paging control has too much in it")
    return size, data[start:position]


def encode_paged(size: int, cookie: bytes) -> Control:
    """Return the control that goes with a page: an estimate of the whole (0: none), a cookie."""
    return Control(
        PAGED, False, sequence(tlv(ber.INTEGER, ber.number(size)), tlv(ber.OCTETS, cookie))
    )


def decode_sort(value: bytes | None) -> tuple[SortKey, ...]:
    """Return what a search is to be sorted by (RFC 2891, 1.1); at most ten keys."""
    data = value or b""
    position, end = ber.expect(data, 0, len(data), ber.SEQUENCE)
    if end != len(data):
        raise malformed("octets follow the sort control")
    keys: list[SortKey] = []
    while position != end:
        start, position = ber.expect(data, position, end, ber.SEQUENCE)
        stop = position
        first, here = ber.expect(data, start, stop, ber.OCTETS)
        attribute, rule, reverse = ber.text(data, first, here), "", False
        if here != stop and data[here] == 0x80:
            first, here = ber.expect(data, here, stop, 0x80)
            rule = ber.text(data, first, here)
        if here != stop:
            first, here = ber.expect(data, here, stop, 0x81)
            reverse = ber.boolean(data, first, here)
        if here != stop or len(keys) == 10:
            raise malformed("a sort key has too much in it, or there are too many")
        keys.append(SortKey(attribute, rule, reverse))
    if not keys:
        raise malformed("there is nothing to sort by")
    return tuple(keys)


def encode_sorted(result: Result, attribute: str = "") -> Control:
    """Return the control that says whether the search was sorted (RFC 2891, 1.2)."""
    named = tlv(0x80, attribute.encode()) if attribute else b""
    return Control(SORTED, False, sequence(tlv(ber.ENUMERATED, bytes((result,))), named))


def decode_cancel(value: bytes | None) -> int:
    """Return which operation to cancel (RFC 3909, 2)."""
    data = value or b""
    position, end = ber.expect(data, 0, len(data), ber.SEQUENCE)
    start, position = ber.expect(data, position, end, ber.INTEGER)
    if position != end or end != len(data):
        raise malformed("a cancel names one operation")
    return ber.integer(data, start, position)


# -- writing ----------------------------------------------------------------------------------


def result_of(fault: Fault) -> Result:
    """Return the result code that a Fault is."""
    return RESULTS.get(fault.rule) or FAULTS[fault.code]


def message(number: int, operation: bytes, controls: Iterable[Control] = ()) -> bytes:
    """Return a whole message around an encoded operation."""
    if 0 <= number < 0x80:
        content = b"\x02\x01" + bytes((number,)) + operation
    else:
        content = tlv(ber.INTEGER, ber.number(number)) + operation
    sent = b"".join([_control(each) for each in controls])
    if sent:
        content += tlv(_CONTROLS, sent)
    return tlv(ber.SEQUENCE, content)


def _control(control: Control) -> bytes:
    parts = [tlv(ber.OCTETS, control.oid.encode())]
    if control.critical:
        parts.append(b"\x01\x01\xff")
    if control.value is not None:
        parts.append(tlv(ber.OCTETS, control.value))
    return sequence(*parts)


def result(tag: int, code: int, matched: str = "", text: str = "", more: bytes = b"") -> bytes:
    """Return an LDAPResult as the answer ``tag``; ``more`` is what an answer has beyond it."""
    content = b"".join(
        (
            b"\x0a\x01",
            bytes((code,)),
            tlv(ber.OCTETS, matched.encode()),
            tlv(ber.OCTETS, text.encode()),
            more,
        )
    )
    return tlv(tag, content)


def extended(code: Result, text: str = "", *, name: str = "", value: bytes | None = None) -> bytes:
    """Return an ExtendedResponse."""
    more = tlv(0x8A, name.encode()) if name else b""
    if value is not None:
        more += tlv(0x8B, value)
    return result(EXTENDED_RESPONSE, code, text=text, more=more)


def disconnection(code: Result, text: str) -> bytes:
    """Return the last message before the server hangs up (RFC 4511, 4.4.1)."""
    return message(0, extended(code, text, name=DISCONNECTION))


def described(description: str) -> bytes:
    """Return an attribute description, ready for ``attribute``."""
    return tlv(ber.OCTETS, description.encode())


def attribute(description: bytes, values: Iterable[bytes]) -> bytes:
    """Return one PartialAttribute; without values it is only named."""
    found = b"".join([tlv(ber.OCTETS, value) for value in values])
    return tlv(ber.SEQUENCE, description + tlv(ber.SET, found))


def entry(name: str, attributes: Iterable[bytes]) -> bytes:
    """Return a SearchResultEntry around encoded attributes."""
    return tlv(
        SEARCH_ENTRY,
        tlv(ber.OCTETS, name.encode()) + tlv(ber.SEQUENCE, b"".join(attributes)),
    )
