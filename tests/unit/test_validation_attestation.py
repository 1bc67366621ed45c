"""device-attest-01: statements of devices that exist, and of such that do not (T-ACME-04)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests import attestation as made
from tests.attestation import NOW, Maker, payload
from tests.support import drive
from tests.unit.validation_world import KEY_AUTHORIZATION, TOKEN, question
from tmad.ca.validation import attestation
from tmad.ca.validation.contract import Question, Validated
from tmad.ca.validation.validators import Validators
from tmad.errors import Fault

MAKER = Maker()
KEY = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
FORMATS = ["apple", "tpm", "step"]


def asked(device: str, posted: bytes, maker: Maker = MAKER, **more: Any) -> Question:
    rules: dict[str, Any] = {"attestation_formats": FORMATS, "attestation_roots": [maker.root_pem]}
    return question("device-attest-01", device, "permanent-identifier", payload=posted,
                    **(rules | more))  # fmt: skip


def validated(question: Question) -> Validated:
    return attestation.validate(question, NOW)


def refused(question: Question) -> str:
    with pytest.raises(Fault) as caught:
        validated(question)
    assert caught.value.rule == "acme.validation"
    assert caught.value.values["problem"] == "badAttestationStatement"
    return caught.value.detail


def spki(key: Any) -> bytes:
    octets: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(octets).digest()


def test_apple() -> None:
    posted = payload("apple", made.apple(MAKER, KEY, TOKEN))
    for device in ("C02XK1", "0000-1"):
        found = validated(asked(device, posted))
        assert found.key_sha256 == spki(KEY)
        assert found.record["device"] == ["C02XK1", "0000-1"]
    assert "another device" in refused(asked("C02XK2", posted))


def test_apple_without_the_serial_number_is_nobody() -> None:
    posted = payload("apple", made.apple(MAKER, KEY, TOKEN, serial="", udid=""))
    assert "another device" in refused(asked("", posted))


def test_apple_for_another_challenge() -> None:
    posted = payload("apple", made.apple(MAKER, KEY, f"{TOKEN}x"))
    assert "not made for this challenge" in refused(asked("C02XK1", posted))


@pytest.mark.parametrize("key", [KEY, RSA], ids=["ec", "rsa"])
@pytest.mark.parametrize("signer", [None, RSA], ids=["ec-signer", "rsa-signer"])
def test_tpm(key: Any, signer: Any) -> None:
    statement = made.tpm(MAKER, key, KEY_AUTHORIZATION, attestation_key=signer)
    found = validated(asked("tpm-1", payload("tpm", statement)))
    assert found.key_sha256 == spki(key)
    assert "another device" in refused(asked("tpm-2", payload("tpm", statement)))


OTHER = made.public_area(ec.generate_private_key(ec.SECP256R1()))
GOOD = made.public_area(KEY)


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({"ver": "1.2"}, "ver is not 2.0"),
        ({"ver": None}, "ver is not 2.0"),
        ({"pubArea": OTHER}, "not the key that the TPM certified"),
        ({"pubArea": b""}, "pubArea is missing"),
        ({"pubArea": GOOD[:-1]}, "ends too early"),
        ({"pubArea": GOOD + b"x"}, "octets behind pubArea"),
        ({"public": b"\x00\x25" + GOOD[2:]}, "unknown type"),
        ({"public": GOOD[:2] + b"\x00\x01" + GOOD[4:]}, "unknown hash"),
        ({"public": GOOD[:-1] + bytes([GOOD[-1] ^ 1])}, "not on its curve"),
        ({"attributes": 0x62}, "not made in this TPM"),
        ({"attributes": 0x70}, "not made in this TPM"),
        ({"attributes": 0x52}, "not made in this TPM"),
        ({"information": made.certify_info(GOOD, b"x" * 32)}, "challenge and account"),
        ({"information": b"\xff\x54\x43\x48" + bytes(80)}, "no TPM wrote"),
        ({"information": b"\xff\x54\x43\x47\x80\x18" + bytes(80)}, "certifies no key"),
        ({"certInfo": made.certify_info(GOOD, bytes(32))}, "signature is wrong"),
        ({"sig": b"\x00\x18\x00\x0b"}, "ends too early"),
        ({"sig": b"\x00\x18\x00\x04\x00\x00\x00\x00"}, "weak hash"),
        ({"sig": b"\x00\x14\x00\x0b\x00\x01x"}, "does not fit the key"),
        ({"usage": x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3")])}, "is not for that"),
        ({"x5c": []}, "x5c must hold"),
        ({"x5c": [b"x"]}, "not accepted"),
        ({"x5c": ["text"]}, "certificates in DER"),
        ({"x5c": [b"\x30\x00"] * 6}, "x5c must hold"),
        ({"x5c": b"x"}, "x5c must hold"),
    ],
)
def test_tpms_that_are_none(changed: dict[str, Any], detail: str) -> None:
    statement = made.tpm(MAKER, KEY, KEY_AUTHORIZATION, **changed)
    assert detail in refused(asked("tpm-1", payload("tpm", statement)))


def test_t_acme_04_empty_and_wrong_extensions_of_an_attestation_key() -> None:
    """What made a peer fall over: an extended key usage without a purpose."""
    for oid in ("2.5.29.37", "2.5.29.17", "2.5.29.19", "2.5.29.15"):
        for octets in (b"", b"\x30\x00", b"\x05\x00", b"\x04\x01x", b"\x30\x80"):
            leaf = MAKER.sign("", KEY.public_key(), made.raw(oid, octets))
            statement = made.tpm(MAKER, KEY, KEY_AUTHORIZATION, x5c=MAKER.chain(leaf))
            assert refused(asked("tpm-1", payload("tpm", statement)))


def test_a_certificate_of_a_version_that_is_none() -> None:
    """What the coverage-guided fuzzer found."""
    statement = made.apple(MAKER, KEY, TOKEN)
    leaf = statement["x5c"][0]
    statement["x5c"][0] = leaf.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x06", 1)
    assert statement["x5c"][0] != leaf
    assert "cannot be read" in refused(asked("C02XK1", payload("apple", statement)))


@pytest.mark.parametrize(
    "key", [KEY, RSA, ed25519.Ed25519PrivateKey.generate()], ids=["ec", "rsa", "ed25519"]
)
def test_a_token(key: Any) -> None:
    posted = payload("step", made.yubikey(MAKER, key, KEY_AUTHORIZATION))
    assert validated(asked("4711", posted)).key_sha256 == spki(key)
    other = payload("step", made.yubikey(MAKER, key, "another"))
    assert "did not sign" in refused(asked("4711", other))


# -- who vouches --------------------------------------------------------------------------------


def test_another_maker_with_the_same_name() -> None:
    posted = payload("apple", made.apple(Maker(), KEY, TOKEN))
    assert "does not lead to a maker" in refused(asked("C02XK1", posted))


def test_no_maker_and_no_format() -> None:
    posted = payload("apple", made.apple(MAKER, KEY, TOKEN))
    assert "names no maker" in refused(asked("C02XK1", posted, attestation_roots=[]))
    assert "not taken here" in refused(asked("C02XK1", posted, attestation_formats=["tpm"]))
    assert "not taken here" in refused(asked("C02XK1", payload("packed", {"x5c": []})))


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"since": NOW + timedelta(hours=1)}, "not valid now"),
        ({"since": NOW - timedelta(days=9), "until": NOW - timedelta(days=1)}, "not valid now"),
        ({"ca": None}, "is an authority's"),
        ({"extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)]},
         "critical extension 1.2.3"),
    ],
)  # fmt: skip
def test_certificates_of_devices(more: dict[str, Any], detail: str) -> None:
    posted = payload("apple", made.apple(MAKER, KEY, TOKEN, **more))
    assert detail in refused(asked("C02XK1", posted))


def test_a_device_is_no_authority() -> None:
    """One device signs another's certificate."""
    first = made.apple(MAKER, KEY, TOKEN)["x5c"][0]
    forged = Maker()
    forged.key, forged.authority = KEY, x509.load_der_x509_certificate(first)
    statement = made.apple(forged, RSA, TOKEN, serial="C02XK2")
    statement["x5c"].append(MAKER.authority.public_bytes(Encoding.DER))
    detail = refused(asked("C02XK2", payload("apple", statement)))
    assert "issued by no authority" in detail


def test_a_chain_is_no_longer_than_its_authority_allows() -> None:
    """Path length 0: the maker's authority may not make another."""
    below = Maker()
    below.authority = MAKER.sign("Below", below.key.public_key(), ca=0)
    statement = made.apple(below, KEY, TOKEN)
    statement["x5c"].append(MAKER.authority.public_bytes(Encoding.DER))
    assert "longer than an authority" in refused(asked("C02XK1", payload("apple", statement)))


@pytest.mark.parametrize(
    "posted",
    [
        b"", b"{}", b"[]", b"null", b'"attObj"', b'{"attObj": 1}', b'{"attObj": "%"}',
        b'{"attObj": ""}', b'{"attObj": "9g"}', b'{"attObj": "oA"}', b'{"attObj": "\\u00fc"}',
        b"[" * 5_000, json.dumps({"attObj": base64.b64encode(b"\x9f" * 100).decode()}).encode(),
    ],
)  # fmt: skip
def test_payloads_that_are_none(posted: bytes) -> None:
    assert refused(asked("C02XK1", posted))


def test_only_devices_attest() -> None:
    """And devices show nothing else."""
    validators = Validators(None)
    for kind, kind_of_identifier in (
        ("device-attest-01", "dns"), ("device-attest-01", "ip"), ("dns-01", "ip"),
        ("http-01", "permanent-identifier"), ("dns-01", "permanent-identifier"),
        ("tls-alpn-01", "permanent-identifier"), ("dns-account-01", "ip"),
    ):  # fmt: skip
        with pytest.raises(Fault) as caught:
            drive(validators.validate(question(kind, "x", kind_of_identifier)))
        assert caught.value.values["problem"] == "malformed"


@pytest.mark.parametrize("kind", ["http-01", "tls-alpn-01"])
def test_t_acme_10_a_wildcard_needs_dns(kind: str) -> None:
    with pytest.raises(Fault, match="every name below"):
        drive(Validators(None).validate(question(kind, is_wildcard=True)))


def test_rules_take_makers_in_pem_and_base64() -> None:
    bare = base64.b64encode(MAKER.root.public_bytes(Encoding.DER)).decode()
    posted = payload("apple", made.apple(MAKER, KEY, TOKEN))
    validated(asked("C02XK1", posted, attestation_roots=[bare]))
    wrong: list[Callable[[], object]] = [
        lambda: question(attestation_roots=["x"]),
        lambda: question(attestation_formats=["packed"]),
        lambda: question(resolvers=["ns.test"]),
        lambda: question(allowed_networks=["10.0.0.1/8"]),
    ]
    for make in wrong:
        with pytest.raises(ValueError, match=r"."):
            make()
