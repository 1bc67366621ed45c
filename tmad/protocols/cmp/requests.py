"""From ir, cr, kur and p10cr to what the pipeline is asked (RFC 9483, 4.1).

Pure but for the endpoint's names of its authority, which the caller brings.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.ca.requests import Intent, KeyWish, Proof
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmp import bodies, codec
from tmad.protocols.cmp.codec import Body, Info, Message
from tmad.protocols.cmp.sender import Sender, SignatureSender
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire import cms, crmf, csr, der, parsing
from tmad.wire.crmf import CertRequest, Later, OtherProof, SignatureProof, Template, Vouched
from tmad.wire.signatures import EC_PUBLIC_KEY, RSA_ENCRYPTION, Algorithm, Policy

IMPLICIT_CONFIRM: Final = der.oid("1.3.6.1.5.5.7.4.13")
CONFIRM_WAIT_TIME: Final = der.oid("1.3.6.1.5.5.7.4.14")
CERT_PROFILE: Final = der.oid("1.3.6.1.5.5.7.4.21")

_LARGEST_ID: Final = 2**31 - 1
# What a template's algorithm without a key may mean (RFC 9483, 4.1.6), best first.
_CURVES: Final = {
    der.oid("1.2.840.10045.3.1.7"): KeyAlgorithm.P256,
    der.oid("1.3.132.0.34"): KeyAlgorithm.P384,
    der.oid("1.3.132.0.35"): KeyAlgorithm.P521,
}
_RSA_LENGTHS: Final = {
    2048: KeyAlgorithm.RSA_2048,
    3072: KeyAlgorithm.RSA_3072,
    4096: KeyAlgorithm.RSA_4096,
}
_OTHERS: Final = {
    der.oid("1.3.101.112"): KeyAlgorithm.ED25519,
    der.oid("1.3.101.113"): KeyAlgorithm.ED448,
    der.oid("2.16.840.1.101.3.4.3.17"): KeyAlgorithm.ML_DSA_44,
    der.oid("2.16.840.1.101.3.4.3.18"): KeyAlgorithm.ML_DSA_65,
    der.oid("2.16.840.1.101.3.4.3.19"): KeyAlgorithm.ML_DSA_87,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One certificate that is asked for; ``number`` is its certReqId."""

    number: int
    subject: x509.Name
    subject_der: bytes
    names: tuple[x509.GeneralName, ...]
    wanted: tuple[x509.Extension[x509.ExtensionType], ...]
    public_key: CertificatePublicKeyTypes | KeyWish
    proof: Proof
    intent: Intent
    challenge: Secret | None
    selector: str
    evidence: bytes
    has_validity: bool = False

    def is_changed(self, certificate: x509.Certificate) -> bool:
        """Tell whether a certificate is not quite what was asked for (grantedWithMods)."""
        if self.has_validity or certificate.subject.public_bytes() != self.subject_der:
            return True
        found = {each.oid: each.value for each in certificate.extensions}
        names = found.get(x509.SubjectAlternativeName.oid)
        asked = x509.SubjectAlternativeName(self.names) if self.names else None
        return names != asked or any(found.get(each.oid) != each.value for each in self.wanted)


def wants_implicit_confirm(message: Message) -> bool:
    """Read generalInfo's wish to do without certConf (RFC 9810, 5.1.1.1)."""
    wish = message.header.value_of(IMPLICIT_CONFIRM)
    if wish is None:
        return False
    if wish.value not in (None, der.NULL_DER):
        raise codec.bad_request("implicitConfirm has another value than NULL")
    if message.header.value_of(CONFIRM_WAIT_TIME) is not None:
        raise codec.bad_request("implicitConfirm and confirmWaitTime exclude each other")
    return True


def cert_profile(message: Message) -> str | None:
    """Read the name of the profile that generalInfo wishes (RFC 9483, 3.1)."""
    wish = message.header.value_of(CERT_PROFILE)
    if wish is None:
        return None
    names = der.read(wish.value or b"", der.SEQUENCE)
    name = der.text(names.raw(der.UTF8_STRING))
    if names.peek() >= 0:
        raise codec.bad_request("certProfile names more than one profile", "cmp.profile")
    return name


def confirmation_infos(seconds_text: bytes | None) -> tuple[Info, ...]:
    """Return generalInfo of an answer: confirmed implicitly, or by when it must be confirmed."""
    if seconds_text is None:
        return (Info(IMPLICIT_CONFIRM, der.NULL_DER),)
    return (Info(CONFIRM_WAIT_TIME, der.tlv(der.GENERALIZED_TIME, seconds_text)),)


def read_pkcs10(message: Message, policy: Policy) -> Wish:
    """Read p10cr, whose certificate has the number -1 (RFC 9483, 4.1.4)."""
    request = csr.decode(message.content, policy)
    return Wish(
        number=bodies.P10_ID,
        subject=request.subject,
        subject_der=request.subject.public_bytes(),
        names=request.names,
        wanted=request.wanted,
        public_key=request.public_key,
        proof=Proof.CSR_SIGNATURE,
        intent=Intent.ENROLL,
        challenge=request.challenge,
        selector=request.template,
        evidence=request.der,
    )


def read_crmf(
    message: Message,
    sender: Sender,
    *,
    issuers: Collection[bytes],
    policy: Policy,
    strict: bool,
) -> Wish:
    """Read ir, cr and kur; ``issuers`` are the Names, as DER, that the authority goes by."""
    found = bodies.read_requests(message.content)
    if len(found) > 1:
        raise codec.bad_request("one message asks for one certificate", "cmp.body.several")
    request = found[0]
    if not 0 <= request.id <= (0 if strict else _LARGEST_ID):
        raise codec.bad_request("certReqId must be 0", certReqId=str(request.id)[:20])
    is_update = message.body == Body.KUR
    template = request.template
    _check_issuer(template, sender, issuers)
    if is_update:
        _check_old(request, sender)
    subject_der = _subject(template, sender if is_update else None)
    content, proof, key = _prove(request, subject_der, message, policy)
    names = content.names
    if is_update and not names:
        names = _names_of(sender)
    if subject_der == crmf.NULL_DN and not names:
        raise _template("the template has neither a subject nor alternative names", "subject")
    token = request.controls.get(crmf.REG_TOKEN)
    return Wish(
        number=request.id,
        subject=content.subject,
        subject_der=subject_der,
        names=names,
        wanted=content.wanted,
        public_key=key,
        proof=proof,
        intent=Intent.RENEW if is_update else Intent.ENROLL,
        challenge=None if token is None else Secret(der.text(token)),
        selector=content.template,
        evidence=request.der,
        has_validity=template.has_validity,
    )


def _check_issuer(template: Template, sender: Sender, issuers: Collection[bytes]) -> None:
    if template.issuer is None or template.issuer in issuers:
        return
    # openssl cmp names the issuer of the certificate that it signs with, a manufacturer's too,
    # where nobody told it another.
    if (
        isinstance(sender, SignatureSender)
        and template.issuer == cms.IssuerAndSerial.of(sender.certificate_der).issuer
    ):
        return
    raise _template("the template names another issuer than this authority", "issuer")


def _check_old(request: CertRequest, sender: Sender) -> None:
    """Check that kur is about the certificate that protects it (RFC 9483, 4.1.3)."""
    assert isinstance(sender, SignatureSender), "the caller has seen to it"
    named = request.controls.get(crmf.OLD_CERT_ID)
    if named is None:
        return
    if crmf.read_cert_id(named) != cms.IssuerAndSerial.of(sender.certificate_der):
        raise Fault(
            FaultCode.REJECTED,
            "oldCertID must name the certificate that signs the message",
            rule="cmp.update.certificate",
        )


def _subject(template: Template, updates: Sender | None) -> bytes:
    if template.subject is not None:
        return template.subject
    if isinstance(updates, SignatureSender):
        return cms.subject_of(updates.certificate_der)
    raise _template("the template has no subject", "subject")


def _names_of(sender: Sender) -> tuple[x509.GeneralName, ...]:
    assert isinstance(sender, SignatureSender), "the caller has seen to it"
    try:
        found = sender.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    except parsing.UNREADABLE:
        raise _template("the names of the old certificate cannot be read", "names") from None
    return tuple(found.value)


def _prove(
    request: CertRequest, subject_der: bytes, message: Message, policy: Policy
) -> tuple[csr.Content, Proof, CertificatePublicKeyTypes | KeyWish]:
    template, proof = request.template, request.proof
    if template.public_key is None:
        return _without_key(request, subject_der, message)
    content = crmf.read(template, subject_der=subject_der)
    match proof:
        case SignatureProof():
            sender = message.header.sender
            crmf.check_signature(request, proof, content.public_key, sender, policy)
            return content, Proof.POP_SIGNATURE, content.public_key
        case Vouched():
            # Whether the sender may say so is the pipeline's question.
            return content, Proof.RA_VERIFIED, content.public_key
        case OtherProof(later=Later.ENCRYPTED_CERTIFICATE):
            return content, Proof.ENCRYPTED_CERTIFICATE, content.public_key
        case OtherProof(later=Later.CHALLENGE):
            # It is one as soon as the challenge is answered: the caller's business.
            return content, Proof.DECRYPTION, content.public_key
        case OtherProof():
            raise crmf.bad_proof(f"{proof.name} is not supported; sign the request")
        case None:
            raise crmf.bad_proof("there is no proof")


def _without_key(
    request: CertRequest, subject_der: bytes, message: Message
) -> tuple[csr.Content, Proof, KeyWish]:
    """Read a request for a key pair that is made here (RFC 9483, 4.1.6)."""
    if message.header.version < 3:
        # RFC 9810, 5.3.4: only pvno 3 can carry the key.
        raise Fault(
            FaultCode.UNSUPPORTED,
            "a key pair that is made here needs pvno 3",
            rule="cmp.version.key",
        )
    # A Name and extensions are read with a key beside them, and there is none yet.
    content = csr.read_content(subject_der, _NO_KEY, request.template.extensions)
    return content, Proof.GENERATED_HERE, KeyWish(_algorithms(request))


# SubjectPublicKeyInfo of Ed25519 with 32 zero octets: a key that nobody has.
_NO_KEY: Final = der.sequence(
    der.sequence(der.oid("1.3.101.112")), der.tlv(der.BIT_STRING, bytes(33))
)


def _algorithms(request: CertRequest) -> tuple[KeyAlgorithm, ...]:
    algorithm = request.template.key_algorithm
    if algorithm is None:
        return ()
    if algorithm.oid == RSA_ENCRYPTION:
        return _rsa(request.controls.get(crmf.RSA_KEY_LEN))
    found = _OTHERS.get(algorithm.oid)
    if algorithm.oid == EC_PUBLIC_KEY:
        found = _CURVES.get(algorithm.parameters)
    if found is None:
        raise _bad_key(algorithm)
    return (found,)


def _rsa(length: bytes | None) -> tuple[KeyAlgorithm, ...]:
    if length is None:
        return tuple(_RSA_LENGTHS.values())
    bits = der.Reader(length).integer()
    if bits not in _RSA_LENGTHS:
        raise _bad_key(Algorithm(RSA_ENCRYPTION))
    return (_RSA_LENGTHS[bits],)


def _bad_key(algorithm: Algorithm) -> Fault:
    return Fault(
        FaultCode.BAD_ALGORITHM,
        "no key pair of this kind is made here",
        rule="cmp.template.key",
        values={"algorithm": str(algorithm)},
    )


def _template(detail: str, rule: str) -> Fault:
    return Fault(FaultCode.REJECTED, detail, rule=f"cmp.template.{rule}")
