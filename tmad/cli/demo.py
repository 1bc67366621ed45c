"""A device as the demonstration needs one: SCEP, OCSP and CRL over plain HTTP.

RFC 8894, 6960 and 5280. It believes nothing: every answer's signature is checked.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AttributeOID, AuthorityInformationAccessOID, NameOID

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import cms, der, envelopes, signatures

_MESSAGE_TYPE = der.oid("2.16.840.1.113733.1.9.2")
_PKI_STATUS = der.oid("2.16.840.1.113733.1.9.3")
_SENDER_NONCE = der.oid("2.16.840.1.113733.1.9.5")
_RECIPIENT_NONCE = der.oid("2.16.840.1.113733.1.9.6")
_TRANSACTION_ID = der.oid("2.16.840.1.113733.1.9.7")
_FAIL_INFO_TEXT = der.oid("1.3.6.1.5.5.7.24.1")
_SUCCESS = "0"
_PATIENCE = 20  # seconds
_POLICY = signatures.Policy()


@dataclass(frozen=True, slots=True)
class Status:
    """What OCSP or a CRL says about a certificate: "good" or "revoked", and since when."""

    state: str
    since: datetime | None = None


class Device:
    """One device at one SCEP door."""

    def __init__(self, url: str, common_name: str) -> None:
        self._url = url
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        found = cms.decode_signed_data(_get(f"{url}?operation=GetCACert"))
        self._known = [x509.load_der_x509_certificate(each) for each in found.certificates]
        [self._ra] = [each for each in self._known if not _is_authority(each)]
        self.issuer = self._issuer_of(self._ra)

    @property
    def key(self) -> rsa.RSAPrivateKey:
        """The device's own key."""
        return self._key

    def enroll(self, challenge: Secret) -> x509.Certificate:
        """Get a certificate with a challenge (RFC 8894, 3.3.1); Fault(REJECTED) if refused."""
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(self._name)
            .add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.reveal())
            .sign(self._key, hashes.SHA256())
        )
        own = self._self_signed()
        ra_der = self._ra.public_bytes(Encoding.DER)
        envelope = envelopes.seal_to_certificate(
            request.public_bytes(Encoding.DER),
            self._ra,
            ra_der,
            cipher=envelopes.AES128,
            random=os.urandom,
        )
        transaction, nonce = os.urandom(16).hex(), os.urandom(16)
        message = cms.sign(
            self._key,
            own,
            envelope,
            digest=signatures.SHA256,
            attributes=[
                (_MESSAGE_TYPE, _printable("19")),
                (_TRANSACTION_ID, _printable(transaction)),
                (_SENDER_NONCE, der.octets(nonce)),
            ],
            certificates=[own],
        )
        answer = cms.decode_signed_data(
            _post(f"{self._url}?operation=PKIOperation", message, "application/x-pki-message")
        )
        [signer] = answer.signers
        cms.verify(answer, signer, self._ra.public_key(), _POLICY)
        if signer.attribute(_TRANSACTION_ID) != _printable(transaction):
            raise _refused("the answer is for another transaction")
        if signer.attribute(_RECIPIENT_NONCE) != der.octets(nonce):
            raise _refused("the answer is for another message")
        if signer.attribute(_PKI_STATUS) != _printable(_SUCCESS):
            text = signer.attribute(_FAIL_INFO_TEXT)
            why = der.content(text, der.UTF8_STRING).decode() if text else "no reason given"
            raise _refused(f"SCEP failure: {why}")
        enveloped = envelopes.decode(answer.content or b"")
        inner = envelopes.open_envelope(
            self._key, enveloped, enveloped.recipients[0], policy=_POLICY, random=os.urandom
        )
        public = self._key.public_key()
        for each in cms.decode_signed_data(inner).certificates:
            certificate = x509.load_der_x509_certificate(each)
            if certificate.public_key() == public:
                certificate.verify_directly_issued_by(self.issuer)
                return certificate
        raise _refused("the answer holds no certificate for this key")

    def ask_ocsp(self, certificate: x509.Certificate) -> Status:
        """Ask the responder that the certificate names."""
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
        [url] = [
            str(each.access_location.value)
            for each in access.value
            if each.access_method == AuthorityInformationAccessOID.OCSP
        ]
        request = (
            ocsp.OCSPRequestBuilder()
            .add_certificate(certificate, self.issuer, hashes.SHA1())  # noqa: S303  a CertID
            .build()
        )
        body = _post(url, request.public_bytes(Encoding.DER), "application/ocsp-request")
        response = ocsp.load_der_ocsp_response(body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise _refused(f"OCSP says {response.response_status.name.lower()}")
        [responder] = response.certificates
        responder.verify_directly_issued_by(self.issuer)
        _check_signature(
            responder,
            response.signature,
            response.tbs_response_bytes,
            response.signature_hash_algorithm,
        )
        if response.serial_number != certificate.serial_number:
            raise _refused("OCSP answered for another certificate")
        state = response.certificate_status.name.lower()
        return Status(state, response.revocation_time_utc)

    def ask_crl(self, certificate: x509.Certificate) -> Status:
        """Look into the CRL that the certificate names."""
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints)
        [name] = points.value[0].full_name or []
        crl = x509.load_der_x509_crl(_get(str(name.value)))
        issuer_key = self.issuer.public_key()
        if not crl.is_signature_valid(issuer_key):  # type: ignore[arg-type]  # a CA key signs
            raise _refused("the CRL's signature is wrong")
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        return Status("good") if entry is None else Status("revoked", entry.revocation_date_utc)

    def _issuer_of(self, certificate: x509.Certificate) -> x509.Certificate:
        [issuer] = [each for each in self._known if each.subject == certificate.issuer]
        certificate.verify_directly_issued_by(issuer)
        return issuer

    def _self_signed(self) -> bytes:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def _check_signature(
    signer: x509.Certificate,
    signature: bytes,
    signed: bytes,
    digest: hashes.HashAlgorithm | None,
) -> None:
    match signer.public_key():
        case ec.EllipticCurvePublicKey() as key if digest:
            key.verify(signature, signed, ec.ECDSA(digest))
        case rsa.RSAPublicKey() as key if digest:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        case other:
            raise _refused(f"the demonstration cannot check a {type(other).__name__}")


def _get(url: str) -> bytes:
    return _fetch(urllib.request.Request(url))  # noqa: S310  our own http URLs


def _post(url: str, body: bytes, content_type: str) -> bytes:
    headers = {"Content-Type": content_type}
    return _fetch(urllib.request.Request(url, body, headers))  # noqa: S310  our own http URLs


def _fetch(request: urllib.request.Request) -> bytes:
    # The daemon is on this machine: a proxy that the environment names is not asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PATIENCE) as response:
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        text = error.read(300).decode("utf-8", "replace").strip()
        raise _refused(f"{request.full_url}: HTTP {error.code}: {text}") from None
    except OSError as error:
        raise Fault(
            FaultCode.UNAVAILABLE, f"{request.full_url} cannot be reached: {error}"
        ) from None


def _printable(text: str) -> bytes:
    return der.tlv(der.PRINTABLE_STRING, text.encode())


def _refused(why: str) -> Fault:
    return Fault(FaultCode.REJECTED, why)
