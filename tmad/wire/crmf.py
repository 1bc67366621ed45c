"""Certificate Request Message Format: what CMP and CMC ask with (RFC 4211).

Decoding reads structure only and keeps the received bytes; :func:`read` makes names and a key of
a template, :func:`check_signature` believes a proof of possession.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.errors import Fault, FaultCode
from tmad.wire import csr, der, signatures
from tmad.wire.cms import IssuerAndSerial, Random
from tmad.wire.envelopes import AES256
from tmad.wire.signatures import RSA_ENCRYPTION, Algorithm, Policy

# Controls (RFC 4211, 6; RFC 9810, appendix D.4 for the last two), as DER.
REG_TOKEN: Final = der.oid("1.3.6.1.5.5.7.5.1.1")
AUTHENTICATOR: Final = der.oid("1.3.6.1.5.5.7.5.1.2")
PUBLICATION_INFO: Final = der.oid("1.3.6.1.5.5.7.5.1.3")
ARCHIVE_OPTIONS: Final = der.oid("1.3.6.1.5.5.7.5.1.4")
OLD_CERT_ID: Final = der.oid("1.3.6.1.5.5.7.5.1.5")
ALG_ID: Final = der.oid("1.3.6.1.5.5.7.5.1.11")
RSA_KEY_LEN: Final = der.oid("1.3.6.1.5.5.7.5.1.12")

NULL_DN: Final = der.sequence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A CertTemplate; each field is DER as it would stand in a certificate, None if absent.

    ``public_key`` is a SubjectPublicKeyInfo, and None also where its BIT STRING is empty:
    ``key_algorithm`` then says which key the CA shall make (RFC 9483, 4.1.6).
    """

    issuer: bytes | None = None
    subject: bytes | None = None
    public_key: bytes | None = None
    key_algorithm: Algorithm | None = None
    extensions: bytes | None = None
    serial: int | None = None
    has_validity: bool = False


@dataclass(frozen=True, slots=True)
class Vouched:
    """raVerified: somebody else has seen the proof, it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureProof:
    """POPOSigningKey; ``input`` is poposkInput as received, under the tag of a SEQUENCE."""

    input: bytes | None
    algorithm: Algorithm
    signature: bytes


class Later(Enum):
    """How possession is going to be shown: subsequentMessage (RFC 4211, 4.2)."""

    ENCRYPTED_CERTIFICATE = 0
    CHALLENGE = 1


@dataclass(frozen=True, slots=True)
class OtherProof:
    """A proof for keys that cannot sign, by name: keyEncipherment or keyAgreement.

    ``later`` is None where the message itself should prove it.
    """

    name: str
    later: Later | None = None


_LATER: Final = {bytes((0x81, 1, each.value)): each for each in Later}

PossessionProof: TypeAlias = Vouched | SignatureProof | OtherProof


@dataclass(frozen=True, slots=True, kw_only=True)
class CertRequest:
    """One CertReqMsg. ``signed`` is its certReq as received; ``controls`` map OID to value."""

    der: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    id: int
    template: Template
    controls: Mapping[bytes, bytes] = field(repr=False)  # holds one-time secrets
    proof: PossessionProof | None


def decode(reader: der.Reader) -> tuple[CertRequest, ...]:
    """Read CertReqMessages from where the reader stands; Fault(MALFORMED)."""
    messages = reader.enter(der.SEQUENCE)
    found = tuple([_read_message(messages.raw(der.SEQUENCE)) for _ in messages.each()])
    if not found:
        raise der.malformed("there is no certificate request", "wire.crmf")
    return found


def _read_message(message_der: bytes) -> CertRequest:
    reader = der.read(message_der, der.SEQUENCE)
    signed = reader.raw(der.SEQUENCE)
    proof = None
    if reader.peek() >= 0xA0 or reader.peek() == 0x80:
        proof = _read_proof(reader)
    if reader.peek() == der.SEQUENCE:
        reader.raw()  # regInfo: hints in the style of the nineties, which nothing depends on
    reader.finish()
    inside = der.read(signed, der.SEQUENCE)
    number = inside.integer()
    template = read_template(inside)
    controls = _read_controls(inside) if inside.peek() >= 0 else {}
    inside.finish()
    return CertRequest(
        der=message_der,
        signed=signed,
        id=number,
        template=template,
        controls=controls,
        proof=proof,
    )


def read_template(reader: der.Reader) -> Template:
    """Read a CertTemplate from where the reader stands."""
    inside = reader.enter(der.SEQUENCE)
    found: dict[int, bytes] = {}
    last = -1
    for tag in inside.each():
        number = tag & 0x1F
        if tag & 0xC0 != 0x80 or not last < number <= 9:
            raise der.malformed("a field of the template is out of place", "wire.crmf.template")
        found[number] = inside.raw()
        last = number
    key, algorithm = _read_key(found.get(6))
    return Template(
        issuer=_name(found.get(3), 0xA3),
        subject=_name(found.get(5), 0xA5),
        public_key=key,
        key_algorithm=algorithm,
        extensions=_untag(found.get(9), 0xA9, der.SEQUENCE),
        serial=_serial(found.get(1)),
        has_validity=4 in found,
    )


def _untag(element: bytes | None, tag: int, universal: int) -> bytes | None:
    """Return an IMPLICIT field as it would stand outside the template."""
    if element is None:
        return None
    if element[0] != tag:
        raise der.malformed("a field of the template has a wrong tag", "wire.crmf.template")
    return bytes((universal,)) + element[1:]


def _name(element: bytes | None, tag: int) -> bytes | None:
    """Return a Name; it is a CHOICE, so its tag is explicit."""
    if element is None:
        return None
    reader = der.read(element, tag)
    name = reader.raw(der.SEQUENCE)
    reader.finish()
    return name


def _serial(element: bytes | None) -> int | None:
    inside = _untag(element, 0x81, der.INTEGER)
    return None if inside is None else der.Reader(inside).integer()


def _read_key(element: bytes | None) -> tuple[bytes | None, Algorithm | None]:
    key = _untag(element, 0xA6, der.SEQUENCE)
    if key is None:
        return None, None
    reader = der.read(key, der.SEQUENCE)
    algorithm = Algorithm.read(reader)
    bits = reader.content(der.BIT_STRING)
    reader.finish()
    return (key if len(bits) > 1 else None), algorithm


def _read_controls(reader: der.Reader) -> dict[bytes, bytes]:
    inside = reader.enter(der.SEQUENCE)
    controls: dict[bytes, bytes] = {}
    for _ in inside.each():
        control = inside.enter(der.SEQUENCE)
        oid, value = control.raw(der.OBJECT_IDENTIFIER), control.raw()
        control.finish()
        if oid in controls:
            raise der.malformed("a control occurs twice", "wire.crmf.controls")
        controls[oid] = value
    return controls


def _read_proof(reader: der.Reader) -> PossessionProof:
    tag = reader.peek()
    if tag == 0x80:
        reader.raw()
        return Vouched()
    if tag in (0xA2, 0xA3):
        name = "keyEncipherment" if tag == 0xA2 else "keyAgreement"
        return OtherProof(name, _LATER.get(reader.content(tag)))
    inside = reader.enter(0xA1)
    popo_input = None
    if inside.peek() == 0xA0:
        popo_input = b"\x30" + inside.raw(0xA0)[1:]
    algorithm = Algorithm.read(inside)
    bits = inside.content(der.BIT_STRING)
    inside.finish()
    if bits[:1] != b"\0":
        raise der.malformed("the proof's signature is not whole octets", "wire.crmf.proof")
    return SignatureProof(input=popo_input, algorithm=algorithm, signature=bits[1:])


# -- what it means --------------------------------------------------------------------------


def read(template: Template, *, subject_der: bytes) -> csr.Content:
    """Return names, key and wishes of a template that has a public key; Faults of wire/csr."""
    assert template.public_key is not None, "the caller has asked"
    return csr.read_content(subject_der, template.public_key, template.extensions)


def read_without_key(template: Template, key_der: bytes, *, subject_der: bytes) -> csr.Content:
    """Return names and wishes of a template, for a key that was made for it."""
    return csr.read_content(subject_der, key_der, template.extensions)


def check_signature(
    request: CertRequest,
    proof: SignatureProof,
    key: CertificatePublicKeyTypes,
    sender: bytes,
    policy: Policy,
) -> None:
    """Check POPOSigningKey (RFC 4211, 4.1); ``sender`` is the message's GeneralName.

    Raise BAD_PROOF where it does not show possession, BAD_ALGORITHM for how it was made.
    """
    template = request.template
    covered = request.signed
    if proof.input is not None:
        # RFC 4211, 4.1: it must be absent where the template itself has subject and key.
        if template.subject is not None:
            raise bad_proof("poposkInput stands beside a complete template")
        _check_input(proof.input, template, sender)
        covered = proof.input
    try:
        signatures.verify_whole(key, proof.algorithm, proof.signature, covered, policy)
    except Fault as fault:
        if fault.code is not FaultCode.BAD_INTEGRITY:
            raise
        raise bad_proof("its signature is not valid") from None


def _check_input(input_der: bytes, template: Template, sender: bytes) -> None:
    reader = der.read(input_der, der.SEQUENCE)
    if reader.peek() != 0xA0:
        raise bad_proof("publicKeyMAC is not supported; name the sender")
    named = reader.enter(0xA0)
    claimed = named.raw()
    named.finish()
    key = reader.raw(der.SEQUENCE)
    reader.finish()
    if claimed != sender:
        raise bad_proof("poposkInput names another sender than the message")
    if key != template.public_key:
        raise bad_proof("poposkInput holds another key than the template")


def encrypted_value(content: bytes, key: rsa.RSAPublicKey, random: Random) -> bytes:
    """Return an EncryptedValue for one RSA key, as old clients read it (RFC 4211, 2.1).

    Key transport is PKCS#1 v1.5, the only one that they know. Fault(BAD_ALGORITHM) for a key that
    is too short.
    """
    content_key, vector = random(AES256.key_size), random(AES256.block_size)
    try:
        encrypted_key = key.encrypt(content_key, padding.PKCS1v15())
    except ValueError:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "this RSA key is too short to encrypt to",
            rule="wire.envelope.recipient",
        ) from None
    return der.sequence(
        der.explicit(1, AES256.oid, der.octets(vector)),
        der.tlv(0x82, b"\0", encrypted_key),
        der.explicit(3, RSA_ENCRYPTION, der.NULL_DER),
        der.tlv(der.BIT_STRING, b"\0", AES256.encrypt(content_key, vector, content)),
    )


def bad_proof(why: str) -> Fault:
    """Return the Fault for a proof of possession that proves nothing."""
    return Fault(
        FaultCode.BAD_PROOF,
        f"possession of the key was not shown: {why}",
        rule="wire.crmf.proof",
    )


def read_cert_id(value_der: bytes) -> IssuerAndSerial:
    """Read a CertId (RFC 4211, 6.5), whose issuer is a GeneralName; Fault(MALFORMED)."""
    reader = der.read(value_der, der.SEQUENCE)
    issuer = reader.enter(0xA4)
    name = issuer.raw(der.SEQUENCE)
    issuer.finish()
    serial = reader.integer()
    reader.finish()
    return IssuerAndSerial(name, serial)


def cert_id(issuer: IssuerAndSerial) -> bytes:
    """Return a CertId."""
    return der.sequence(der.explicit(4, issuer.issuer), der.integer(issuer.serial))


def general_name(name: x509.Name) -> bytes:
    """Return a Name as the GeneralName that CMP's headers hold."""
    return der.explicit(4, name.public_bytes())
