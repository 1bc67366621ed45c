"""The octets of a CRL, spliced: entries encoded once, joined and framed. RFC 5280, 5.

The public builder takes ten times as long for a million entries and stalls the process; it is
the oracle in the tests (spec/performance.md, 5.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO

from tmad.storage.crls import RevokedRow
from tmad.wire import der

_AUTHORITY_KEY_IDENTIFIER = der.oid("2.5.29.35")
_CRL_NUMBER = der.oid("2.5.29.20")
_DELTA_INDICATOR = der.oid("2.5.29.27")
_FRESHEST_CRL = der.oid("2.5.29.46")
_EXPIRED_CERTS_ON_CRL = der.oid("2.5.29.60")
_VERSION_2 = der.integer(1)
_CRITICAL = der.tlv(der.BOOLEAN, b"\xff")

_SECOND = 1_000_000  # microseconds, as instants are stored
_DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_REASON_CODE = der.oid("2.5.29.21")
_INVALIDITY_DATE = der.oid("2.5.29.24")
# RFC 5280, 5.3.1: the extension is left out for "unspecified".
_REASONS = {
    reason: der.sequence(_REASON_CODE, der.octets(der.tlv(0x0A, bytes((reason,)))))
    for reason in (1, 2, 3, 4, 5, 6, 8, 9, 10)
}
_REASON_EXTENSIONS: dict[int | None, bytes] = {
    None: b"",
    0: b"",
    **{reason: der.sequence(value) for reason, value in _REASONS.items()},
}
# The last parts of every Time, so that a million of them need no formatting.
_MINUTES = tuple(b"%02d%02d" % divmod(minute, 60) for minute in range(1440))
_SECONDS = tuple(b"%02dZ" % second for second in range(60))


def encode_entries(rows: Sequence[RevokedRow]) -> bytes:
    """Return the entries of these rows, joined."""
    pieces: list[bytes] = []
    days: dict[int, bytes] = {}
    heads: dict[int, bytes] = {}
    reasons, minutes, seconds = _REASON_EXTENSIONS, _MINUTES, _SECONDS
    for serial, revoked_at, reason, invalidity_date, _ in rows:
        if serial[0] > 0x7F:
            serial = b"\0" + serial  # a positive INTEGER
        if invalidity_date is None:
            extensions = reasons[reason]
        else:
            extensions = der.sequence(_REASONS.get(reason or 0, b""), _invalidity(invalidity_date))
        day, second = divmod(revoked_at // _SECOND, _DAY)
        date = days.get(day)
        if date is None:
            date = days[day] = _date(day)
        size = len(serial) << 32 | len(date) + 7 + len(extensions)
        head = heads.get(size)
        if head is None:
            head = heads[size] = _head(len(serial), len(date) + 7 + len(extensions))
        minute, second = divmod(second, 60)
        pieces += (head, serial, date, minutes[minute], seconds[second], extensions)
    return b"".join(pieces)


def _head(serial: int, rest: int) -> bytes:
    """Return all that stands before the octets of a serial number of this length."""
    number = der.tlv(der.INTEGER, bytes(serial))
    entry = der.sequence(number, bytes(rest))
    return entry[: len(entry) - rest - serial]


def _date(day: int) -> bytes:
    """Return the first part of a Time: UTCTime until 2049, GeneralizedTime from then on."""
    date = _EPOCH + timedelta(days=day)
    if 1950 <= date.year < 2050:
        return b"\x17\x0d" + date.strftime("%y%m%d").encode()
    return b"\x18\x0f" + date.strftime("%Y%m%d").encode()


def _invalidity(microseconds: int) -> bytes:
    date = _EPOCH + timedelta(microseconds=microseconds)
    return der.sequence(_INVALIDITY_DATE, der.octets(_generalized_time(date)))


def frame(
    *,
    issuer_der: bytes,
    key_identifier: bytes,
    algorithm_der: bytes,
    this_update: datetime,
    next_update: datetime,
    number: int,
    expired_since: datetime | None,
    entries_size: int,
    freshest: str = "",
    base_number: int | None = None,
) -> tuple[bytes, bytes]:
    """Return the TBSCertList before and after its entries (RFC 5280, 5.1.2).

    ``expired_since`` announces that expired certificates stay on the list (X.509, 9.5.2.8),
    ``freshest`` where the delta CRL is, and ``base_number`` makes this one a delta CRL.
    """
    head = b"".join((_VERSION_2, algorithm_der, issuer_der, _time(this_update), _time(next_update)))
    extensions = [
        (_AUTHORITY_KEY_IDENTIFIER, der.sequence(der.tlv(0x80, key_identifier))),
        (_CRL_NUMBER, der.integer(number)),
    ]
    if freshest:
        extensions.append((_FRESHEST_CRL, _distribution_point(freshest)))
    if expired_since is not None:
        extensions.append((_EXPIRED_CERTS_ON_CRL, _generalized_time(expired_since)))
    encoded = [der.sequence(oid, der.octets(value)) for oid, value in extensions]
    if base_number is not None:
        # Critical: nobody may take a delta CRL for all that is revoked.
        value = der.octets(der.integer(base_number))
        encoded.append(der.sequence(_DELTA_INDICATOR, _CRITICAL, value))
    tail = der.explicit(0, der.sequence(*encoded))
    # RFC 5280, 5.1.2.6: absent, not empty, when nothing is revoked.
    start = _header(entries_size) if entries_size else b""
    total = len(head) + len(start) + entries_size + len(tail)
    return _header(total) + head + start, tail


def _distribution_point(address: str) -> bytes:
    """Return CRLDistributionPoints with one address (RFC 5280, 4.2.1.13)."""
    full_name = der.tlv(0xA0, der.tlv(0x86, address.encode("ascii")))
    return der.sequence(der.sequence(der.tlv(0xA0, full_name)))


def finish(pieces: Sequence[bytes], algorithm_der: bytes, signature: bytes) -> bytes:
    """Return the CertificateList of the pieces that were signed."""
    end = algorithm_der + der.tlv(der.BIT_STRING, b"\0", signature)
    # Not one join: copying tens of megabytes at once would hold the interpreter's lock, and
    # writelines is one call, too.
    whole = BytesIO()
    for piece in (_header(sum(map(len, pieces)) + len(end)), *pieces, end):
        whole.write(piece)
    return whole.getvalue()


def _header(size: int) -> bytes:
    """Return the tag and length of a SEQUENCE of so many octets."""
    if size < 0x80:
        return bytes((der.SEQUENCE, size))
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((der.SEQUENCE, 0x80 | len(octets))) + octets


def _time(instant: datetime) -> bytes:
    """Return a Time: UTCTime until 2049, GeneralizedTime from then on."""
    if instant.year < 2050:
        return der.tlv(der.UTC_TIME, instant.strftime("%y%m%d%H%M%SZ").encode())
    return _generalized_time(instant)


def _generalized_time(instant: datetime) -> bytes:
    return der.tlv(der.GENERALIZED_TIME, instant.strftime("%Y%m%d%H%M%SZ").encode())
