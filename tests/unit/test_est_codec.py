"""EST's bodies and fields: what clients send, and what they can read (RFC 7030, 8951, 9908)."""

from __future__ import annotations

import base64
from datetime import datetime
from email.parser import BytesParser
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc7030, rfc9908

from tests.unit.est_world import basic, certificates_of, make_csr
from tmad.errors import Fault, FaultCode
from tmad.protocols.est import codec, csrattrs
from tmad.wire import der
from tmad.wire.envelopes import AES128, AES256
from tmad.wire.signatures import Policy

NEW = Policy()
CSR = make_csr("dev1")
PEM = x509.load_der_x509_csr(CSR).public_bytes(serialization.Encoding.PEM)
CHALLENGE = "1.2.840.113549.1.9.7"
LINKING = "1.2.840.113549.1.9.16.2.58"
OTP = "1.2.840.113549.1.9.16.2.56"


def utf8(text: bytes) -> bytes:
    return der.tlv(der.UTF8_STRING, text)


def read(**options: Any) -> Any:
    return codec.decode_request(base64.b64encode(make_csr(**options)), NEW)


def code(function: Any, *arguments: Any, **named: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        function(*arguments, **named)
    return caught.value


# -- requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        base64.b64encode(CSR),
        base64.encodebytes(CSR),
        base64.encodebytes(CSR).replace(b"\n", b"\r\n"),
        b" \t\r\n" + base64.b64encode(CSR) + b"\n\n",
        b"\n".join(base64.b64encode(CSR)[i : i + 64] for i in range(0, 4096, 64)),
        CSR,
        PEM,
        PEM.replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"),
        PEM.replace(b"\n", b"\r\n"),
        b"some text before\n" + PEM + b"and after\n",
    ],
)
def test_est_01_03_a_request_is_read_however_it_is_wrapped(body: bytes) -> None:
    assert codec.decode_request(body, NEW).der == CSR


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"=",
        b"not base64!",
        base64.b64encode(CSR)[:-3],
        base64.b64encode(CSR[:-1]),
        base64.b64encode(CSR + b"\0"),
        base64.b64encode(b"\x30\x03\x02\x01\x00"),
        base64.b64encode(base64.b64encode(CSR)),
        b"-----BEGIN CERTIFICATE REQUEST-----",
        b"\x30" * 5000,
        b"\xff" * 100,
    ],
)
def test_what_is_no_request_is_malformed(body: bytes) -> None:
    assert code(codec.decode_request, body, NEW).code is FaultCode.MALFORMED


def test_a_broken_signature_proves_nothing_except_where_it_need_not() -> None:
    broken = bytearray(CSR)
    broken[-1] ^= 1
    body = base64.b64encode(broken)
    assert code(codec.decode_request, body, NEW).code is FaultCode.BAD_PROOF
    assert codec.decode_request(body, NEW, is_proof=False).der == bytes(broken)


@pytest.mark.parametrize(
    "field", ["application/pkcs10", "APPLICATION/PKCS10", "application/pkcs10; charset=utf-8"]
)
def test_est_06_the_type_may_have_parameters(field: str) -> None:
    codec.check_type(field)


@pytest.mark.parametrize("field", ["", "text/plain", "application/pkcs7-mime", "x" * 5000])
def test_est_06_any_other_type_is_refused(field: str) -> None:
    assert code(codec.check_type, field).rule == "est.content-type"


def test_basic_takes_colons_and_other_letters() -> None:
    found = codec.decode_basic(basic("jürgen", "a:b:ü"))
    assert found is not None
    assert (found.user, found.password.reveal()) == ("jürgen", "a:b:ü".encode())
    assert "a:b" not in repr(found)
    assert codec.decode_basic("") is None


@pytest.mark.parametrize(
    "field",
    ["Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Digest username=x", "Bearer abc", "Basic /w==",
     "Basic " + base64.b64encode(b"\xff:x").decode()],
)  # fmt: skip
def test_est_10_no_scheme_but_basic(field: str) -> None:
    assert code(codec.decode_basic, field).rule == "est.authorization"


def test_every_fault_has_its_status() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
    assert all(400 <= status <= 599 for status in codec.FAULTS.values())


# -- linking (RFC 7030, 3.5; RFC 7894) --------------------------------------------------------

UNIQUE = b"0123456789ab"
OURS = base64.b64encode(UNIQUE)
OTHER = base64.b64encode(b"ba9876543210")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((), None),
        (((CHALLENGE, OURS),), True),
        (((CHALLENGE, OTHER),), False),
        (((CHALLENGE, b"a password"),), None),
        (((LINKING, OURS),), True),
        (((LINKING, OTHER),), False),
        (((LINKING, b"nonsense"),), False),
        (((CHALLENGE, b"a password"), (LINKING, OURS)), True),
        (((CHALLENGE, OURS), (LINKING, OTHER)), False),
        (((CHALLENGE, base64.b64encode(b"e" * 32)),), False),
    ],
)
def test_est_14_a_request_is_of_its_tls_session_or_not(
    attributes: tuple[tuple[str, bytes], ...], expected: bool | None
) -> None:
    claimed = codec.links(read(attributes=attributes))
    assert bool(claimed) is (expected is not None)
    assert codec.is_linked(claimed, (b"another", UNIQUE)) is bool(expected)
    assert not codec.is_linked(claimed, ())


def test_a_password_in_a_request_is_told_from_a_binding() -> None:
    word = codec.challenge(read(attributes=((CHALLENGE, b"open sesame"),)))
    assert word is not None
    assert word.reveal() == b"open sesame"
    assert codec.challenge(read(attributes=((CHALLENGE, OURS),))) is None
    assert codec.challenge(read()) is None
    otp = codec.challenge(read(attributes=((CHALLENGE, OURS), (OTP, b"123456"))))
    assert otp is not None
    assert otp.reveal() == b"123456"


def test_another_name_is_asked_for_by_an_attribute_of_its_own() -> None:
    codec.check_subject(read())
    wish = read(attributes=(("1.3.6.1.5.5.7.7.36", b"x"),))
    assert code(codec.check_subject, wish).rule == "est.change-subject"


# -- private keys -----------------------------------------------------------------------------


def _keygen(*attributes: tuple[str, bytes]) -> Any:
    """Return a template with any attributes; its signature is not looked at."""
    outer = der.read(CSR, der.SEQUENCE)
    info = outer.enter(der.SEQUENCE)
    kept = [info.raw() for _ in range(3)]  # version, subject, key
    parts = sorted(der.sequence(der.oid(oid), der.tlv(der.SET, value)) for oid, value in attributes)
    whole = der.sequence(der.sequence(*kept, der.explicit(0, *parts)), outer.rest())
    return codec.decode_request(base64.b64encode(whole), NEW, is_proof=False)


ASYMMETRIC = ("1.2.840.113549.1.9.16.2.54", der.octets(b"k" * 20))
SYMMETRIC = ("1.2.840.113549.1.9.16.2.37", der.octets(b"k" * 20))


def capabilities(*oids: bytes) -> tuple[str, bytes]:
    return "1.2.840.113549.1.9.15", der.sequence(*(der.sequence(oid) for oid in oids))


def test_est_31_who_wants_an_encrypted_key_names_the_key() -> None:
    assert codec.key_recipient(_keygen()) is None
    found = codec.key_recipient(_keygen(ASYMMETRIC))
    assert found == (b"k" * 20, AES256)
    weaker = codec.key_recipient(_keygen(ASYMMETRIC, capabilities(AES128.oid)))
    assert weaker is not None
    assert weaker.cipher is AES128


@pytest.mark.parametrize(
    "attributes",
    [
        (SYMMETRIC,),
        (SYMMETRIC, ASYMMETRIC),
        (ASYMMETRIC, capabilities(der.oid("1.2.840.113549.3.7"))),
    ],
)
def test_est_31_what_cannot_be_done_fails(attributes: tuple[tuple[str, bytes], ...]) -> None:
    fault = code(codec.key_recipient, _keygen(*attributes))
    assert fault.rule == "est.key-recipient"


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 47, 48, 49, 1000])
def test_est_02_lines_have_64_characters_and_an_end(size: int) -> None:
    body = codec.encode(b"x" * size)
    assert base64.b64decode(body) == b"x" * size
    lines = body.split(b"\n")
    assert lines[-1] == b""
    assert all(len(line) == 64 for line in lines[:-2])
    assert codec.encode(b"x" * size, is_one_line=True) == base64.b64encode(b"x" * size)


def test_est_30_33_a_key_comes_first_then_the_certificate() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(5)
        .public_key(key.public_key())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2027, 1, 1))
        .sign(key, hashes.SHA256())
    ).public_bytes(serialization.Encoding.DER)
    kind, body = codec.encode_key(b"the key", certificate, is_sealed=False, boundary="b0")
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    parts: Any = message.get_payload()
    one, two = parts
    assert one.get_content_type() == "application/pkcs8"
    assert two.get_content_type() == "application/pkcs7-mime"
    assert two.get_param("smime-type") == "certs-only"
    for part in (one, two):
        assert part["Content-Transfer-Encoding"] == "base64"
    assert one.get_payload(decode=True) == b"the key"
    (found,) = certificates_of(two.get_payload().encode())
    assert found.public_bytes(serialization.Encoding.DER) == certificate
    sealed, _ = codec.encode_key(b"e", certificate, is_sealed=True, boundary="b0")
    assert sealed == kind


# -- csrattrs ---------------------------------------------------------------------------------


def wishes(**options: Any) -> csrattrs.Wishes:
    given: dict[str, Any] = {
        "key": "p256", "rsa_bits": 2048, "subject": [], "names": [], "is_linked": False
    }  # fmt: skip
    return csrattrs.Wishes(**(given | options))


def parsed(w: csrattrs.Wishes) -> tuple[list[str], dict[str, bytes]]:
    """Return bare OIDs, and attributes with the DER of their one value, as pyasn1 reads them."""
    found, rest = decode(csrattrs.encode(w), asn1Spec=rfc7030.CsrAttrs())
    assert not rest
    oids, attributes = [], {}
    for item in found:
        if item.getName() == "oid":
            oids.append(str(item["oid"]))
        else:
            attribute = item["attribute"]
            (value,) = attribute["attrValues"]
            attributes[str(attribute["attrType"])] = bytes(value)
    return oids, attributes


def template(w: csrattrs.Wishes) -> Any:
    _, attributes = parsed(w)
    found, rest = decode(
        attributes["1.2.840.113549.1.9.16.2.61"],
        asn1Spec=rfc9908.CertificationRequestInfoTemplate(),
    )
    assert not rest
    assert int(found["version"]) == 0
    return found


def test_est_41_an_elliptic_curve_is_asked_for_in_both_forms() -> None:
    oids, attributes = parsed(wishes())
    assert oids == ["1.2.840.10045.4.3.2"]
    assert attributes["1.2.840.10045.2.1"] == der.oid("1.2.840.10045.3.1.7")
    algorithm = template(wishes())["subjectPKInfo"]["algorithm"]
    assert str(algorithm["algorithm"]) == "1.2.840.10045.2.1"
    assert bytes(algorithm["parameters"]) == der.oid("1.2.840.10045.3.1.7")


def test_est_41_an_rsa_size_is_asked_for_in_both_forms() -> None:
    w = wishes(key="rsa", rsa_bits=3072)
    oids, attributes = parsed(w)
    assert oids == ["1.2.840.113549.1.1.11"]
    assert attributes["1.2.840.113549.1.1.1"] == der.integer(3072)
    info = template(w)["subjectPKInfo"]
    placeholder, _ = decode(info["subjectPublicKey"].asOctets())
    assert int(placeholder[0]).bit_length() == 3072


@pytest.mark.parametrize("key", ["ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_newer_keys_have_one_name_for_key_and_signature(key: str) -> None:
    oids, attributes = parsed(wishes(key=key))
    assert len(oids) == 1
    assert list(attributes) == ["1.2.840.113549.1.9.16.2.61"]
    assert str(template(wishes(key=key))["subjectPKInfo"]["algorithm"]["algorithm"]) == oids[0]


def test_est_42_a_template_has_values_and_holes() -> None:
    w = wishes(
        subject=[(NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COUNTRY_NAME, "NL"),
                 (NameOID.COMMON_NAME, None)],
        names=["dns", "ip"],
    )  # fmt: skip
    found = template(w)
    rdns = found["subject"]["rdnSequence"]
    values = [(str(rdn[0]["type"]), rdn[0]["value"]) for rdn in rdns]
    assert [oid for oid, _ in values] == ["2.5.4.10", "2.5.4.6", "2.5.4.3"]
    assert bytes(values[0][1]) == utf8(b"Example")
    assert bytes(values[1][1]) == der.tlv(der.PRINTABLE_STRING, b"NL")
    assert not values[2][1].isValue
    (attribute,) = found["attributes"]
    assert str(attribute["type"]) == "1.2.840.113549.1.9.16.2.62"
    extensions, _ = decode(bytes(attribute["values"][0]), asn1Spec=rfc9908.ExtensionReqTemplate())
    assert str(extensions[0]["extnID"]) == "2.5.29.17"
    assert bytes(extensions[0]["extnValue"]) == der.sequence(b"\x82\x00\x87\x00")


def test_est_14_who_must_link_is_told_so_in_the_form_that_can_say_it() -> None:
    oids, attributes = parsed(wishes(is_linked=True))
    assert oids[:2] == [CHALLENGE, LINKING]
    assert "1.2.840.113549.1.9.16.2.61" not in attributes
