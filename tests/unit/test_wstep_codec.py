"""SOAP, WSTEP and XCEP messages: what is read, what is refused, what is written."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pyasn1.codec.der import decoder
from pyasn1_modules import rfc5652, rfc6402

from tests.scep_client import self_signed
from tests.unit.est_world import make_csr
from tests.unit.wstep_world import NS, csr, envelope, get_policies, issue, query, signed_by
from tmad.errors import Fault, FaultCode
from tmad.protocols.wstep import codec, policies
from tmad.wire import cms, der, signatures, soap
from tmad.wire.signatures import Age, Policy
from tmad.wire.soap import Name, Node

VECTORS = Path(__file__).parents[1] / "vectors" / "wstep"
POLICY = Policy(Age.MODERN)


def fault_of(function: Any, *arguments: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        function(*arguments)
    return caught.value


def certificate(key: Any) -> x509.Certificate:
    found: x509.Certificate = self_signed(key).certificate
    return found


def read(body: bytes) -> Any:
    return codec.decode(soap.decode(body), POLICY)


# -- what cepces sends ------------------------------------------------------------------------


def test_cepces_asks_for_policies() -> None:
    message = soap.decode((VECTORS / "cepces-get-policies.xml").read_bytes())
    assert message.user is not None
    assert message.user.name == "bob@corp.test"
    assert message.user.password.reveal() == b"not a real password"
    assert "real" not in repr(message)
    question = policies.decode(message)
    assert (question.last_update, question.oids) == (None, None)


def test_cepces_asks_for_a_certificate() -> None:
    asked = read((VECTORS / "cepces-request.xml").read_bytes())
    assert isinstance(asked, codec.Submission)
    assert (asked.template, asked.template_oid, asked.signer_der) == ("User", "", None)
    assert asked.csr.subject.rfc4514_string() == "CN=User"


def test_cepces_asks_again() -> None:
    assert read((VECTORS / "cepces-query.xml").read_bytes()) == codec.Query(4711)


# -- requests ---------------------------------------------------------------------------------


def test_a_request_may_come_in_three_forms() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = certificate(key)
    plain = csr(key=key)
    pkcs7_der = signed_by(plain, own, key)
    assert read(issue(plain)).signer_der is None
    asked = read(issue(pkcs7_der))
    assert asked.signer_der == own.public_bytes(Encoding.DER)
    for signer in (None, own):
        asked = read(issue(cmc(plain, key, signer)))
        assert asked.csr.der == plain
        assert (asked.signer_der is not None) is (signer is not None)


def cmc(request: bytes, key: Any, signer: x509.Certificate | None) -> bytes:
    """Return PKIData around one request, signed as Windows signs it."""
    tagged = der.tlv(0xA0, der.integer(1), request)
    data = der.sequence(der.sequence(), der.sequence(tagged), der.sequence(), der.sequence())
    content_type = der.oid("1.3.6.1.5.5.7.12.2")
    stand_in = signer or certificate(key)
    encoded = stand_in.public_bytes(Encoding.DER)
    return cms.sign(
        key, encoded, data, digest=signatures.SHA256, content_type=content_type,
        certificates=() if signer is None else (encoded,),
    )  # fmt: skip


def test_the_certificate_to_renew_is_the_one_that_signs() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = certificate(key)
    named = make_csr(key=key, attributes=(("1.3.6.1.4.1.311.13.1", b"x"),))
    assert read(issue(named)).signer_der is None
    fault = fault_of(read, issue(signed_by(named, own, key)))
    assert (fault.code, fault.rule) == (FaultCode.BAD_PROOF, "wstep.renewal")


@pytest.mark.parametrize("where", [0, 100, 200, -30])
def test_a_changed_signed_request_is_refused(where: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = bytearray(signed_by(csr(key=key), certificate(key), key))
    good[where] ^= 0x41
    assert fault_of(read, issue(bytes(good))).code in (
        FaultCode.MALFORMED, FaultCode.BAD_INTEGRITY, FaultCode.BAD_PROOF, FaultCode.UNSUPPORTED,
        FaultCode.BAD_ALGORITHM,
    )  # fmt: skip


def test_what_is_signed_must_be_a_request() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = certificate(key)
    encoded = own.public_bytes(Encoding.DER)
    other = cms.sign(
        key, encoded, b"x", digest=signatures.SHA256, content_type=der.oid("1.2.3"),
        certificates=(encoded,),
    )  # fmt: skip
    assert fault_of(read, issue(other)).rule == "wstep.content"
    nobody = cms.degenerate((encoded,))
    assert fault_of(read, issue(nobody)).code in (FaultCode.UNSUPPORTED, FaultCode.MALFORMED)


def test_a_request_of_two_is_none() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    tagged = der.tlv(0xA0, der.integer(1), csr(key=key))
    data = der.sequence(
        der.sequence(), der.sequence(tagged, tagged), der.sequence(), der.sequence()
    )
    own = certificate(key).public_bytes(Encoding.DER)
    signed = cms.sign(
        key, own, data, digest=signatures.SHA256, content_type=der.oid("1.3.6.1.5.5.7.12.2")
    )
    assert fault_of(read, issue(signed)).code is FaultCode.MALFORMED


def test_the_template_may_stand_beside_the_request() -> None:
    context = (
        '<AdditionalContext xmlns="http://schemas.xmlsoap.org/ws/2006/12/authorization">'
        '<ContextItem Name="CertificateTemplate"><Value>Machine</Value></ContextItem>'
        "</AdditionalContext>"
    )
    assert read(issue(csr(), more=context)).template == "Machine"


@pytest.mark.parametrize(
    ("body", "code", "rule"),
    [
        (b"", FaultCode.MALFORMED, "soap.message"),
        (b"\xff\xfe", FaultCode.MALFORMED, "soap.message"),
        (b"<?xml version='1.0' encoding='ebcdic-x'?><a/>", FaultCode.MALFORMED, "soap.message"),
        (b"<!DOCTYPE a><a/>", FaultCode.MALFORMED, "soap.message"),
        (b"<?target data?><a/>", FaultCode.MALFORMED, "soap.message"),
        (b"<a>" * 40 + b"</a>" * 40, FaultCode.MALFORMED, "soap.message"),
        (b"<a>" + b"<b/>" * 2000 + b"</a>", FaultCode.MALFORMED, "soap.message"),
        (b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"/>',
         FaultCode.UNSUPPORTED, "soap.version"),
        (envelope("a", "<x/><y/>"), FaultCode.MALFORMED, "soap.message"),
        (envelope("", "<x/>"), FaultCode.MALFORMED, "soap.message"),
        (envelope("a", "<x/>").replace(b"/anonymous", b"/other"),
         FaultCode.UNSUPPORTED, "soap.reply-to"),
        (envelope("a", "<x/>", user="x", word="y").replace(b"#PasswordText", b"#PasswordDigest"),
         FaultCode.UNSUPPORTED, "soap.password"),
        (envelope("a", "<x/>"), FaultCode.UNSUPPORTED, "soap.action"),
        (get_policies(), FaultCode.UNSUPPORTED, "soap.action"),
        (issue(csr(), kind="KET"), FaultCode.UNSUPPORTED, "wstep.request-type"),
        (issue(csr()).replace(b"#X509v3", b"#X509v1"), FaultCode.UNSUPPORTED, "wstep.token-type"),
        (issue(b""), FaultCode.MALFORMED, "wire.der"),
        (query("-1"), FaultCode.MALFORMED, "soap.message"),
        (query(""), FaultCode.MALFORMED, "soap.message"),
    ],
    ids=range(19),  # the same in each process, though keys are not
)  # fmt: skip
def test_what_is_no_message_is_refused(body: bytes, code: FaultCode, rule: str) -> None:
    fault = fault_of(read, body)
    assert (fault.code, fault.rule) == (code, rule)


# -- answers ----------------------------------------------------------------------------------


def test_every_fault_has_a_word_and_an_error_of_windows() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
    for code in FaultCode:
        answer = ElementTree.fromstring(codec.encode_fault("urn:x", Fault(code, "no <way> & \x00")))
        reason = answer.find(".//s:Reason/s:Text", NS)
        assert reason is not None
        assert reason.text == "no <way> & ?"
        error = answer.find(".//e:ErrorCode", NS)
        assert error is not None
        # xs:int; negative, as every HRESULT of a failure is.
        assert -(1 << 31) <= int(error.text or "") < 0


def test_a_number_stands_in_a_fault_where_there_is_one() -> None:
    answer = codec.encode_fault("", Fault(FaultCode.REJECTED, "denied"), 17)
    assert b">17<" in answer
    assert b"RelatesTo" not in answer


def test_what_is_written_is_read_again() -> None:
    node = soap.element(
        "urn:a", "one", "te<xt>&\"'\r\n", soap.element("urn:b", "two"),
        attributes={Name("", "x"): "a\"<&\n", Name(soap.ENVELOPE, "y"): "z"},
    )  # fmt: skip
    found = soap.parse(soap.write(node))
    assert found.name == ("urn:a", "one")
    assert found.children == (Node(Name("urn:b", "two")),)
    assert found.text == "te<xt>&\"'\r\n"
    assert found.get(soap.ENVELOPE, "y") == "z"


def test_a_pending_answer_is_what_cmc_says_it_is() -> None:
    """pyasn1 as the other opinion (RFC 10002, 3.2.2 and 6.1)."""
    status = codec.pending_status(0x01020304, datetime(2026, 11, 23, 12, tzinfo=UTC))
    response, rest = decoder.decode(status, asn1Spec=rfc6402.PKIResponse())
    assert not rest
    [control] = response["controlSequence"]
    assert (len(response["cmsSequence"]), len(response["otherMsgSequence"])) == (0, 0)
    assert control["attrType"] == rfc6402.id_cmc_statusInfo
    info, _ = decoder.decode(control["attrValues"][0], asn1Spec=rfc6402.CMCStatusInfo())
    assert (int(info["cMCStatus"]), [int(each) for each in info["bodyList"]]) == (3, [1])
    waiting = info["otherInfo"]["pendInfo"]
    assert bytes(waiting["pendToken"]) == bytes((4, 3, 2, 1))
    assert str(waiting["pendTime"]) == "20261123120000Z"


def test_the_bundle_is_a_pkcs7() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encoded = certificate(key).public_bytes(Encoding.DER)
    body = codec.issued(7, encoded, cms.degenerate((encoded,)))
    answer = ElementTree.fromstring(soap.encode(codec.ANSWER, "urn:x", body))
    tokens = answer.findall(".//o:BinarySecurityToken", NS)
    bundle, leaf = (base64.b64decode(token.text or "") for token in tokens)
    content, _ = decoder.decode(bundle, asn1Spec=rfc5652.ContentInfo())
    assert str(content["contentType"]) == "1.2.840.113549.1.7.2"
    assert x509.load_der_x509_certificate(leaf).fingerprint(hashes.SHA256())
