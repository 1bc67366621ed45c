"""Each lint finds its own mistake in an otherwise good certificate."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support import Clock
from tmad.ca import lint
from tmad.ca.scheme import SignaturePolicy, scheme_for
from tmad.ca.signature import algorithm_der, sign
from tmad.ca.writing import key_identifier
from tmad.ca.x509 import Template, extension, finish, tbs_certificate
from tmad.errors import Fault
from tmad.wire import der

KEY = ec.generate_private_key(ec.SECP256R1())
SCHEME = scheme_for(KEY.public_key(), SignaturePolicy())
ALGORITHM = algorithm_der(KEY.public_key(), SCHEME)
NOW = Clock()()
ROOT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")])
SOMEBODY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.test")])
EC = ec.generate_private_key(ec.SECP256R1()).public_key()


def spki(key) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def usage(*names: str) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(*(name in names for name in every))


def ext(value: x509.ExtensionType, critical: bool = False) -> bytes:
    return extension(value.oid, value.public_bytes(), critical=critical)


AKI = ext(x509.AuthorityKeyIdentifier(key_identifier(spki(KEY.public_key())), None, None))
SAN = ext(x509.SubjectAlternativeName([x509.DNSName("www.example.test")]))
KU = ext(usage("digital_signature"), True)
BASIC_CA = ext(x509.BasicConstraints(True, None), True)


@cache
def root() -> x509.Certificate:
    tbs = tbs_certificate(
        Template(
            subject=ROOT,
            names=(),
            spki_der=spki(KEY.public_key()),
            not_before=NOW - timedelta(days=1),
            not_after=NOW + timedelta(days=3650),
            extensions_der=(
                ext(x509.SubjectKeyIdentifier(key_identifier(spki(KEY.public_key())))),
                ext(usage("key_cert_sign", "crl_sign"), True),
                ext(x509.BasicConstraints(True, 1), True),
                ext(x509.NameConstraints([x509.DNSName("example.test")], None), True),
            ),
        ),
        serial=1 << 100,
        issuer_der=ROOT.public_bytes(),
        algorithm_der=ALGORITHM,
    )
    signed = sign(KEY, SCHEME, tbs)
    return finish(tbs, ALGORITHM, signed)


def complaint(
    *extensions: bytes,
    serial: int = 1 << 150,
    subject: x509.Name = SOMEBODY,
    key=EC,
    start=NOW,
    end=NOW + timedelta(days=90),
    issuer: bytes = ROOT.public_bytes(),
    expected_key=None,
    critical=frozenset(),
) -> str:
    """Return the rule that refuses such a certificate, or an empty text."""
    template = Template(
        subject=subject,
        names=(),
        spki_der=spki(key),
        not_before=start,
        not_after=end,
        extensions_der=extensions or (AKI, KU, SAN),
    )
    tbs = tbs_certificate(template, serial=serial, issuer_der=issuer, algorithm_der=ALGORITHM)
    subject_of_lint = lint.Subject(
        certificate=lint.preview(tbs, ALGORITHM),
        issuer_der=ROOT.public_bytes(),
        algorithm_der=ALGORITHM,
        spki_der=spki(expected_key or key),
        issuer_key_identifier=key_identifier(spki(KEY.public_key())),
        not_before=root().not_valid_before_utc,
        not_after=root().not_valid_after_utc,
        chain=(root(),),
        critical=critical,
    )
    try:
        lint.check(subject_of_lint)
    except Fault as fault:
        return f"{fault.code} {fault.rule}"
    return ""


def test_a_good_certificate_passes():
    assert complaint() == ""


NOTHING = x509.Name([])
RSA = rsa.generate_private_key(65537, 2048).public_key()
ED = ed25519.Ed25519PrivateKey.generate().public_key()
EKU = ExtendedKeyUsageOID
UNKNOWN = x509.ObjectIdentifier("1.2.3.4")
NO_REV = extension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00", critical=False)
CRL = ext(
    x509.CRLDistributionPoints(
        [
            x509.DistributionPoint(
                [x509.UniformResourceIdentifier("http://a.test")], None, None, None
            )
        ]
    )
)


@pytest.mark.parametrize(
    ("rule", "extensions", "options"),
    [
        ("serial", (), {"serial": 5}),
        ("serial", (), {"serial": 1 << 160}),
        ("validity", (), {"end": NOW - timedelta(days=1)}),
        ("validity", (), {"end": NOW + timedelta(days=9999)}),
        ("validity", (), {"start": NOW - timedelta(days=9)}),
        ("fields", (), {"issuer": SOMEBODY.public_bytes()}),
        ("fields", (), {"expected_key": KEY.public_key()}),
        ("extensions", (AKI, KU, SAN, SAN), {}),
        ("subject", (AKI, KU), {"subject": NOTHING}),
        ("subject", (AKI, KU, SAN), {"subject": NOTHING}),
        (
            "subject",
            (AKI, KU, ext(x509.SubjectAlternativeName([x509.DNSName("www.example.test")]), True)),
            {},
        ),
        ("subject", (AKI, KU, ext(x509.SubjectAlternativeName([x509.DNSName("A.test")]))), {}),
        (
            "constraints",
            (AKI, KU, ext(x509.SubjectAlternativeName([x509.DNSName("www.other.test")]))),
            {},
        ),
        ("criticality", (AKI, ext(usage("digital_signature")), SAN), {}),
        ("criticality", (AKI, KU, SAN, extension(UNKNOWN, b"\x05\x00", critical=True)), {}),
        ("key_usage", (AKI, SAN), {}),
        ("key_usage", (AKI, ext(usage("key_encipherment"), True), SAN), {}),
        ("key_usage", (AKI, ext(usage("key_encipherment"), True), SAN), {"key": ED}),
        ("key_usage", (AKI, ext(usage("key_agreement"), True), SAN), {"key": RSA}),
        ("authority", (AKI, ext(usage("key_cert_sign"), True), SAN), {}),
        ("authority", (AKI, KU, SAN, BASIC_CA), {}),
        (
            "authority",
            (AKI, KU, SAN, ext(x509.NameConstraints([x509.DNSName("a.test")], None), True)),
            {},
        ),
        ("identifiers", (KU, SAN), {}),
        ("identifiers", (ext(x509.AuthorityKeyIdentifier(b"x" * 20, None, None)), KU, SAN), {}),
        ("extended_usage", (AKI, KU, SAN, ext(x509.ExtendedKeyUsage([EKU.TIME_STAMPING]))), {}),
        (
            "extended_usage",
            (AKI, KU, SAN, ext(x509.ExtendedKeyUsage([EKU.TIME_STAMPING, EKU.SERVER_AUTH]), True)),
            {},
        ),
        ("extended_usage", (AKI, KU, SAN, ext(x509.ExtendedKeyUsage([EKU.SERVER_AUTH]), True)), {}),
        ("revocation", (AKI, KU, SAN, NO_REV, CRL), {}),
    ],
)
def test_each_mistake_has_its_rule(rule, extensions, options):
    assert complaint(*extensions, **options) == f"internal lint.{rule}"


def test_a_profile_may_make_an_extension_critical():
    mine = (AKI, KU, SAN, extension(UNKNOWN, b"\x05\x00", critical=True))
    assert complaint(*mine, critical=frozenset({UNKNOWN})) == ""


@pytest.mark.parametrize(("length", "rule"), [(0, ""), (1, "authority"), (None, "authority")])
def test_a_path_length_lies_below_the_issuers(length, rule):
    extensions = (
        AKI,
        ext(x509.SubjectKeyIdentifier(key_identifier(spki(EC)))),
        ext(usage("key_cert_sign", "crl_sign"), True),
        ext(x509.BasicConstraints(True, length), True),
    )
    assert complaint(*extensions) == (rule and f"internal lint.{rule}")


def test_x5_05_unique_identifiers_are_never_issued():
    good = lint.preview(_tbs(), ALGORITHM)
    body = der.content(good.tbs_certificate_bytes, der.SEQUENCE)
    cut = body.rindex(b"\xa3")
    for at in range(len(body)):
        if body[at] == 0xA3 and body[at + 1] in (0x81, len(body) - at - 2):
            cut = at
            break
    unique = der.tlv(0x82, b"\x00\x01")
    strange = der.sequence(body[:cut] + unique + body[cut:])
    subject = replace(_subject(), certificate=lint.preview(strange, ALGORITHM))
    with pytest.raises(Fault) as caught:
        lint.check(subject)
    assert caught.value.rule == "lint.fields"


def test_garbage_is_not_signed():
    with pytest.raises(Fault) as caught:
        lint.preview(b"\x30\x03\x02\x01\x01", ALGORITHM)
    assert caught.value.rule == "lint.parse"


def _tbs() -> bytes:
    template = Template(
        subject=SOMEBODY,
        names=(),
        spki_der=spki(EC),
        not_before=NOW,
        not_after=NOW + timedelta(days=9),
        extensions_der=(AKI, KU, SAN),
    )
    return tbs_certificate(
        template, serial=1 << 150, issuer_der=ROOT.public_bytes(), algorithm_der=ALGORITHM
    )


def _subject() -> lint.Subject:
    return lint.Subject(
        certificate=lint.preview(_tbs(), ALGORITHM),
        issuer_der=ROOT.public_bytes(),
        algorithm_der=ALGORITHM,
        spki_der=spki(EC),
        issuer_key_identifier=key_identifier(spki(KEY.public_key())),
        not_before=root().not_valid_before_utc,
        not_after=root().not_valid_after_utc,
        chain=(root(),),
    )
