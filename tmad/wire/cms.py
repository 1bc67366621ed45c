"""Cryptographic Message Syntax: signed, enveloped and certificates-only messages.

RFC 5652; key transport RFC 3370 and 3560 (OAEP), passwords RFC 3211, AES RFC 3565. Decoding
reads structure only and keeps the received bytes; what an algorithm may be is asked when a
signature is checked or an envelope opened. Functions that need a private key take it as their
first argument, so that they can run where the key lives.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)

from tmad.errors import Fault, FaultCode
from tmad.wire import ber, der, signatures
from tmad.wire.signatures import Algorithm, Digest, Policy

Random: TypeAlias = Callable[[int], bytes]

DATA = der.oid("1.2.840.113549.1.7.1")
SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
ENVELOPED_DATA = der.oid("1.2.840.113549.1.7.3")

CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
SIGNING_TIME = der.oid("1.2.840.113549.1.9.5")
_SUBJECT_KEY_IDENTIFIER = der.oid("2.5.29.14")


class IssuerAndSerial(NamedTuple):
    """Names a certificate: the issuer's Name as DER, and the serial number."""

    issuer: bytes
    serial: int

    @classmethod
    def read(cls, reader: der.Reader) -> IssuerAndSerial:
        """Read one from where the reader stands."""
        inside = reader.enter(der.SEQUENCE)
        name, serial = inside.raw(der.SEQUENCE), inside.integer()
        inside.finish()
        return cls(name, serial)

    @classmethod
    def of(cls, certificate_der: bytes) -> IssuerAndSerial:
        """Return the name of a certificate, bytes as they stand in it."""
        tbs, serial = _enter_certificate(certificate_der)
        return cls(tbs.raw(der.SEQUENCE), serial)

    def encode(self) -> bytes:
        """Return it as DER."""
        return der.sequence(self.issuer, der.integer(self.serial))


def _enter_certificate(certificate_der: bytes) -> tuple[der.Reader, int]:
    """Return a reader that stands before the issuer, and the serial number."""
    tbs = der.read(certificate_der, der.SEQUENCE).enter(der.SEQUENCE)
    if tbs.peek() == 0xA0:
        tbs.raw()
    serial = tbs.integer()
    tbs.raw(der.SEQUENCE)
    return tbs, serial


def is_self_issued(certificate_der: bytes) -> bool:
    """Tell whether issuer and subject are the same octets."""
    tbs, _ = _enter_certificate(certificate_der)
    issuer = tbs.raw(der.SEQUENCE)
    tbs.raw(der.SEQUENCE)
    return tbs.raw(der.SEQUENCE) == issuer


def subject_of(certificate_der: bytes) -> bytes:
    """Return the subject's Name as it stands in a certificate."""
    tbs, _ = _enter_certificate(certificate_der)
    tbs.raw(der.SEQUENCE)
    tbs.raw(der.SEQUENCE)
    return tbs.raw(der.SEQUENCE)


# bytes: a subject key identifier.
Identifier: TypeAlias = IssuerAndSerial | bytes


def identifies(identifier: Identifier, certificate_der: bytes) -> bool:
    """Tell whether a signer or recipient identifier means this certificate."""
    if isinstance(identifier, IssuerAndSerial):
        return identifier == IssuerAndSerial.of(certificate_der)
    return key_identifier(certificate_der) == identifier


def key_identifier(certificate_der: bytes) -> bytes | None:
    """Return the value of subjectKeyIdentifier, None where a certificate has none.

    Read here, since a parser of certificates makes an object of each name in every other
    extension, too: milliseconds for each certificate that a stranger puts into a message.
    """
    tbs, _ = _enter_certificate(certificate_der)
    for _ in range(4):  # issuer, validity, subject, subjectPublicKeyInfo
        tbs.raw(der.SEQUENCE)
    while tbs.peek() in (0x81, 0x82):  # the unique identifiers of old
        tbs.raw()
    extensions = tbs.enter(0xA3).enter(der.SEQUENCE) if tbs.peek() == 0xA3 else der.Reader(b"")
    for _ in extensions.each():
        extension = extensions.enter(der.SEQUENCE)
        oid = extension.raw(der.OBJECT_IDENTIFIER)
        if extension.peek() == der.BOOLEAN:
            extension.raw()
        value = extension.content(der.OCTET_STRING)
        if oid == _SUBJECT_KEY_IDENTIFIER:
            return der.content(value, der.OCTET_STRING)
    return None


def read_identifier(reader: der.Reader) -> Identifier:
    """Read a SignerIdentifier or RecipientIdentifier from where the reader stands."""
    if reader.peek() == der.SEQUENCE:
        return IssuerAndSerial.read(reader)
    return ber.pieces(reader, 0)


def unwrap(content_info: bytes, content_type: bytes) -> der.Reader:
    """Return a reader of the content of a ContentInfo that must be of the given type."""
    reader = der.read(content_info, der.SEQUENCE)
    if reader.raw(der.OBJECT_IDENTIFIER) != content_type:
        raise der.malformed("another content type is expected", "wire.cms.content-type")
    content = reader.enter(0xA0)
    reader.finish()
    return content


def inner(content_info: bytes, content_type: bytes) -> bytes:
    """Return the content of a ContentInfo alone, as it stands inside another CMS structure."""
    reader = unwrap(content_info, content_type)
    content = reader.raw()
    reader.finish()
    return content


def _wrap(content_type: bytes, content: bytes) -> bytes:
    return der.sequence(content_type, der.explicit(0, content))


# -- signed ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerInfo:
    """One signature. ``attributes`` maps the DER of an OID to its values' DER."""

    identifier: Identifier
    digest: Algorithm
    attributes: Mapping[bytes, tuple[bytes, ...]]
    signed_der: bytes | None  # what the signature covers; None: the content itself
    algorithm: Algorithm
    signature: bytes

    def attribute(self, oid: bytes) -> bytes | None:
        """Return the DER of a signed attribute's only value, or None where it is absent."""
        values = self.attributes.get(oid)
        if values is None:
            return None
        if len(values) != 1:
            raise der.malformed(f"attribute {der.dotted(oid)} does not have one value")
        return values[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedData:
    """A SignedData; ``certificates`` and ``crls`` are DER in the order of the message."""

    content_type: bytes
    content: bytes | None
    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    signers: tuple[SignerInfo, ...]

    def certificate_of(self, signer: SignerInfo) -> bytes | None:
        """Return the signer's certificate from the message itself, or None."""
        for certificate in self.certificates:
            if identifies(signer.identifier, certificate):
                return certificate
        return None


def decode_signed_data(content_info: bytes) -> SignedData:
    """Read a ContentInfo that holds SignedData; nothing is verified."""
    outer = unwrap(content_info, SIGNED_DATA)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    reader.integer()
    reader.raw(der.SET)  # digestAlgorithms: each SignerInfo names its own
    encapsulated = reader.enter(der.SEQUENCE)
    content_type = encapsulated.raw(der.OBJECT_IDENTIFIER)
    content = None
    if encapsulated.peek() == 0xA0:
        explicit = encapsulated.enter(0xA0)
        # PKCS#7 v1.5 allowed any type here; CMS says OCTET STRING.
        content = explicit.content(der.OCTET_STRING)
        explicit.finish()
    encapsulated.finish()
    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    if reader.peek() == 0xA0:
        certificates = _choices(reader.enter(0xA0))
    if reader.peek() == 0xA1:
        crls = _choices(reader.enter(0xA1))
    infos = reader.enter(der.SET)
    signers = tuple([_read_signer_info(infos) for _ in infos.each()])
    reader.finish()
    return SignedData(
        content_type=content_type,
        content=content,
        certificates=certificates,
        crls=crls,
        signers=signers,
    )


def _choices(reader: der.Reader) -> tuple[bytes, ...]:
    """Return X.509 certificates or CRLs; other formats have a context tag and are left out."""
    found = [reader.raw() for _ in reader.each()]
    return tuple([item for item in found if item[0] == der.SEQUENCE])


def _read_signer_info(infos: der.Reader) -> SignerInfo:
    reader = infos.enter(der.SEQUENCE)
    reader.integer()
    identifier = read_identifier(reader)
    digest = Algorithm.read(reader)
    attributes: dict[bytes, tuple[bytes, ...]] = {}
    signed_der = None
    if reader.peek() == 0xA0:
        raw = reader.raw()
        # The signature covers the attributes as a SET OF, not as [0] (RFC 5652, 5.4).
        signed_der = b"\x31" + raw[1:]
        attributes = read_attributes(der.read(signed_der, der.SET))
    algorithm = Algorithm.read(reader)
    signature = reader.content(der.OCTET_STRING)
    if reader.peek() == 0xA1:
        reader.raw()  # unsigned attributes: nobody vouches for them
    reader.finish()
    return SignerInfo(
        identifier=identifier,
        digest=digest,
        attributes=attributes,
        signed_der=signed_der,
        algorithm=algorithm,
        signature=signature,
    )


def read_attributes(reader: der.Reader) -> dict[bytes, tuple[bytes, ...]]:
    """Read a SET OF Attribute into a dictionary from OID to values, all DER."""
    attributes: dict[bytes, tuple[bytes, ...]] = {}
    for _ in reader.each():
        attribute = reader.enter(der.SEQUENCE)
        oid = attribute.raw(der.OBJECT_IDENTIFIER)
        values = attribute.enter(der.SET)
        attribute.finish()
        if oid in attributes:
            # RFC 5652, 5.3: no attribute twice; two readers could believe different ones.
            raise der.malformed(f"attribute {der.dotted(oid)} occurs twice")
        attributes[oid] = tuple([values.raw() for _ in values.each()])
    return attributes


def verify(
    signed: SignedData, signer: SignerInfo, key: CertificatePublicKeyTypes, policy: Policy
) -> Digest:
    """Check one signature and the digest of the content; return the digest that was used.

    Raise Fault(BAD_ALGORITHM) for what policy forbids, Fault(BAD_INTEGRITY) for the rest.
    """
    digest = signatures.digest_for(signer.digest, policy)
    content = signed.content or b""
    covered = content if signer.signed_der is None else signer.signed_der
    signatures.verify(key, signer.algorithm, digest, signer.signature, covered, policy)
    if signer.signed_der is None:
        if signed.content_type != DATA:
            raise _broken("signed attributes are missing")
        return digest
    if signer.attribute(CONTENT_TYPE) != signed.content_type:
        raise _broken("the signed content type is another one")
    claimed = signer.attribute(MESSAGE_DIGEST) or b""
    if not hmac.compare_digest(claimed, der.octets(digest.of(content))):
        raise _broken("the content is not what was signed")
    return digest


def _broken(why: str) -> Fault:
    return Fault(FaultCode.BAD_INTEGRITY, why, rule="wire.signature")


def sign(
    key: PrivateKeyTypes,
    certificate_der: bytes,
    content: bytes | None,
    *,
    digest: Digest,
    attributes: Iterable[tuple[bytes, bytes]] = (),
    certificates: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
    content_type: bytes = DATA,
    plain_rsa: bool = True,
) -> bytes:
    """Return a ContentInfo with SignedData by one signer.

    ``attributes`` are pairs of an OID and one value, both DER; contentType and messageDigest
    are added. Without content the digest is that of no octets. ``plain_rsa``: see
    :func:`tmad.wire.signatures.sign`.
    """
    pairs = [
        (CONTENT_TYPE, content_type),
        (MESSAGE_DIGEST, der.octets(digest.of(content or b""))),
        *attributes,
    ]
    signed_der = der.set_of([der.sequence(oid, der.tlv(der.SET, value)) for oid, value in pairs])
    algorithm, signature = signatures.sign(key, signed_der, digest, plain_rsa=plain_rsa)
    signer = der.sequence(
        der.integer(1),
        IssuerAndSerial.of(certificate_der).encode(),
        digest.algorithm.encode(),
        b"\xa0" + signed_der[1:],
        algorithm.encode(),
        der.octets(signature),
    )
    encapsulated = () if content is None else (der.explicit(0, der.octets(content)),)
    return _wrap(
        SIGNED_DATA,
        der.sequence(
            der.integer(1 if content_type == DATA else 3),
            der.tlv(der.SET, digest.algorithm.encode()),
            der.sequence(content_type, *encapsulated),
            *((der.explicit(0, *certificates),) if certificates else ()),
            *((der.explicit(1, *crls),) if crls else ()),
            der.tlv(der.SET, signer),
        ),
    )


def degenerate(certificates: Sequence[bytes] = (), crls: Sequence[bytes] = ()) -> bytes:
    """Return SignedData without signers that carries DER certificates and CRLs.

    They keep the order given: a DER encoder would sort the SET, and "leaf first" with it.
    """
    return _wrap(
        SIGNED_DATA,
        der.sequence(
            der.integer(1),
            der.tlv(der.SET),
            der.sequence(DATA),
            *((der.explicit(0, *certificates),) if certificates else ()),
            *((der.explicit(1, *crls),) if crls else ()),
            der.tlv(der.SET),
        ),
    )
