"""What the library makes of changed certificates, requests, CRLs and keys: ValueError alone.

The seeds are the roots that this machine trusts, made by a hundred different hands, and objects
with every extension that we look into. What was read answers every question of ours, or with one
of the exceptions that the readers' module names.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import headers, mutated, one_octet_wrong
from tmad.wire import parsing
from tmad.wire.parsing import NO_EXTENSION, UNREADABLE

# Of the number 0, which some roots have, and of countries that are not two letters long.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def roots() -> list[x509.Certificate]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pem = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
        return x509.load_pem_x509_certificates(pem)


BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
END = BEGIN.replace(year=2056)
NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
        x509.NameAttribute(NameOID.COMMON_NAME, "Ürümqi"),
        x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b.test"),
    ]
)
KEYS: list[Any] = [
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
    mldsa.MLDSA44PrivateKey.generate(),
]
NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("a.test"),
        x509.RFC822Name("a@b.test"),
        x509.UniformResourceIdentifier("https://a.test/"),
        x509.DirectoryName(NAME),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x03a@b"),
    ]
)
OCSP_AT = x509.AccessDescription(
    x509.oid.AuthorityInformationAccessOID.OCSP,
    x509.UniformResourceIdentifier("http://ocsp.test/"),
)
LISTED_AT = x509.DistributionPoint(
    [x509.UniformResourceIdentifier("http://crl.test/")], None, None, None
)
POLICY = x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), ["https://cps.test/"])
EXTENSIONS: list[x509.ExtensionType] = [
    NAMES,
    x509.BasicConstraints(ca=True, path_length=3),
    x509.KeyUsage(True, False, False, False, False, True, True, False, False),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
    x509.AuthorityInformationAccess([OCSP_AT]),
    x509.CRLDistributionPoints([LISTED_AT]),
    x509.NameConstraints([x509.DNSName("test")], None),
    x509.CertificatePolicies([POLICY]),
    x509.TLSFeature([x509.TLSFeatureType.status_request]),
]


def digest_for(key: Any) -> Any:
    return (
        hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else None
    )


def certificate_of(key: Any) -> bytes:
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), 2**80, BEGIN, END)
    for each in EXTENSIONS:
        builder = builder.add_extension(each, critical=False)
    return builder.sign(key, digest_for(key)).public_bytes(Encoding.DER)


def request_of(key: Any) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(NAME).add_extension(NAMES, critical=True)
    return builder.sign(key, digest_for(key)).public_bytes(Encoding.DER)


def crl_of(key: Any) -> bytes:
    revoked = x509.RevokedCertificateBuilder(7, BEGIN)
    revoked = revoked.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False)
    revoked = revoked.add_extension(x509.InvalidityDate(BEGIN.replace(tzinfo=None)), False)
    builder = x509.CertificateRevocationListBuilder(NAME, BEGIN, END)
    builder = builder.add_revoked_certificate(revoked.build())
    builder = builder.add_extension(x509.CRLNumber(5), critical=False)
    return builder.sign(key, digest_for(key)).public_bytes(Encoding.DER)


def spki_of(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


CERTIFICATES = [root.public_bytes(Encoding.DER) for root in roots()] + list(
    map(certificate_of, KEYS)
)
REQUESTS, LISTS, PUBLIC_KEYS = (
    [make(key) for key in KEYS] for make in (request_of, crl_of, spki_of)
)


def changed(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        mutated(st.sampled_from(seeds), most=2), one_octet_wrong(st.sampled_from(seeds))
    )


def read(reader: Callable[[Any], Any], data: Any) -> Any:
    """Return what was read, None where it cannot be; any exception but ValueError is a finding."""
    try:
        return reader(data)
    except ValueError:
        return None


def ask(question: Callable[[], Any], *known: type[Exception]) -> None:
    with contextlib.suppress(*UNREADABLE, *known):
        question()


def extensions_of(found: Any) -> list[Any]:
    return [(each.oid, each.critical, each.value) for each in found.extensions]


def read_certificate(data: bytes) -> None:
    found = read(parsing.certificate, data)
    if found is None:
        return
    found.subject.rfc4514_string()
    found.issuer.rfc4514_string()
    assert found.not_valid_before_utc.tzinfo is found.not_valid_after_utc.tzinfo is UTC
    assert found.signature_algorithm_oid is not None
    key = read(parsing.key_of, found)
    assert key is None or key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ask(partial(extensions_of, found))
    for kind in (*map(type, EXTENSIONS), x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier):
        with contextlib.suppress(*NO_EXTENSION):
            found.extensions.get_extension_for_class(kind)
    ask(lambda: found.signature_hash_algorithm)
    ask(partial(found.verify_directly_issued_by, found), InvalidSignature)


def read_request(data: bytes) -> None:
    found = read(parsing.request, data)
    if found is None:
        return
    found.subject.rfc4514_string()
    read(parsing.key_of, found)
    ask(partial(extensions_of, found))
    ask(lambda: found.is_signature_valid, InvalidSignature)


def read_crl(data: bytes) -> None:
    found = read(parsing.crl, data)
    if found is None:
        return
    found.issuer.rfc4514_string()
    assert found.last_update_utc.tzinfo is UTC
    ask(partial(extensions_of, found))
    ask(lambda: [(each.serial_number, extensions_of(each)) for each in found])
    ask(lambda: found.is_signature_valid(KEYS[0].public_key()))


def read_key(data: bytes) -> None:
    key = read(parsing.public_key, data)
    assert key is None or key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@settings(max_examples=1500)
@given(changed(CERTIFICATES))
def test_a_changed_certificate(data: bytes) -> None:
    read_certificate(data)


@given(changed(REQUESTS))
def test_a_changed_request(data: bytes) -> None:
    read_request(data)


@given(changed(LISTS))
def test_a_changed_crl(data: bytes) -> None:
    read_crl(data)


@given(changed(PUBLIC_KEYS))
def test_a_changed_public_key(data: bytes) -> None:
    read_key(data)


@pytest.mark.parametrize(
    ("seed", "reader"),
    [
        pytest.param(CERTIFICATES[-4], read_certificate, id="certificate"),
        pytest.param(REQUESTS[0], read_request, id="request"),
        pytest.param(LISTS[0], read_crl, id="crl"),
        pytest.param(PUBLIC_KEYS[0], read_key, id="key"),
    ],
)
def test_every_header_octet(seed: bytes, reader: Callable[[bytes], None]) -> None:
    """Every value of each octet that says what follows, and of the first that follows."""
    for start, body, _ in headers(seed):
        for at in range(start, body + 1):
            for value in range(256):
                reader(seed[:at] + bytes((value,)) + seed[at + 1 :])
