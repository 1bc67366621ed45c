"""Messages of ACME: what is a JWS, which keys and algorithms, and what they are refused with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.unit.acme_world import algorithm, b64, jwk, sign, thumbprint, unb64
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.acme import jws
from tmad.protocols.acme.strictjson import parse_object, unpack

URL = "https://ca.example.test/acme/default/new-account"
KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "RS256": rsa.generate_private_key(65537, 2048),
}
EC: Any = KEYS["ES256"]


def header(key: Any = EC, **other: Any) -> dict[str, Any]:
    found = {"alg": algorithm(key), "nonce": "bm9uY2U", "url": URL, "jwk": jwk(key), **other}
    return {name: value for name, value in found.items() if value is not None}


def problem(fault: Fault) -> str:
    return fault.values.get("problem", "")


def check(body: bytes) -> None:
    message = jws.decode(body)
    assert message.jwk is not None
    jws.verify(message, message.jwk.key)


def refused(body: bytes) -> Fault:
    with pytest.raises(Fault) as raised:
        check(body)
    return raised.value


@pytest.mark.parametrize("name", KEYS)
def test_every_algorithm_is_understood(name: str) -> None:
    key = KEYS[name]
    message = jws.decode(sign(key, header(key), {"a": 1}))
    assert (message.algorithm, message.url, message.kid) == (name, URL, "")
    assert message.jwk is not None
    jws.verify(message, message.jwk.key)
    assert message.jwk.thumbprint == thumbprint(key)
    jws.verify(message, jws.load_key(message.jwk.spki_der))


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    # RFC 7638, 3.1.
    key = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSo"
        "c_"
        "BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FD"
        "W2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQ"
        "Fh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert b64(jws.decode_key(key).thumbprint) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_signature_of_the_rfc_is_good() -> None:
    # RFC 8037, A.4: Ed25519.
    key = jws.decode_key(
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    )
    protected = b64(b'{"alg":"EdDSA"}')
    assert protected == "eyJhbGciOiJFZERTQSJ9"
    message = jws.JWS(
        algorithm="EdDSA", url=URL, nonce=None, jwk=key, kid="", payload=b"",
        signed=f"{protected}.{b64(b'Example of Ed25519 signing')}".encode(),
        signature=unb64(
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        ),
    )  # fmt: skip
    jws.verify(message, key.key)
    assert b64(key.thumbprint) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_mac_is_compared() -> None:
    protected = b64(json.dumps({"alg": "HS256", "kid": "k", "url": URL}).encode())
    inner = {"protected": protected, "payload": b64(b"{}"), "signature": b64(bytes(32))}
    message = jws.decode_inner(inner, "it", is_mac=True)
    assert not jws.is_mac_of(message, Secret(b"x" * 32))


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"alg": "none"}, "badSignatureAlgorithm"),
        ({"alg": "HS256"}, "badSignatureAlgorithm"),
        ({"alg": "RS512"}, "badSignatureAlgorithm"),
        ({"alg": "ES384"}, "badSignatureAlgorithm"),
        ({"alg": "RS256"}, "badSignatureAlgorithm"),
        ({"alg": None}, "malformed"),
        ({"alg": 7}, "malformed"),
        ({"nonce": None}, "badNonce"),
        ({"nonce": ""}, "malformed"),
        ({"url": None}, "malformed"),
        ({"kid": "x"}, "malformed"),
        ({"jwk": None}, "malformed"),
        ({"b64": False, "crit": ["b64"]}, "malformed"),
        ({"crit": ["x"], "x": 1}, "malformed"),
    ],
)
def test_headers_that_are_refused(other: dict[str, Any], word: str) -> None:
    assert problem(refused(sign(EC, header(**other), {}))) == word


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "oct", "k": "AAAA"},
        {"d": "AAAA"},
        {"crv": "P-192"},
        {"x": b64(bytes(31))},
        {"x": b64(bytes(32)), "y": b64(bytes(32))},
        {"x": 7},
        {"x": "=="},
        {"kty": ["EC"]},
    ],
)
def test_keys_that_are_refused(change: dict[str, Any]) -> None:
    fault = refused(sign(EC, header(jwk={**jwk(EC), **change}), {}))
    assert fault.code is FaultCode.MALFORMED


@pytest.mark.parametrize(
    "change",
    [
        {"n": b64((1 << 1023 | 1).to_bytes(128, "big"))},  # 1024 bits
        {"n": b64((1 << 4095 | 1).to_bytes(512, "big") + b"\1")},  # 4104 bits
        {"n": "AA" + jwk(KEYS["RS256"])["n"]},
        {"e": "Aw"},
        {"e": "AQAA"},
    ],
)
def test_rsa_keys_that_are_refused(change: dict[str, Any]) -> None:
    key = KEYS["RS256"]
    assert problem(refused(sign(key, header(jwk={**jwk(key), **change}), {}))) == "badPublicKey"


def test_a_der_signature_is_refused() -> None:
    message = json.loads(sign(EC, header(), {}))
    signed = f"{message['protected']}.{message['payload']}".encode()
    message["signature"] = b64(EC.sign(signed, ec.ECDSA(hashes.SHA256())))
    assert refused(json.dumps(message).encode()).rule == "acme.signature"


@pytest.mark.parametrize("name", KEYS)
def test_other_octets_were_not_signed(name: str) -> None:
    key = KEYS[name]
    message = json.loads(sign(key, header(key), {"a": 1}))
    message["payload"] = b64(b'{"a":2}')
    assert refused(json.dumps(message).encode()).rule == "acme.signature"
    other = json.loads(sign(key, header(key), {"a": 1}))
    other["signature"] = b64(bytes(len(unb64(other["signature"]))))
    assert refused(json.dumps(other).encode()).rule == "acme.signature"


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"header": {}},
        {"protected": None},
        {"protected": "e30="},
        {"protected": b64(b"[]")},
        {"payload": None},
        {"payload": "a"},
        {"signature": "not base64!"},
        {"signature": "é"},
    ],
)
def test_other_forms_are_refused(change: dict[str, Any]) -> None:
    message = {**json.loads(sign(EC, header(), {})), **change}
    assert problem(refused(json.dumps(message).encode())) == "malformed"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1.5}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"[" * 60_000,
        b'{"a":' * 9 + b"1" + b"}" * 9,
        b'{"a":1} {}',
    ],
)
def test_json_that_is_refused(text: bytes) -> None:
    with pytest.raises(Fault) as raised:
        parse_object(text, "it")
    assert raised.value.code is FaultCode.MALFORMED


def test_base64url_has_one_spelling() -> None:
    assert unpack("AQ", "it") == b"\1"
    for text in ("AR", "AQ==", "A", "AQ\n", "+/8", 7, None):
        with pytest.raises(Fault):
            unpack(text, "it")


def test_the_key_decides_about_the_algorithm() -> None:
    """T-ACME-07: an RSA signature under an account's EC key, and the other way round."""
    message = jws.decode(sign(KEYS["RS256"], header(KEYS["RS256"]), {}))
    with pytest.raises(Fault) as raised:
        jws.verify(message, EC.public_key())
    assert raised.value.values["algorithms"] == "ES256"
