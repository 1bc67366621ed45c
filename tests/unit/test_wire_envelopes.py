"""Envelopes, held against openssl and cryptography's own PKCS#7."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from asn1crypto import cms as acms
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import pkcs7

from tests import scep_client as client
from tests.unit.scep_core import rsa_key
from tests.unit.test_wire_cms import openssl, write_identity
from tmad.errors import Fault, FaultCode
from tmad.wire import ber, der, envelopes
from tmad.wire.envelopes import AES128, AES192, AES256, DES3, Cipher
from tmad.wire.signatures import Age, Policy

NEW, LEGACY = Policy(), Policy(Age.LEGACY)
CONTENTS = [b"", b"x", b"x" * 15, b"x" * 16, b"x" * 5_000]


def open_(key: object, message: bytes, policy: Policy = NEW) -> bytes:
    enveloped = envelopes.decode(message)
    return envelopes.open_envelope(
        key,  # type: ignore[arg-type]
        enveloped,
        enveloped.recipients[0],
        policy=policy,
        random=os.urandom,
    )


def code_of(key: object, message: bytes, policy: Policy = NEW) -> FaultCode:
    with pytest.raises(Fault) as caught:
        open_(key, message, policy)
    return caught.value.code


@pytest.fixture
def own() -> client.Identity:
    return client.self_signed(rsa_key())


@pytest.mark.parametrize("cipher", ["aes128", "aes192", "aes256"])
@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_opens_every_cipher(own: client.Identity, cipher: str, content: bytes) -> None:
    message = client.make_envelope(content, own.certificate, cipher=cipher)
    assert open_(own.key, message) == content


@pytest.mark.parametrize("transport", ["oaep-sha1", "oaep-sha256", "oaep-sha512"])
def test_opens_oaep(own: client.Identity, transport: str) -> None:
    message = client.make_envelope(b"content", own.certificate, transport=transport)
    assert open_(own.key, message) == b"content"


def test_3des_only_in_legacy_and_des_only_in_insecure(own: client.Identity) -> None:
    message = client.make_envelope(b"content", own.certificate, cipher="3des")
    assert code_of(own.key, message) is FaultCode.BAD_ALGORITHM
    assert open_(own.key, message, LEGACY) == b"content"
    message = client.make_envelope(b"content", own.certificate, cipher="des")
    assert code_of(own.key, message, LEGACY) is FaultCode.BAD_ALGORITHM
    assert open_(own.key, message, Policy(Age.INSECURE)) == b"content"


@pytest.mark.parametrize(
    "option",
    [
        "-recip c.pem",
        "-stream -indef -recip c.pem",
        "-keyid -recip c.pem",
        "-recip c.pem -keyopt rsa_padding_mode:oaep",
    ],
)
def test_opens_what_openssl_encrypts(tmp_path: Path, option: str) -> None:
    own = write_identity(tmp_path, rsa_key())
    command = f"cms -encrypt -binary -outform DER -aes-192-cbc {option}"
    openssl(tmp_path, command, b"content" * 500, "out")
    raw = (tmp_path / "out").read_bytes()
    message = ber.normalise(raw, elements=1_500, depth=32)
    assert (message != raw) == ("stream" in option)
    if "keyid" in option:
        assert isinstance(envelopes.decode(message).recipients[0].identifier, bytes)
    assert open_(own.key, message) == b"content" * 500


def test_opens_what_cryptography_encrypts(own: client.Identity) -> None:
    message = (
        pkcs7.PKCS7EnvelopeBuilder()
        .set_data(b"content")
        .add_recipient(own.certificate)
        .encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
    )
    assert open_(own.key, message) == b"content"


@pytest.mark.parametrize("cipher", [AES128, AES192, AES256, DES3], ids=lambda c: c.name)
@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_openssl_opens_what_we_seal(tmp_path: Path, cipher: Cipher, content: bytes) -> None:
    own = write_identity(tmp_path, rsa_key())
    message = envelopes.seal_to_certificate(
        content, own.certificate, own.der, cipher=cipher, random=os.urandom
    )
    info = acms.ContentInfo.load(message, strict=True)["content"]
    assert info["version"].native == "v0"
    assert info["encrypted_content_info"]["encrypted_content"].dump()[0] == 0x80
    (tmp_path / "in").write_bytes(message)
    openssl(
        tmp_path, "cms -decrypt -binary -inform DER -in in -inkey k.pem -recip c.pem", b"", "out"
    )
    assert (tmp_path / "out").read_bytes() == content
    assert open_(own.key, message, LEGACY) == content


@pytest.mark.parametrize("cipher", [AES128, AES192, AES256, DES3], ids=lambda c: c.name)
@pytest.mark.parametrize("password", [b"secret", "ünï¢ødé".encode(), b"x" * 500])
def test_scep_55_openssl_opens_what_a_password_seals(
    tmp_path: Path, cipher: Cipher, password: bytes
) -> None:
    message = envelopes.seal_with_password(
        b"content", password, cipher=cipher, random=os.urandom, rounds=1_000
    )
    (tmp_path / "in").write_bytes(message)
    done = subprocess.run(
        [b"openssl", b"cms", b"-decrypt", b"-binary", b"-inform", b"DER", b"-in", b"in",
         b"-pwri_password", password],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout == b"content", done.stderr.decode()


def test_gen_26_every_failure_behind_the_key_is_the_same(own: client.Identity) -> None:
    """Bad padding, a key of the wrong length and another key cannot be told apart."""
    public_key = own.certificate.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    broken = [
        client.make_envelope(b"x", own.certificate, encrypted_key=encrypted)
        for encrypted in (
            b"",
            b"short",
            (1).to_bytes(256),
            b"\xff" * 256,
            b"\0" * 300,
            public_key.encrypt(b"", PKCS1v15()),
            public_key.encrypt(bytes(16), PKCS1v15()),
            public_key.encrypt(bytes(32), PKCS1v15()),
        )
    ]
    broken.append(client.make_envelope(bytes(16), own.certificate, pad=False))
    seen = set()
    for message in broken:
        try:
            opened = open_(own.key, message)
        except Fault as fault:
            seen.add((fault.code, fault.detail, fault.private, fault.rule))
        else:
            # A key that is made up instead of refusing (RFC 8017, 7.2.2) decrypts to octets that
            # look padded once in 256 times.
            assert opened != b"x"
    assert seen == {
        (
            FaultCode.BAD_INTEGRITY,
            "the envelope cannot be opened",
            "wrong key or padding",
            "wire.envelope",
        )
    }


class TokenKey:
    """An RSA key behind PKCS#11: bad padding is an error there, not random octets."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def decrypt(self, encrypted: bytes, padding: object) -> bytes:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("x"), Fault(FaultCode.INTERNAL, "CKR_ENCRYPTED…")])
def test_gen_26_error_of_a_token_is_no_oracle(own: client.Identity, error: Exception) -> None:
    message = client.make_envelope(b"x", own.certificate)
    assert code_of(TokenKey(error), message) is FaultCode.BAD_INTEGRITY


def test_lost_token_is_unavailable(own: client.Identity) -> None:
    message = client.make_envelope(b"x", own.certificate)
    key = TokenKey(Fault(FaultCode.UNAVAILABLE, "gone", retry_after=2))
    assert code_of(key, message) is FaultCode.UNAVAILABLE


def test_constructed_content_of_gos_pkcs7(own: client.Identity) -> None:
    message = client.make_envelope(b"content" * 9, own.certificate, constructed=True)
    assert open_(own.key, message) == b"content" * 9


def test_other_recipients_are_left_out() -> None:
    pwri = envelopes.seal_with_password(
        b"x", b"secret", cipher=AES256, random=os.urandom, rounds=10
    )
    assert envelopes.decode(pwri).recipients == ()


@pytest.mark.parametrize("parameters", [der.octets(bytes(15)), der.NULL_DER, b""])
def test_vector_of_wrong_length(own: client.Identity, parameters: bytes) -> None:
    enveloped = envelopes.decode(client.make_envelope(b"x", own.certificate))
    spoiled = replace(enveloped, algorithm=replace(enveloped.algorithm, parameters=parameters))
    with pytest.raises(Fault) as caught:
        envelopes.open_envelope(
            own.key, spoiled, spoiled.recipients[0], policy=NEW, random=os.urandom
        )
    assert caught.value.code is FaultCode.MALFORMED


def test_nothing_is_sealed_to_a_key_that_cannot_decrypt() -> None:
    own = client.self_signed(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Fault) as caught:
        envelopes.seal_to_certificate(
            b"x", own.certificate, own.der, cipher=AES256, random=os.urandom
        )
    assert caught.value.code is FaultCode.BAD_ALGORITHM


def test_content_key_is_fresh(own: client.Identity) -> None:
    seen = {
        envelopes.seal_to_certificate(
            b"x", own.certificate, own.der, cipher=AES256, random=os.urandom
        )
        for _ in range(5)
    }
    assert len(seen) == 5
