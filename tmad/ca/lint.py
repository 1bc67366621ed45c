"""A second look at a certificate before it is signed: RFC 5280 and our own rules, on its octets.

Nothing here knows how the certificate was made. What is found is our own mistake, so nothing is
signed and the Fault is INTERNAL; the rule says which check it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from tmad.ca import constraints, names
from tmad.ca.extensions import NO_REV_AVAIL
from tmad.ca.x509 import assemble
from tmad.errors import Fault, FaultCode
from tmad.wire import der
from tmad.wire.parsing import UNREADABLE

_MUST_BE_CRITICAL = frozenset(
    {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.INHIBIT_ANY_POLICY,
    }
)
_MAY_BE_CRITICAL = _MUST_BE_CRITICAL | {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.POLICY_MAPPINGS,
}
# By type; what cryptography does not know is under its own object identifier.
Extensions: TypeAlias = Mapping[object, x509.Extension[x509.ExtensionType]]

V = TypeVar("V", bound=x509.ExtensionType)

# Asked by type: isinstance asks each abstract class, every time.
_is_kind = lru_cache(maxsize=256)(issubclass)
_SIGNS_ONLY = (
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
)
_ENCIPHERS_KEYS = (mlkem.MLKEM768PublicKey, mlkem.MLKEM1024PublicKey)
_LONGEST_SERIAL = 159  # bits: 20 octets with a clear sign bit (RFC 5280, 4.1.2.2)
_SHORTEST_SERIAL = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A certificate that is about to be signed, and what it must agree with.

    ``chain`` is the issuer's certificate first, root last; empty for a self-signed one.
    ``critical`` are the extensions that the profile itself made critical.
    """

    certificate: x509.Certificate
    issuer_der: bytes
    algorithm_der: bytes
    spki_der: bytes
    issuer_key_identifier: bytes
    not_before: datetime
    not_after: datetime
    chain: tuple[x509.Certificate, ...]
    critical: frozenset[ObjectIdentifier] = frozenset()


class Found(NamedTuple):
    """What the certificate says, read once for all rules: each reading makes new objects."""

    name: x509.Name
    key: CertificatePublicKeyTypes
    extensions: Extensions
    alternative: tuple[x509.GeneralName, ...]  # its subjectAltName, empty without one


def preview(tbs_der: bytes, algorithm_der: bytes) -> x509.Certificate:
    """Return an unsigned certificate to look at; Fault(INTERNAL) when it cannot be read."""
    try:
        return x509.load_der_x509_certificate(assemble(tbs_der, algorithm_der, b""))
    except UNREADABLE as error:
        raise _error("lint.parse", "the certificate is not well-formed", str(error)) from error


def check(subject: Subject) -> None:
    """Raise Fault(INTERNAL) that names the first rule that is broken."""
    found = _read(subject.certificate)
    for rule in _RULES:
        for complaint in rule(subject, found):
            raise _error(f"lint.{rule.__name__.strip('_')}", "the certificate is wrong", complaint)


def _read(certificate: x509.Certificate) -> Found:
    try:
        extensions = {
            extension.oid
            if (kind := type(extension.value)) is x509.UnrecognizedExtension
            else kind: extension
            for extension in certificate.extensions
        }
    except UNREADABLE as error:
        # X5-10: no duplicates, and nothing that cannot be read back
        raise _error("lint.extensions", "the extensions are broken", str(error)) from error
    return Found(
        name=certificate.subject,
        key=certificate.public_key(),
        extensions=extensions,
        alternative=tuple(_value(extensions, x509.SubjectAlternativeName) or ()),
    )


def _error(rule: str, detail: str, private: str) -> Fault:
    return Fault(
        FaultCode.INTERNAL, detail, private=private, rule=rule, values={"complaint": private}
    )


def _serial(subject: Subject, found: Found) -> Iterator[str]:
    bits = subject.certificate.serial_number.bit_length()
    if subject.certificate.serial_number <= 0 or bits > _LONGEST_SERIAL:
        yield "the serial number is not positive or has more than 20 octets"
    if bits < _SHORTEST_SERIAL:
        yield f"the serial number has only {bits} bits"


def _fields(subject: Subject, found: Found) -> Iterator[str]:
    tbs = subject.certificate.tbs_certificate_bytes
    if subject.certificate.version is not x509.Version.v3:
        yield "the version is not 3"
    elements = der.elements(tbs, der.SEQUENCE)
    # Version, serial, signature, issuer, validity, subject, key, extensions and no unique ids.
    if [e[0] for e in elements] != [0xA0, 0x02, 0x30, 0x30, 0x30, 0x30, 0x30, 0xA3]:
        yield "a field is missing, or there is one too many"
        return
    if elements[2] != subject.algorithm_der:
        yield "the signature algorithm is not the issuer's"
    if elements[3] != subject.issuer_der:
        # RFC 5280, 4.1.2.4: chains are built by comparing names.
        yield "the issuer's name differs from the issuer's subject"
    if elements[6] != subject.spki_der:
        yield "the public key is not the applicant's"


def _validity(subject: Subject, found: Found) -> Iterator[str]:
    certificate = subject.certificate
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start >= end:
        yield "it ends before it begins"
    if start < subject.not_before or end > subject.not_after:
        yield "it is not inside the issuer's validity"


def _subject(subject: Subject, found: Found) -> Iterator[str]:
    is_empty = not found.name.rdns
    try:
        names.check_subject(found.name)
    except Fault as fault:
        yield f"{fault.rule}: {fault.detail}"
    alternative = found.extensions.get(x509.SubjectAlternativeName)
    if alternative is None:
        if is_empty:
            yield "neither subject nor alternative name"
        return
    if not found.alternative:
        yield "the alternative name is empty"
    # RFC 5280, 4.2.1.6
    if alternative.critical != is_empty:
        yield "the alternative name is critical exactly when the subject is empty"
    for name in found.alternative:
        try:
            if names.normalise(name, wildcard=True) != name:
                yield f"{name} is not in canonical spelling"
        except Fault as fault:
            yield f"{fault.rule}: {fault.detail}"


def _constraints(subject: Subject, found: Found) -> Iterator[str]:
    try:
        constraints.check(subject.chain, found.name, found.alternative)
    except Fault as fault:
        yield f"{fault.rule}: {fault.detail}"


def _criticality(subject: Subject, found: Found) -> Iterator[str]:
    for extension in found.extensions.values():
        if extension.critical:
            if extension.oid not in _MAY_BE_CRITICAL and extension.oid not in subject.critical:
                yield f"{extension.oid.dotted_string} must not be critical"
        elif extension.oid in _MUST_BE_CRITICAL:
            yield f"{extension.oid.dotted_string} must be critical"


def _key_usage(subject: Subject, found: Found) -> Iterator[str]:
    usage = _value(found.extensions, x509.KeyUsage)
    if usage is None:
        yield "there is no key usage"
        return
    signs = (
        usage.digital_signature or usage.content_commitment or usage.key_cert_sign or usage.crl_sign
    )
    enciphers = usage.key_encipherment or usage.data_encipherment
    if not (signs or enciphers or usage.key_agreement):
        yield "the key usage is empty"
    kind = type(found.key)
    # RFC 8410, 5; RFC 9881, 5; RFC 5480, 3; RFC 9935, 5
    if _is_kind(kind, _SIGNS_ONLY) and (enciphers or usage.key_agreement or not signs):
        yield "this key can only sign"
    if _is_kind(kind, rsa.RSAPublicKey) and usage.key_agreement:
        yield "an RSA key agrees no keys"
    if _is_kind(kind, ec.EllipticCurvePublicKey) and enciphers:
        yield "an EC key enciphers nothing"
    if _is_kind(kind, _ENCIPHERS_KEYS) and (
        signs or usage.key_agreement or usage.data_encipherment
    ):
        yield "an ML-KEM key enciphers keys and nothing else"


def _authority(subject: Subject, found: Found) -> Iterator[str]:
    usage = _value(found.extensions, x509.KeyUsage)
    basic = _value(found.extensions, x509.BasicConstraints)
    is_ca = basic is not None and basic.ca
    if is_ca != (usage is not None and usage.key_cert_sign):
        yield "a CA signs certificates, and nobody else"
    if not is_ca:
        if _value(found.extensions, x509.NameConstraints) is not None:
            yield "name constraints in a certificate that is not a CA's"
        return
    assert basic is not None
    if not found.extensions[x509.BasicConstraints].critical:
        yield "a CA's basic constraints must be critical"
    if _value(found.extensions, x509.SubjectKeyIdentifier) is None:
        yield "a CA needs a key identifier"
    if not found.name.rdns:
        yield "a CA needs a name"
    if subject.chain:
        issuer = subject.chain[0].extensions
        limit = issuer.get_extension_for_class(x509.BasicConstraints).value.path_length
        if limit is not None and (basic.path_length is None or basic.path_length >= limit):
            yield "the path length is not below the issuer's"


def _identifiers(subject: Subject, found: Found) -> Iterator[str]:
    above = _value(found.extensions, x509.AuthorityKeyIdentifier)
    if subject.chain:
        # RFC 5280, 4.2.1.1
        if above is None or above.key_identifier != subject.issuer_key_identifier:
            yield "the authority key identifier is not the issuer's"
        elif above.authority_cert_issuer is not None:
            yield "the authority key identifier has an issuer name"
    elif above is not None:
        own = _value(found.extensions, x509.SubjectKeyIdentifier)
        if own is None or own.digest != above.key_identifier:
            yield "a self-signed certificate names another key"


def _extended_usage(subject: Subject, found: Found) -> Iterator[str]:
    extended = found.extensions.get(x509.ExtendedKeyUsage)
    if extended is None:
        return
    usages = list(cast(x509.ExtendedKeyUsage, extended.value))
    if not usages:
        yield "the extended key usage is empty"
    stamping = ExtendedKeyUsageOID.TIME_STAMPING in usages
    # RFC 3161, 2.3
    if stamping and len(usages) > 1:
        yield "time stamping stands alone"
    if extended.critical != stamping:
        yield "the extended key usage is critical for time stamping only"


def _revocation(subject: Subject, found: Found) -> Iterator[str]:
    if NO_REV_AVAIL not in found.extensions:
        return
    # RFC 9608, 4
    places = _value(found.extensions, x509.AuthorityInformationAccess) or ()
    ocsp = x509.oid.AuthorityInformationAccessOID.OCSP
    if _value(found.extensions, x509.CRLDistributionPoints) or any(
        place.access_method == ocsp for place in places
    ):
        yield "noRevAvail beside an address where revocation is published"


def _key_der(subject: Subject, found: Found) -> Iterator[str]:
    encoded = found.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if encoded != subject.spki_der:
        yield "the public key is not in its one DER form"


_Rule = Callable[[Subject, Found], Iterator[str]]
_RULES: tuple[_Rule, ...] = (
    _serial,
    _fields,
    _validity,
    _subject,
    _constraints,
    _criticality,
    _key_usage,
    _authority,
    _identifiers,
    _extended_usage,
    _revocation,
    _key_der,
)


def _value(extensions: Extensions, kind: type[V]) -> V | None:
    extension = extensions.get(kind)
    return None if extension is None else cast(V, extension.value)
