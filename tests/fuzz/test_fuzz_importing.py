"""Files that somebody imports: a bundle or a Fault, in bounded time."""

from __future__ import annotations

import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs7, pkcs12
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_importing import CA, DER, KEY, LEAF, PEM, PKCS8, PLAIN, pem
from tmad.ca.importing import Bundle, read_bundle
from tmad.errors import Fault

_CHEAP = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(10).build(b"secret")
FILES = [
    pem(LEAF, CA),
    LEAF.public_bytes(DER),
    pkcs7.serialize_certificates([LEAF, CA], DER),
    pkcs7.serialize_certificates([LEAF, CA], PEM),
    pkcs12.serialize_key_and_certificates(b"x", KEY, LEAF, [CA], _CHEAP),
    pkcs12.serialize_key_and_certificates(None, KEY, LEAF, None, serialization.NoEncryption()),
    KEY.private_bytes(PEM, PKCS8, PLAIN),
    KEY.private_bytes(DER, PKCS8, PLAIN),
]


def check(data: bytes) -> None:
    start = time.monotonic()
    try:
        found = read_bundle(data, b"secret")
    except Fault:
        pass
    else:
        assert isinstance(found, Bundle)
    assert time.monotonic() - start < 2


@given(st.binary(max_size=400))
def test_any_octets(data: bytes) -> None:
    check(data)


@settings(max_examples=1500)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_files_with_changed_octets(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, octet in changes:
        changed[place % len(changed)] = octet
    check(bytes(changed))


@given(st.sampled_from(FILES), st.integers(0, 1 << 16), st.binary(max_size=20))
def test_files_cut_and_continued(data: bytes, place: int, more: bytes) -> None:
    check(data[: place % len(data)] + more)
