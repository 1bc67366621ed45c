"""Requests that are read by comparison are read as the decoder reads them, or not at all."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from tmad.errors import Fault
from tmad.protocols.ocsp import codec
from tmad.protocols.ocsp.shapes import Shapes

_NAME = hashlib.sha1(b"name", usedforsecurity=False).digest()
_KEY = hashlib.sha1(b"key", usedforsecurity=False).digest()

serials = st.one_of(
    st.integers(min_value=1, max_value=2**159 - 1), st.integers(min_value=1, max_value=300)
)
nonces = st.one_of(st.none(), st.binary(min_size=1, max_size=64))


def encode(serial: int, nonce: bytes | None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        _NAME,
        _KEY,
        serial,
        hashes.SHA1(),
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(serialization.Encoding.DER)


@given(serials, nonces, serials, nonces)
def test_what_is_known_is_read_as_the_decoder_reads_it(
    first: int, its_nonce: bytes | None, second: int, other_nonce: bytes | None
) -> None:
    shapes = Shapes()
    seen, data = encode(first, its_nonce), encode(second, other_nonce)
    shapes.learn(seen, codec.decode(seen))
    assert shapes.read(seen) == codec.decode(seen)
    assert shapes.read(data) in (None, codec.decode(data))


@given(serials, nonces, st.data())
def test_a_changed_octet_never_reads_as_anything_else(
    serial: int, nonce: bytes | None, draw: st.DataObject
) -> None:
    shapes = Shapes()
    seen = encode(serial, nonce)
    shapes.learn(seen, codec.decode(seen))
    spoiled = bytearray(seen)
    for _ in range(draw.draw(st.integers(min_value=1, max_value=3))):
        place = draw.draw(st.integers(min_value=0, max_value=len(seen) - 1))
        spoiled[place] = draw.draw(st.integers(min_value=0, max_value=255))
    found = shapes.read(bytes(spoiled))
    if found is not None:
        assert found == codec.decode(bytes(spoiled))


def test_one_of_the_same_kind_is_known() -> None:
    shapes = Shapes()
    seen = encode(2**150 + 1, b"n" * 32)
    assert shapes.read(seen) is None
    shapes.learn(seen, codec.decode(seen))
    again = encode(2**149 + 7, b"m" * 32)
    assert shapes.read(again) == codec.decode(again)


def test_a_serial_number_that_is_not_in_der_is_left_to_the_decoder() -> None:
    shapes = Shapes()
    seen = encode(0x0123_4567, None)
    shapes.learn(seen, codec.decode(seen))
    padded = seen.replace(b"\x01\x23\x45\x67", b"\x00\x23\x45\x67")
    assert shapes.read(padded) is None
    try:
        codec.decode(padded)
    except Fault:
        return
    raise AssertionError("the decoder takes a padded number")
