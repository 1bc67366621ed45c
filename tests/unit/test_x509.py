"""Certificates from pieces, with cryptography's builder as the oracle."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed448,
    ed25519,
    mldsa,
    padding,
    rsa,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tmad.ca import x509 as build
from tmad.ca.scheme import SignaturePolicy, scheme_for
from tmad.ca.signature import algorithm_der, check, sign_as
from tmad.errors import Fault, FaultCode

ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuer")])
SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "NL"),
        x509.NameAttribute(NameOID.COMMON_NAME, "röuter"),
    ]
)
KEYS = {
    "rsa": (rsa.generate_private_key(65537, 2048), SignaturePolicy()),
    "rsa-sha512": (rsa.generate_private_key(65537, 2048), SignaturePolicy(hash="sha512")),
    "pss": (rsa.generate_private_key(65537, 2048), SignaturePolicy(pss=True)),
    "pss-384": (rsa.generate_private_key(65537, 2048), SignaturePolicy(pss=True, hash="sha384")),
    "p256": (ec.generate_private_key(ec.SECP256R1()), SignaturePolicy()),
    "p384": (ec.generate_private_key(ec.SECP384R1()), SignaturePolicy()),
    "p521": (ec.generate_private_key(ec.SECP521R1()), SignaturePolicy()),
    "ed25519": (ed25519.Ed25519PrivateKey.generate(), SignaturePolicy()),
    "ed448": (ed448.Ed448PrivateKey.generate(), SignaturePolicy()),
    "ml-dsa-44": (mldsa.MLDSA44PrivateKey.generate(), SignaturePolicy()),
    "ml-dsa-65": (mldsa.MLDSA65PrivateKey.generate(), SignaturePolicy()),
    "ml-dsa-87": (mldsa.MLDSA87PrivateKey.generate(), SignaturePolicy()),
}
GENERATED = (
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    mldsa.MLDSA44PrivateKey,
    mldsa.MLDSA65PrivateKey,
    mldsa.MLDSA87PrivateKey,
)
SERIALS = (1, 127, 128, 255, 256, 2**64 + 5, 2**159 - 1)


def _template(key, not_after=datetime(2051, 1, 2, 3, 4, 5, tzinfo=UTC)):
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    san = x509.SubjectAlternativeName([x509.DNSName("r1.example.test")])
    return build.Template(
        subject=SUBJECT,
        names=(x509.DNSName("r1.example.test"),),
        spki_der=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        not_before=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        not_after=not_after,
        extensions_der=(
            build.extension(x509.KeyUsage.oid, usage.public_bytes(), critical=True),
            build.extension(x509.SubjectAlternativeName.oid, san.public_bytes(), critical=False),
        ),
    )


@pytest.mark.parametrize("name", KEYS)
def test_x5_02_the_octets_are_those_of_the_builder(name):
    key, policy = KEYS[name]
    scheme = scheme_for(key.public_key(), policy)
    template = _template(key)
    algorithm = algorithm_der(key.public_key(), scheme)
    for serial in SERIALS:
        tbs = build.tbs_certificate(
            template, serial=serial, issuer_der=ISSUER.public_bytes(), algorithm_der=algorithm
        )
        oracle = (
            x509.CertificateBuilder()
            .issuer_name(ISSUER)
            .subject_name(SUBJECT)
            .serial_number(serial)
            .public_key(key.public_key())
            .not_valid_before(template.not_before)
            .not_valid_after(template.not_after)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, False, False, False, False), True
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("r1.example.test")]), False)
            .sign(key, scheme.hash, rsa_padding=scheme.padding)
        )
        assert tbs == oracle.tbs_certificate_bytes
        certificate = build.finish(
            tbs,
            algorithm,
            sign_as(key.public_key(), key, scheme, tbs),
        )
        assert certificate.serial_number == serial
        check(key.public_key(), scheme, certificate.signature, tbs, digest=False)


def test_x5_04_the_last_utc_time_is_in_2049():
    key = KEYS["p256"][0]
    scheme = scheme_for(key.public_key(), SignaturePolicy())
    algorithm = algorithm_der(key.public_key(), scheme)
    for moment, tag in (
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
    ):
        tbs = build.tbs_certificate(
            _template(key, moment),
            serial=2**100,
            issuer_der=ISSUER.public_bytes(),
            algorithm_der=algorithm,
        )
        assert tag in tbs


class Token:
    """A key that lives elsewhere and answers as the test wants."""

    def __init__(self, key, answer):
        self._key = key
        self._answer = answer

    def sign(self, data, *how):
        return self._answer(self._key.sign(data, *how))


def another(key):
    """Return a second key of the same kind."""
    if isinstance(key, rsa.RSAPrivateKey):
        return next(other for other, _ in KEYS.values() if other is not key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ec.generate_private_key(key.curve)
    kind = next(kind for kind in GENERATED if isinstance(key, kind))
    return kind.generate()


def flipped(signature):
    return signature[:-1] + bytes((signature[-1] ^ 1,))


@pytest.mark.parametrize("name", KEYS)
def test_a_signature_by_another_key_never_leaves(name):
    key, policy = KEYS[name]
    scheme = scheme_for(key.public_key(), policy)
    foreign = another(key)
    for signer in (foreign, Token(foreign, bytes), Token(key, flipped)):
        with pytest.raises(Fault) as caught:
            sign_as(key.public_key(), signer, scheme, b"octets")
        assert caught.value.code is FaultCode.INTERNAL
        assert caught.value.rule == "signature.check"
    assert sign_as(key.public_key(), Token(key, bytes), scheme, b"octets")


def test_t_ca_01_serials_are_random_positive_and_fit_twenty_octets():
    drawn = [build.new_serial() for _ in range(20_000)]
    assert len(set(drawn)) == len(drawn)
    assert all(0 < serial < 2**159 for serial in drawn)
    for bit in range(159):
        share = sum(serial >> bit & 1 for serial in drawn) / len(drawn)
        assert 0.47 < share < 0.53, f"bit {bit} is set in {share:.3f} of the serials"


def test_pss_parameters_are_explicit():
    key, policy = KEYS["pss"]
    scheme = scheme_for(key.public_key(), policy)
    der = algorithm_der(key.public_key(), scheme)
    # [2] saltLength INTEGER 32, and no [3] trailerField
    assert der.endswith(b"\xa2\x03\x02\x01\x20")
    assert isinstance(scheme.padding, padding.PSS)
    assert isinstance(scheme.hash, hashes.SHA256)
