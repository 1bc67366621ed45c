"""The OCSP codec against cryptography's and pyasn1's reading of the same octets."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from pyasn1.codec.der import decoder, encoder
from pyasn1.type import univ
from pyasn1_modules import rfc6960

from tests.world import certificate
from tmad.ca import signature
from tmad.ca.scheme import SignaturePolicy, scheme_for
from tmad.errors import Fault, FaultCode
from tmad.protocols.ocsp import codec
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire import der

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HASHES = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@pytest.fixture(scope="module")
def issuer() -> x509.Certificate:
    return certificate("CN=CA", ec.generate_private_key(ec.SECP256R1()))


def ask(
    cert_ids: list[bytes], extensions: bytes = b"", before: bytes = b"", end: bytes = b""
) -> bytes:
    entries = der.sequence(*(der.sequence(cert_id) for cert_id in cert_ids))
    tail = der.explicit(2, der.sequence(extensions)) if extensions else b""
    return der.sequence(der.sequence(before, entries, tail), end)


def extension(oid: str, value: bytes, *, critical: bytes = b"") -> bytes:
    return der.sequence(der.oid(oid), critical, der.octets(value))


NONCE = "1.3.6.1.5.5.7.48.1.2"
REST = der.octets(bytes(20)), der.octets(bytes(20)), der.integer(77)
CERT_ID = der.sequence(der.sequence(der.oid("1.3.14.3.2.26"), der.NULL_DER), *REST)


@pytest.mark.parametrize("name", codec.HASHES)
def test_ocsp_13_reads_what_cryptography_asks(name: str, issuer) -> None:
    builder = ocsp.OCSPRequestBuilder().add_certificate(issuer, issuer, HASHES[name])
    data = builder.build().public_bytes(Encoding.DER)
    request = codec.decode(data)
    (cert_id,) = request.cert_ids
    bits = issuer.public_key().public_bytes(
        Encoding.X962,
        PublicFormat.UncompressedPoint,
    )
    assert cert_id.hash == name
    assert cert_id.serial == issuer.serial_number
    assert cert_id.issuer == (
        hashlib.new(name, issuer.subject.public_bytes()).digest() + hashlib.new(name, bits).digest()
    )
    assert cert_id.der in data
    assert request.nonce is None
    assert codec.minimal(cert_id) == data


def test_ocsp_13_accepts_a_hash_algorithm_without_parameters() -> None:
    cert_id = der.sequence(der.sequence(der.oid("1.3.14.3.2.26")), *REST)
    (read,) = codec.decode(ask([cert_id])).cert_ids
    assert (read.hash, read.serial, read.der) == ("sha1", 77, cert_id)


def test_ocsp_13_an_unknown_hash_is_read_but_matches_nothing() -> None:
    md5 = der.sequence(der.oid("1.2.840.113549.2.5"), der.NULL_DER)
    cert_id = der.sequence(md5, *REST)
    (read,) = codec.decode(ask([cert_id])).cert_ids
    assert read.hash is None
    assert read.der == cert_id


def test_ocsp_12_keeps_the_order_of_many_entries() -> None:
    cert_ids = [
        der.sequence(
            der.sequence(der.oid("1.3.14.3.2.26"), der.NULL_DER),
            der.octets(bytes(20)),
            der.octets(bytes(20)),
            der.integer(serial),
        )
        for serial in range(100)
    ]
    request = codec.decode(ask(cert_ids))
    assert [cert_id.serial for cert_id in request.cert_ids] == list(range(100))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("empty", b""),
        ("no entry", ask([])),
        ("101 entries", ask([CERT_ID] * 101)),
        ("version 2", ask([CERT_ID], before=bytes.fromhex("a003020101"))),
        ("trailing octets", ask([CERT_ID]) + b"\0"),
        ("too long", ask([CERT_ID], extension(NONCE, bytes(9000)))),
        ("cut off", ask([CERT_ID])[:-1]),
        ("indefinite length", b"\x30\x80" + ask([CERT_ID])[2:] + b"\0\0"),
        ("padded length", b"\x30\x81" + ask([CERT_ID])[1:]),
        ("padded serial", ask([CERT_ID.replace(b"\x02\x01\x4d", b"\x02\x01\x4d\x00")])),
        ("unknown critical", ask([CERT_ID], extension("1.2.3.4", b"", critical=b"\1\1\xff"))),
        ("an extension twice", ask([CERT_ID], extension("1.2.3.4", b"") * 2)),
        ("not a signature", ask([CERT_ID], end=b"\xa1\0")),
    ],
)
def test_ocsp_10_and_11_refuse(what: str, data: bytes) -> None:
    with pytest.raises(Fault) as caught:
        codec.decode(data)
    assert caught.value.code is FaultCode.MALFORMED
    assert codec.FAULTS[caught.value.code] == b"\x30\x03\x0a\x01\x01"


@pytest.mark.parametrize(
    "data",
    [
        ask([CERT_ID], before=bytes.fromhex("a003020100")),
        ask([CERT_ID], end=der.explicit(0, der.sequence(b"whatever was signed"))),
        ask([CERT_ID], extension("1.2.3.4", b"\1\2")),
        ask([CERT_ID], extension("1.2.3.4", b"", critical=b"\1\1\0")),
        ask([CERT_ID], extension("1.3.6.1.5.5.7.48.1.4", b"anything", critical=b"\1\1\xff")),
    ],
)
def test_ocsp_10_and_11_accept(data: bytes) -> None:
    assert codec.decode(data).cert_ids[0].serial == 77


@pytest.mark.parametrize("choice", range(9))
def test_t_ocsp_03_skips_requestor_names_of_every_type(choice: int) -> None:
    # CVE-2020-1971: a GeneralName of an unexpected type
    name = der.tlv(0xA0 | choice, der.octets(b"x" * 50))
    assert codec.decode(ask([CERT_ID], before=der.explicit(1, name))).cert_ids[0].serial == 77


@pytest.mark.parametrize("length", [1, 15, 16, 32, 33, 128])
@pytest.mark.parametrize("wrapped", [True, False])
def test_ocsp_14_keeps_the_octets_of_a_nonce(length: int, wrapped: bool) -> None:
    value = bytes(range(length, length * 2)) if length < 64 else b"\x55" * length
    value = der.octets(value) if wrapped else value
    assert codec.decode(ask([CERT_ID], extension(NONCE, value))).nonce == value


@pytest.mark.parametrize("length", [0, 129, 4096])
@pytest.mark.parametrize("wrapped", [True, False])
def test_ocsp_14_refuses_a_nonce_of_wrong_length(length: int, wrapped: bool) -> None:
    value = der.octets(b"\x55" * length) if wrapped else b"\x55" * length
    with pytest.raises(Fault, match="1 to 128"):
        codec.decode(ask([CERT_ID], extension(NONCE, value)))


def test_ocsp_15_reads_preferred_algorithms() -> None:
    first = der.sequence(der.oid("1.2.840.10045.4.3.3"))
    second = bytes.fromhex("300a06082a8648ce3d040302")
    value = der.sequence(der.sequence(first), der.sequence(second, der.sequence()))
    data = ask([CERT_ID], extension("1.3.6.1.5.5.7.48.1.8", value))
    assert codec.decode(data).preferred == (first, second)


@pytest.mark.parametrize("safe", ["", "/+="])
@pytest.mark.parametrize("prefix", ["", "/", "//"])
@pytest.mark.parametrize("strip", ["", "="])
def test_ocsp_02_reads_every_spelling_of_a_get_path(safe: str, prefix: str, strip: str) -> None:
    # 0xFB and 0xFF make "+" and "//" in base64
    data = ask([CERT_ID], extension(NONCE, b"\xff\xff\xff\xfb\xef\xbe" * 3))
    text = base64.b64encode(data).decode()
    assert "//" in text
    path = prefix + quote(text.rstrip(strip or "\0"), safe=safe)
    assert codec.decode_path(path.encode()) == data


@pytest.mark.parametrize("path", [b"/MEow!", b"/M", b"/%ff%fe", b"/" + b"M" * 20_000])
def test_ocsp_02_refuses_what_is_not_base64(path: bytes) -> None:
    with pytest.raises(Fault) as caught:
        codec.decode_path(path)
    assert caught.value.code is FaultCode.MALFORMED


def test_faults_are_total() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
    for body in codec.FAULTS.values():
        response = ocsp.load_der_ocsp_response(body)
        assert response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL


ALGORITHMS = [a for a in KeyAlgorithm if a not in (KeyAlgorithm.RSA_3072, KeyAlgorithm.RSA_4096)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("pss", [False, True])
def test_ocsp_20_a_spliced_answer_is_what_the_oracles_read(
    algorithm: KeyAlgorithm, pss: bool
) -> None:
    key = algorithms.generate(algorithm)
    scheme = scheme_for(key.public_key(), SignaturePolicy(pss=pss))
    responder = certificate("CN=responder", key)
    request = codec.decode(ask([CERT_ID]))
    revoked_at = NOW - timedelta(hours=1)
    data = codec.response_data(
        codec.by_key(bytes(range(20))),
        codec.generalized_time(NOW),
        [
            codec.single(
                request.cert_ids[0].der,
                codec.revoked(revoked_at, 1),
                codec.generalized_time(NOW),
                codec.generalized_time(NOW + timedelta(hours=12)),
                NOW - timedelta(days=30),
            )
        ],
        nonce=der.octets(b"n" * 16),
        is_extended_revoke=True,
    )
    signed = codec.sign(key, scheme, data)
    body = codec.encode(
        data,
        signature.algorithm_der(key.public_key(), scheme),
        signed,
        codec.certificates(responder.public_bytes(Encoding.DER)),
    )
    read = ocsp.load_der_ocsp_response(body)
    assert read.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert read.revocation_reason is x509.ReasonFlags.key_compromise
    assert read.revocation_time_utc == revoked_at
    assert (read.this_update_utc, read.produced_at_utc) == (NOW, NOW)
    assert read.next_update_utc == NOW + timedelta(hours=12)
    assert read.responder_key_hash == bytes(range(20))
    assert read.serial_number == 77
    assert read.tbs_response_bytes == data
    assert read.certificates == [responder]
    assert read.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 16
    signature.check(key.public_key(), scheme, read.signature, data, digest=False)
    # pyasn1 knows the parts that cryptography skips, and would write the same octets.
    outer, rest = decoder.decode(body, asn1Spec=rfc6960.OCSPResponse())
    assert not rest
    assert encoder.encode(outer) == body
    basic, rest = decoder.decode(
        outer["responseBytes"]["response"].asOctets(), asn1Spec=rfc6960.BasicOCSPResponse()
    )
    assert not rest
    found = basic["tbsResponseData"]["responseExtensions"]
    assert [str(e["extnID"]) for e in found] == [NONCE, "1.3.6.1.5.5.7.48.1.9"]
    assert encoder.encode(univ.Null("")) == found[1]["extnValue"].asOctets()
    single = basic["tbsResponseData"]["responses"][0]
    assert str(single["singleExtensions"][0]["extnID"]) == "1.3.6.1.5.5.7.48.1.6"


@pytest.mark.parametrize("reason", [0, None])
def test_ocsp_20_an_unspecified_reason_is_left_out(reason: int | None) -> None:
    assert codec.revoked(NOW, reason) == b"\xa1\x11" + codec.generalized_time(NOW)
