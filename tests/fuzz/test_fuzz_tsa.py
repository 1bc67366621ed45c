"""Time-stamp requests from strangers: a value or Fault(MALFORMED), in bounded time and memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder
from pyasn1_modules import rfc3161

from tests.fuzz.mutations import one_octet_wrong
from tmad.errors import Fault, FaultCode
from tmad.protocols.tsa import codec
from tmad.wire import der

_OIDS = st.sampled_from(
    [*codec.HASHES, der.oid("1.2.840.113549.2.5"), der.oid("1.2.3.4"), b"\x06\x00", b"\x06\x01\x80"]
)
_extension = st.builds(
    lambda oid, critical, value: der.sequence(oid, critical, der.octets(value)),
    _OIDS,
    st.sampled_from([b"", b"\x01\x01\xff", b"\x01\x01\x01"]),
    st.binary(max_size=40),
)
_request = st.builds(
    lambda version, oid, parameters, length, policy, nonce, wants, extensions: der.sequence(
        version,
        der.sequence(der.sequence(oid, parameters), der.octets(bytes(length))),
        policy,
        b"" if nonce is None else der.integer(nonce),
        wants,
        b"" if extensions is None else der.explicit(0, *extensions),
    ),
    st.sampled_from([b"\x02\x01\x01"] * 6 + [b"", b"\x02\x01\x02"]),
    _OIDS,
    st.sampled_from([b"", der.NULL_DER, b"\x30\x00"]),
    st.sampled_from([0, 16, 20, 32, 48, 64, 65]),
    st.just(b"") | _OIDS,
    st.none() | st.integers(-(2**520), 2**520),
    st.sampled_from([b"", b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x01\x07"]),
    st.none() | st.lists(_extension, max_size=4),
)


def read(data: bytes) -> codec.TimeStampReq | None:
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
    assert request.imprint_der in data
    assert request.hash is None or len(request.digest) == request.hash.octets
    assert request.nonce_der is None or len(request.nonce_der) <= 66
    # An independent reader sees the same.
    found, rest = decoder.decode(data, asn1Spec=rfc3161.TimeStampReq())
    assert not rest
    assert bytes(found["messageImprint"]["hashedMessage"]) == request.digest
    assert str(found["messageImprint"]["hashAlgorithm"]["algorithm"]) == request.algorithm
    assert bool(found["certReq"]) is request.wants_certificate
    assert found["nonce"].isValue is (request.nonce_der is not None)
    assert found["reqPolicy"].isValue is (request.policy_der is not None)


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x30")
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x80" * 2000)
@example(b"\x30\x82\x1f\xfc" * 2000)
def test_tsa_any_octets(data: bytes) -> None:
    check(data)


@given(_request)
def test_tsa_nearly_right_requests(data: bytes) -> None:
    check(data)


@given(one_octet_wrong(_request))
def test_tsa_one_octet_wrong(data: bytes) -> None:
    read(data)


def _padded(*rest: bytes) -> bytes:
    imprint = der.sequence(der.sequence(der.oid("2.16.840.1.101.3.4.2.1")), der.octets(bytes(32)))
    return der.sequence(b"\x02\x01\x01", imprint, *rest)


@pytest.mark.parametrize(
    "data",
    [
        _padded(der.explicit(0, der.sequence(der.oid("1.2.3"), der.octets(b"")) * 600)),
        _padded(der.explicit(0, b"\x30\x00" * 4000)),
        _padded(der.tlv(der.OBJECT_IDENTIFIER, b"\x81" * 8000 + b"\x01")),
        _padded(der.tlv(der.INTEGER, b"\x01" * 8000)),
        der.sequence(b"\x30\x02" * 4000),
        b"\x30\x82\x1f\xfc" + b"\x30\x82\x1f\xf8" + b"\x02\x82\x1f\xf4" + bytes(8180),
        bytes(65_536),
    ],
)
def test_tsa_size_and_oid_bombs_are_cheap(data: bytes) -> None:
    """What CVE-2025-66564 was about: nothing is split, copied or made before it is measured."""
    tracemalloc.start()
    try:
        assert read(data) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
    begin = time.thread_time()
    read(data)
    assert time.thread_time() - begin < 0.005
