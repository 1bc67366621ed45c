"""RADIUS packets: octets to values and back, strictly (RFC 2865, 2866, 2869, 3579, 5176, 5997).

RADIUS has no answer to a message that cannot be trusted: a packet that is malformed, or whose
authenticator is wrong, is dropped without a word, or else the answer would tell a stranger what
was wrong. So there is no FAULTS table here: what ``decode`` refuses with Fault(MALFORMED) is
dropped, and what the core refuses becomes Access-Reject, whatever its FaultCode is.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

from tmad.errors import Fault, FaultCode

Attribute: TypeAlias = tuple[int, bytes]

HEADER: Final = 20
LONGEST: Final = 4_096  # RFC 2865, 3
MOST_ATTRIBUTES: Final = 200
LONGEST_VALUE: Final = 253
_HEADER = struct.Struct(">BBH16s")
_ZEROS = bytes(16)
_BLOCK: Final = 64  # octets; RFC 2104, 2
_INNER = bytes(octet ^ 0x36 for octet in range(256))
_OUTER = bytes(octet ^ 0x5C for octet in range(256))

USER_NAME: Final = 1
USER_PASSWORD: Final = 2
CHAP_PASSWORD: Final = 3
NAS_IP_ADDRESS: Final = 4
NAS_PORT: Final = 5
SERVICE_TYPE: Final = 6
FRAMED_MTU: Final = 12
REPLY_MESSAGE: Final = 18
STATE: Final = 24
CLASS: Final = 25
VENDOR_SPECIFIC: Final = 26
SESSION_TIMEOUT: Final = 27
CALLED_STATION_ID: Final = 30
CALLING_STATION_ID: Final = 31
NAS_IDENTIFIER: Final = 32
PROXY_STATE: Final = 33
ACCT_SESSION_ID: Final = 44
CHAP_CHALLENGE: Final = 60
NAS_PORT_TYPE: Final = 61
PROMPT: Final = 76
EAP_MESSAGE: Final = 79
MESSAGE_AUTHENTICATOR: Final = 80
NAS_PORT_ID: Final = 87
NAS_IPV6_ADDRESS: Final = 95
ERROR_CAUSE: Final = 101
EAP_KEY_NAME: Final = 102

# A Message-Authenticator as it stands in what its digest is taken over (RFC 3579, 3.2).
_UNSIGNED: Final = bytes((MESSAGE_AUTHENTICATOR, 18)) + _ZEROS

MICROSOFT: Final = 311
MS_MPPE_SEND_KEY: Final = 16
MS_MPPE_RECV_KEY: Final = 17


class Code(IntEnum):
    """The packets that tmad knows (IANA, RADIUS Packet Type Codes)."""

    ACCESS_REQUEST = 1
    ACCESS_ACCEPT = 2
    ACCESS_REJECT = 3
    ACCOUNTING_REQUEST = 4
    ACCOUNTING_RESPONSE = 5
    ACCESS_CHALLENGE = 11
    STATUS_SERVER = 12
    DISCONNECT_REQUEST = 40
    DISCONNECT_ACK = 41
    DISCONNECT_NAK = 42
    COA_REQUEST = 43
    COA_ACK = 44
    COA_NAK = 45
    PROTOCOL_ERROR = 52


_ACCOUNTING_REQUEST: Final = int(Code.ACCOUNTING_REQUEST)  # found ten times as fast


# Not frozen: a login takes five of them, and freezing takes twice the time of the rest.
@dataclass(slots=True)
class Packet:
    """One packet as it was received; ``octets`` are its own, without padding behind them."""

    code: int
    identifier: int
    authenticator: bytes
    attributes: tuple[Attribute, ...]
    octets: bytes
    signature_at: int = 0  # where the value of the Message-Authenticator begins; 0: nowhere
    # The value of the first attribute of a type: a dictionary's own method, as each packet is
    # asked for ten of them.
    first: Callable[[int], bytes | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.first = dict(reversed(self.attributes)).get

    def all(self, kind: int) -> tuple[bytes, ...]:
        """Return the values of every attribute of a type, in their order."""
        return tuple([value for found, value in self.attributes if found == kind])

    def vendor(self, vendor: int, kind: int) -> bytes | None:
        """Return the first value of a vendor's attribute (RFC 2865, 5.26)."""
        for found, number, value in vendor_values(self.attributes):
            if found == vendor and number == kind:
                return value
        return None

    def number(self, kind: int) -> int | None:
        """Return the first attribute of a type as an integer, or None unless it is one."""
        value = self.first(kind)
        return int.from_bytes(value, "big") if value is not None and len(value) == 4 else None

    def text(self, kind: int) -> str:
        """Return the first attribute of a type as text, "" when there is none.

        Octets that are not UTF-8 come out as \\xNN: the text is for logs and comparison.
        """
        return (self.first(kind) or b"").decode("utf-8", "backslashreplace")

    @property
    def eap(self) -> bytes | None:
        """The EAP packet, joined from its attributes (RFC 3579, 3.1); None without one."""
        if self.first(EAP_MESSAGE) is None:
            return None
        return b"".join([value for kind, value in self.attributes if kind == EAP_MESSAGE])

    @property
    def is_signed(self) -> bool:
        """Whether a Message-Authenticator is there, right or wrong."""
        return self.signature_at > 0


def decode(datagram: bytes) -> Packet:
    """Read a packet; raise Fault(MALFORMED) for whatever RFC 2865, 3 does not allow.

    A datagram may be longer than the packet in it (padding); a stream's reader cuts exactly.
    """
    if len(datagram) < HEADER:
        raise _malformed("short", f"{len(datagram)} octets are no packet")
    code, identifier, length, authenticator = _HEADER.unpack_from(datagram)
    if not HEADER <= length <= LONGEST:
        raise _malformed("length", f"a packet cannot say that it has {length} octets")
    if length > len(datagram):
        raise _malformed("truncated", f"{len(datagram)} octets of {length} arrived")
    octets = datagram[:length]
    attributes: list[Attribute] = []
    signature_at = 0
    at, last = HEADER, length - 2
    while at <= last:
        # RFC 2865, 5: the length counts type and length, too.
        kind, size = octets[at], octets[at + 1]
        following = at + size
        if size < 2 or following > length:
            break
        if kind == MESSAGE_AUTHENTICATOR:
            if size != 18 or signature_at:
                # RFC 3579, 3.2: one, of 16 octets.
                raise _malformed(
                    "message-authenticator", "Message-Authenticator twice, or not 16 octets"
                )
            signature_at = at + 2
        attributes.append((kind, octets[at + 2 : following]))
        at = following
    if at != length:
        raise _malformed("attribute", f"the attribute at octet {at} does not fit the packet")
    if len(attributes) > MOST_ATTRIBUTES:
        raise _malformed("attributes", f"more than {MOST_ATTRIBUTES} attributes")
    return Packet(code, identifier, authenticator, tuple(attributes), octets, signature_at)


def vendor_values(attributes: Iterable[Attribute]) -> Iterator[tuple[int, int, bytes]]:
    """Yield vendor, number and value of each vendor attribute that has the usual form.

    RFC 2865, 5.26 only recommends that form: octets that do not have it are passed over.
    """
    for kind, value in attributes:
        if kind != VENDOR_SPECIFIC or len(value) < 6:
            continue
        vendor = int.from_bytes(value[:4], "big")
        at, found = 4, []
        while len(value) - at >= 2 and 2 <= value[at + 1] <= len(value) - at:
            found.append((vendor, value[at], value[at + 2 : at + value[at + 1]]))
            at += value[at + 1]
        if at == len(value):
            yield from found


# -- writing -----------------------------------------------------------------------------------


def vendor_attribute(vendor: int, kind: int, value: bytes) -> Attribute:
    """Return a vendor's attribute in the usual form."""
    return VENDOR_SPECIFIC, vendor.to_bytes(4, "big") + bytes((kind, len(value) + 2)) + value


def eap_attributes(eap: bytes) -> list[Attribute]:
    """Cut an EAP packet into attributes, in order and side by side (RFC 3579, 3.1)."""
    if len(eap) <= LONGEST_VALUE:
        return [(EAP_MESSAGE, eap)] if eap else []
    return [(EAP_MESSAGE, eap[at : at + LONGEST_VALUE]) for at in range(0, len(eap), LONGEST_VALUE)]


def encode_reply(
    request: Packet, code: int, attributes: Iterable[Attribute], secret: bytes
) -> bytes:
    """Return the answer to ``request``, Proxy-State and authenticators included.

    Message-Authenticator comes first in everything but a plain Accounting-Response
    (CVE-2024-3596): there its place in front is what defeats chosen prefixes of MD5.
    Raise Fault(REJECTED) when the attributes do not fit one packet.
    """
    is_signed = request.code != _ACCOUNTING_REQUEST or request.is_signed
    if request.first(PROXY_STATE) is not None:
        attributes = [*attributes, *[(PROXY_STATE, value) for value in request.all(PROXY_STATE)]]
    octets = _encode(code, request.identifier, request.authenticator, attributes, secret, is_signed)
    # RFC 2865, 3: over the packet with the request's authenticator in its place.
    authenticator = hashlib.md5(octets + secret, usedforsecurity=False).digest()
    return octets[:4] + authenticator + octets[HEADER:]


def encode_request(
    code: int, identifier: int, attributes: Iterable[Attribute], secret: bytes
) -> bytes:
    """Return a request whose authenticator is a digest: Disconnect, CoA, Accounting.

    RFC 2866, 3; RFC 5176, 2.3 and 3.4: both digests are taken over sixteen zero octets.
    """
    octets = _encode(code, identifier, _ZEROS, attributes, secret, True)
    authenticator = hashlib.md5(octets + secret, usedforsecurity=False).digest()
    return octets[:4] + authenticator + octets[HEADER:]


def encode_access(
    code: int,
    identifier: int,
    authenticator: bytes,
    attributes: Iterable[Attribute],
    secret: bytes,
) -> bytes:
    """Return a request with a random authenticator: Access-Request, Status-Server."""
    return _encode(code, identifier, authenticator, attributes, secret, True)


def _encode(
    code: int,
    identifier: int,
    authenticator: bytes,
    attributes: Iterable[Attribute],
    secret: bytes,
    is_signed: bool,
) -> bytes:
    pieces = [_UNSIGNED] if is_signed else []
    for kind, value in attributes:
        size = len(value)
        if size > LONGEST_VALUE:
            raise _too_long("attribute", f"attribute {kind} has {size} octets")
        pieces += (bytes((kind, size + 2)), value)
    body = b"".join(pieces)
    length = HEADER + len(body)
    if length > LONGEST:
        raise _too_long("packet", f"a packet of {length} octets")
    octets = _HEADER.pack(code, identifier, length, authenticator) + body
    if is_signed:
        at = HEADER + 2
        octets = octets[:at] + _hmac_md5(secret, octets) + octets[at + 16 :]
    return octets


# -- authenticity ------------------------------------------------------------------------------


def _hmac_md5(secret: bytes, message: bytes) -> bytes:
    """Return the HMAC of RFC 2104; a third of the time that OpenSSL takes to set one up."""
    inner, outer = _keyed(secret)
    inner, outer = inner.copy(), outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(maxsize=4_096)
def _keyed(secret: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return the inner and the outer digest of a secret, to be copied."""
    if len(secret) > _BLOCK:
        secret = hashlib.md5(secret, usedforsecurity=False).digest()
    key = secret.ljust(_BLOCK, b"\0")
    inner = hashlib.md5(key.translate(_INNER), usedforsecurity=False)
    return inner, hashlib.md5(key.translate(_OUTER), usedforsecurity=False)


def is_authentic(packet: Packet, secret: bytes, *, authenticator: bytes | None = None) -> bool:
    """Tell whether the Message-Authenticator is there and was made with ``secret``.

    ``authenticator`` is what stood in the header meanwhile, if not the packet's own: the
    request's for a reply, zeros for the requests of RFC 5176 and RFC 2866.
    """
    at, octets = packet.signature_at, packet.octets
    if not at:
        return False
    if authenticator is not None:
        octets = octets[:4] + authenticator + octets[HEADER:]
    signed = b"".join((octets[:at], _ZEROS, octets[at + 16 :]))
    return hmac.compare_digest(_hmac_md5(secret, signed), octets[at : at + 16])


def is_digested(packet: Packet, secret: bytes) -> bool:
    """Tell whether a request's authenticator is the digest it must be (RFC 2866, 3)."""
    wanted = hashlib.md5(
        packet.octets[:4] + _ZEROS + packet.octets[HEADER:] + secret, usedforsecurity=False
    ).digest()
    if not hmac.compare_digest(wanted, packet.authenticator):
        return False
    # A Message-Authenticator beside it must be right, too (RFC 5176, 3.4).
    return not packet.is_signed or is_authentic(packet, secret, authenticator=_ZEROS)


def is_reply(packet: Packet, request: bytes, secret: bytes) -> bool:
    """Tell whether ``packet`` answers the request that was sent as ``request``."""
    if packet.identifier != request[1]:
        return False
    sent = request[4:HEADER]
    wanted = hashlib.md5(
        packet.octets[:4] + sent + packet.octets[HEADER:] + secret, usedforsecurity=False
    ).digest()
    if not hmac.compare_digest(wanted, packet.authenticator):
        return False
    return not packet.is_signed or is_authentic(packet, secret, authenticator=sent)


# -- hidden values -----------------------------------------------------------------------------


def hide_password(password: bytes, authenticator: bytes, secret: bytes) -> bytes:
    """Return User-Password as it travels (RFC 2865, 5.2)."""
    padded = password + bytes(-len(password) % 16 if password else 16)
    return _chain(padded, secret, authenticator)


def reveal_password(hidden: bytes, authenticator: bytes, secret: bytes) -> bytes:
    """Return the password; Fault(MALFORMED) for a value of a forbidden length."""
    if len(hidden) % 16 or not 16 <= len(hidden) <= 128:
        raise _malformed("password", "User-Password is not 16, 32, … or 128 octets long")
    return _unchain(hidden, secret, authenticator).rstrip(b"\0")


def mppe_key(key: bytes, salt: int, authenticator: bytes, secret: bytes) -> bytes:
    """Return the value of MS-MPPE-Send-Key or -Recv-Key (RFC 2548, 2.4.2).

    ``salt`` is 15 random bits that no other attribute of the packet has; ``authenticator`` is
    the request's.
    """
    lead = (salt | 0x8000).to_bytes(2, "big")
    plain = bytes((len(key),)) + key
    return lead + _chain(plain + bytes(-len(plain) % 16), secret, authenticator + lead)


def reveal_mppe_key(value: bytes, authenticator: bytes, secret: bytes) -> bytes:
    """Return the key of such an attribute; Fault(MALFORMED)."""
    if len(value) < 18 or (len(value) - 2) % 16:
        raise _malformed("mppe", "a key attribute of a forbidden length")
    plain = _unchain(value[2:], secret, authenticator + value[:2])
    if plain[0] >= len(plain):
        raise _malformed("mppe", "a key that is longer than its attribute")
    return plain[1 : 1 + plain[0]]


def mppe_keys(msk: bytes, salt: int, authenticator: bytes, secret: bytes) -> list[Attribute]:
    """Return the two attributes that carry the first half of an MSK (RFC 3579, RFC 2548).

    ``salt`` is 14 random bits.
    """
    return [
        vendor_attribute(
            MICROSOFT, MS_MPPE_RECV_KEY, mppe_key(msk[:32], salt << 1, authenticator, secret)
        ),
        vendor_attribute(
            MICROSOFT, MS_MPPE_SEND_KEY, mppe_key(msk[32:64], salt << 1 | 1, authenticator, secret)
        ),
    ]


def _chain(plain: bytes, secret: bytes, begin: bytes) -> bytes:
    hidden = b""
    before = begin
    for at in range(0, len(plain), 16):
        before = _xor(plain[at : at + 16], secret, before)
        hidden += before
    return hidden


def _unchain(hidden: bytes, secret: bytes, begin: bytes) -> bytes:
    plain = b""
    before = begin
    for at in range(0, len(hidden), 16):
        block = hidden[at : at + 16]
        plain += _xor(block, secret, before)
        before = block
    return plain


def _xor(block: bytes, secret: bytes, before: bytes) -> bytes:
    mask = hashlib.md5(secret + before, usedforsecurity=False).digest()
    return (int.from_bytes(block, "big") ^ int.from_bytes(mask, "big")).to_bytes(16, "big")


def _malformed(rule: str, detail: str) -> Fault:
    return Fault(FaultCode.MALFORMED, detail, rule=f"radius.malformed.{rule}")


def _too_long(rule: str, what: str) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        f"{what} does not fit RADIUS: shorten what the policy answers",
        rule=f"radius.too-long.{rule}",
    )
