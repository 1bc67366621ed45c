"""WSTEP messages: security tokens to certification requests, and certificates to tokens.

MS-WSTEP 3.1.4; WS-Trust 1.3, 3 and 4; MS-WCCE 2.2.2.6 for the forms that a request may have:
PKCS #10, a PKCS #7 that is signed with the certificate to renew, and CMC around one PKCS #10.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.errors import Fault, FaultCode
from tmad.wire import ber, cms, csr, der, parsing, soap
from tmad.wire.cms import SignedData
from tmad.wire.csr import CSR
from tmad.wire.signatures import Policy
from tmad.wire.soap import Name, Node, element, malformed

CONTENT_TYPE: Final = "application/soap+xml"

_ENROLLMENT: Final = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment"
_TRUST: Final = "http://docs.oasis-open.org/ws-sx/ws-trust/200512"
_AUTHORISATION: Final = "http://schemas.xmlsoap.org/ws/2006/12/authorization"
ACTION: Final = f"{_ENROLLMENT}/RST/wstep"
ANSWER: Final = f"{_ENROLLMENT}/RSTRC/wstep"

_ISSUE: Final = f"{_TRUST}/Issue"
_QUERY: Final = f"{_ENROLLMENT}/QueryTokenStatus"
_X509: Final = (
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3"
)
_BASE64: Final = f"{soap.SECURITY}#base64binary"

_PKI_DATA = der.oid("1.3.6.1.5.5.7.12.2")
PKI_RESPONSE = der.oid("1.3.6.1.5.5.7.12.3")
_STATUS_INFO = der.oid("1.3.6.1.5.5.7.7.1")
_RENEWAL_CERTIFICATE = der.oid("1.3.6.1.4.1.311.13.1")
_TEMPLATE_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.311.21.7")
_PENDING: Final = 3  # RFC 10002, 6.1.1: CMCStatus

_SPACE = str.maketrans("", "", " \t\r\n")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}\Z")
LARGEST_NUMBER: Final = 0x7FFFFFFF  # of a request: what Windows keeps it in

# HRESULTs, as winerror.h names them: what a Fault looks like in Windows' event log.
_ERRORS: Mapping[FaultCode, int] = {
    FaultCode.MALFORMED: 0x8007000D,  # ERROR_INVALID_DATA
    FaultCode.UNSUPPORTED: 0x80070032,  # ERROR_NOT_SUPPORTED
    FaultCode.BAD_ALGORITHM: 0x80090008,  # NTE_BAD_ALGID
    FaultCode.BAD_INTEGRITY: 0x80090006,  # NTE_BAD_SIGNATURE
    FaultCode.BAD_TIME: 0x80090324,  # SEC_E_TIME_SKEW
    FaultCode.BAD_PROOF: 0x80090006,  # NTE_BAD_SIGNATURE
    FaultCode.UNAUTHENTICATED: 0x8009030C,  # SEC_E_LOGON_DENIED
    FaultCode.FORBIDDEN: 0x80070005,  # E_ACCESSDENIED
    FaultCode.REJECTED: 0x80094014,  # CERTSRV_E_ADMIN_DENIED_REQUEST
    FaultCode.NOT_FOUND: 0x80070490,  # ERROR_NOT_FOUND
    FaultCode.CONFLICT: 0x800700B7,  # ERROR_ALREADY_EXISTS
    FaultCode.RATE_LIMITED: 0x800700AA,  # ERROR_BUSY
    FaultCode.UNAVAILABLE: 0x800706BA,  # RPC_S_SERVER_UNAVAILABLE
    FaultCode.INTERNAL: 0x80004005,  # E_FAIL
}
# WS-Trust 1.3, 11: the words for what went wrong, and whose doing it was.
FAULTS: Mapping[FaultCode, tuple[str, str]] = {
    FaultCode.MALFORMED: ("Sender", "InvalidRequest"),
    FaultCode.UNSUPPORTED: ("Sender", "InvalidRequest"),
    FaultCode.BAD_ALGORITHM: ("Sender", "InvalidRequest"),
    FaultCode.BAD_INTEGRITY: ("Sender", "InvalidSecurityToken"),
    FaultCode.BAD_TIME: ("Sender", "InvalidTimeRange"),
    FaultCode.BAD_PROOF: ("Sender", "InvalidRequest"),
    FaultCode.UNAUTHENTICATED: ("Sender", "FailedAuthentication"),
    FaultCode.FORBIDDEN: ("Sender", "RequestFailed"),
    FaultCode.REJECTED: ("Sender", "RequestFailed"),
    FaultCode.NOT_FOUND: ("Sender", "InvalidRequest"),
    FaultCode.CONFLICT: ("Sender", "RequestFailed"),
    FaultCode.RATE_LIMITED: ("Receiver", "RequestFailed"),
    FaultCode.UNAVAILABLE: ("Receiver", "RequestFailed"),
    FaultCode.INTERNAL: ("Receiver", "RequestFailed"),
}

# What the authority has decided, in contrast to what it could not (MS-WSTEP 3.1.4.1.3.7).
_DENIED: Final = frozenset(
    {
        FaultCode.BAD_ALGORITHM,
        FaultCode.BAD_PROOF,
        FaultCode.FORBIDDEN,
        FaultCode.REJECTED,
        FaultCode.CONFLICT,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request for a certificate. ``signer_der`` is the certificate that signed around it.

    ``template`` is the name and ``template_oid`` the object identifier of the template that the
    client has in mind, as far as it says so.
    """

    csr: CSR
    signer_der: bytes | None
    chain_der: tuple[bytes, ...]
    template: str
    template_oid: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question about an earlier request (MS-WSTEP 3.1.4.2.1.2)."""

    number: int


# -- requests ---------------------------------------------------------------------------------


def decode(message: soap.Message, policy: Policy) -> Submission | Query:
    """Read what a RequestSecurityToken asks for.

    Raise Fault(MALFORMED) or Fault(UNSUPPORTED), and those of :mod:`tmad.wire.csr` and of
    :mod:`tmad.wire.cms` for signatures that do not hold.
    """
    body = message.body
    if message.action != ACTION or body.name != (_TRUST, "RequestSecurityToken"):
        raise unsupported_action(message)
    kind = body.value(_TRUST, "RequestType")
    if kind == _QUERY:
        number = body.value(_ENROLLMENT, "RequestID")
        if not _NUMBER.match(number) or int(number) > LARGEST_NUMBER:
            raise malformed("a query has the number of a request")
        return Query(int(number))
    if kind != _ISSUE:
        raise Fault(
            FaultCode.UNSUPPORTED,
            "this type of request is not served; use Issue or QueryTokenStatus",
            rule="wstep.request-type",
            values={"type": kind[:200]},
        )
    if body.value(_TRUST, "TokenType") not in ("", _X509):
        raise Fault(
            FaultCode.UNSUPPORTED, "only X.509 certificates are issued", rule="wstep.token-type"
        )
    return _submission(_token(body), _template_in(body), policy)


def unsupported_action(message: soap.Message) -> Fault:
    """Return the Fault for a message that is for another service."""
    return Fault(
        FaultCode.UNSUPPORTED,
        "this action is not served here",
        rule="soap.action",
        values={"action": message.action[:200], "body": message.body.name.local[:64]},
    )


def _token(body: Node) -> bytes:
    token = body.find(soap.SECURITY, "BinarySecurityToken")
    if token is None:
        raise malformed("there is no binary security token with the request in it")
    try:
        return base64.b64decode(token.text.translate(_SPACE), validate=True)
    except (binascii.Error, ValueError):
        raise malformed("the token is not base64") from None


def _template_in(body: Node) -> str:
    """Return the template's name from the additional context (MS-WSTEP 3.1.4.1.2.1), if any."""
    context = body.find(_AUTHORISATION, "AdditionalContext")
    for item in () if context is None else context.children:
        if item.get("", "Name").casefold() == "certificatetemplate":
            return item.value(_AUTHORISATION, "Value")[:64]
    return ""


def _submission(token: bytes, template: str, policy: Policy) -> Submission:
    request = ber.normalise(token, elements=csr.ELEMENTS, depth=csr.DEPTH)
    signer_der = None
    chain: tuple[bytes, ...] = ()
    outer = der.read(request, der.SEQUENCE)
    if outer.peek() == der.OBJECT_IDENTIFIER:
        signed = cms.decode_signed_data(request)
        inside = _inside(signed)
        found = csr.decode(inside, policy)
        signer_der = _verified(signed, found, policy)
        chain = tuple([each for each in signed.certificates if each != signer_der])
        _check_renewed(found, signer_der)
    else:
        found = csr.decode(request, policy)
    return Submission(
        csr=found,
        signer_der=signer_der,
        chain_der=chain,
        template=found.template or template,
        template_oid=_template_oid(found),
    )


def _inside(signed: SignedData) -> bytes:
    """Return the one PKCS #10 in a signed request."""
    content = signed.content or b""
    if signed.content_type == cms.DATA:
        return content
    if signed.content_type != _PKI_DATA:
        raise Fault(
            FaultCode.UNSUPPORTED,
            "what is signed is neither a certification request nor PKIData",
            rule="wstep.content",
        )
    # RFC 10002, 3.2.1
    data = der.read(content, der.SEQUENCE)
    data.raw(der.SEQUENCE)  # controls: Windows' own remarks, none of which may decide anything
    requests = data.enter(der.SEQUENCE)
    tagged = requests.enter(0xA0)
    tagged.integer()
    inside = tagged.raw(der.SEQUENCE)
    tagged.finish()
    requests.finish()
    for _ in range(2):
        data.raw(der.SEQUENCE)
    data.finish()
    return inside


def _verified(signed: SignedData, request: CSR, policy: Policy) -> bytes | None:
    """Check every signature; return the certificate that one of them names.

    A CMC request for a first certificate is signed with the new key alone, which has none yet.
    """
    if not 1 <= len(signed.signers) <= 2:
        raise malformed("a request around another has one signature or two")
    found: bytes | None = None
    for signer in signed.signers:
        certificate = signed.certificate_of(signer)
        if certificate is None:
            cms.verify(signed, signer, request.public_key, policy)
            continue
        if found is not None:
            raise malformed("two certificates have signed the request")
        cms.verify(signed, signer, _key_of(certificate), policy)
        found = certificate
    return found


def _key_of(certificate_der: bytes) -> CertificatePublicKeyTypes:
    try:
        return parsing.key_of(parsing.certificate(certificate_der))
    except ValueError as error:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the signer's certificate cannot be read",
            private=str(error),
            rule="wstep.signer",
        ) from None


def _check_renewed(request: CSR, signer_der: bytes | None) -> None:
    """The certificate to renew, where it is named, is the one that signs (MS-WCCE 2.2.2.7.3)."""
    named = request.attributes.get(_RENEWAL_CERTIFICATE, ())
    if named and signer_der is not None and signer_der not in named:
        raise Fault(
            FaultCode.BAD_PROOF,
            "the request is signed with another certificate than the one that it renews",
            rule="wstep.renewal",
        )


def _template_oid(request: CSR) -> str:
    """Return the template's object identifier (MS-WCCE 2.2.2.7.7.2), or nothing."""
    for extension in request.wanted:
        if extension.oid == _TEMPLATE_V2:
            value = extension.value.public_bytes()
            return der.dotted(der.read(value, der.SEQUENCE).raw(der.OBJECT_IDENTIFIER))
    return ""


# -- answers ----------------------------------------------------------------------------------


def issued(number: int, certificate_der: bytes, bundle_der: bytes) -> Node:
    """Return the body of an answer with a certificate; ``bundle_der`` is a PKCS #7 with it."""
    token = element(_TRUST, "RequestedSecurityToken", _binary(_X509, certificate_der))
    return _collection("Issued", bundle_der, token, number)


def pending(number: int, status_der: bytes, url: str) -> Node:
    """Return the body of an answer to a request that waits; ``url`` is where to ask again."""
    reference = element(soap.SECURITY, "Reference", attributes={Name("", "URI"): url})
    token = element(
        _TRUST,
        "RequestedSecurityToken",
        element(soap.SECURITY, "SecurityTokenReference", reference),
    )
    return _collection("Taken Under Submission", status_der, token, number)


def pending_status(number: int, asked_again_at: datetime) -> bytes:
    """Return the PKIResponse that says pending (RFC 10002, 3.2.2 and 6.1), to be signed."""
    when = asked_again_at.strftime("%Y%m%d%H%M%SZ").encode()
    token = der.octets(number.to_bytes(4, "little"))
    info = der.sequence(
        der.integer(_PENDING),
        der.sequence(der.integer(1)),
        der.sequence(token, der.tlv(der.GENERALIZED_TIME, when)),
    )
    control = der.sequence(der.integer(1), _STATUS_INFO, der.set_of([info]))
    return der.sequence(der.sequence(control), der.sequence(), der.sequence())


def _collection(disposition: str, token_der: bytes, requested: Node, number: int) -> Node:
    language = {Name(soap.XML, "lang"): "en-US"}
    response = element(
        _TRUST,
        "RequestSecurityTokenResponse",
        element(_TRUST, "TokenType", _X509),
        element(_ENROLLMENT, "DispositionMessage", disposition, attributes=language),
        _binary(f"{soap.SECURITY}#PKCS7", token_der),
        requested,
        element(_ENROLLMENT, "RequestID", str(number)),
    )
    return element(_TRUST, "RequestSecurityTokenResponseCollection", response)


def _binary(value_type: str, value_der: bytes) -> Node:
    attributes = {Name("", "ValueType"): value_type, Name("", "EncodingType"): _BASE64}
    text = base64.b64encode(value_der).decode()
    return element(soap.SECURITY, "BinarySecurityToken", text, attributes=attributes)


def encode_fault(relates_to: str, fault: Fault, number: int = 0) -> bytes:
    """Return a SOAP fault with Windows' error code (MS-WSTEP 3.1.4.1.3.1)."""
    code, word = FAULTS[fault.code]
    trace = f" [{fault.explain_id}]" if fault.explain_id else ""
    error = _ERRORS[fault.code]
    detail = element(
        _ENROLLMENT,
        "CertificateEnrollmentWSDetail",
        soap.nil(_ENROLLMENT, "BinaryResponse"),
        # A signed number of 32 bits, as Windows counts its errors.
        element(_ENROLLMENT, "ErrorCode", str(error - (1 << 32))),
        element(_ENROLLMENT, "InvalidRequest", "true" if fault.code in _DENIED else "false"),
        element(_ENROLLMENT, "RequestID", str(number)) if number else _no_number(),
    )
    reason = f"{fault.detail}{trace}"
    return soap.encode_fault(relates_to, code, Name(_TRUST, word), reason, detail)


def _no_number() -> Node:
    return soap.nil(_ENROLLMENT, "RequestID")
