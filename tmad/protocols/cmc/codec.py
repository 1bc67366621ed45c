"""CMC messages: PKIData, PKIResponse, controls as bytes, and the failures (RFC 10002, 3, 4, 6.1).

Decoding reads structure only and keeps the received octets. What a control says is read by
:mod:`tmad.protocols.cmc.controls`, what is around a PKIData by :mod:`tmad.protocols.cmc.layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias, TypeVar

from tmad.errors import Fault, FaultCode, translate
from tmad.wire import crmf, der
from tmad.wire.crmf import CertRequest

# What a message holds at most (spec security 6.3): a registration authority's may be a batch.
ELEMENTS: Final = 1_500
BATCH_ELEMENTS: Final = 6_000
DEPTH: Final = 32

PKI_DATA: Final = der.oid("1.3.6.1.5.5.7.12.2")
PKI_RESPONSE: Final = der.oid("1.3.6.1.5.5.7.12.3")

T = TypeVar("T")

_ID_CMC: Final = "1.3.6.1.5.5.7.7."
_LARGEST_ID: Final = 2**32 - 1
THIS: Final = 0  # the bodyPartID of the PKIData itself


def _control(arc: int) -> bytes:
    return der.oid(f"{_ID_CMC}{arc}")


STATUS_INFO: Final = _control(1)
IDENTIFICATION: Final = _control(2)
IDENTITY_PROOF: Final = _control(3)
DATA_RETURN: Final = _control(4)
TRANSACTION_ID: Final = _control(5)
SENDER_NONCE: Final = _control(6)
RECIPIENT_NONCE: Final = _control(7)
ADD_EXTENSIONS: Final = _control(8)
ENCRYPTED_POP: Final = _control(9)
DECRYPTED_POP: Final = _control(10)
LRA_POP_WITNESS: Final = _control(11)
GET_CERT: Final = _control(15)
GET_CRL: Final = _control(16)
REVOKE_REQUEST: Final = _control(17)
REG_INFO: Final = _control(18)
QUERY_PENDING: Final = _control(21)
POP_LINK_RANDOM: Final = _control(22)
POP_LINK_WITNESS: Final = _control(23)
CONFIRM_CERT_ACCEPTANCE: Final = _control(24)
STATUS_INFO_V2: Final = _control(25)
TRUSTED_ANCHORS: Final = _control(26)
AUTH_DATA: Final = _control(27)
BATCH_REQUESTS: Final = _control(28)
BATCH_RESPONSES: Final = _control(29)
PUBLISH_CERT: Final = _control(30)
MOD_CERT_TEMPLATE: Final = _control(31)
CONTROL_PROCESSED: Final = _control(32)
POP_LINK_WITNESS_V2: Final = _control(33)
IDENTITY_PROOF_V2: Final = _control(34)
RA_IDENTITY_WITNESS: Final = _control(35)
CHANGE_SUBJECT_NAME: Final = _control(36)  # an attribute of requests


class Status(IntEnum):
    """CMCStatus (RFC 10002, 6.1.3)."""

    SUCCESS = 0
    FAILED = 2
    PENDING = 3
    NO_SUPPORT = 4
    CONFIRM_REQUIRED = 5
    POP_REQUIRED = 6
    PARTIAL = 7


class FailInfo(IntEnum):
    """CMCFailInfo (RFC 10002, 6.1.4)."""

    BAD_ALG = 0
    BAD_MESSAGE_CHECK = 1
    BAD_REQUEST = 2
    BAD_TIME = 3
    BAD_CERT_ID = 4
    UNSUPPORTED_EXT = 5
    MUST_ARCHIVE_KEYS = 6
    BAD_IDENTITY = 7
    POP_REQUIRED = 8
    POP_FAILED = 9
    NO_KEY_REUSE = 10
    INTERNAL_CA_ERROR = 11
    TRY_LATER = 12
    AUTH_DATA_FAIL = 13


FAULTS: Mapping[FaultCode, FailInfo] = {
    FaultCode.MALFORMED: FailInfo.BAD_REQUEST,
    FaultCode.UNSUPPORTED: FailInfo.BAD_REQUEST,
    FaultCode.BAD_ALGORITHM: FailInfo.BAD_ALG,
    FaultCode.BAD_INTEGRITY: FailInfo.BAD_MESSAGE_CHECK,
    FaultCode.BAD_TIME: FailInfo.BAD_TIME,
    FaultCode.BAD_PROOF: FailInfo.POP_FAILED,
    FaultCode.UNAUTHENTICATED: FailInfo.BAD_IDENTITY,
    FaultCode.FORBIDDEN: FailInfo.BAD_REQUEST,
    FaultCode.REJECTED: FailInfo.BAD_REQUEST,
    FaultCode.NOT_FOUND: FailInfo.BAD_CERT_ID,
    FaultCode.CONFLICT: FailInfo.BAD_REQUEST,
    FaultCode.RATE_LIMITED: FailInfo.TRY_LATER,
    FaultCode.UNAVAILABLE: FailInfo.TRY_LATER,
    FaultCode.INTERNAL: FailInfo.INTERNAL_CA_ERROR,
}

# Rules, ours and the core's, that CMC has a more telling value for (errors.translate).
FAULTS_BY_RULE: Mapping[str, FailInfo] = {
    "cmc.identity": FailInfo.BAD_IDENTITY,
    "cmc.pop": FailInfo.POP_FAILED,
    "cmc.pop.missing": FailInfo.POP_REQUIRED,
    "cmc.ra.control": FailInfo.BAD_IDENTITY,
    "cmc.ra.purpose": FailInfo.BAD_IDENTITY,
    "key.duplicate": FailInfo.NO_KEY_REUSE,
    "key.reused": FailInfo.NO_KEY_REUSE,
    "manufacturer": FailInfo.BAD_IDENTITY,
    "person": FailInfo.BAD_IDENTITY,
    "profile.extensions": FailInfo.UNSUPPORTED_EXT,
    "renewal.window": FailInfo.BAD_TIME,
    "renewal.names": FailInfo.BAD_IDENTITY,
    "request.absent": FailInfo.BAD_REQUEST,
    "revocation.signer-authority": FailInfo.BAD_IDENTITY,
    "secret": FailInfo.BAD_IDENTITY,
    "signer": FailInfo.BAD_IDENTITY,
    "wire.csr.signature": FailInfo.POP_FAILED,
}


def fail_info(fault: Fault) -> FailInfo:
    """Return the value that tells a Fault best."""
    return translate(fault, FAULTS, FAULTS_BY_RULE)


def bad_request(detail: str, rule: str, **values: str) -> Fault:
    """Return the Fault for a message that makes no sense here."""
    return Fault(FaultCode.UNSUPPORTED, detail, rule=rule, values=values)


# -- reading --------------------------------------------------------------------------------


class Control(NamedTuple):
    """A TaggedAttribute: its bodyPartID, its OID and its values, both DER."""

    id: int
    type: bytes
    values: tuple[bytes, ...]

    @property
    def value(self) -> bytes:
        """Return the only value as DER; Fault(MALFORMED)."""
        if len(self.values) != 1:
            raise der.malformed("a control does not have one value", "cmc.control")
        return self.values[0]


@dataclass(frozen=True, slots=True)
class PKCS10Request:
    """``tcr``: a PKCS#10; ``der`` is the whole TaggedRequest as received."""

    id: int
    der: bytes = field(repr=False)
    csr_der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CRMFRequest:
    """``crm``: a CertReqMsg, whose certReqId is its bodyPartID."""

    id: int
    der: bytes = field(repr=False)
    message: CertRequest


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """``orm``: what neither of the others can express, and nothing here knows."""

    id: int
    type: bytes


TaggedRequest: TypeAlias = PKCS10Request | CRMFRequest | OtherRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PKIData:
    """A PKIData; nothing in it is believed yet.

    ``requests_der`` is reqSequence as received: what an identity proof covers. ``messages`` are
    the ContentInfos of cmsSequence by their bodyPartIDs.
    """

    controls: tuple[Control, ...]
    requests: tuple[TaggedRequest, ...]
    requests_der: bytes = field(repr=False)
    messages: Mapping[int, bytes] = field(repr=False)
    others: tuple[int, ...]

    def of_type(self, oid: bytes) -> tuple[Control, ...]:
        """Return the controls of one type."""
        return tuple([control for control in self.controls if control.type == oid])

    def only(self, oid: bytes) -> Control | None:
        """Return the control of a type that occurs once at most; Fault(UNSUPPORTED)."""
        found = self.of_type(oid)
        if len(found) > 1:
            raise bad_request(
                "a control occurs twice", "cmc.control.twice", control=der.dotted(oid)
            )
        return found[0] if found else None


def decode(octets: bytes, *, elements: int = ELEMENTS) -> PKIData:
    """Read a PKIData; Fault(MALFORMED), also for bodyPartIDs that are not unique."""
    der.scan(octets, elements=elements, depth=DEPTH)
    reader = der.read(octets, der.SEQUENCE)
    controls = _sequence(reader, read_control)
    requests_der = reader.raw(der.SEQUENCE)
    inside = der.read(requests_der, der.SEQUENCE)
    requests = tuple([_read_request(inside.raw()) for _ in inside.each()])
    messages = _sequence(reader, _read_message)
    others = _sequence(reader, _read_other)
    reader.finish()
    _check_ids(
        [
            *(control.id for control in controls),
            *(request.id for request in requests),
            *(number for number, _ in messages),
            *others,
        ]
    )
    return PKIData(
        controls=controls,
        requests=requests,
        requests_der=requests_der,
        messages=dict(messages),
        others=others,
    )


def _sequence(reader: der.Reader, read: Callable[[der.Reader], T]) -> tuple[T, ...]:
    inside = reader.enter(der.SEQUENCE)
    return tuple([read(inside.enter(der.SEQUENCE)) for _ in inside.each()])


def _check_ids(ids: Sequence[int]) -> None:
    if len(set(ids)) < len(ids):
        # RFC 10002, 3.2.2: two readers could mean different parts by the same number.
        raise der.malformed("a bodyPartID is used twice", "cmc.body-part")
    if THIS in ids:
        raise der.malformed("the bodyPartID 0 means the PKIData itself", "cmc.body-part")


def read_id(reader: der.Reader) -> int:
    """Read a BodyPartID from where the reader stands."""
    number = reader.integer()
    if not 0 <= number <= _LARGEST_ID:
        raise der.malformed("a bodyPartID has 32 bits", "cmc.body-part")
    return number


def read_control(reader: der.Reader) -> Control:
    """Read the content of a TaggedAttribute."""
    number, oid = read_id(reader), reader.raw(der.OBJECT_IDENTIFIER)
    values = reader.enter(der.SET)
    reader.finish()
    return Control(number, oid, tuple([values.raw() for _ in values.each()]))


def _read_message(reader: der.Reader) -> tuple[int, bytes]:
    number, content_info = read_id(reader), reader.raw(der.SEQUENCE)
    reader.finish()
    return number, content_info


def _read_other(reader: der.Reader) -> int:
    number = read_id(reader)
    reader.raw(der.OBJECT_IDENTIFIER)
    reader.raw()
    reader.finish()
    return number


def _read_request(tagged: bytes) -> TaggedRequest:
    tag = tagged[0]
    reader = der.read(tagged, tag)
    if tag == 0xA0:
        number, csr_der = read_id(reader), reader.raw(der.SEQUENCE)
        reader.finish()
        return PKCS10Request(number, tagged, csr_der)
    if tag == 0xA1:
        # The tag is IMPLICIT: outside the CHOICE a CertReqMsg is a SEQUENCE.
        message = crmf.decode(der.Reader(der.sequence(der.sequence(reader.rest()))))[0]
        if not 0 <= message.id <= _LARGEST_ID:
            raise der.malformed("a bodyPartID has 32 bits", "cmc.body-part")
        return CRMFRequest(message.id, tagged, message)
    if tag != 0xA2:
        raise der.malformed("a request is none of tcr, crm and orm", "cmc.request")
    number, oid = read_id(reader), reader.raw(der.OBJECT_IDENTIFIER)
    reader.raw()
    reader.finish()
    return OtherRequest(number, oid)


# -- writing --------------------------------------------------------------------------------

Path: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInfo:
    """What a CMCStatusInfoV2 says about some body parts, each by its path (RFC 10002, 6.1.1)."""

    status: Status
    parts: tuple[Path, ...]
    text: str = ""
    fail_info: FailInfo | None = None
    token: bytes = field(default=b"", repr=False)
    again_at: datetime | None = None

    def encode(self) -> bytes:
        """Return CMCStatusInfoV2."""
        return self._encode([_reference(part) for part in self.parts])

    def encode_old(self) -> bytes:
        """Return CMCStatusInfo, which knows no paths: the part in the outermost layer is named."""
        return self._encode([der.integer(part[0]) for part in self.parts])

    def _encode(self, parts: Iterable[bytes]) -> bytes:
        pieces = [der.integer(self.status), der.sequence(*parts)]
        if self.text:
            pieces.append(der.tlv(der.UTF8_STRING, self.text[:500].encode()))
        if self.fail_info is not None:
            pieces.append(der.integer(self.fail_info))
        elif self.again_at is not None:
            pieces.append(der.sequence(der.octets(self.token), generalized_time(self.again_at)))
        return der.sequence(*pieces)


def _reference(path: Path) -> bytes:
    numbers = [der.integer(number) for number in path]
    return numbers[0] if len(numbers) == 1 else der.sequence(*numbers)


def generalized_time(at: datetime) -> bytes:
    """Return a GeneralizedTime, in whole seconds."""
    return der.tlv(der.GENERALIZED_TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())


def pki_response(
    controls: Sequence[tuple[bytes, bytes]], messages: Sequence[tuple[int, bytes]] = ()
) -> bytes:
    """Return a PKIResponse; ``controls`` are pairs of an OID and one value, both DER.

    ``messages`` are numbered ContentInfos, to which controls refer.
    """
    return der.sequence(*_bodies(controls, messages), der.sequence())


def pki_data(controls: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PKIData of controls alone, as an Authenticated Data control refers to."""
    tagged, messages = _bodies(controls, ())
    return der.sequence(tagged, der.sequence(), messages, der.sequence())


def _bodies(
    controls: Sequence[tuple[bytes, bytes]], messages: Sequence[tuple[int, bytes]]
) -> tuple[bytes, bytes]:
    taken = {number for number, _ in messages}
    free = (number for number in range(1, _LARGEST_ID) if number not in taken)
    tagged = [
        der.sequence(der.integer(number), oid, der.tlv(der.SET, value))
        for number, (oid, value) in zip(free, controls, strict=False)
    ]
    wrapped = [der.sequence(der.integer(number), message) for number, message in messages]
    return der.sequence(*tagged), der.sequence(*wrapped)
