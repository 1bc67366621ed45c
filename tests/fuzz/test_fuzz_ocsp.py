"""OCSP requests from strangers: a value or Fault(MALFORMED), in bounded time and memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder
from pyasn1_modules import rfc6960

from tests.fuzz.mutations import one_octet_wrong
from tmad.errors import Fault, FaultCode
from tmad.protocols.ocsp import codec
from tmad.wire import der

_OIDS = st.sampled_from(
    [der.oid(f"1.3.6.1.5.5.7.48.1.{arc}") for arc in range(1, 10)]
    + [der.oid("1.2.3.4"), der.oid("2.5.29.19"), b"\x06\x00"]
)
_HASHES = st.sampled_from(
    [
        der.sequence(der.oid("1.3.14.3.2.26"), der.NULL_DER),
        der.sequence(der.oid("1.3.14.3.2.26")),
        der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL_DER),
        der.sequence(der.oid("1.2.840.113549.2.5")),
    ]
)
_OCTETS = st.binary(max_size=140)
_extension = st.builds(
    lambda oid, critical, value, inner: der.sequence(
        oid, critical, der.octets(der.octets(value) if inner else value)
    ),
    _OIDS,
    st.sampled_from([b"", b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x00"]),
    _OCTETS,
    st.booleans(),
)
_extensions = st.lists(_extension, max_size=4).map(lambda found: der.sequence(*found))
_cert_id = st.builds(
    lambda hash_der, name, key, serial: der.sequence(
        hash_der, der.octets(name), der.octets(key), der.integer(serial)
    ),
    _HASHES,
    _OCTETS,
    _OCTETS,
    st.integers(-(2**200), 2**200),
)
_entry = st.builds(
    lambda cert_id, extensions: der.sequence(
        cert_id, b"" if extensions is None else der.explicit(0, extensions)
    ),
    _cert_id,
    st.none() | _extensions,
)
_request = st.builds(
    lambda version, name, entries, extensions, end: der.sequence(
        der.sequence(
            version,
            b"" if name is None else der.explicit(1, name),
            der.sequence(*entries),
            b"" if extensions is None else der.explicit(2, extensions),
        ),
        end,
    ),
    st.sampled_from([b"", b"\xa0\x03\x02\x01\x00", b"\xa0\x03\x02\x01\x01"]),
    st.none() | _OCTETS,
    st.lists(_entry, max_size=5),
    st.none() | _extensions,
    st.sampled_from([b"", der.explicit(0, der.sequence()), b"\x00"]),
)


def read(data: bytes) -> codec.OCSPRequest | None:
    """Decode; None for a Fault that is as it should be."""
    begin = time.thread_time()
    try:
        request = codec.decode(data)
    except Fault as fault:
        if fault.code is not FaultCode.MALFORMED:
            raise
        request = None
    assert time.thread_time() - begin < 0.05
    return request


def check(data: bytes) -> None:
    request = read(data)
    if request is None:
        return
    assert 1 <= len(request.cert_ids) <= codec.MOST_ENTRIES
    for cert_id in request.cert_ids:
        assert cert_id.der in data
        (again,) = codec.decode(codec.minimal(cert_id)).cert_ids
        assert again == cert_id


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x30")
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x80" * 2000)
@example(b"\x30\x82\x1f\xfc" * 2000)
def test_ocsp_any_octets(data: bytes) -> None:
    check(data)


@given(_request)
def test_ocsp_nearly_right_requests(data: bytes) -> None:
    check(data)


@given(one_octet_wrong(_request))
def test_ocsp_one_octet_wrong(data: bytes) -> None:
    check(data)


@given(_request)
def test_ocsp_what_we_read_pyasn1_reads_too(data: bytes) -> None:
    request = read(data)
    if request is None:
        return
    try:
        found, rest = decoder.decode(data, asn1Spec=rfc6960.OCSPRequest())
    except Exception:
        # We skip what nobody here uses: the name and the signature may hold anything.
        return
    assert not rest
    entries = found["tbsRequest"]["requestList"]
    assert [int(entry["reqCert"]["serialNumber"]) for entry in entries] == [
        cert_id.serial for cert_id in request.cert_ids
    ]


@given(st.binary(max_size=300))
@example(b"/" * 16_000)
@example(b"%" * 16_000)
@example(b"/M" + b"=" * 16_000)
def test_ocsp_02_any_path(path: bytes) -> None:
    begin = time.thread_time()
    try:
        check(codec.decode_path(path))
    except Fault as fault:
        if fault.code is not FaultCode.MALFORMED:
            raise
    assert time.thread_time() - begin < 0.05


def _many(count: int) -> bytes:
    cert_id = der.sequence(
        der.sequence(der.oid("1.3.14.3.2.26")), der.octets(b""), der.octets(b""), der.integer(1)
    )
    return der.sequence(der.sequence(der.sequence(*[der.sequence(cert_id)] * count)))


@pytest.mark.parametrize(
    "data",
    [
        _many(100),
        _many(10_000),
        der.sequence(
            der.sequence(der.sequence(), der.explicit(2, der.sequence(b"\x30\x00" * 4000)))
        ),
        der.sequence(b"\x30\x02" * 4000),
        b"\x30\x82\x1f\xfc" + b"\x30\x82\x1f\xf8" + b"\x02\x82\x1f\xf4" + bytes(8180),
        bytes(65_536),
    ],
)
def test_t_ocsp_03_the_worst_requests_are_cheap(data: bytes) -> None:
    tracemalloc.start()
    try:
        read(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    begin = time.thread_time()
    read(data)
    assert time.thread_time() - begin < 0.005
