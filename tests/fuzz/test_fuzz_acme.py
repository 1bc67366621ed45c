"""ACME messages from strangers: a value or a Fault, in bounded time, and no second reading."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.acme_world import b64, jwk, sign
from tmad.ca.acme import certid, identifiers
from tmad.errors import Fault, FaultCode
from tmad.protocols.acme import codec, jws
from tmad.protocols.acme.strictjson import encode, pack, parse_object, unpack

KEY = ec.derive_private_key(0x1234567, ec.SECP256R1())
URL = "https://ca.example.test/acme/default/new-order"
MESSAGE = sign(KEY, {"alg": "ES256", "nonce": "bm9uY2U", "url": URL, "jwk": jwk(KEY)}, {"a": [1]})
OUTER = jws.decode(MESSAGE)
EXPECTED = {FaultCode.MALFORMED, FaultCode.BAD_ALGORITHM, FaultCode.BAD_INTEGRITY}

_text = st.text(max_size=20) | st.sampled_from(
    ["mailto:a@b.test", "dns", "ip", "a.test", "*.a.test", "deactivated", "2026-01-02T03:04:05Z",
     "EC", "RSA", "OKP", "P-256", "Ed25519", "AQAB", "ES256", "HS256", "none", URL, b64(bytes(32)),
     b64(b"\1" * 256), b64(b'{"alg":"ES256","url":"x","kid":"y"}'), "\ud800", "=", ""]
)  # fmt: skip
_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=5,
)
_MEMBERS = (
    *("contact", "termsOfServiceAgreed", "onlyReturnExisting", "externalAccountBinding"),
    *("status", "identifiers", "identifier", "type", "value", "notBefore", "notAfter"),
    *("replaces", "profile", "csr", "certificate", "reason", "account", "oldKey"),
    *("protected", "payload", "signature", "kty", "crv", "x", "y", "n", "e", "d"),
    *("alg", "url", "nonce", "kid", "jwk", "crit"),
)
_object = st.dictionaries(st.sampled_from(_MEMBERS) | _text, _value, max_size=5)

DECODERS: list[Callable[[Any], object]] = [
    lambda payload: codec.decode_account(payload, OUTER),
    codec.decode_update,
    lambda payload: codec.decode_key_change(payload, OUTER),
    codec.decode_order,
    codec.decode_authorization,
    codec.decode_deactivation,
    codec.decode_finalize,
    codec.decode_revocation,
    jws.decode_key,
    lambda payload: jws.decode_inner(payload, "it", is_mac=True),
    lambda payload: jws.decode_inner(payload, "it", is_mac=False),
]


def attempt(function: Callable[[], Any]) -> Any:
    """Return what comes of it; None for a Fault that is as it should be."""
    begin = time.thread_time()
    try:
        found = function()
    except Fault as fault:
        if fault.code not in EXPECTED or codec.problem_of(fault)[1] not in codec.PROBLEMS:
            raise
        found = None
    assert time.thread_time() - begin < 0.05
    return found


@given(st.binary(max_size=300))
@example(b"")
@example(b"{}")
@example(MESSAGE)
@example(b"[" * 60_000)
@example(b'{"protected":' * 4_000)
def test_any_octets_are_a_message_or_none(data: bytes) -> None:
    attempt(lambda: jws.decode(data))


@given(st.integers(0, len(MESSAGE) * 8 - 1))
def test_no_bit_of_a_message_can_be_turned(bit: int) -> None:
    octets = bytearray(MESSAGE)
    octets[bit // 8] ^= 1 << bit % 8
    message = attempt(lambda: jws.decode(bytes(octets)))
    if message is not None:
        with pytest.raises(Fault):
            jws.verify(message, KEY.public_key())


@given(st.integers(0, len(MESSAGE) - 1))
def test_a_message_that_was_cut_off_is_none(end: int) -> None:
    assert attempt(lambda: jws.decode(MESSAGE[:end])) is None


@given(_object)
def test_any_header_is_understood_or_refused(header: dict[str, Any]) -> None:
    given_header = {"alg": "ES256", "nonce": "x", "url": URL, "jwk": jwk(KEY), **header}
    body = json.dumps(
        {"protected": b64(json.dumps(given_header).encode()), "payload": "", "signature": "AA"}
    ).encode()
    message = attempt(lambda: jws.decode(body))
    if message is not None:
        assert (message.jwk is None) == bool(message.kid)
        assert message.algorithm in jws.ALGORITHMS
        assert {"crit", "b64"}.isdisjoint(given_header)


@given(_object)
def test_any_object_is_understood_or_refused(payload: dict[str, Any]) -> None:
    for decode in DECODERS:
        attempt(functools.partial(decode, payload))


@given(_value)
def test_json_reads_as_the_library_reads_it(value: Any) -> None:
    text = json.dumps({"a": value}).encode()
    found = attempt(lambda: parse_object(text, "it"))
    if found is not None:
        assert found == json.loads(text)
        assert parse_object(encode(found), "it") == found


@given(st.dictionaries(st.text(max_size=3), st.integers(), min_size=1, max_size=3), st.data())
def test_no_member_occurs_twice(members: dict[str, int], data: st.DataObject) -> None:
    pairs = [*members.items(), (data.draw(st.sampled_from(sorted(members))), 0)]
    text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"
    assert attempt(lambda: parse_object(text.encode(), "it")) is None


@given(st.binary(max_size=50), st.text(max_size=10))
def test_octets_have_one_spelling(octets: bytes, text: str) -> None:
    assert unpack(pack(octets), "it") == octets
    found = attempt(lambda: unpack(text, "it"))
    assert found is None or pack(found) == text


@given(st.binary(min_size=1, max_size=30), st.integers(0, 2**160), st.text(max_size=40))
def test_a_certificate_has_one_name(key_identifier: bytes, serial: int, text: str) -> None:
    name = certid.encode(key_identifier, serial)
    assert certid.decode(name) == (key_identifier, serial)
    found = attempt(lambda: certid.decode(text))
    assert found is None or certid.encode(*found) == text


@given(
    st.sampled_from(["dns", "ip", "permanent-identifier", "x"]),
    st.text(max_size=80) | st.from_regex(r"(\*\.)?[a-zA-Z0-9_-]{1,64}(\.[a-z0-9-]{1,9}){0,4}\.?"),
)
def test_an_identifier_has_one_spelling(kind: str, value: str) -> None:
    try:
        found = identifiers.parse(kind, value)
    except Fault as fault:
        if codec.problem_of(fault)[1] not in codec.PROBLEMS:
            raise
        return
    assert identifiers.parse(*found) == found
    bare, is_wildcard = identifiers.split(found)
    if kind == "dns":
        assert ("*" in found.value) is is_wildcard
        assert "*" not in bare.value
