"""From a TaggedRequest to what the pipeline is asked (RFC 10002, 3.2.1.2, 6.5 and 7.1). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mlkem, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.requests import Proof
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmc import codec, controls, witnesses
from tmad.protocols.cmc.codec import CRMFRequest, OtherRequest, PKCS10Request, TaggedRequest
from tmad.protocols.cmc.controls import Modification, Witness
from tmad.wire import crmf, csr, der
from tmad.wire.crmf import OtherProof, SignatureProof, Template, Vouched
from tmad.wire.signatures import Algorithm, Policy

_NO_SIGNATURE: Final = der.oid("1.3.6.1.5.5.7.6.2")
_EXTENSION_REQUEST: Final = der.oid("1.2.840.113549.1.9.14")
_SUBJECT_ALT_NAME: Final = der.oid("2.5.29.17")
# Keys that cannot sign at all: possession of them is shown by decryption only.
_ENCRYPTING: Final = (
    x25519.X25519PublicKey,
    x448.X448PublicKey,
    mlkem.MLKEM768PublicKey,
    mlkem.MLKEM1024PublicKey,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One certificate that is asked for.

    ``proof`` is None where possession must yet be shown by decryption. ``link`` is the POP Link
    Witness, ``tagged`` the TaggedRequest as received, and ``shape`` a digest of what is asked for
    after all changes.
    """

    number: int
    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    wanted: tuple[x509.Extension[x509.ExtensionType], ...]
    public_key: CertificatePublicKeyTypes
    proof: Proof | None
    challenge: Secret | None
    selector: str
    evidence: bytes = field(repr=False)
    tagged: bytes = field(repr=False)
    shape: bytes = field(repr=False)
    link: Witness | None
    is_old_link: bool

    @property
    def key_identifier(self) -> bytes | None:
        """Return the subjectKeyIdentifier that the request wishes."""
        for extension in self.wanted:
            if isinstance(extension.value, x509.SubjectKeyIdentifier):
                return extension.value.digest
        return None

    @property
    def spki(self) -> bytes:
        """Return the key as SubjectPublicKeyInfo."""
        return self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def is_named(self, key_identifier: bytes) -> bool:
        """Tell whether a signer's identifier means this request's key (RFC 10002, 3.2)."""
        if self.key_identifier is not None:
            return self.key_identifier == key_identifier
        return x509.SubjectKeyIdentifier.from_public_key(self.public_key).digest == key_identifier


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a request asks for, as DER, before anybody has changed it."""

    subject: bytes
    key: bytes
    extensions: bytes | None


def read(
    request: TaggedRequest,
    policy: Policy,
    modifications: Iterable[Modification] = (),
    *,
    is_vouched: bool = False,
) -> Wish:
    """Read one request and check the proof of possession in it.

    ``modifications`` are those of registration authorities, the innermost first; with
    ``is_vouched`` one of them has seen the proof. Faults of wire/csr and wire/crmf.
    """
    match request:
        case PKCS10Request():
            return _read_pkcs10(request, policy, modifications, is_vouched=is_vouched)
        case CRMFRequest():
            return _read_crmf(request, policy, modifications, is_vouched=is_vouched)
        case OtherRequest():
            raise codec.bad_request(
                "this kind of request is not known here",
                "cmc.request.kind",
                type=der.dotted(request.type),
            )


def _read_pkcs10(
    request: PKCS10Request,
    policy: Policy,
    modifications: Iterable[Modification],
    *,
    is_vouched: bool,
) -> Wish:
    is_signed = _algorithm(request.csr_der).oid != _NO_SIGNATURE
    found = csr.decode(request.csr_der, policy, is_proof=is_signed)
    info = der.read(request.csr_der, der.SEQUENCE).enter(der.SEQUENCE)
    info.integer()
    extensions = found.attributes.get(_EXTENSION_REQUEST, ())
    parts = _Parts(
        info.raw(der.SEQUENCE), info.raw(der.SEQUENCE), extensions[0] if extensions else None
    )
    proof = Proof.CSR_SIGNATURE if is_signed else None
    link, is_old = _link(
        {oid: values[0] for oid, values in found.attributes.items() if len(values) == 1}
    )
    return _wish(
        request,
        _changed(parts, found.attributes.get(codec.CHANGE_SUBJECT_NAME, ()), modifications),
        proof=Proof.RA_VERIFIED if is_vouched and proof is None else proof,
        challenge=found.challenge,
        evidence=found.der,
        link=link,
        is_old_link=is_old,
    )


def _algorithm(csr_der: bytes) -> Algorithm:
    der.scan(csr_der, elements=csr.ELEMENTS, depth=csr.DEPTH)
    outer = der.read(csr_der, der.SEQUENCE)
    outer.raw(der.SEQUENCE)
    return Algorithm.read(outer)


def _read_crmf(
    request: CRMFRequest,
    policy: Policy,
    modifications: Iterable[Modification],
    *,
    is_vouched: bool,
) -> Wish:
    message = request.message
    template = message.template
    if template.subject is None or template.public_key is None:
        # RFC 10002, 3.2.1.2.2
        raise codec.bad_request(
            "a template has a subject, which may be empty, and a key", "cmc.template"
        )
    content = crmf.read(template, subject_der=template.subject)
    proof: Proof | None = None
    match message.proof:
        case SignatureProof():
            crmf.check_signature(message, message.proof, content.public_key, b"", policy)
            proof = Proof.POP_SIGNATURE
        case Vouched():
            # Whether the sender may say so is the pipeline's question.
            proof = Proof.RA_VERIFIED
        case None if not is_vouched and not isinstance(content.public_key, _ENCRYPTING):
            raise Fault(
                FaultCode.BAD_PROOF, "there is no proof of possession", rule="cmc.pop.missing"
            )
        case OtherProof() | None:
            proof = Proof.RA_VERIFIED if is_vouched else None
    token = message.controls.get(crmf.REG_TOKEN)
    changes = message.controls.get(codec.CHANGE_SUBJECT_NAME)
    link, is_old = _link(message.controls)
    parts = _Parts(template.subject, template.public_key, template.extensions)
    return _wish(
        request,
        _changed(parts, () if changes is None else (changes,), modifications),
        proof=proof,
        challenge=None if token is None else Secret(der.text(token)),
        evidence=message.der,
        link=link,
        is_old_link=is_old,
    )


def _wish(
    request: PKCS10Request | CRMFRequest,
    parts: _Parts,
    *,
    proof: Proof | None,
    challenge: Secret | None,
    evidence: bytes,
    link: Witness | None,
    is_old_link: bool,
) -> Wish:
    content = csr.read_content(parts.subject, parts.key, parts.extensions)
    return Wish(
        number=request.id,
        subject=content.subject,
        names=content.names,
        wanted=content.wanted,
        public_key=content.public_key,
        proof=proof,
        challenge=challenge,
        selector=content.template,
        evidence=evidence,
        tagged=request.der,
        shape=_digest(parts.subject, parts.key, parts.extensions or b""),
        link=link,
        is_old_link=is_old_link,
    )


def _link(attributes: Mapping[bytes, bytes]) -> tuple[Witness | None, bool]:
    """Return the POP Link Witness, and whether it is of the first version."""
    value = attributes.get(codec.POP_LINK_WITNESS_V2)
    if value is not None:
        return controls.witness(value), False
    value = attributes.get(codec.POP_LINK_WITNESS)
    if value is not None:
        return witnesses.old(der.content(value, der.OCTET_STRING)), True
    return None, False


# -- other names ----------------------------------------------------------------------------


def _changed(
    parts: _Parts, changes: tuple[bytes, ...], modifications: Iterable[Modification]
) -> _Parts:
    """Return what is asked for after the applicant's own wish and those of authorities."""
    for value in changes:
        new = controls.change_subject_name(value)
        extensions = _extensions(parts.extensions)
        extensions.pop(_SUBJECT_ALT_NAME, None)
        if new.alternative is not None:
            extensions[_SUBJECT_ALT_NAME] = der.sequence(
                _SUBJECT_ALT_NAME, der.octets(new.alternative)
            )
        parts = _Parts(new.subject, parts.key, _join(extensions))
    for modification in modifications:
        parts = _modified(parts, modification)
    return parts


def _modified(parts: _Parts, modification: Modification) -> _Parts:
    template = modification.template
    _check_modifiable(template)
    extensions = _extensions(parts.extensions)
    given = _extensions(template.extensions)
    subject = parts.subject
    if modification.replaces:
        extensions.update(given)
        subject = subject if template.subject is None else template.subject
    else:
        extensions = {oid: each for oid, each in extensions.items() if oid not in given}
        subject = subject if template.subject is None else crmf.NULL_DN
    return _Parts(subject, parts.key, _join(extensions))


def _check_modifiable(template: Template) -> None:
    """Refuse to change what possession was shown of, or what the profile decides."""
    fixed = (template.public_key, template.key_algorithm, template.issuer, template.serial)
    if template.has_validity or any(each is not None for each in fixed):
        raise Fault(
            FaultCode.REJECTED,
            "a registration authority changes the subject and extensions only",
            rule="cmc.ra.template",
        )


def _extensions(extensions_der: bytes | None) -> dict[bytes, bytes]:
    """Return Extensions by their OIDs, in order; Fault(MALFORMED) for one that occurs twice."""
    found: dict[bytes, bytes] = {}
    if extensions_der is None:
        return found
    reader = der.read(extensions_der, der.SEQUENCE)
    for _ in reader.each():
        extension = reader.raw(der.SEQUENCE)
        oid = der.read(extension, der.SEQUENCE).raw(der.OBJECT_IDENTIFIER)
        if oid in found:
            raise der.malformed("an extension occurs twice", "cmc.template")
        found[oid] = extension
    return found


def _join(extensions: Mapping[bytes, bytes]) -> bytes | None:
    return der.sequence(*extensions.values()) if extensions else None


def transaction_of(wish: Wish, sender: bytes, transaction: bytes) -> bytes:
    """Return the pipeline's id for a request: the same for each copy of it."""
    return _digest(wish.tagged, wish.shape, sender, transaction)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.digest()
