"""The CMS engine, held against openssl, asn1crypto and cryptography's own PKCS#7."""

from __future__ import annotations

import hashlib
import subprocess
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asn1crypto import cms as acms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, x25519
from cryptography.hazmat.primitives.serialization import pkcs7

from tests import scep_client as client
from tests.unit.scep_core import make_certificate, rsa_key
from tmad.errors import Fault, FaultCode
from tmad.wire import cms, der, signatures
from tmad.wire.signatures import SHA1, SHA224, SHA256, SHA384, SHA512, Age, Policy

NEW, LEGACY = Policy(), Policy(Age.LEGACY)


def check(message: bytes, policy: Policy = NEW) -> signatures.Digest:
    """Verify the only signer of a message with the certificate in it."""
    signed = cms.decode_signed_data(message)
    (signer,) = signed.signers
    found = signed.certificate_of(signer)
    assert found is not None
    key = x509.load_der_x509_certificate(found).public_key()
    return cms.verify(signed, signer, key, policy)


def code_of(message: bytes, policy: Policy = NEW) -> FaultCode:
    with pytest.raises(Fault) as caught:
        check(message, policy)
    return caught.value.code


KEYS = {
    "rsa": rsa_key,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


class TestVerify:
    @pytest.mark.parametrize("kind", KEYS)
    def test_every_kind_of_signer(self, kind: str) -> None:
        message = client.make_message(b"content", client.self_signed(KEYS[kind]()), digest="sha512")
        assert check(message.der) is SHA512

    @pytest.mark.parametrize(
        ("name", "digest"),
        [("sha224", SHA224), ("sha256", SHA256), ("sha384", SHA384), ("sha512", SHA512)],
    )
    @pytest.mark.parametrize("kind", ["rsa", "p256"])
    def test_scep_34_every_digest(self, kind: str, name: str, digest: signatures.Digest) -> None:
        message = client.make_message(b"content", client.self_signed(KEYS[kind]()), digest=name)
        assert check(message.der) is digest

    @pytest.mark.parametrize("name", ["sha256_rsa", "rsassa_pkcs1v15"])
    def test_scep_35_both_names_of_an_rsa_signature(self, name: str) -> None:
        message = client.make_message(
            b"content", client.self_signed(rsa_key()), signature_algorithm=name
        )
        assert check(message.der) is SHA256

    @pytest.mark.parametrize("digest", ["sha256", "sha512"])
    def test_rsa_pss(self, digest: str) -> None:
        message = client.make_message(
            b"content",
            client.self_signed(rsa_key()),
            digest=digest,
            signature_algorithm="rsassa_pss",
        )
        assert check(message.der).name == digest.upper().replace("SHA", "SHA-")

    def test_digest_and_signature_algorithm_must_agree(self) -> None:
        message = client.make_message(
            b"content", client.self_signed(rsa_key()), signature_algorithm="sha512_rsa"
        )
        assert code_of(message.der) is FaultCode.BAD_ALGORITHM

    @pytest.mark.parametrize("name", ["sha256_ecdsa", "1.3.101.112", "1.2.3.4"])
    def test_algorithm_must_fit_the_key(self, name: str) -> None:
        message = client.make_message(
            b"content", client.self_signed(rsa_key()), signature_algorithm=name
        )
        assert code_of(message.der) is FaultCode.BAD_ALGORITHM

    def test_sha1_only_in_legacy(self) -> None:
        message = client.make_message(b"content", client.self_signed(rsa_key()), digest="sha1")
        assert code_of(message.der) is FaultCode.BAD_ALGORITHM
        assert check(message.der, LEGACY) is SHA1

    def test_sha1_inside_pss_only_in_legacy(self) -> None:
        """The default parameters of PSS mean SHA-1, even where digestAlgorithm says SHA-256."""
        key = rsa_key()
        algorithm = signatures.Algorithm(signatures.RSA_PSS, der.sequence())
        signature = key.sign(b"x", padding.PSS(padding.MGF1(hashes.SHA1()), 20), hashes.SHA1())
        signatures.verify(key.public_key(), algorithm, SHA256, signature, b"x", LEGACY)
        with pytest.raises(Fault) as caught:
            signatures.verify(key.public_key(), algorithm, SHA256, signature, b"x", NEW)
        assert caught.value.code is FaultCode.BAD_ALGORITHM

    @pytest.mark.parametrize("policy", [NEW, LEGACY])
    def test_md5_not_even_in_legacy(self, policy: Policy) -> None:
        message = client.make_message(b"content", client.self_signed(rsa_key()), digest="md5")
        assert code_of(message.der, policy) is FaultCode.BAD_ALGORITHM
        assert check(message.der, Policy(Age.INSECURE)) is signatures.MD5

    def test_unsupported_key(self) -> None:
        with pytest.raises(Fault) as caught:
            signatures.verify(
                x25519.X25519PrivateKey.generate().public_key(),
                signatures.Algorithm(der.oid("1.3.101.110")),
                SHA512, b"", b"", NEW,
            )  # fmt: skip
        assert caught.value.code is FaultCode.BAD_ALGORITHM

    @pytest.mark.parametrize("how", [{"spoil_signature": True}, {"spoil_digest": True}])
    def test_spoiled(self, how: dict[str, bool]) -> None:
        message = client.make_message(b"content", client.self_signed(rsa_key()), **how)  # type: ignore[arg-type]
        assert code_of(message.der) is FaultCode.BAD_INTEGRITY

    def test_changed_content(self) -> None:
        message = client.make_message(b"content", client.self_signed(rsa_key()))
        assert code_of(message.der.replace(b"content", b"comtent")) is FaultCode.BAD_INTEGRITY

    def test_changed_content_type(self) -> None:
        """The signed contentType attribute says data; the message says something else."""
        own = client.self_signed(rsa_key())
        signed = cms.decode_signed_data(client.make_message(b"content", own).der)
        changed = replace(signed, content_type=cms.SIGNED_DATA)
        with pytest.raises(Fault) as caught:
            cms.verify(changed, changed.signers[0], own.key.public_key(), NEW)
        assert caught.value.code is FaultCode.BAD_INTEGRITY

    def test_gen_10_signature_covers_the_bytes_received(self) -> None:
        """Attributes in an order that no DER encoder would write are verified as they came."""
        key = rsa_key()
        own = client.self_signed(key)
        attributes = [
            der.sequence(oid, der.tlv(der.SET, value))
            for oid, value in (
                (cms.MESSAGE_DIGEST, der.octets(hashlib.sha256(b"content").digest())),
                (cms.CONTENT_TYPE, cms.DATA),
            )
        ]
        assert sorted(attributes) != attributes
        unsorted = b"".join(attributes)
        signature = key.sign(der.tlv(der.SET, unsorted), padding.PKCS1v15(), hashes.SHA256())
        message = cms.sign(key, own.der, b"content", digest=SHA256, certificates=(own.der,))
        signed = cms.decode_signed_data(message)
        old = signed.signers[0]
        assert old.signed_der is not None
        spliced = message.replace(old.signed_der[2:], unsorted).replace(old.signature, signature)
        assert check(spliced) is SHA256

    def test_attribute_twice(self) -> None:
        attributes = der.sequence(cms.CONTENT_TYPE, der.tlv(der.SET, cms.DATA)) * 2
        with pytest.raises(Fault, match="twice"):
            cms.read_attributes(der.Reader(attributes))

    @pytest.mark.parametrize("option", ["", "-nosmimecap", "-keyid", "-noattr"])
    def test_openssl_signs(self, tmp_path: Path, option: str) -> None:
        own = write_identity(tmp_path, rsa_key())
        openssl(
            tmp_path,
            f"cms -sign -binary -nodetach -outform DER -signer c.pem -inkey k.pem {option}",
            b"content",
            "out",
        )
        message = (tmp_path / "out").read_bytes()
        signed = cms.decode_signed_data(message)
        assert signed.content == b"content"
        assert signed.certificate_of(signed.signers[0]) == own.der
        assert check(message) is SHA256

    def test_noattr_is_only_for_data(self) -> None:
        """Without signed attributes the content could be taken for attributes (RFC 5652, 5.3)."""
        key = rsa_key()
        signed = cms.decode_signed_data(client.make_message(b"x", client.self_signed(key)).der)
        bare = replace(
            signed.signers[0],
            attributes={},
            signed_der=None,
            signature=key.sign(b"x", padding.PKCS1v15(), hashes.SHA256()),
        )
        assert cms.verify(signed, bare, key.public_key(), NEW) is SHA256
        with pytest.raises(Fault) as caught:
            cms.verify(replace(signed, content_type=cms.SIGNED_DATA), bare, key.public_key(), NEW)
        assert caught.value.code is FaultCode.BAD_INTEGRITY

    def test_cryptography_signs(self) -> None:
        own = client.self_signed(rsa_key())
        message = (
            pkcs7.PKCS7SignatureBuilder()
            .set_data(b"content")
            .add_signer(own.certificate, own.key, hashes.SHA384())
            .sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
        )
        assert check(message) is SHA384


class TestSign:
    @pytest.mark.parametrize("kind", ["rsa", "p256", "p521"])
    @pytest.mark.parametrize("content", [b"content", None])
    def test_openssl_verifies(self, tmp_path: Path, kind: str, content: bytes | None) -> None:
        own = write_identity(tmp_path, KEYS[kind]())
        message = cms.sign(own.key, own.der, content, digest=SHA256, certificates=(own.der,))
        (tmp_path / "in").write_bytes(message)
        (tmp_path / "nothing").write_bytes(b"")
        detached = "" if content is not None else "-content nothing"
        openssl(
            tmp_path,
            f"cms -verify -binary -inform DER -in in {detached} -CAfile c.pem -purpose any "
            "-no_check_time",
            b"",
            "out",
        )
        assert (tmp_path / "out").read_bytes() == (content or b"")

    @pytest.mark.parametrize("kind", KEYS)
    def test_what_we_sign_we_verify(self, kind: str) -> None:
        own = client.self_signed(KEYS[kind]())
        message = cms.sign(own.key, own.der, b"x", digest=SHA512, certificates=(own.der,))
        assert check(message) is SHA512

    @pytest.mark.parametrize(
        ("plain", "oid"), [(True, "1.2.840.113549.1.1.1"), (False, "1.2.840.113549.1.1.11")]
    )
    def test_scep_35_name_of_the_rsa_signature_is_chosen(self, plain: bool, oid: str) -> None:
        own = client.self_signed(rsa_key())
        message = cms.sign(
            own.key, own.der, b"x", digest=SHA256, certificates=(own.der,), plain_rsa=plain
        )
        info = acms.ContentInfo.load(message, strict=True)["content"]["signer_infos"][0]
        assert info["signature_algorithm"]["algorithm"].dotted == oid
        assert check(message) is SHA256

    def test_attributes_are_der_sorted_and_as_given(self) -> None:
        own = client.self_signed(rsa_key())
        attribute = (der.oid("1.2.3"), der.tlv(der.UTF8_STRING, b"hello"))
        message = cms.sign(own.key, own.der, b"x", digest=SHA256, attributes=(attribute,))
        signer = cms.decode_signed_data(message).signers[0]
        assert signer.attribute(attribute[0]) == attribute[1]
        assert signer.signed_der is not None
        body = der.content(signer.signed_der, der.SET)
        parts = []
        reader = der.Reader(body)
        for _ in reader.each():
            parts.append(reader.raw())
        assert parts == sorted(parts)

    def test_key_that_cannot_sign(self) -> None:
        own = client.self_signed(rsa_key())
        with pytest.raises(Fault) as caught:
            cms.sign(ed448.Ed448PrivateKey.generate(), own.der, b"x", digest=SHA512)
        assert caught.value.code is FaultCode.BAD_ALGORITHM


class TestDegenerate:
    def certificates(self, count: int) -> tuple[bytes, ...]:
        return tuple(client.self_signed(rsa_key(), f"c{n}").der for n in range(count))

    def test_gen_15_order_is_kept(self) -> None:
        given = self.certificates(5)
        for order in (given, given[::-1]):
            message = cms.degenerate(order)
            assert cms.decode_signed_data(message).certificates == order
            parsed = acms.ContentInfo.load(message, strict=True)["content"]
            assert tuple(c.chosen.dump() for c in parsed["certificates"]) == order

    def test_cryptography_reads_it(self) -> None:
        given = self.certificates(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = pkcs7.load_der_pkcs7_certificates(cms.degenerate(given))
        assert [c.public_bytes(serialization.Encoding.DER) for c in found] == list(given)

    def test_crl_alone(self, tmp_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(client.name("ca"))
            .last_update(datetime(2026, 1, 1, tzinfo=UTC))
            .next_update(datetime(2026, 1, 2, tzinfo=UTC))
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )
        message = cms.degenerate(crls=(crl,))
        signed = cms.decode_signed_data(message)
        assert (signed.certificates, signed.crls) == ((), (crl,))
        (tmp_path / "in").write_bytes(message)
        openssl(tmp_path, "pkcs7 -inform DER -in in -print_certs", b"", "out")
        assert b"BEGIN X509 CRL" in (tmp_path / "out").read_bytes()


class TestDecode:
    def test_other_content_type(self) -> None:
        enveloped = client.make_envelope(b"x", client.self_signed(rsa_key()).certificate)
        with pytest.raises(Fault) as caught:
            cms.decode_signed_data(enveloped)
        assert caught.value.code is FaultCode.MALFORMED

    def test_other_certificate_formats_are_left_out(self) -> None:
        own = client.self_signed(rsa_key()).der
        odd = der.explicit(3, der.oid("1.2.3"), der.NULL_DER)
        message = cms.degenerate((odd, own))
        assert cms.decode_signed_data(message).certificates == (own,)

    def test_identifier_by_ski_needs_the_extension(self) -> None:
        from tests.support import Clock

        key = rsa_key()
        with_ski = make_certificate(Clock(), "x", key.public_key(), key, None)
        without = client.self_signed(key)
        digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
        assert cms.identifies(digest, with_ski.public_bytes(serialization.Encoding.DER))
        assert not cms.identifies(digest, without.der)

    def test_scep_54_serials_of_any_size(self) -> None:
        issuer = client.name("x").public_bytes()
        for serial in (0, 1, 2**159 + 1, 2**200, -5):
            given = cms.IssuerAndSerial(issuer, serial)
            assert cms.IssuerAndSerial.read(der.Reader(given.encode())) == given


def write_identity(folder: Path, key: object) -> client.Identity:
    """Put a self-signed certificate and its key where openssl finds them."""
    own = client.self_signed(key, ski=True)
    (folder / "c.pem").write_bytes(own.certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        own.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return own


def openssl(folder: Path, command: str, given: bytes, out: str) -> None:
    done = subprocess.run(
        ["openssl", *command.split(), "-out", out],
        cwd=folder,
        input=given,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
