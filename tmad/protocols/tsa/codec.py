"""Time-stamp requests read strictly, tokens and answers written.

RFC 3161 (TSP), RFC 5816 (ESSCertIDv2), RFC 5035 (the signing-certificate attribute).
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)

from tmad.errors import Fault, FaultCode
from tmad.wire import cms, der
from tmad.wire.cms import IssuerAndSerial
from tmad.wire.signatures import Digest, fitting_digest

QUERY_TYPE = "application/timestamp-query"
REPLY_TYPE = "application/timestamp-reply"

LONGEST_REQUEST = 8192  # octets
SERIAL_OCTETS = 20  # RFC 3161, 2.4.2: clients take up to 160 bits
_MOST_ELEMENTS = 200
_DEEPEST = 16
_LONGEST_OID = 64  # octets
_LONGEST_NONCE = 64  # octets
_TRUE_DER = b"\x01\x01\xff"
_FALSE_DER = b"\x01\x01\x00"

TST_INFO = der.oid("1.2.840.113549.1.9.16.1.4")  # id-ct-TSTInfo
SIGNING_CERTIFICATE_V2 = der.oid("1.2.840.113549.1.9.16.2.47")


class Hash(NamedTuple):
    """A digest that an imprint may be made with."""

    name: str
    octets: int


# SHA-1 stands here to be named in a refusal, or allowed by who must.
HASHES: Mapping[bytes, Hash] = {
    der.oid("1.3.14.3.2.26"): Hash("sha1", 20),
    der.oid("2.16.840.1.101.3.4.2.1"): Hash("sha256", 32),
    der.oid("2.16.840.1.101.3.4.2.2"): Hash("sha384", 48),
    der.oid("2.16.840.1.101.3.4.2.3"): Hash("sha512", 64),
    der.oid("2.16.840.1.101.3.4.2.8"): Hash("sha3-256", 32),
    der.oid("2.16.840.1.101.3.4.2.9"): Hash("sha3-384", 48),
    der.oid("2.16.840.1.101.3.4.2.10"): Hash("sha3-512", 64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStampReq:
    """What a client asks; whether it gets it is for the responder to say.

    ``imprint_der`` and ``nonce_der`` are repeated in the token, octet by octet. ``hash`` is
    None for one that is not known here; its ``algorithm`` says which.
    """

    imprint_der: bytes
    algorithm: str
    hash: Hash | None
    digest: bytes
    policy_der: bytes | None
    nonce_der: bytes | None
    wants_certificate: bool
    has_extensions: bool


def decode(data: bytes) -> TimeStampReq:
    """Read a TimeStampReq (RFC 3161, 2.4.1)."""
    if len(data) > LONGEST_REQUEST:
        raise _malformed("the request is too long")
    der.scan(data, elements=_MOST_ELEMENTS, depth=_DEEPEST)
    reader = der.read(data, der.SEQUENCE)
    if reader.raw(der.INTEGER) != b"\x02\x01\x01":
        raise _malformed("the version is not 1")
    imprint_der = reader.raw(der.SEQUENCE)
    algorithm_der, digest = _imprint(imprint_der)
    policy_der = nonce_der = None
    if reader.peek() == der.OBJECT_IDENTIFIER:
        policy_der = _oid(reader)
    if reader.peek() == der.INTEGER:
        nonce_der = reader.raw()
        _check_nonce(der.content(nonce_der, der.INTEGER))
    wants_certificate = False
    if reader.peek() == der.BOOLEAN:
        # Some write out the default, which DER forbids; nobody can take it for anything else.
        wants_certificate = _boolean(reader)
    has_extensions = reader.peek() == 0xA0
    if has_extensions:
        _check_extensions(reader.enter(0xA0))
    reader.finish()
    return TimeStampReq(
        imprint_der=imprint_der,
        algorithm=der.dotted(algorithm_der),
        hash=HASHES.get(algorithm_der),
        digest=digest,
        policy_der=policy_der,
        nonce_der=nonce_der,
        wants_certificate=wants_certificate,
        has_extensions=has_extensions,
    )


def _imprint(imprint_der: bytes) -> tuple[bytes, bytes]:
    reader = der.read(imprint_der, der.SEQUENCE)
    algorithm = reader.enter(der.SEQUENCE)
    oid = _oid(algorithm)
    if oid in HASHES:
        # RFC 5754, 2: absent, or NULL.
        if algorithm.rest() not in (b"", der.NULL_DER):
            raise _malformed("a hash algorithm has parameters")
    elif algorithm.peek() >= 0:
        algorithm.raw()
        algorithm.finish()
    digest = reader.content(der.OCTET_STRING)
    reader.finish()
    known = HASHES.get(oid)
    if known is not None and len(digest) != known.octets:
        raise _malformed(f"a {known.name} hash has {known.octets} octets, not {len(digest)}")
    return oid, digest


def _oid(reader: der.Reader) -> bytes:
    found = reader.raw(der.OBJECT_IDENTIFIER)
    body = der.content(found, der.OBJECT_IDENTIFIER)
    if not body or len(body) > _LONGEST_OID or body[-1] & 0x80:
        raise _malformed("an object identifier is empty, too long or cut off")
    # X.690, 8.19.2: an arc does not begin with a septet of zeros.
    if body[0] == 0x80 or any(
        before < 0x80 and octet == 0x80 for before, octet in itertools.pairwise(body)
    ):
        raise _malformed("an object identifier is padded")
    return found


def _check_nonce(content: bytes) -> None:
    if not 1 <= len(content) <= _LONGEST_NONCE:
        raise _malformed(f"a nonce has 1 to {_LONGEST_NONCE} octets")
    if len(content) > 1 and (
        (content[0] == 0 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)
    ):
        raise _malformed("the nonce is padded")


def _boolean(reader: der.Reader) -> bool:
    found = reader.raw(der.BOOLEAN)
    if found not in (_TRUE_DER, _FALSE_DER):
        raise _malformed("certReq is neither true nor false")
    return found == _TRUE_DER


def _check_extensions(extensions: der.Reader) -> None:
    if extensions.peek() < 0:
        raise _malformed("the extensions are empty")
    for _ in extensions.each():
        extension = extensions.enter(der.SEQUENCE)
        _oid(extension)
        if extension.peek() == der.BOOLEAN:
            _boolean(extension)
        extension.content(der.OCTET_STRING)
        extension.finish()


def _malformed(detail: str) -> Fault:
    return der.malformed(detail, "tsa.request")


# -- tokens -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signs, with all of it that can be encoded in advance."""

    certificate_der: bytes
    digest: Digest
    attribute_der: bytes  # SigningCertificateV2
    name_der: bytes  # TSTInfo's tsa field, or nothing
    certificates: tuple[bytes, ...]  # for clients that ask: the signer's first


def signer(
    certificate_der: bytes,
    public_key: CertificatePublicKeyTypes,
    *,
    certificates: Sequence[bytes],
    is_named: bool,
) -> Signer:
    """Prepare tokens by the holder of a certificate."""
    identifier = IssuerAndSerial.of(certificate_der)
    # RFC 5035, 4: SHA-256 is the default and stays away; the issuer is a GeneralNames.
    issuer_serial = der.sequence(
        der.sequence(der.explicit(4, identifier.issuer)), der.integer(identifier.serial)
    )
    fingerprint = hashlib.sha256(certificate_der).digest()
    certificate_id = der.sequence(der.octets(fingerprint), issuer_serial)
    name = der.explicit(0, der.explicit(4, cms.subject_of(certificate_der)))
    return Signer(
        certificate_der=certificate_der,
        digest=fitting_digest(public_key),
        attribute_der=der.sequence(der.sequence(certificate_id)),
        name_der=name if is_named else b"",
        certificates=tuple(certificates),
    )


def generalized_time(instant: datetime, digits: int) -> bytes:
    """Return an instant, UTC, cut after ``digits`` digits of a second (RFC 3161, 2.4.2).

    A fraction ends with no zero, and there is no point without one.
    """
    text = instant.strftime("%Y%m%d%H%M%S")
    fraction = f"{instant.microsecond:06}"[:digits].rstrip("0")
    if fraction:
        text += f".{fraction}"
    return der.tlv(der.GENERALIZED_TIME, f"{text}Z".encode())


def accuracy(milliseconds: int) -> bytes:
    """Return an Accuracy; a part that is zero stays away."""
    seconds, millis = divmod(milliseconds, 1000)
    return der.sequence(
        der.integer(seconds) if seconds else b"",
        der.tlv(0x80, der.content(der.integer(millis), der.INTEGER)) if millis else b"",
    )


def tst_info(
    request: TimeStampReq,
    *,
    policy_der: bytes,
    serial: int,
    time_der: bytes,
    accuracy_der: bytes,
    name_der: bytes,
) -> bytes:
    """Return a TSTInfo (RFC 3161, 2.4.2).

    ``ordering`` stays at its default, FALSE: several workers and nodes may answer for one
    authority, and none of them knows what the others have signed in the same instant.
    """
    return der.sequence(
        b"\x02\x01\x01",
        policy_der,
        request.imprint_der,
        der.integer(serial),
        time_der,
        accuracy_der,
        request.nonce_der or b"",
        name_der,
    )


def sign(key: PrivateKeyTypes, who: Signer, content: bytes, *, wants_certificate: bool) -> bytes:
    """Return a TimeStampToken around a TSTInfo; no certificates unless they are asked for."""
    return cms.sign(
        key,
        who.certificate_der,
        content,
        digest=who.digest,
        attributes=[(SIGNING_CERTIFICATE_V2, who.attribute_der)],
        certificates=who.certificates if wants_certificate else (),
        content_type=TST_INFO,
    )


# -- answers ----------------------------------------------------------------------------------


class FailInfo(enum.IntEnum):
    """PKIFailureInfo: the number of the bit (RFC 3161, 2.4.2)."""

    BAD_ALG = 0
    BAD_REQUEST = 2
    BAD_DATA_FORMAT = 5
    TIME_NOT_AVAILABLE = 14
    UNACCEPTED_POLICY = 15
    UNACCEPTED_EXTENSION = 16
    ADD_INFO_NOT_AVAILABLE = 17
    SYSTEM_FAILURE = 25


# What the core itself refuses (a signer that cannot be certified) never gets here as REJECTED.
FAULTS: Mapping[FaultCode, FailInfo] = {
    FaultCode.MALFORMED: FailInfo.BAD_DATA_FORMAT,
    FaultCode.UNSUPPORTED: FailInfo.UNACCEPTED_EXTENSION,
    FaultCode.BAD_ALGORITHM: FailInfo.BAD_ALG,
    FaultCode.BAD_INTEGRITY: FailInfo.BAD_REQUEST,
    FaultCode.BAD_TIME: FailInfo.TIME_NOT_AVAILABLE,
    FaultCode.BAD_PROOF: FailInfo.BAD_REQUEST,
    FaultCode.UNAUTHENTICATED: FailInfo.BAD_REQUEST,
    FaultCode.FORBIDDEN: FailInfo.BAD_REQUEST,
    FaultCode.REJECTED: FailInfo.UNACCEPTED_POLICY,
    FaultCode.NOT_FOUND: FailInfo.SYSTEM_FAILURE,  # a key, for one: nothing that was asked for
    FaultCode.CONFLICT: FailInfo.SYSTEM_FAILURE,
    FaultCode.RATE_LIMITED: FailInfo.SYSTEM_FAILURE,
    FaultCode.UNAVAILABLE: FailInfo.SYSTEM_FAILURE,
    FaultCode.INTERNAL: FailInfo.SYSTEM_FAILURE,
}


def granted(token_der: bytes) -> bytes:
    """Return a TimeStampResp that grants."""
    return der.sequence(der.sequence(b"\x02\x01\x00"), token_der)


def rejection(failure: FailInfo, text: str) -> bytes:
    """Return a TimeStampResp that says why there is no token."""
    octets, bit = divmod(failure, 8)
    # A named BIT STRING ends with its last one (X.690, 11.2.2).
    bits = bytes((7 - bit,)) + bytes(octets) + bytes((0x80 >> bit,))
    return der.sequence(
        der.sequence(
            b"\x02\x01\x02",
            der.sequence(der.tlv(der.UTF8_STRING, text.encode())),
            der.tlv(der.BIT_STRING, bits),
        )
    )
