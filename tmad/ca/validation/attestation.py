"""device-attest-01: a device's maker vouches for its key (draft-ietf-acme-device-attest).

Three kinds of statements, in WebAuthn's words: "apple" (Managed Device Attestation), "tpm"
(a key that TPM2_Certify vouches for, by an attestation key with a certificate), and "step" (a
token such as a YubiKey, whose maker certifies the key itself). Whether a maker has withdrawn a
device's certificate is not asked: Apple's and TPMs' have no CRL that is public.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.validation.contract import (
    Problem,
    Question,
    Validated,
    refusal,
    root,
)
from tmad.errors import Fault
from tmad.events import JSON
from tmad.wire import cbor, der, parsing, tpm
from tmad.wire.parsing import UNREADABLE

E = TypeVar("E", bound=x509.ExtensionType)

_MOST: Final = 5  # certificates of one chain
_LONGEST: Final = 16_384  # octets of one certificate
_OID: Final = x509.ObjectIdentifier
_APPLE_SERIAL: Final = _OID("1.2.840.113635.100.8.9.1")
_APPLE_UDID: Final = _OID("1.2.840.113635.100.8.9.2")
_APPLE_FRESHNESS: Final = _OID("1.2.840.113635.100.8.11.1")
_YUBICO_SERIAL: Final = _OID("1.3.6.1.4.1.41482.3.7")
_PERMANENT_IDENTIFIER: Final = _OID("1.3.6.1.5.5.7.8.3")
_AIK: Final = _OID("2.23.133.8.3")  # TCG: tcg-kp-AIKCertificate
_READ: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
        x509.CertificatePolicies.oid,
    }
)
_FROM_THIS_TPM: Final = tpm.FIXED_TPM | tpm.FIXED_PARENT | tpm.SENSITIVE_DATA_ORIGIN


def validate(question: Question, now: datetime) -> Validated:
    """Return which key is attested, or raise a refusal."""
    statement, kind = _statement(question.payload)
    if kind not in question.rules.attestation_formats or kind not in _KINDS:
        raise wrong(f"statements of format {kind[:40]!r} are not taken here")
    if not question.rules.attestation_roots:
        raise wrong("this endpoint names no maker whose devices may attest")
    try:
        chain = _chain(statement)
        check_path(chain, tuple(map(root, question.rules.attestation_roots)), now)
        key, identities = _KINDS[kind](statement, chain[0], question)
        issuer = chain[0].issuer.rfc4514_string()[:255]
    except Fault as fault:
        if fault.rule == "acme.validation":
            raise
        raise wrong(fault.detail) from fault
    except UNREADABLE:
        raise wrong("x5c holds a certificate that cannot be read") from None
    if question.identifier.value not in identities:
        raise wrong(
            "the statement is about another device",
            asked=question.identifier.value,
            attested=", ".join(identities),
        )
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = sha256(spki).digest()
    record: dict[str, JSON] = {
        "challenge": question.kind.value,
        "format": kind,
        "device": list(identities),
        "attested_by": issuer,
        "key_sha256": digest.hex(),
    }
    return Validated(record=record, key_sha256=digest)


def wrong(why: str, **values: str) -> Fault:
    """Return the refusal of a statement."""
    return refusal(Problem.BAD_ATTESTATION, f"the attestation is not accepted: {why}", **values)


def _statement(payload: bytes) -> tuple[Mapping[str, cbor.Value], str]:
    """Return attStmt and fmt of ``{"attObj": base64url}``."""
    try:
        posted = json.loads(payload)
        text = posted["attObj"]
        filled = "=" * (-len(text) % 4)
        octets = base64.b64decode(f"{text}{filled}".encode("ascii"), b"-_", validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise wrong("the payload must have attObj in base64url") from None
    try:
        found = cbor.decode(octets)
    except Fault as fault:
        raise wrong(fault.detail) from None
    if not isinstance(found, dict):
        raise wrong("attObj must be a map")
    statement, kind = found.get("attStmt"), found.get("fmt")
    if not isinstance(statement, dict) or not isinstance(kind, str):
        raise wrong("attObj must have fmt and attStmt")
    return statement, kind


def _octets(statement: Mapping[str, cbor.Value], name: str) -> bytes:
    value = statement.get(name)
    if not isinstance(value, bytes) or not value:
        raise wrong(f"{name} is missing")
    return value


def _chain(statement: Mapping[str, cbor.Value]) -> list[x509.Certificate]:
    given = statement.get("x5c")
    if not isinstance(given, list) or not 1 <= len(given) <= _MOST:
        raise wrong(f"x5c must hold 1 to {_MOST} certificates")
    chain = []
    for each in given:
        if not isinstance(each, bytes) or len(each) > _LONGEST:
            raise wrong("x5c must hold certificates in DER")
        der.scan(each, elements=1_500, depth=32)
        try:
            chain.append(parsing.certificate(each))
        except ValueError:
            raise wrong("x5c holds a certificate that cannot be read") from None
    return chain


def check_path(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> None:
    """Refuse a chain, the device first, that no root stands above (RFC 5280, 6, in short)."""
    above = list(chain[1:])
    for index, certificate in enumerate(chain):
        _check_extensions(certificate, issuers_below=index)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise wrong("a certificate of x5c is not valid now")
        if any(_is_issued_by(certificate, each) for each in roots if _is_valid(each, now)):
            return
        if not above or not _is_issued_by(certificate, above.pop(0)):
            break
    raise wrong("x5c does not lead to a maker that this endpoint names")


def _is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _check_extensions(certificate: x509.Certificate, issuers_below: int) -> None:
    try:
        extensions = list(certificate.extensions)
    except UNREADABLE:
        raise wrong("a certificate of x5c has extensions that cannot be read") from None
    for each in extensions:
        if each.critical and each.oid not in _READ:
            raise wrong(f"a certificate of x5c has the critical extension {each.oid.dotted_string}")
    basic = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if issuers_below == 0:
        if basic is not None and basic.ca:
            raise wrong("the device's certificate is an authority's")
        return
    if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
        raise wrong("a certificate of x5c is issued by no authority")
    if basic.path_length is not None and basic.path_length < issuers_below - 1:
        raise wrong("x5c is longer than an authority of it allows")


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _raw(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    """Return an extension's octets; empty where it is not there."""
    try:
        value = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return b""
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


# -- the kinds of statements --------------------------------------------------------------------

_Found = tuple[CertificatePublicKeyTypes, Sequence[str]]


def _apple(
    statement: Mapping[str, cbor.Value], leaf: x509.Certificate, question: Question
) -> _Found:
    """Apple hands its own certificate of the key; the token makes it fresh."""
    digest = sha256(question.token.encode()).digest()
    freshness = _raw(leaf, _APPLE_FRESHNESS)
    if not hmac.compare_digest(freshness.removeprefix(b"\x04\x20"), digest):
        raise wrong("it was not made for this challenge")
    identities = [_text(_raw(leaf, oid)) for oid in (_APPLE_SERIAL, _APPLE_UDID)]
    return leaf.public_key(), [each for each in identities if each]


def _text(octets: bytes) -> str:
    # Apple's bare text; or with the header of a UTF8String or OCTET STRING.
    if len(octets) > 2 and octets[0] in (0x0C, 0x04) and octets[1] == len(octets) - 2:
        octets = octets[2:]
    return octets.decode("utf-8", errors="replace")


def _tpm(statement: Mapping[str, cbor.Value], leaf: x509.Certificate, question: Question) -> _Found:
    """An attestation key of the TPM certifies the key (WebAuthn, 8.3)."""
    if statement.get("ver") != "2.0":
        raise wrong("ver is not 2.0")
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is None or _AIK not in list(usage):
        raise wrong("the attestation key's certificate is not for that")
    information = _octets(statement, "certInfo")
    tpm.verify(leaf.public_key(), _octets(statement, "sig"), information)
    certified = tpm.certified(information)
    digest = sha256(question.key_authorization.encode()).digest()
    if not hmac.compare_digest(certified.extra, digest):
        raise wrong("it was not made for this challenge and account")
    public = tpm.public(_octets(statement, "pubArea"))
    if public.name != certified.name:
        raise wrong("pubArea is not the key that the TPM certified")
    if public.attributes & _FROM_THIS_TPM != _FROM_THIS_TPM:
        raise wrong("the key was not made in this TPM, or may leave it")
    return public.key, _permanent_identifiers(leaf)


def _permanent_identifiers(certificate: x509.Certificate) -> list[str]:
    """Return the identifierValues of RFC 4043."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    found = []
    for each in () if names is None else names.get_values_for_type(x509.OtherName):
        if each.type_id == _PERMANENT_IDENTIFIER:
            der.scan(each.value, elements=10, depth=3)
            reader = der.read(each.value, der.SEQUENCE)
            if reader.peek() == der.UTF8_STRING:
                found.append(der.text(reader.raw(der.UTF8_STRING)))
    return found


def _step(
    statement: Mapping[str, cbor.Value], leaf: x509.Certificate, question: Question
) -> _Found:
    """A token's maker certified the key, and the key signs the key authorisation."""
    signature = _octets(statement, "sig")
    try:
        inner = cbor.decode(signature)
    except Fault:
        inner = None
    if isinstance(inner, bytes):
        signature = inner
    key = leaf.public_key()
    try:
        _verify(key, signature, question.key_authorization.encode())
    except InvalidSignature:
        raise wrong("the key did not sign this key authorisation") from None
    number = _raw(leaf, _YUBICO_SERIAL)
    return key, [str(der.Reader(number).integer())] if 0 < len(number) <= 20 else []


def _verify(key: CertificatePublicKeyTypes, signature: bytes, data: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, data)
    else:
        raise wrong("a key of a kind that no token has")


_KINDS: Final[
    Mapping[str, Callable[[Mapping[str, cbor.Value], x509.Certificate, Question], _Found]]
] = {"apple": _apple, "tpm": _tpm, "step": _step}
