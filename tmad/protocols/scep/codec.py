"""SCEP messages: bytes to values and back (RFC 8894, sections 3 and 4)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import ber, cms, csr, der, envelopes, parsing, signatures
from tmad.wire.cms import IssuerAndSerial, Random
from tmad.wire.envelopes import Cipher, EnvelopedData
from tmad.wire.signatures import Digest, Policy

# What a message of a stranger may hold at most, before and after decryption.
ELEMENTS = 1_500
DEPTH = 32

_MESSAGE_TYPE = der.oid("2.16.840.1.113733.1.9.2")
_PKI_STATUS = der.oid("2.16.840.1.113733.1.9.3")
_FAIL_INFO = der.oid("2.16.840.1.113733.1.9.4")
_SENDER_NONCE = der.oid("2.16.840.1.113733.1.9.5")
_RECIPIENT_NONCE = der.oid("2.16.840.1.113733.1.9.6")
_TRANSACTION_ID = der.oid("2.16.840.1.113733.1.9.7")
_FAIL_INFO_TEXT = der.oid("1.3.6.1.5.5.7.24.1")


class RequestType(StrEnum):
    """The message types that are served; whatever is not in here is refused.

    18 was UpdateReq in drafts of the RFC. A peer that decoded it, and had no rule for who may
    send it, issued certificates to anybody (CVE-2026-30836).
    """

    RENEWAL = "17"
    ENROLL = "19"
    POLL = "20"
    GET_CERT = "21"
    GET_CRL = "22"


_CERT_REP = "3"


class Status(StrEnum):
    """pkiStatus (RFC 8894, 3.2.1.3)."""

    SUCCESS = "0"
    FAILURE = "2"
    PENDING = "3"


class FailInfo(IntEnum):
    """failInfo (RFC 8894, 3.2.1.4)."""

    BAD_ALGORITHM = 0
    BAD_MESSAGE_CHECK = 1
    BAD_REQUEST = 2
    BAD_TIME = 3
    BAD_CERT_ID = 4


class Failure(NamedTuple):
    """How a Fault is told: by failInfo in a CertRep, else by the HTTP status.

    ``fail_info`` None: always by the status, since the client should simply come again.
    """

    fail_info: FailInfo | None
    http: int


FAULTS: Mapping[FaultCode, Failure] = {
    FaultCode.MALFORMED: Failure(FailInfo.BAD_REQUEST, 400),
    FaultCode.UNSUPPORTED: Failure(FailInfo.BAD_REQUEST, 400),
    FaultCode.BAD_ALGORITHM: Failure(FailInfo.BAD_ALGORITHM, 400),
    FaultCode.BAD_INTEGRITY: Failure(FailInfo.BAD_MESSAGE_CHECK, 400),
    FaultCode.BAD_TIME: Failure(FailInfo.BAD_TIME, 400),
    FaultCode.BAD_PROOF: Failure(FailInfo.BAD_REQUEST, 400),
    FaultCode.UNAUTHENTICATED: Failure(FailInfo.BAD_REQUEST, 403),
    FaultCode.FORBIDDEN: Failure(FailInfo.BAD_REQUEST, 403),
    FaultCode.REJECTED: Failure(FailInfo.BAD_REQUEST, 403),
    FaultCode.NOT_FOUND: Failure(FailInfo.BAD_CERT_ID, 404),
    FaultCode.CONFLICT: Failure(FailInfo.BAD_REQUEST, 409),
    FaultCode.RATE_LIMITED: Failure(None, 429),
    FaultCode.UNAVAILABLE: Failure(None, 503),
    FaultCode.INTERNAL: Failure(None, 500),
}


# -- the query ------------------------------------------------------------------------------


def query_parameter(query: bytes, name: bytes) -> bytes | None:
    """Return one parameter's octets as they stand in a raw query, or None."""
    for part in query.split(b"&"):
        key, separator, value = part.partition(b"=")
        if separator and key == name:
            return value
    return None


def decode_get_message(query: bytes) -> bytes:
    """Return the message that a GET carries in its raw query (RFC 8894, 4.1).

    Clients escape base64 in five ways: not at all, everything, some of ``+/=``, twice, and
    with line ends in between. A plus is never a space here.
    """
    text = query_parameter(query, b"message")
    if not text:
        raise der.malformed("there is no message", "scep.get.message")
    text = unquote_to_bytes(text)
    if b"%" in text:
        text = unquote_to_bytes(text)
    text = text.translate(_SPACE_TO_PLUS, b"\r\n\t").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise Fault(
            FaultCode.MALFORMED, "the message is not base64", rule="scep.get.message"
        ) from None


_SPACE_TO_PLUS = bytes.maketrans(b" ", b"+")


def capabilities(*, legacy: bool, next_ca: bool) -> bytes:
    """Return the body of GetCACaps (RFC 8894, 3.5.2).

    An empty line would switch on everything in strongSwan, 3DES and SHA-1 included, and
    strongSwan 5.9.8 wants to see SHA-384, which the RFC does not name.
    """
    words = ["AES", "POSTPKIOperation", "Renewal", "SCEPStandard", "SHA-256", "SHA-384", "SHA-512"]
    if next_ca:
        words.append("GetNextCACert")
    if legacy:
        words += ["DES3", "SHA-1"]
    return "".join(f"{word}\n" for word in words).encode()


# -- pkiMessage, the outer layer ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PKIMessage:
    """A request as it was read, nothing believed yet.

    ``transaction_der`` keeps the string type, since the answer repeats it octet by octet.
    ``type`` is the text of messageType, "" where it is absent.
    """

    type: str
    transaction: str
    transaction_der: bytes
    sender_nonce: bytes
    signed: cms.SignedData

    @property
    def signer(self) -> cms.SignerInfo:
        """Return the first SignerInfo; there is one."""
        return self.signed.signers[0]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who verifiably signed a request, and with which digest."""

    certificate: x509.Certificate
    certificate_der: bytes
    public_key: CertificatePublicKeyTypes
    digest: Digest
    is_self_signed: bool  # made by the sender, for this message alone


def decode(body: bytes) -> PKIMessage:
    """Read a request as far as a CertRep can answer it; nothing is verified.

    Raise Fault(MALFORMED) for what is no CMS, or lacks a signer, a transactionID or a
    senderNonce: only the transport can refuse that.
    """
    signed = cms.decode_signed_data(ber.normalise(body, elements=ELEMENTS, depth=DEPTH))
    if not signed.signers:
        raise der.malformed("the message is not signed", "scep.signer")
    signer = signed.signers[0]
    transaction_der = signer.attribute(_TRANSACTION_ID)
    nonce_der = signer.attribute(_SENDER_NONCE)
    if transaction_der is None or nonce_der is None:
        raise der.malformed("transactionID or senderNonce is missing", "scep.attributes")
    transaction = der.text(transaction_der)
    if not 1 <= len(transaction) <= 255:
        raise der.malformed("the transactionID is empty or too long", "scep.transaction")
    nonce = der.content(nonce_der, der.OCTET_STRING)
    if not 1 <= len(nonce) <= 64:
        raise der.malformed("the senderNonce is empty or too long", "scep.nonce")
    return PKIMessage(
        type=_type(signer.attribute(_MESSAGE_TYPE)),
        transaction=transaction,
        transaction_der=transaction_der,
        sender_nonce=nonce,
        signed=signed,
    )


def _type(type_der: bytes | None) -> str:
    """Return messageType; one that cannot be read is as good as none, and refused as such."""
    try:
        return der.text(type_der or b"")
    except Fault:
        return ""


def verify(message: PKIMessage, policy: Policy) -> Sender:
    """Check the outer signature and the digest of the content.

    Raise MALFORMED for more than one signer or a missing certificate, BAD_ALGORITHM and
    BAD_INTEGRITY for the signature.
    """
    if len(message.signed.signers) != 1:
        raise der.malformed("there is more than one signer", "scep.signer")
    certificate_der = message.signed.certificate_of(message.signer)
    if certificate_der is None:
        # RFC 8894, 2.3: the certificate must be in the message.
        raise der.malformed("the signer's certificate is missing", "scep.signer")
    try:
        certificate = parsing.certificate(certificate_der)
    except ValueError as error:
        fault = der.malformed("the signer's certificate cannot be read", "scep.signer")
        fault.private = str(error)
        raise fault from None
    try:
        key = parsing.key_of(certificate)
    except ValueError as error:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the signer's kind of key is not supported",
            private=str(error),
            rule="scep.signer",
        ) from None
    digest = cms.verify(message.signed, message.signer, key, policy)
    return Sender(certificate, certificate_der, key, digest, cms.is_self_issued(certificate_der))


def request_type(message: PKIMessage) -> RequestType:
    """Return what is asked for; raise Fault(UNSUPPORTED) for every type that is not served."""
    try:
        return RequestType(message.type)
    except ValueError:
        raise Fault(
            FaultCode.UNSUPPORTED,
            "this messageType is not served",
            rule="scep.message-type",
            values={"messageType": message.type[:16]},
        ) from None


def check_time(message: PKIMessage, now: datetime, window: timedelta) -> None:
    """Refuse a signingTime further than ``window`` from now; a message without one passes."""
    time_der = message.signer.attribute(cms.SIGNING_TIME)
    if time_der is None:
        return
    signed_at = der.instant(time_der)
    if abs(signed_at - now) > window:
        raise Fault(
            FaultCode.BAD_TIME,
            "the message was signed at another time; check the clock",
            rule="scep.signing-time",
            values={"signingTime": signed_at.isoformat(), "now": now.isoformat()},
        )


# -- messageData, the inner layer -----------------------------------------------------------


class IssuerAndSubject(NamedTuple):
    """What a poll names besides its transactionID (RFC 8894, 3.3.3); Names as DER."""

    issuer: bytes
    subject: bytes


def envelope(message: PKIMessage) -> EnvelopedData:
    """Read the envelope; Fault(BAD_INTEGRITY) where the content is none."""
    try:
        return envelopes.decode(
            ber.normalise(message.signed.content or b"", elements=ELEMENTS, depth=DEPTH)
        )
    except Fault as fault:
        raise envelopes.cannot_open(fault.detail) from None


def decode_request(content: bytes, policy: Policy) -> csr.CSR:
    """Read the content of PKCSReq and RenewalReq.

    What is no request at all is answered like an envelope that could not be opened (see
    :func:`tmad.wire.envelopes.open_envelope`).
    """
    try:
        return csr.decode(content, policy)
    except Fault as fault:
        if fault.code is FaultCode.MALFORMED:
            raise envelopes.cannot_open(f"{fault.detail} {fault.private}") from None
        raise


def decode_poll(content: bytes) -> IssuerAndSubject:
    """Read the content of CertPoll."""
    try:
        reader = der.read(content, der.SEQUENCE)
        names = IssuerAndSubject(reader.raw(der.SEQUENCE), reader.raw(der.SEQUENCE))
        reader.finish()
    except Fault as fault:
        raise envelopes.cannot_open(fault.detail) from None
    return names


def decode_query(content: bytes) -> IssuerAndSerial:
    """Read the content of GetCert and GetCRL."""
    try:
        reader = der.Reader(content)
        wanted = IssuerAndSerial.read(reader)
        reader.finish()
    except Fault as fault:
        raise envelopes.cannot_open(fault.detail) from None
    return wanted


# -- CertRep --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CertRep:
    """An answer. ``content`` is the envelope, only there on SUCCESS."""

    status: Status
    content: bytes | None = None
    fail_info: FailInfo | None = None
    text: str = ""


def failure(fault: Fault) -> CertRep:
    """Return the CertRep that tells a Fault which :data:`FAULTS` gives a failInfo."""
    trace = f" [{fault.explain_id}]" if fault.explain_id else ""
    return CertRep(
        status=Status.FAILURE,
        fail_info=FAULTS[fault.code].fail_info,
        text=fault.detail + trace,
    )


def check_receiver(sender: Sender, challenge: Secret | None) -> None:
    """Refuse a sender to whom nothing can be encrypted, before anything is issued to it.

    RFC 8894, 3.1: a key that cannot decrypt needs the challenge as the common secret.
    """
    if not isinstance(sender.public_key, rsa.RSAPublicKey) and not challenge:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the answer cannot be encrypted: the signer's key is not RSA and there is no challenge",
            rule="scep.receiver",
        )


def seal(
    content: bytes, sender: Sender, challenge: Secret | None, *, cipher: Cipher, random: Random
) -> bytes:
    """Encrypt an answer to whoever signed the request; see :func:`check_receiver`."""
    if challenge and not isinstance(sender.public_key, rsa.RSAPublicKey):
        return envelopes.seal_with_password(
            content, challenge.reveal(), cipher=cipher, random=random
        )
    return envelopes.seal_to_certificate(
        content, sender.certificate, sender.certificate_der, cipher=cipher, random=random
    )


def encode(
    key: PrivateKeyTypes,
    certificate_der: bytes,
    reply: CertRep,
    *,
    request: PKIMessage,
    policy: Policy,
    nonce: bytes,
) -> bytes:
    """Return the signed CertRep (RFC 8894, 3.3.2), by the owner of ``certificate_der``.

    The digest is the client's own where policy allows it, else SHA-256.
    """
    try:
        digest = signatures.digest_for(request.signer.digest, policy)
    except Fault:
        digest = signatures.SHA256
    attributes = [
        (_TRANSACTION_ID, request.transaction_der),
        (_MESSAGE_TYPE, _printable(_CERT_REP)),
        (_PKI_STATUS, _printable(reply.status)),
        (_RECIPIENT_NONCE, der.octets(request.sender_nonce)),
        (_SENDER_NONCE, der.octets(nonce)),
    ]
    if reply.fail_info is not None:
        attributes.append((_FAIL_INFO, _printable(str(int(reply.fail_info)))))
    if reply.text:
        attributes.append((_FAIL_INFO_TEXT, der.tlv(der.UTF8_STRING, reply.text.encode())))
    return cms.sign(
        key,
        certificate_der,
        reply.content,
        digest=digest,
        attributes=attributes,
        certificates=(certificate_der,),
    )


def _printable(text: str) -> bytes:
    return der.tlv(der.PRINTABLE_STRING, text.encode())
