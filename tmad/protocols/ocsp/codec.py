"""OCSP messages: requests read strictly, answers spliced from encoded pieces.

RFC 6960 (OCSP), RFC 9919 (lightweight profile), RFC 9654 (nonce).
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from tmad.ca import signature
from tmad.ca.scheme import SignatureScheme
from tmad.errors import Fault, FaultCode
from tmad.wire import der

CONTENT_TYPE = "application/ocsp-response"

LONGEST_REQUEST = 8192  # octets
MOST_ENTRIES = 100  # CertIDs in one message
_MOST_EXTENSIONS = 32
_LONGEST_NONCE = 128  # RFC 9654, 2.1

_NONCE = der.oid("1.3.6.1.5.5.7.48.1.2")
_ACCEPTABLE_RESPONSES = der.oid("1.3.6.1.5.5.7.48.1.4")
_SERVICE_LOCATOR = der.oid("1.3.6.1.5.5.7.48.1.7")
_PREFERRED_ALGORITHMS = der.oid("1.3.6.1.5.5.7.48.1.8")
_BASIC = der.oid("1.3.6.1.5.5.7.48.1.1")
_ARCHIVE_CUTOFF = der.oid("1.3.6.1.5.5.7.48.1.6")
_EXTENDED_REVOKE = der.oid("1.3.6.1.5.5.7.48.1.9")
_TRUE_DER = b"\x01\x01\xff"

# AlgorithmIdentifiers of CertID hashes, with and without the NULL parameters (RFC 5754, 2).
_HASHES = {
    prefix + oid + parameters: name
    for name, oid in (
        ("sha1", der.oid("1.3.14.3.2.26")),
        ("sha256", der.oid("2.16.840.1.101.3.4.2.1")),
        ("sha384", der.oid("2.16.840.1.101.3.4.2.2")),
        ("sha512", der.oid("2.16.840.1.101.3.4.2.3")),
    )
    for prefix, parameters in (
        (bytes((der.SEQUENCE, len(oid) + 2)), der.NULL_DER),
        (bytes((der.SEQUENCE, len(oid))), b""),
    )
}
HASHES = ("sha1", "sha256", "sha384", "sha512")


class CertID(NamedTuple):
    """Which certificate is asked about; ``der`` is repeated in the answer, octet by octet."""

    der: bytes
    hash: str | None  # "sha1" | "sha256" | "sha384" | "sha512"; None: one that we do not know
    issuer: bytes  # the name's hash, then the key's
    serial: int


class OCSPRequest(NamedTuple):
    """What a client asks.

    ``nonce`` is the value of the nonce extension as received. ``preferred`` are the
    AlgorithmIdentifiers that the client would like the answer to be signed with.
    """

    cert_ids: tuple[CertID, ...]
    nonce: bytes | None = None
    preferred: tuple[bytes, ...] = ()


def decode(data: bytes) -> OCSPRequest:
    """Read an OCSPRequest; requestorName and signature are skipped (RFC 6960, 4.1.2)."""
    if len(data) > LONGEST_REQUEST:
        raise _malformed("the request is too long")
    body, end = _element(data, 0, len(data), der.SEQUENCE)
    if end != len(data):
        raise _malformed("bytes follow the request")
    position, after = _element(data, body, end, der.SEQUENCE)
    if after != end and _element(data, after, end, 0xA0)[1] != end:
        raise _malformed("bytes follow the signature")
    end = after
    if position < end and data[position] == 0xA0:
        if data[position : position + 5] != b"\xa0\x03\x02\x01\x00":
            raise _malformed("the version is not v1")
        position += 5
    if position < end and data[position] == 0xA1:
        position = _element(data, position, end, 0xA1)[1]
    entry, list_end = _element(data, position, end, der.SEQUENCE)
    cert_ids: list[CertID] = []
    while entry < list_end:
        if len(cert_ids) == MOST_ENTRIES:
            raise _malformed(f"more than {MOST_ENTRIES} certificates in one request")
        inside, entry = _element(data, entry, list_end, der.SEQUENCE)
        cert_id, inside = _cert_id(data, inside, entry)
        cert_ids.append(cert_id)
        if inside != entry:
            inside, after = _element(data, inside, entry, 0xA0)
            if after != entry:
                raise _malformed("bytes follow an entry's extensions")
            _extensions(data, inside, entry, (_SERVICE_LOCATOR,))
    if not cert_ids:
        raise _malformed("no certificate is asked about")
    if list_end == end:
        return OCSPRequest(tuple(cert_ids))
    inside, after = _element(data, list_end, end, 0xA2)
    if after != end:
        raise _malformed("bytes follow the extensions")
    found = _extensions(data, inside, end, (_NONCE, _ACCEPTABLE_RESPONSES, _PREFERRED_ALGORITHMS))
    nonce = found.get(_NONCE)
    if nonce is not None:
        _check_nonce(nonce)
    preferred = found.get(_PREFERRED_ALGORITHMS)
    return OCSPRequest(tuple(cert_ids), nonce, () if preferred is None else _preferred(preferred))


def decode_path(path: bytes) -> bytes:
    """Return the request that a GET path carries after the responder's address.

    RFC 6960, A.1: base64, then URL-encoded. Clients leave "/" and "+" as they are, some leave
    the padding out.
    """
    text = unquote_to_bytes(path.lstrip(b"/")).rstrip(b"=")
    if len(text) > LONGEST_REQUEST * 4 // 3 + 4:
        raise _malformed("the request is too long")
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        raise _malformed("the path is not base64") from None


def _cert_id(data: bytes, position: int, end: int) -> tuple[CertID, int]:
    inside, after = _element(data, position, end, der.SEQUENCE)
    oid, name = _element(data, inside, after, der.SEQUENCE)
    hash_der = data[inside:name]
    hash_name = _HASHES.get(hash_der)
    if hash_name is None:
        _element(data, oid, name, der.OBJECT_IDENTIFIER)
    name_hash, key = _element(data, name, after, der.OCTET_STRING)
    key_hash, number = _element(data, key, after, der.OCTET_STRING)
    serial, last = _element(data, number, after, der.INTEGER)
    if last != after:
        raise _malformed("bytes follow a serial number")
    if serial == last or (
        last - serial > 1
        and (
            (data[serial] == 0 and data[serial + 1] < 0x80)
            or (data[serial] == 0xFF and data[serial + 1] >= 0x80)
        )
    ):
        raise _malformed("a serial number is not in DER")
    return (
        CertID(
            data[position:after],
            hash_name,
            data[name_hash:key] + data[key_hash:number],
            int.from_bytes(data[serial:last], signed=True),
        ),
        after,
    )


def _extensions(
    data: bytes, position: int, end: int, known: tuple[bytes, ...]
) -> dict[bytes, bytes]:
    entry, list_end = _element(data, position, end, der.SEQUENCE)
    if list_end != end:
        raise _malformed("bytes follow the extensions")
    found: dict[bytes, bytes] = {}
    while entry < list_end:
        inside, entry = _element(data, entry, list_end, der.SEQUENCE)
        _, after = _element(data, inside, entry, der.OBJECT_IDENTIFIER)
        oid_der = data[inside:after]
        if oid_der in found or len(found) == _MOST_EXTENSIONS:
            raise _malformed("an extension stands twice, or there are too many")
        is_critical = data[after : after + 3] == _TRUE_DER
        if after < entry and data[after] == der.BOOLEAN:
            _, after = _element(data, after, entry, der.BOOLEAN)
        value, last = _element(data, after, entry, der.OCTET_STRING)
        if last != entry:
            raise _malformed("bytes follow an extension")
        # RFC 6960, 4.4: responders may ignore what they do not know, unless it is critical.
        if is_critical and oid_der not in known:
            raise _malformed("an unknown extension is critical")
        found[oid_der] = data[value:last]
    return found


def _check_nonce(value: bytes) -> None:
    length = len(value)
    # The value is an OCTET STRING in an OCTET STRING; old clients leave the inner one out.
    if length >= 2 and value[0] == der.OCTET_STRING:
        try:
            body, after = _element(value, 0, length, der.OCTET_STRING)
        except Fault:
            after = -1
        if after == length:
            length -= body
    if not 1 <= length <= _LONGEST_NONCE:
        raise _malformed("a nonce has 1 to 128 octets")  # RFC 9654, 2.1


def _preferred(value: bytes) -> tuple[bytes, ...]:
    # RFC 6960, 4.4.7.1: SEQUENCE OF { sigIdentifier, pubKeyAlgIdentifier OPTIONAL }
    entry, end = _element(value, 0, len(value), der.SEQUENCE)
    if end != len(value):
        raise _malformed("bytes follow the preferred algorithms")
    found: list[bytes] = []
    while entry < end:
        if len(found) == _MOST_EXTENSIONS:
            raise _malformed("too many preferred algorithms")
        inside, entry = _element(value, entry, end, der.SEQUENCE)
        after = _element(value, inside, entry, der.SEQUENCE)[1]
        found.append(value[inside:after])
    return tuple(found)


def _element(data: bytes, position: int, end: int, tag: int) -> tuple[int, int]:
    """Return where the content of the element at ``position`` begins and ends.

    wire.der.Reader does the same with an object a level; here that is a third of an answer.
    """
    body = position + 2
    if body > end or data[position] != tag:
        raise _malformed(f"tag {tag:02x} is missing")
    length = data[position + 1]
    if length >= 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 2:
            raise _malformed("an impossible length")
        length = int.from_bytes(data[body : body + octets])
        body += octets
        if length < (0x80 if octets == 1 else 0x100):
            raise _malformed("a padded length")
    after = body + length
    if after > end:
        raise _malformed("an element reaches beyond its end")
    return body, after


def _malformed(detail: str) -> Fault:
    return der.malformed(detail, "ocsp.request")


def minimal(cert_id: CertID) -> bytes:
    """Return the shortest request for one certificate: what most clients send."""
    return der.sequence(der.sequence(der.sequence(der.sequence(cert_id.der))))


# Answers.

_SUCCESSFUL = b"\x0a\x01\x00"
GOOD_DER = b"\x80\x00"
UNKNOWN_DER = b"\x82\x00"


def revoked(at: datetime, reason: int | None) -> bytes:
    """Return the CertStatus of a revoked certificate; reason 0 is left out, as in a CRL."""
    time = generalized_time(at)
    if not reason:
        return der.tlv(0xA1, time)
    return der.tlv(0xA1, time, b"\xa0\x03\x0a\x01", bytes((reason,)))


def generalized_time(instant: datetime) -> bytes:
    """Return an instant, UTC, in whole seconds (RFC 5280, 4.1.2.5.2)."""
    return b"\x18\x0f%04d%02d%02d%02d%02d%02dZ" % (
        instant.year,
        instant.month,
        instant.day,
        instant.hour,
        instant.minute,
        instant.second,
    )


# RFC 6960, 4.4.8: a serial number that was never issued, for clients that must not go on.
NEVER_ISSUED_DER = revoked(datetime(1970, 1, 1, tzinfo=UTC), 6)


def by_key(key_hash: bytes) -> bytes:
    """Return a ResponderID: the SHA-1 of the responder's key (RFC 9919, 3.2)."""
    return der.explicit(2, der.octets(key_hash))


def by_name(name_der: bytes) -> bytes:
    """Return a ResponderID: the responder's name."""
    return der.explicit(1, name_der)


def single(
    cert_id_der: bytes,
    status_der: bytes,
    this_update_der: bytes,
    next_update_der: bytes,
    archive_cutoff: datetime | None = None,
) -> bytes:
    """Return one SingleResponse; the times are encoded already."""
    extensions = b""
    if archive_cutoff is not None:
        value = der.octets(generalized_time(archive_cutoff))
        extensions = der.explicit(1, der.sequence(der.sequence(_ARCHIVE_CUTOFF, value)))
    size = len(cert_id_der) + len(status_der) + 17 + 19 + len(extensions)
    return b"".join(
        (
            _head(der.SEQUENCE, size),
            cert_id_der,
            status_der,
            this_update_der,
            b"\xa0\x11",
            next_update_der,
            extensions,
        )
    )


def response_data(
    responder_id_der: bytes,
    produced_at_der: bytes,
    singles: Sequence[bytes],
    *,
    nonce: bytes | None,
    is_extended_revoke: bool,
) -> bytes:
    """Return the ResponseData, which is what gets signed."""
    extensions = b""
    if nonce is not None:
        value = _head(der.OCTET_STRING, len(nonce)) + nonce
        extensions = _head(der.SEQUENCE, len(_NONCE) + len(value)) + _NONCE + value
    if is_extended_revoke:
        extensions += der.sequence(_EXTENDED_REVOKE, der.octets(der.NULL_DER))
    if extensions:
        extensions = _head(der.SEQUENCE, len(extensions)) + extensions
        extensions = _head(0xA1, len(extensions)) + extensions
    entries = b"".join(singles)
    entries = _head(der.SEQUENCE, len(entries)) + entries
    size = len(responder_id_der) + len(produced_at_der) + len(entries) + len(extensions)
    head = _head(der.SEQUENCE, size)
    return b"".join((head, responder_id_der, produced_at_der, entries, extensions))


def encode(data: bytes, algorithm_der: bytes, signature_: bytes, certificates_der: bytes) -> bytes:
    """Return an OCSPResponse of signed ResponseData.

    ``certificates_der`` is the encoded ``certs`` field, or empty.
    """
    bits = _head(der.BIT_STRING, len(signature_) + 1)
    size = len(data) + len(algorithm_der) + len(bits) + 1 + len(signature_) + len(certificates_der)
    # From the inside out: BasicOCSPResponse, OCTET STRING, ResponseBytes, [0], OCSPResponse.
    basic = _head(der.SEQUENCE, size)
    octets = _head(der.OCTET_STRING, size := size + len(basic))
    inner = _head(der.SEQUENCE, size := size + len(octets) + len(_BASIC))
    explicit = _head(0xA0, size := size + len(inner))
    outer = _head(der.SEQUENCE, size + len(explicit) + len(_SUCCESSFUL))
    return b"".join(
        (
            outer,
            _SUCCESSFUL,
            explicit,
            inner,
            _BASIC,
            octets,
            basic,
            data,
            algorithm_der,
            bits,
            b"\0",
            signature_,
            certificates_der,
        )
    )


@lru_cache(4096)
def _head(tag: int, size: int) -> bytes:
    """Return a tag and a length; nearly all answers need the same few."""
    return der.tlv(tag, bytes(size))[:-size] if size else bytes((tag, 0))


def certificates(*certificates_der: bytes) -> bytes:
    """Return the ``certs`` field that shows who signed."""
    return der.explicit(0, der.sequence(*certificates_der))


def sign(key: Any, scheme: SignatureScheme, data: bytes) -> bytes:
    """Sign ResponseData with the responder's private key."""
    return signature.sign(key, scheme, data)


def _only_status(status: int) -> bytes:
    return der.sequence(bytes((0x0A, 1, status)))


MALFORMED_REQUEST = _only_status(1)
INTERNAL_ERROR = _only_status(2)
TRY_LATER = _only_status(3)
SIG_REQUIRED = _only_status(5)
UNAUTHORIZED = _only_status(6)

FAULTS: Mapping[FaultCode, bytes] = {
    FaultCode.MALFORMED: MALFORMED_REQUEST,
    FaultCode.UNSUPPORTED: MALFORMED_REQUEST,
    FaultCode.BAD_ALGORITHM: MALFORMED_REQUEST,
    FaultCode.BAD_INTEGRITY: MALFORMED_REQUEST,
    FaultCode.BAD_TIME: MALFORMED_REQUEST,
    FaultCode.BAD_PROOF: MALFORMED_REQUEST,
    FaultCode.UNAUTHENTICATED: SIG_REQUIRED,
    FaultCode.FORBIDDEN: UNAUTHORIZED,
    FaultCode.REJECTED: UNAUTHORIZED,
    FaultCode.NOT_FOUND: UNAUTHORIZED,
    FaultCode.CONFLICT: TRY_LATER,
    FaultCode.RATE_LIMITED: TRY_LATER,
    FaultCode.UNAVAILABLE: TRY_LATER,
    FaultCode.INTERNAL: INTERNAL_ERROR,
}
