"""PKCS#10 certification requests, as every enrolment protocol reads them (RFC 2986, 2985)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import cms, der, parsing, signatures
from tmad.wire.pem import armour
from tmad.wire.signatures import Algorithm, Policy

ELEMENTS = 1_500
DEPTH = 32

_EXTENSION_REQUEST = der.oid("1.2.840.113549.1.9.14")
# The same as Windows 2000 named it, and as the library below reads it, too (KEY-06).
_MS_EXTENSION_REQUEST = der.oid("1.3.6.1.4.1.311.2.1.14")
_CHALLENGE_PASSWORD = der.oid("1.2.840.113549.1.9.7")
# Ed25519's name and no octets: what a request has in the place of a signature that it lacks.
_UNSIGNED = der.sequence(der.oid("1.3.101.112")) + der.tlv(der.BIT_STRING, b"\0")
_TEMPLATE_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class CSR:
    """A certification request whose signature was verified.

    ``names`` are those of its subjectAltName, ``wanted`` its other requested extensions.
    ``challenge`` is its challengePassword, None where it is absent or empty. ``template`` is
    the name in Microsoft's certificate template extension, which some clients use to choose
    among profiles. ``attributes`` maps the DER of each attribute's OID to its values' DER.
    """

    der: bytes = field(repr=False)  # holds the challenge in clear
    subject: x509.Name
    public_key: CertificatePublicKeyTypes
    names: tuple[x509.GeneralName, ...]
    wanted: tuple[x509.Extension[x509.ExtensionType], ...]
    challenge: Secret | None
    template: str
    attributes: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A request cut up as received."""

    whole: bytes
    signed: bytes  # CertificationRequestInfo
    is_strict: bool  # version 1, and attributes whose order can be right only
    subject: bytes
    key: bytes
    attributes: tuple[bytes, ...]
    algorithm: Algorithm
    signature: bytes

    def in_order(self) -> bytes:
        """Return the request as a strict parser takes it: attributes sorted, version 1.

        strongSwan and others write the SET as it comes. The order means nothing, and the
        signature is checked over what was received.
        """
        if self.is_strict:
            return self.whole
        attributes = der.explicit(0, *sorted(self.attributes))
        info = der.sequence(der.integer(0), self.subject, self.key, attributes)
        signature = der.tlv(der.BIT_STRING, b"\0" + self.signature)
        return der.sequence(info, self.algorithm.encode(), signature)


def decode(csr_der: bytes, policy: Policy, *, is_proof: bool = True) -> CSR:
    """Read a request and check its signature, which proves possession of the key.

    Where ``is_proof`` is False its key and its signature mean nothing (RFC 7030, 4.4.1).
    Raise Fault(MALFORMED) for what is no PKCS#10 at all, Fault(UNSUPPORTED) for one that holds
    what cannot be read, Fault(BAD_ALGORITHM) and Fault(BAD_PROOF) for its signature.
    """
    parts = _cut(csr_der)
    attributes = cms.read_attributes(der.Reader(b"".join(parts.attributes)))
    requests = (
        *attributes.get(_EXTENSION_REQUEST, ()),
        *attributes.get(_MS_EXTENSION_REQUEST, ()),
    )
    if len(requests) > 1:
        # Two readers could believe different ones.
        raise _unreadable("it asks for extensions twice")
    content = _read(parts.in_order(), requests)
    if is_proof:
        _check_signature(parts, content.public_key, policy)
    return CSR(
        der=csr_der,
        subject=content.subject,
        public_key=content.public_key,
        names=content.names,
        wanted=content.wanted,
        challenge=_challenge(attributes.get(_CHALLENGE_PASSWORD, ())),
        template=content.template,
        attributes=attributes,
    )


def pem(csr_der: bytes) -> str:
    """Return a request in PEM as it was received; Fault(MALFORMED) for what is no PKCS#10.

    Also one that only :func:`decode` takes: the library below would not write what it cannot read.
    """
    _cut(csr_der)
    return armour("CERTIFICATE REQUEST", csr_der).decode()


class Content(NamedTuple):
    """What a request asks for, whatever form it has; the fields are those of :class:`CSR`."""

    subject: x509.Name
    public_key: CertificatePublicKeyTypes
    names: tuple[x509.GeneralName, ...]
    wanted: tuple[x509.Extension[x509.ExtensionType], ...]
    template: str


def read_content(subject_der: bytes, key_der: bytes, extensions_der: bytes | None) -> Content:
    """Read what another form of request (CRMF, RFC 4211) asks for; nobody has proved anything.

    ``subject_der`` is a Name, ``key_der`` a SubjectPublicKeyInfo, ``extensions_der`` Extensions.
    Faults as :func:`decode`.
    """
    requests = () if extensions_der is None else (extensions_der,)
    attributes = b""
    if extensions_der is not None:
        attributes = der.sequence(_EXTENSION_REQUEST, der.tlv(der.SET, extensions_der))
    info = der.sequence(der.integer(0), subject_der, key_der, der.explicit(0, attributes))
    content = _read(der.sequence(info, _UNSIGNED), requests)
    _check_curve(content.public_key, key_der)
    return content


def _read(request_der: bytes, requests: tuple[bytes, ...]) -> Content:
    _bound_extensions(requests)
    try:
        request = x509.load_der_x509_csr(request_der)
    except parsing.UNREADABLE as error:
        fault = der.malformed("not a certification request", "wire.csr")
        fault.private = str(error)
        raise fault from None
    try:
        public_key = parsing.key_of(request)
    except ValueError as error:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "this kind of key is not supported",
            private=str(error),
            rule="wire.csr.key",
        ) from None
    try:
        subject = request.subject
        extensions = tuple(request.extensions)
    except x509.DuplicateExtension:
        raise _unreadable("an extension occurs twice") from None
    except parsing.UNREADABLE as error:
        # T61Strings with octets above 127, a BIT STRING for a name, broken addresses,
        # x400Address and the like.
        raise _unreadable(f"a name or an extension in it: {error}"[:200]) from None
    names: tuple[x509.GeneralName, ...] = ()
    wanted = []
    for extension in extensions:
        if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            names = tuple(cast("x509.SubjectAlternativeName", extension.value))
        else:
            wanted.append(extension)
    return Content(
        subject=subject,
        public_key=public_key,
        names=names,
        wanted=tuple(wanted),
        template=_template(extensions),
    )


def _cut(csr_der: bytes) -> _Parts:
    der.scan(csr_der, elements=ELEMENTS, depth=DEPTH)
    outer = der.read(csr_der, der.SEQUENCE)
    signed = outer.raw(der.SEQUENCE)
    algorithm = Algorithm.read(outer)
    bits = outer.content(der.BIT_STRING)
    outer.finish()
    if bits[:1] != b"\0":
        raise der.malformed("the signature is not whole octets", "wire.csr")
    info = der.read(signed, der.SEQUENCE)
    # RFC 2986, 4.1 has 0 alone; clients that take it for a certificate's write 2, or mean 1 by 1.
    version = info.integer()
    if version not in (0, 1, 2):
        raise _unreadable("its version is not 1")
    subject, key = info.raw(der.SEQUENCE), info.raw(der.SEQUENCE)
    attributes: tuple[bytes, ...] = ()
    is_strict = False
    if info.peek() >= 0:  # some clients leave out even an empty [0]
        inside = info.enter(0xA0)
        attributes = tuple([inside.raw(der.SEQUENCE) for _ in inside.each()])
        is_strict = version == 0 and len(attributes) <= 1
    info.finish()
    return _Parts(csr_der, signed, is_strict, subject, key, attributes, algorithm, bits[1:])


def _unreadable(what: str) -> Fault:
    return Fault(
        FaultCode.UNSUPPORTED,
        f"the certification request cannot be read: {what}",
        rule="wire.csr.content",
    )


def _check_curve(key: CertificatePublicKeyTypes, key_der: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        named = Algorithm.read(der.read(key_der, der.SEQUENCE)).parameters[:1]
        if named != bytes((der.OBJECT_IDENTIFIER,)):
            # RFC 5480, 2.1.1: the curve is named, not written out (CVE-2020-0601,
            # CVE-2022-0778); the library accepts the latter for curves that it knows.
            raise Fault(
                FaultCode.BAD_ALGORITHM, "the elliptic curve must be named", rule="wire.csr.curve"
            )


def _check_signature(parts: _Parts, key: CertificatePublicKeyTypes, policy: Policy) -> None:
    _check_curve(key, parts.key)
    try:
        signatures.verify_whole(key, parts.algorithm, parts.signature, parts.signed, policy)
    except Fault as fault:
        if fault.code is not FaultCode.BAD_INTEGRITY:
            raise
        raise Fault(
            FaultCode.BAD_PROOF,
            "the signature of the certification request is not valid",
            rule="wire.csr.signature",
        ) from None


def _bound_extensions(requests: tuple[bytes, ...]) -> None:
    """Refuse extensions whose content would be dear to read, which no scan has looked into.

    60 kB hold 30 000 names, and each becomes an object.
    """
    left = ELEMENTS
    for request in requests:
        extensions = der.read(request, der.SEQUENCE)
        for _ in extensions.each():
            extension = extensions.enter(der.SEQUENCE)
            extension.raw(der.OBJECT_IDENTIFIER)
            if extension.peek() == der.BOOLEAN:
                extension.raw()
            value = extension.content(der.OCTET_STRING)
            try:
                left -= der.weigh(value, elements=left, depth=DEPTH)
            except Fault:
                # Not DER, or too much of it: as dear as the smallest elements could make it.
                left -= len(value) // 2
            if left < 0:
                raise _unreadable("its extensions hold too many elements")


def _challenge(values: tuple[bytes, ...]) -> Secret | None:
    """Return the challengePassword in whichever string type it came, without a length limit."""
    if not values:
        return None
    if len(values) > 1:
        raise _unreadable("it holds several challenge passwords")
    return Secret(_text(values[0], "the challenge password")) or None


def _template(extensions: Iterable[x509.Extension[x509.ExtensionType]]) -> str:
    for extension in extensions:
        if extension.oid == _TEMPLATE_NAME and isinstance(
            extension.value, x509.UnrecognizedExtension
        ):
            return _text(extension.value.value, "the template name")
    return ""


def _text(value_der: bytes, what: str) -> str:
    try:
        return der.text(value_der)
    except Fault:
        raise _unreadable(what) from None
