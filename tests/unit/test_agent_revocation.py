"""What an agent believes of OCSP answers: only its issuer's, and only for now."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from tests.unit.agent_server import START, Server
from tmad.agent import revocation

SERVER = Server()
OTHER = Server()


def leaf(server: Server, *extensions: x509.ExtensionType) -> tuple[Any, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]))
        .issuer_name(server.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=90))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return key, builder.sign(server.key, hashes.SHA256())


_, OWN = leaf(SERVER)
DELEGATE_KEY, DELEGATE = leaf(SERVER, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]))
PLAIN_KEY, PLAIN = leaf(SERVER)
FOREIGN_KEY, FOREIGN = leaf(OTHER, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]))


def answer(
    key: Any = SERVER.key,
    signer: x509.Certificate = SERVER.root,
    *,
    of: x509.Certificate = OWN,
    issuer: x509.Certificate = SERVER.root,
    reason: x509.ReasonFlags | None = None,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.REVOKED,
    at: Any = START,
) -> bytes:
    is_revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=of, issuer=issuer, algorithm=hashes.SHA1(), cert_status=status, this_update=at,
        next_update=at + timedelta(days=1), revocation_time=at if is_revoked else None,
        revocation_reason=reason,
    )  # fmt: skip
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, signer)
    if signer is not SERVER.root:
        builder = builder.certificates([signer])
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def judged(body: bytes, **later: float) -> str:
    return revocation.judge(body, OWN, SERVER.root, START + timedelta(**later))


def test_what_the_issuer_or_its_delegate_says_counts() -> None:
    assert judged(answer()) == "revoked"
    assert judged(answer(DELEGATE_KEY, DELEGATE)) == "revoked"
    assert judged(answer(reason=x509.ReasonFlags.certificate_hold)) == "hold"
    assert judged(answer(reason=x509.ReasonFlags.superseded)) == "revoked"
    assert judged(answer(status=ocsp.OCSPCertStatus.GOOD)) == "good"
    assert judged(answer(status=ocsp.OCSPCertStatus.UNKNOWN)) == ""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(answer(PLAIN_KEY, PLAIN), id="certified, but not for OCSP"),
        pytest.param(answer(FOREIGN_KEY, FOREIGN), id="a delegate of another issuer"),
        pytest.param(answer(OTHER.key, OTHER.root), id="another issuer of the same name"),
        pytest.param(answer(of=PLAIN), id="of another certificate"),
        pytest.param(answer(issuer=OTHER.root), id="of another issuer's"),
        pytest.param(
            ocsp.OCSPResponseBuilder.build_unsuccessful(
                ocsp.OCSPResponseStatus.TRY_LATER
            ).public_bytes(Encoding.DER),
            id="later",
        ),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30\x03\x0a\x01\x00", id="a status alone"),
        pytest.param(b"<html>", id="a page"),
    ],
)
def test_anything_else_says_nothing(body: bytes) -> None:
    assert judged(body) == ""


def test_an_old_answer_says_nothing() -> None:
    body = answer()
    assert judged(body, hours=24) == "revoked"
    assert judged(body, hours=25) == ""
    assert judged(body, hours=-1) == ""


def test_every_bit_of_an_answer_is_signed() -> None:
    """One bit wrong: nothing is said, or at least nothing else than what was signed."""
    body = answer()
    for position in range(0, len(body) * 8, 7):
        octets = bytearray(body)
        octets[position // 8] ^= 1 << position % 8
        assert judged(bytes(octets)) in ("", "revoked")


def test_only_plain_http_is_asked() -> None:
    for url, found in (
        ("http://ocsp.example.test/ca", "http://ocsp.example.test/ca"),
        ("ldap://ocsp.example.test/", ""),
        ("file:///etc/passwd", ""),
    ):
        access = x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(
                    AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)
                )
            ]
        )
        assert revocation.responder(leaf(SERVER, access)[1]) == found
    assert revocation.responder(OWN) == ""
