"""Private keys in envelopes: held against openssl, and against pyasn1's reading of RFC 5958."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc5652, rfc5958

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import agreement, cms, der, keypackage
from tmad.wire.envelopes import AES128, AES192, AES256, Cipher
from tmad.wire.signatures import SHA256

SHA_256 = hashes.SHA256()
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "holder")])


def identity(key: Any, algorithm: Any = SHA_256) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .serial_number(4711)
        .public_key(key.public_key())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2030, 1, 1))
        .sign(key, algorithm)
    )


def opened(message: bytes, key: Any, certificate: x509.Certificate, directory: Path) -> bytes:
    """Return what openssl reads out of an envelope."""
    (directory / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-binary", "-recip", "cert.pem",
         "-inkey", "key.pem"],
        input=message, capture_output=True, check=False, cwd=directory,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


KEYS: dict[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("cipher", [AES128, AES192, AES256], ids=lambda cipher: cipher.name)
def test_openssl_opens_what_is_sealed_to_a_holder(
    kind: str, cipher: Cipher, tmp_path: Path
) -> None:
    key = KEYS[kind]()
    certificate = identity(key)
    message = agreement.seal_to_holder(
        b"to you alone",
        certificate,
        certificate.public_bytes(Encoding.DER),
        cipher=cipher,
        random=os.urandom,
    )
    assert opened(message, key, certificate, tmp_path) == b"to you alone"


def test_a_key_that_only_signs_gets_no_envelope() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = identity(key, None)
    with pytest.raises(Fault) as caught:
        agreement.seal_to_holder(
            b"", certificate, certificate.public_bytes(Encoding.DER),
            cipher=AES256, random=os.urandom,
        )  # fmt: skip
    assert caught.value.code is FaultCode.BAD_ALGORITHM


def test_a_signed_package_holds_the_key(tmp_path: Path) -> None:
    """RFC 7030, 4.4.2: EnvelopedData over SignedData over AsymmetricKeyPackage."""
    made, holder, signer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    pkcs8 = Secret(made.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    signer_certificate, holder_certificate = identity(signer), identity(holder)
    signer_der = signer_certificate.public_bytes(Encoding.DER)
    signed = keypackage.sign(signer, signer_der, pkcs8, digest=SHA256, certificates=(signer_der,))
    message = agreement.seal_to_holder(
        signed.reveal(),
        holder_certificate,
        holder_certificate.public_bytes(Encoding.DER),
        cipher=AES256,
        random=os.urandom,
        content_type=cms.SIGNED_DATA,
    )
    assert pkcs8.reveal() not in message
    outer, _ = decode(message, asn1Spec=rfc5652.ContentInfo())
    enveloped, _ = decode(bytes(outer["content"]), asn1Spec=rfc5652.EnvelopedData())
    assert int(enveloped["version"]) == 2
    content_type = enveloped["encryptedContentInfo"]["contentType"]
    assert content_type == rfc5652.id_signedData
    content = opened(message, holder, holder_certificate, tmp_path)
    signed_data, rest = decode(content, asn1Spec=rfc5652.SignedData())
    assert not rest
    inside = signed_data["encapContentInfo"]
    assert inside["eContentType"] == rfc5958.id_ct_KP_aKeyPackage
    package, rest = decode(bytes(inside["eContent"]), asn1Spec=rfc5958.AsymmetricKeyPackage())
    assert not rest
    assert len(package) == 1
    found = load_der_private_key(pkcs8.reveal(), None)
    assert bytes(package[0]["privateKey"]) in pkcs8.reveal()
    assert found.public_key() == made.public_key()


def test_openssl_verifies_the_signature_of_a_package(tmp_path: Path) -> None:
    made, signer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pkcs8 = Secret(made.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    certificate = identity(signer)
    signer_der = certificate.public_bytes(Encoding.DER)
    signed = keypackage.sign(signer, signer_der, pkcs8, digest=SHA256, certificates=(signer_der,))
    whole = der.sequence(cms.SIGNED_DATA, der.explicit(0, signed.reveal()))
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(
        ["openssl", "cms", "-verify", "-inform", "DER", "-binary", "-noverify", "-certfile",
         "cert.pem"],
        input=whole, capture_output=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pkcs8.reveal() in done.stdout
