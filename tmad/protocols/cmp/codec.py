"""CMP messages: header, body, protection as bytes, and the failures (RFC 9810, 5.1; RFC 9483, 3).

Decoding reads structure only; ``protected`` is exactly what was received. Bodies are read by
:mod:`tmad.protocols.cmp.bodies`, protection is checked by :mod:`tmad.protocols.cmp.protection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, NamedTuple

from tmad.errors import Fault, FaultCode, translate
from tmad.wire import der
from tmad.wire.signatures import Algorithm

# What a message of a stranger may hold at most (spec security 6.3).
ELEMENTS: Final = 1_500
DEPTH: Final = 32

VERSIONS: Final = (2, 3)  # pvno: cmp2000, cmp2021


class Body(IntEnum):
    """The alternatives of PKIBody (RFC 9810, 5.1.2)."""

    IR = 0
    IP = 1
    CR = 2
    CP = 3
    P10CR = 4
    POPDECC = 5
    POPDECR = 6
    KUR = 7
    KUP = 8
    KRR = 9
    KRP = 10
    RR = 11
    RP = 12
    CCR = 13
    CCP = 14
    CKUANN = 15
    CANN = 16
    RANN = 17
    CRLANN = 18
    PKICONF = 19
    NESTED = 20
    GENM = 21
    GENP = 22
    ERROR = 23
    CERT_CONF = 24
    POLL_REQ = 25
    POLL_REP = 26


class Status(IntEnum):
    """PKIStatus, as far as it is sent or understood (RFC 9810, 5.2.3)."""

    ACCEPTED = 0
    GRANTED_WITH_MODS = 1
    REJECTION = 2
    WAITING = 3


class FailInfo(IntEnum):
    """The bits of PKIFailureInfo (RFC 9810, 5.2.3)."""

    BAD_ALG = 0
    BAD_MESSAGE_CHECK = 1
    BAD_REQUEST = 2
    BAD_TIME = 3
    BAD_CERT_ID = 4
    BAD_DATA_FORMAT = 5
    WRONG_AUTHORITY = 6
    INCORRECT_DATA = 7
    MISSING_TIME_STAMP = 8
    BAD_POP = 9
    CERT_REVOKED = 10
    CERT_CONFIRMED = 11
    WRONG_INTEGRITY = 12
    BAD_RECIPIENT_NONCE = 13
    TIME_NOT_AVAILABLE = 14
    UNACCEPTED_POLICY = 15
    UNACCEPTED_EXTENSION = 16
    ADD_INFO_NOT_AVAILABLE = 17
    BAD_SENDER_NONCE = 18
    BAD_CERT_TEMPLATE = 19
    SIGNER_NOT_TRUSTED = 20
    TRANSACTION_ID_IN_USE = 21
    UNSUPPORTED_VERSION = 22
    NOT_AUTHORIZED = 23
    SYSTEM_UNAVAIL = 24
    SYSTEM_FAILURE = 25
    DUPLICATE_CERT_REQ = 26


FAULTS: Mapping[FaultCode, FailInfo] = {
    FaultCode.MALFORMED: FailInfo.BAD_DATA_FORMAT,
    FaultCode.UNSUPPORTED: FailInfo.BAD_REQUEST,
    FaultCode.BAD_ALGORITHM: FailInfo.BAD_ALG,
    FaultCode.BAD_INTEGRITY: FailInfo.BAD_MESSAGE_CHECK,
    FaultCode.BAD_TIME: FailInfo.BAD_TIME,
    FaultCode.BAD_PROOF: FailInfo.BAD_POP,
    FaultCode.UNAUTHENTICATED: FailInfo.NOT_AUTHORIZED,
    FaultCode.FORBIDDEN: FailInfo.NOT_AUTHORIZED,
    FaultCode.REJECTED: FailInfo.BAD_CERT_TEMPLATE,
    FaultCode.NOT_FOUND: FailInfo.BAD_REQUEST,
    FaultCode.CONFLICT: FailInfo.DUPLICATE_CERT_REQ,
    FaultCode.RATE_LIMITED: FailInfo.SYSTEM_UNAVAIL,
    FaultCode.UNAVAILABLE: FailInfo.SYSTEM_UNAVAIL,
    FaultCode.INTERNAL: FailInfo.SYSTEM_FAILURE,
}

# Rules, ours and the core's, that CMP has a more telling bit for (errors.translate).
FAULTS_BY_RULE: Mapping[str, FailInfo] = {
    "cmp.body": FailInfo.BAD_REQUEST,
    "cmp.confirm.certificate": FailInfo.BAD_CERT_ID,
    "cmp.confirm.done": FailInfo.CERT_CONFIRMED,
    "cmp.nonce.recipient": FailInfo.BAD_RECIPIENT_NONCE,
    "cmp.nonce.sender": FailInfo.BAD_SENDER_NONCE,
    "cmp.poll": FailInfo.BAD_REQUEST,
    "cmp.protection.kind": FailInfo.WRONG_INTEGRITY,
    "cmp.protection.other": FailInfo.WRONG_AUTHORITY,
    "cmp.revocation.certificate": FailInfo.BAD_CERT_ID,
    "cmp.revocation.done": FailInfo.CERT_REVOKED,
    "cmp.revocation.information": FailInfo.ADD_INFO_NOT_AVAILABLE,
    "cmp.revocation.reason": FailInfo.BAD_DATA_FORMAT,
    "cmp.revocation.several": FailInfo.BAD_REQUEST,
    "cmp.template.issuer": FailInfo.BAD_CERT_TEMPLATE,
    "cmp.transaction.in-use": FailInfo.TRANSACTION_ID_IN_USE,
    "cmp.update.certificate": FailInfo.BAD_CERT_ID,
    "cmp.version": FailInfo.UNSUPPORTED_VERSION,
    "manufacturer": FailInfo.SIGNER_NOT_TRUSTED,
    "profile.extensions": FailInfo.UNACCEPTED_EXTENSION,
    "renewal.authority": FailInfo.NOT_AUTHORIZED,
    "renewal.expired": FailInfo.SIGNER_NOT_TRUSTED,
    "renewal.foreign": FailInfo.SIGNER_NOT_TRUSTED,
    "renewal.revoked": FailInfo.CERT_REVOKED,
    "renewal.self-signed": FailInfo.SIGNER_NOT_TRUSTED,
    "renewal.window": FailInfo.BAD_TIME,
    "request.denied": FailInfo.NOT_AUTHORIZED,
    "request.duplicate": FailInfo.DUPLICATE_CERT_REQ,
    "revocation.certificate": FailInfo.BAD_CERT_ID,
    "revocation.final": FailInfo.CERT_REVOKED,
    "revocation.not-yours": FailInfo.BAD_CERT_ID,
    "revocation.signer-authority": FailInfo.SIGNER_NOT_TRUSTED,
    "revocation.signer-foreign": FailInfo.SIGNER_NOT_TRUSTED,
    "revocation.signer-status": FailInfo.CERT_REVOKED,
    "revocation.reason": FailInfo.BAD_DATA_FORMAT,
    "secret": FailInfo.BAD_MESSAGE_CHECK,
    "signer.key": FailInfo.SIGNER_NOT_TRUSTED,
    "signer.key-usage": FailInfo.SIGNER_NOT_TRUSTED,
}


def fail_info(fault: Fault) -> FailInfo:
    """Return the bit that tells a Fault best."""
    return translate(fault, FAULTS, FAULTS_BY_RULE)


def bad_request(detail: str, rule: str = "cmp.body", **values: str) -> Fault:
    """Return the Fault for a message that makes no sense here."""
    return Fault(FaultCode.UNSUPPORTED, detail, rule=rule, values=values)


# -- reading --------------------------------------------------------------------------------


class Info(NamedTuple):
    """An InfoTypeAndValue; the OID as DER, the value as DER or None."""

    type: bytes
    value: bytes | None = None

    def encode(self) -> bytes:
        """Return it as DER."""
        return der.sequence(self.type, self.value or b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A PKIHeader; names are GeneralNames as DER."""

    version: int
    sender: bytes
    recipient: bytes
    time: datetime | None = None
    protection: Algorithm | None = None
    sender_kid: bytes | None = None
    transaction: bytes | None = None
    sender_nonce: bytes | None = None
    recipient_nonce: bytes | None = None
    info: tuple[Info, ...] = ()

    def value_of(self, oid: bytes) -> Info | None:
        """Return the first piece of generalInfo of one type."""
        return next((info for info in self.info if info.type == oid), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A PKIMessage as received; nothing is believed yet.

    ``content`` is what stands inside the body's tag, ``protected`` what the protection covers,
    ``extra`` the certificates that came along, which nobody vouches for.
    """

    der: bytes = field(repr=False)
    header: Header
    body: int
    content: bytes = field(repr=False)
    protected: bytes = field(repr=False)
    protection: bytes | None = field(repr=False)
    extra: tuple[bytes, ...] = field(repr=False)

    @property
    def transaction(self) -> bytes:
        """Return the transactionID; b"" where there is none."""
        return self.header.transaction or b""


def decode(octets: bytes, *, elements: int = ELEMENTS) -> Message:
    """Read a message as far as an answer needs it; Fault(MALFORMED) for what is none."""
    der.scan(octets, elements=elements, depth=DEPTH)
    reader = der.read(octets, der.SEQUENCE)
    header_der = reader.raw(der.SEQUENCE)
    body_der = reader.raw()
    number = body_der[0] - 0xA0
    if not 0 <= number <= 30:
        raise der.malformed("the body has a wrong tag", "cmp.message")
    protection = None
    if reader.peek() == 0xA0:
        bits = _only(reader.enter(0xA0), der.BIT_STRING)
        if bits[:1] != b"\0":
            raise der.malformed("the protection is not whole octets", "cmp.message")
        protection = bits[1:]
    extra: tuple[bytes, ...] = ()
    if reader.peek() == 0xA1:
        outer = reader.enter(0xA1)
        certificates = outer.enter(der.SEQUENCE)
        outer.finish()
        extra = tuple([certificates.raw() for _ in certificates.each()])
    reader.finish()
    return Message(
        der=octets,
        header=_read_header(der.read(header_der, der.SEQUENCE)),
        body=number,
        content=der.content(body_der, body_der[0]),
        protected=der.sequence(header_der, body_der),
        protection=protection,
        extra=extra,
    )


def _only(reader: der.Reader, tag: int) -> bytes:
    content = reader.content(tag)
    reader.finish()
    return content


def _read_header(reader: der.Reader) -> Header:
    version = reader.integer()
    sender, recipient = reader.raw(), reader.raw()
    fields: dict[int, der.Reader] = {}
    last = -1
    for tag in reader.each():
        number = tag - 0xA0
        if not last < number <= 8:
            raise der.malformed("a field of the header is out of place", "cmp.header")
        fields[number] = reader.enter(tag)
        last = number
    time = algorithm = None
    if 0 in fields:
        time = der.instant(fields[0].raw(der.GENERALIZED_TIME))
        fields[0].finish()
    if 1 in fields:
        algorithm = Algorithm.read(fields[1])
        fields[1].finish()
    return Header(
        version=version,
        sender=sender,
        recipient=recipient,
        time=time,
        protection=algorithm,
        sender_kid=_octets(fields.get(2)),
        transaction=_octets(fields.get(4)),
        sender_nonce=_octets(fields.get(5)),
        recipient_nonce=_octets(fields.get(6)),
        info=_read_infos(fields[8]) if 8 in fields else (),
    )


def _octets(reader: der.Reader | None) -> bytes | None:
    return None if reader is None else _only(reader, der.OCTET_STRING)


def _read_infos(reader: der.Reader) -> tuple[Info, ...]:
    inside = reader.enter(der.SEQUENCE)
    reader.finish()
    return read_infos(inside)


def read_infos(reader: der.Reader) -> tuple[Info, ...]:
    """Read the InfoTypeAndValues that are left in ``reader``."""
    infos = []
    for _ in reader.each():
        info = reader.enter(der.SEQUENCE)
        oid = info.raw(der.OBJECT_IDENTIFIER)
        infos.append(Info(oid, info.raw() if info.peek() >= 0 else None))
        info.finish()
    return tuple(infos)


# -- writing --------------------------------------------------------------------------------


def encode_header(header: Header) -> bytes:
    """Return a PKIHeader as DER."""
    parts = [der.integer(header.version), header.sender, header.recipient]
    if header.time is not None:
        text = header.time.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode()
        parts.append(der.explicit(0, der.tlv(der.GENERALIZED_TIME, text)))
    if header.protection is not None:
        parts.append(der.explicit(1, header.protection.encode()))
    for number, octets in (
        (2, header.sender_kid),
        (4, header.transaction),
        (5, header.sender_nonce),
        (6, header.recipient_nonce),
    ):
        if octets is not None:
            parts.append(der.explicit(number, der.octets(octets)))
    if header.info:
        infos = der.sequence(*[info.encode() for info in header.info])
        parts.append(der.explicit(8, infos))
    return der.sequence(*parts)


def encode(
    header_der: bytes, body_der: bytes, protection: bytes | None, extra: Sequence[bytes] = ()
) -> bytes:
    """Return a PKIMessage of encoded parts."""
    parts = [header_der, body_der]
    if protection is not None:
        parts.append(der.explicit(0, der.tlv(der.BIT_STRING, b"\0", protection)))
    if extra:
        parts.append(der.explicit(1, der.sequence(*extra)))
    return der.sequence(*parts)


def body(number: Body, content: bytes) -> bytes:
    """Return one alternative of PKIBody around its encoded content."""
    return der.explicit(number, content)


def free_text(texts: Iterable[str]) -> bytes:
    """Return a PKIFreeText."""
    return der.sequence(*[der.tlv(der.UTF8_STRING, text.encode()) for text in texts])
