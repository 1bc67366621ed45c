"""SCEP from the client's side: PKCSReq and RenewalReq (RFC 8894, 3.3.1).

The request is sealed to the server's certificate, and signed with the old key, or for the first
time with the new one; the answer is sealed to the signer, whose key must therefore be RSA. What
the server shows as its certificates came over plain HTTP: it is believed as far as it leads to
the ``trust`` file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.agent.est import decode_certificates
from tmad.agent.identity import (
    Identity,
    PrivateKey,
    check_key,
    order,
    read_certificates,
    request_with,
)
from tmad.agent.source import Certificates, Wait, Window, refused
from tmad.agent.transport import Trust, ask
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret, utc_now
from tmad.wire import ber, cms, der, envelopes, parsing
from tmad.wire.cms import Random
from tmad.wire.signatures import SHA256, Age, Policy

_WAIT: Final = 300.0  # seconds; SCEP does not say how long
_ELEMENTS: Final = 6_000
_DEPTH: Final = 32
MODERN: Final = Policy(Age.MODERN)
LEGACY: Final = Policy(Age.LEGACY)
_MESSAGE_TYPE: Final = der.oid("2.16.840.1.113733.1.9.2")
_STATUS: Final = der.oid("2.16.840.1.113733.1.9.3")
_FAIL_INFO: Final = der.oid("2.16.840.1.113733.1.9.4")
_SENDER_NONCE: Final = der.oid("2.16.840.1.113733.1.9.5")
_RECIPIENT_NONCE: Final = der.oid("2.16.840.1.113733.1.9.6")
_TRANSACTION: Final = der.oid("2.16.840.1.113733.1.9.7")
_FAIL_TEXT: Final = der.oid("1.3.6.1.5.5.7.24.1")
_RENEWAL, _PKCS_REQ, _CERT_REP = "17", "19", "3"
_DAY: Final = timedelta(days=1)
_SUCCESS, _FAILURE, _PENDING = "0", "2", "3"
_REASONS: Final = {
    "0": "the algorithm is not taken", "1": "the message was broken", "2": "the request is refused",
    "3": "the time is wrong", "4": "the certificate is not known",
}  # fmt: skip


class SCEPSource:
    """One SCEP server; ``secret`` returns the challenge for the first enrolment."""

    def __init__(
        self,
        url: str,
        trust_file: str,
        *,
        secret: Callable[[], Secret | None] = lambda: None,
        policy: Policy = MODERN,
        random: Random = os.urandom,
        now: Clock = utc_now,
    ) -> None:
        self._url = url
        self._policy = policy
        self._trust_file = trust_file
        self._secret = secret
        self._random = random
        self._now = now

    def first(self, key: PrivateKey, request_der: bytes) -> Certificates | Wait:
        """Ask with the challenge, where there is one, signed as nobody yet (RFC 8894, 2.3)."""
        if not isinstance(key, rsa.RSAPrivateKey):
            raise _not_rsa("key, which")
        asked = request_der
        secret = self._secret()
        if secret:
            asked = request_with(key, request_der, secret)
        subject = x509.load_der_x509_csr(request_der).subject
        signer = Identity(key=key, certificate=_self_signed(key, subject, self._now()), chain=())
        return self._exchange(_PKCS_REQ, key, asked, signer, _transaction(request_der))

    def next(self, key: PrivateKey, request_der: bytes, old: Identity) -> Certificates | Wait:
        """Ask with a RenewalReq; the same request has the same transaction, so it is one."""
        return self._exchange(_RENEWAL, key, request_der, old, _transaction(request_der))

    def _exchange(
        self, kind: str, key: PrivateKey, request_der: bytes, signer: Identity, transaction: str
    ) -> Certificates | Wait:
        if not isinstance(signer.key, rsa.RSAPrivateKey):
            raise _not_rsa("old certificate, whose key")
        authorities = self._authorities()
        recipient = _recipient(authorities)
        nonce = self._random(16)
        envelope = envelopes.seal_to_certificate(
            request_der, recipient, recipient.public_bytes(Encoding.DER),
            cipher=envelopes.AES128, random=self._random,
        )  # fmt: skip
        own_der = signer.certificate.public_bytes(Encoding.DER)
        message = cms.sign(
            signer.key,
            own_der,
            envelope,
            digest=SHA256,
            attributes=(
                (_MESSAGE_TYPE, _printable(kind)),
                (_TRANSACTION, _printable(transaction)),
                (_SENDER_NONCE, der.octets(nonce)),
            ),
            certificates=(own_der,),
        )
        answer = self._ask("POST", "PKIOperation", message)
        inside = open_reply(
            answer,
            authorities,
            signer.key,
            transaction=transaction,
            nonce=nonce,
            policy=self._policy,
            random=self._random,
        )
        if inside is None:
            return Wait(_WAIT)
        found = decode_certificates(inside)
        own = next((each for each in found if _is_for(key, each)), None)
        if own is None:
            raise _refusal("the answer holds no certificate for our key", FaultCode.BAD_PROOF)
        return Certificates(own, (*(each for each in found if each is not own), *authorities))

    def window(self, old: Identity) -> Window | None:
        """SCEP does not say when."""
        return None

    def _authorities(self) -> tuple[x509.Certificate, ...]:
        """Return the server's certificates (GetCACert) that lead to what we trust."""
        if not self._trust_file:
            raise _refusal("SCEP needs a trust file: its server has no TLS to show who it is")
        try:
            with open(self._trust_file, "rb") as file:
                anchors = read_certificates(file.read(262_144))
        except OSError as error:
            raise Fault(
                FaultCode.REJECTED, f"{self._trust_file}: {error.strerror}", rule="agent.trust"
            ) from None
        return believed(decode_authorities(self._ask("GET", "GetCACert", b"")), anchors)

    def _ask(self, method: str, operation: str, body: bytes) -> bytes:
        mark = "&" if "?" in self._url else "?"
        answer = ask(
            method, f"{self._url}{mark}operation={operation}", Trust(self._trust_file), body=body,
            headers={"Content-Type": "application/x-pki-message"} if body else {},
        )  # fmt: skip
        if answer.status != 200:
            raise refused(operation, answer.status, answer.text)
        return answer.body


def decode_authorities(body: bytes) -> list[x509.Certificate]:
    """Read GetCACert's answer, one certificate or a chain; Fault(MALFORMED)."""
    try:
        der.scan(body, elements=_ELEMENTS, depth=_DEPTH)
        outer = der.read(body, der.SEQUENCE)
        is_single = outer.peek() == der.SEQUENCE
    except Fault:
        is_single = False
    if not is_single:
        return decode_certificates(body)
    # A certificate begins with a SEQUENCE, a ContentInfo with its type.
    return decode_certificates(cms.degenerate((body,)))


def believed(
    found: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """Return those that are anchors, or lead to one; Fault(UNAUTHENTICATED) when none does."""
    known = {each.public_bytes(Encoding.DER) for each in anchors}
    pool = [*found, *anchors]
    good = []
    for each in found:
        path = (each, *order(each, [other for other in pool if other is not each]))
        if any(one.public_bytes(Encoding.DER) in known for one in path):
            good.append(each)
    if not good:
        raise _refusal(
            "none of the server's certificates leads to the trust file", FaultCode.UNAUTHENTICATED
        )
    return tuple(good)


def open_reply(
    body: bytes,
    authorities: Sequence[x509.Certificate],
    key: rsa.RSAPrivateKey,
    *,
    transaction: str,
    nonce: bytes,
    policy: Policy = MODERN,
    random: Random,
) -> bytes | None:
    """Return what a CertRep carries, None where it says that it takes longer.

    Fault(BAD_INTEGRITY) for one that is not from an authority or not for this request,
    Fault(FORBIDDEN) with the server's reason for a refusal.
    """
    message = ber.normalise(body, elements=_ELEMENTS, depth=_DEPTH)
    signed = cms.decode_signed_data(message)
    if len(signed.signers) != 1:
        raise _refusal("the answer has not one signer", FaultCode.BAD_INTEGRITY)
    [signer] = signed.signers
    for each in authorities:
        if cms.identifies(signer.identifier, each.public_bytes(Encoding.DER)):
            cms.verify(signed, signer, _key_of(each), policy)
            break
    else:
        raise _refusal("the answer is signed by a stranger", FaultCode.BAD_INTEGRITY)
    if (
        _text(signer, _MESSAGE_TYPE) != _CERT_REP
        or _text(signer, _TRANSACTION) != transaction
        or not hmac.compare_digest(signer.attribute(_RECIPIENT_NONCE) or b"", der.octets(nonce))
    ):
        raise _refusal("the answer is to another question", FaultCode.BAD_INTEGRITY)
    status = _text(signer, _STATUS)
    if status == _PENDING:
        return None
    if status != _SUCCESS:
        why = _REASONS.get(_text(signer, _FAIL_INFO), "no reason given")
        text = "".join(c if c.isprintable() else " " for c in _text(signer, _FAIL_TEXT))[:200]
        raise _refusal(f"the SCEP server says no: {why}; {text}".rstrip("; "))
    enveloped = envelopes.decode(signed.content or b"")
    if len(enveloped.recipients) != 1:
        raise envelopes.cannot_open()
    return envelopes.open_envelope(
        key, enveloped, enveloped.recipients[0], policy=policy, random=random
    )


def _self_signed(key: rsa.RSAPrivateKey, subject: x509.Name, now: datetime) -> x509.Certificate:
    """Return a certificate that says nothing but whose the key is."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .sign(key, hashes.SHA256())
    )


def _transaction(request_der: bytes) -> str:
    return hashlib.sha256(request_der).hexdigest()


def _not_rsa(whose: str) -> Fault:
    return _refusal(f"SCEP answers are sealed to the {whose} must be RSA", FaultCode.UNSUPPORTED)


def _recipient(authorities: Sequence[x509.Certificate]) -> x509.Certificate:
    """Return whom to seal the request to: an RA where there is one, else an RSA authority."""
    usable = [each for each in authorities if _is_rsa(each)]
    for each in usable:
        if not _is_authority(each):
            return each
    if not usable:
        raise _refusal("the server shows no RSA certificate to seal to", FaultCode.BAD_ALGORITHM)
    return usable[0]


def _key_of(certificate: x509.Certificate) -> CertificatePublicKeyTypes:
    try:
        return parsing.key_of(certificate)
    except ValueError:
        raise _refusal("the server's kind of key is not known", FaultCode.BAD_ALGORITHM) from None


def _is_rsa(certificate: x509.Certificate) -> bool:
    try:
        return isinstance(_key_of(certificate), rsa.RSAPublicKey)
    except Fault:
        return False


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def _is_for(key: PrivateKey, certificate: x509.Certificate) -> bool:
    try:
        check_key(key, certificate)
    except Fault:
        return False
    return True


def _printable(text: str) -> bytes:
    return der.tlv(0x13, text.encode("ascii"))


def _text(signer: cms.SignerInfo, oid: bytes) -> str:
    value = signer.attribute(oid)
    return "" if value is None else der.text(value)


def _refusal(why: str, code: FaultCode = FaultCode.FORBIDDEN) -> Fault:
    return Fault(code, why, rule="agent.scep")
