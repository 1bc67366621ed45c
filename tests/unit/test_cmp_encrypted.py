"""CMP: certificates that leave encrypted to keys that cannot sign (RFC 9810, 5.2.8.3)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import Encoding
from pyasn1.codec.der import decoder, encoder

from tests.cmc_client import open_envelope
from tests.cmp_client import ERROR, IP, IR, KUP, KUR, PKICONF, POLLREP, Reply, name
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import KEYS, RSA, encrypting, refusal
from tmad.wire import der

DEV = name("dev1")
ENCR_CERT = der.explicit(2, der.tlv(0x81, b"\0"))
V2: dict[str, Any] = {"version": 2}
V3: dict[str, Any] = {"version": 3}


def opened(reply: Reply, key: Any) -> x509.Certificate:
    """Decrypt the certificate of an answer, by what others have written (pyasn1)."""
    found = reply.response["certifiedKeyPair"]["certOrEncCert"]
    assert found.getName() == "encryptedCert", reply.text
    found = found["encryptedCert"]
    if found.getName() == "envelopedData":
        inside = der.Reader(encoder.encode(found["envelopedData"])).content(0xA0)
        info = der.sequence(der.oid("1.2.840.113549.1.7.3"), der.explicit(0, der.sequence(inside)))
        return x509.load_der_x509_certificate(open_envelope(info, key))
    value = found["encryptedValue"]
    vector = decoder.decode(bytes(value["symmAlg"]["parameters"]))[0].asOctets()
    aes = key.decrypt(value["encSymmKey"].asOctets(), rsa_padding.PKCS1v15())
    context = Cipher(AES(aes), CBC(vector)).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    padded = context.update(value["encValue"].asOctets()) + context.finalize()
    return x509.load_der_x509_certificate(unpadder.update(padded) + unpadder.finalize())


@pytest.mark.parametrize(("kind", "how"), [("rsa", V2), *((kind, V3) for kind in KEYS)])
def test_whoever_can_decrypt_can_confirm(kind: str, how: dict[str, Any]) -> None:
    w = encrypting()
    shared, key = w.shared(), KEYS[kind]()
    asking = w.client(shared)
    reply = asking.request(IR, key, DEV, proof=ENCR_CERT, number=7, how=how)
    reply.check(shared, w.ca)
    assert (reply.body, reply.version) == (IP, how["version"]), reply.text
    certificate = opened(reply, key)
    assert certificate.public_key() == key.public_key()
    assert certificate.public_bytes(Encoding.DER) not in asking.post(asking.sent[0])
    assert w.status_of(certificate) == "revoked"  # on hold: nobody is to see it yet
    assert asking.confirm(certificate, number=7, **how).body == PKICONF
    assert w.status_of(certificate) == "good"
    assert len(w.events("certificate.confirmed")) == 1


def test_a_lost_answer_is_sent_again() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    certificate = opened(asking.request(IR, RSA, DEV, proof=ENCR_CERT), RSA)
    again = asking.send_raw(asking.sent[0])
    assert opened(again, RSA) == certificate
    assert asking.confirm(certificate).body == PKICONF
    assert asking.send_raw(asking.sent[-1]).body == PKICONF
    assert w.status_of(certificate) == "good"


def test_what_somebody_revoked_meanwhile_stays_revoked() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    certificate = opened(asking.request(IR, RSA, DEV, proof=ENCR_CERT), RSA)
    issuer = drive(w.hierarchy.active("default", "devices"))
    drive(w.revocation.revoke(ADMIN, "default", issuer.id, certificate.serial_number, 1))
    assert asking.confirm(certificate).body == PKICONF
    assert w.status_of(certificate) == "revoked"


def test_a_hold_of_somebody_else_is_not_released_by_a_confirmation() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    key = KEYS["p256"]()
    certificate = asking.request(IR, key, DEV).certificate  # signed, so in clear
    issuer = drive(w.hierarchy.active("default", "devices"))
    drive(w.revocation.hold(ADMIN, "default", issuer.id, certificate.serial_number))
    assert asking.confirm(certificate).body == PKICONF
    assert w.status_of(certificate) == "revoked"


def test_it_is_never_confirmed_silently() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    reply = asking.request(IR, RSA, DEV, proof=ENCR_CERT, implicit=True)
    assert "1.3.6.1.5.5.7.4.13" not in reply.infos  # implicitConfirm
    certificate = opened(reply, RSA)
    w.clock.advance(seconds=601)
    drive(w.exchanges.attend())
    assert w.status_of(certificate) == "revoked"


def test_what_cannot_be_decrypted_is_not_confirmed() -> None:
    w = encrypting()
    asking = w.client(w.shared())
    reply = asking.request(IR, RSA, DEV, proof=ENCR_CERT)
    refusal(asking.confirm(w.ca), ERROR, "badCertId")
    assert w.status_of(opened(reply, RSA)) == "revoked"


def test_it_is_encrypted_after_a_person_has_approved_it_too() -> None:
    w = encrypting(approval="manual")
    asking = w.client(w.shared())
    assert asking.request(IR, RSA, DEV, proof=ENCR_CERT).status == 3
    assert asking.poll().body == POLLREP
    w.approve()
    reply = asking.poll()
    assert asking.confirm(opened(reply, RSA)).body == PKICONF


def test_an_update_gets_a_key_that_encrypts() -> None:
    w = encrypting()
    holder = w.enroll()
    asking = w.client(holder)
    key = x25519.X25519PrivateKey.generate()
    reply = asking.request(KUR, key, proof=ENCR_CERT, how=V3)
    assert reply.body == KUP
    assert asking.confirm(opened(reply, key), **V3).body == PKICONF


@pytest.mark.parametrize(
    ("key", "proof", "how", "bit"),
    [
        (RSA, der.explicit(2, der.tlv(0x80, b"\0key")), V3, "badPOP"),
        (ed25519.Ed25519PrivateKey.generate(), ENCR_CERT, V3, "badAlg"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_issued(
    key: Any, proof: bytes, how: dict[str, Any], bit: str
) -> None:
    w = encrypting()
    refusal(w.client(w.shared()).request(IR, key, DEV, proof=proof, how=how), IP, bit)
    assert w.issued() == 0


def test_other_keys_than_rsa_need_the_newer_messages() -> None:
    w = encrypting()
    key = KEYS["p256"]()
    reply = w.client(w.shared()).request(IR, key, DEV, proof=ENCR_CERT, how=V2)
    refusal(reply, ERROR, "unsupportedVersion")
    assert w.issued() == 0


def test_an_endpoint_that_does_not_do_it_says_so() -> None:
    w = encrypting(options={})
    told = refusal(w.client(w.shared()).request(IR, RSA, DEV, proof=ENCR_CERT), IP, "badPOP")
    assert "no encrypted certificates are sent here" in told
    assert w.issued() == 0
