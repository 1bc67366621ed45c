"""Who signed a certificate, and whether a chain of CA certificates holds (RFC 5280, 6.1).

Names are compared as octets and signatures are verified with the issuer's key: a name or a key
identifier alone proves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from tmad.errors import Fault, FaultCode
from tmad.wire import der
from tmad.wire.parsing import NO_EXTENSION, UNREADABLE

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Hierarchy, Issuer

MAXIMUM_DEPTH = 12  # certificates in a chain
_MAXIMUM_CANDIDATES = 32  # issuers with the same name whose signature is tried

# Critical extensions that the checks below understand or that cannot hurt in a CA certificate.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,  # applied to each certificate when it is issued
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)


class Trust:
    """Finds the issuer among our own authorities and known anchors."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy

    async def issuer_of(
        self, certificate: x509.Certificate, *, tenant: str | None = None
    ) -> Issuer | None:
        """Return the issuer whose key signed ``certificate``, in any state.

        With ``tenant``, only what that tenant has, anchors included; without, whichever has
        its key here: what one tenant knows of CAs outside is nothing to the others.
        """
        name, _ = names_der(certificate)
        wanted = authority_key_identifier(certificate)
        candidates = [
            issuer
            for issuer in await self._hierarchy.by_subject(name)
            if (issuer.signs if tenant is None else issuer.tenant == tenant)
        ]
        for issuer in candidates[:_MAXIMUM_CANDIDATES]:
            if issuer.certificate is None:
                continue
            own = subject_key_identifier(issuer.certificate)
            # RFC 5280, 4.2.1.1: tells the keys of one name apart; absent, each is tried.
            if wanted is not None and own is not None and wanted != own:
                continue
            if is_signed_by(certificate, issuer.certificate):
                return issuer
        return None


def chain(issuer: Issuer, *, include_root: bool) -> tuple[x509.Certificate, ...]:
    """Return an issuer's certificates up to the root, its own first."""
    if include_root or len(issuer.chain) == 1:
        return issuer.chain
    top = issuer.chain[-1]
    return issuer.chain[:-1] if top.subject == top.issuer else issuer.chain


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether ``issuer``'s key made the signature and its subject is the issuer's name.

    False covers every way in which that cannot be shown; use it to choose a candidate, and
    check_path where an answer is relied on.
    """
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def check_path(
    path: Sequence[x509.Certificate], now: datetime, *, anchors: Iterable[x509.Certificate] = ()
) -> None:
    """Raise Fault(REJECTED) unless this chain of CA certificates holds at ``now``.

    ``path`` is leaf-most first. Its last certificate is self-signed, or signed by one of
    ``anchors``.
    """
    if not path:
        raise _broken("empty", "there is no certificate in the chain", None)
    if len(path) > MAXIMUM_DEPTH:
        raise _broken("depth", f"more than {MAXIMUM_DEPTH} certificates", path[0])
    for below, certificate in enumerate(path):
        check_ca(certificate, now)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        limit = constraints.value.path_length
        # RFC 5280, 4.2.1.9: self-issued certificates below do not count.
        counted = sum(1 for lower in path[:below] if lower.subject != lower.issuer)
        if limit is not None and counted > limit:
            raise _broken("path-length", f"allows {limit} CAs below it, has {counted}", certificate)
    for certificate, issuer in pairwise(path):
        if not is_signed_by(certificate, issuer):
            raise _broken("signature", "not signed by the next one in the chain", certificate)
    top = path[-1]
    if not is_signed_by(top, top) and not any(is_signed_by(top, anchor) for anchor in anchors):
        raise _broken("anchor", "its issuer is missing from the chain", top)


def check_ca(certificate: x509.Certificate, now: datetime) -> None:
    """Raise Fault(REJECTED) unless this is a CA certificate that is valid at ``now``."""
    try:
        extensions = certificate.extensions
    except UNREADABLE as error:
        raise _broken("extensions", f"extensions cannot be read: {error}", None) from error
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise _broken("ca", "basicConstraints says that it is no CA", certificate)
    except x509.ExtensionNotFound:
        raise _broken("ca", "basicConstraints is missing", certificate) from None
    try:
        if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            raise _broken("key-usage", "keyUsage has no keyCertSign", certificate)
    except x509.ExtensionNotFound:
        pass  # RFC 5280, 6.1.4 (n): only where it is present
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _broken(
                "critical", f"critical extension {extension.oid.dotted_string}", certificate
            )
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        fault = _broken("validity", "not valid now", certificate)
        fault.values |= {
            "not_before": certificate.not_valid_before_utc.isoformat(),
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "now": now.isoformat(),
        }
        raise fault


def order_path(
    first: x509.Certificate, others: Iterable[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """Return ``first`` and, as far as they are among ``others``, its issuers in order."""
    path = [first]
    remaining = list(others)
    while len(path) < MAXIMUM_DEPTH and not is_signed_by(path[-1], path[-1]):
        for candidate in remaining:
            if candidate != path[-1] and is_signed_by(path[-1], candidate):
                path.append(candidate)
                remaining.remove(candidate)
                break
        else:
            break
    return tuple(path)


def authority_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """Return the issuer's key identifier that a certificate names."""
    try:
        return certificate.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value.key_identifier
    except NO_EXTENSION:
        return None


def subject_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """Return a certificate's own key identifier."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except NO_EXTENSION:
        return None
    return found.value.digest


def names_der(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    """Return the issuer and the subject exactly as they are encoded (RFC 5280, 4.1)."""
    fields = der.read(certificate.tbs_certificate_bytes, der.SEQUENCE)
    if fields.peek() == 0xA0:
        fields.raw()  # version, absent in a v1 certificate
    fields.raw()  # serialNumber
    fields.raw()  # signature
    issuer = fields.raw()
    fields.raw()  # validity
    return issuer, fields.raw()


def name_from_der(name_der: bytes, public_key: CertificatePublicKeyTypes) -> x509.Name:
    """Return a name as an object; it is only read out of a request that nobody signed."""
    unsigned = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    request = der.sequence(
        der.sequence(der.integer(0), name_der, spki_der(public_key), der.explicit(0)),
        unsigned,
        der.tlv(der.BIT_STRING, b"\x00"),
    )
    return x509.load_der_x509_csr(request).subject


def spki_der(public_key: CertificatePublicKeyTypes) -> bytes:
    """Return a key as SubjectPublicKeyInfo."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def spki_sha256(public_key: CertificatePublicKeyTypes) -> bytes:
    """Return what the database knows a key by."""
    return hashlib.sha256(spki_der(public_key)).digest()


def key_bits(public_key: CertificatePublicKeyTypes) -> bytes:
    """Return the octets of subjectPublicKey, which OCSP and key identifiers hash."""
    fields = der.read(spki_der(public_key), der.SEQUENCE)
    fields.raw()  # algorithm
    return fields.content(der.BIT_STRING)[1:]  # without the count of unused bits


def chain_der(path: Iterable[x509.Certificate]) -> bytes:
    """Return certificates as the database keeps them: DER, one after the other."""
    return b"".join(c.public_bytes(serialization.Encoding.DER) for c in path)


def chain_from_der(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read what chain_der wrote."""
    reader = der.Reader(data)
    return tuple(x509.load_der_x509_certificate(reader.raw()) for _ in reader.each())


def _broken(rule: str, text: str, certificate: x509.Certificate | None) -> Fault:
    about = "" if certificate is None else f"{certificate.subject.rfc4514_string()}: "
    return Fault(FaultCode.REJECTED, about + text, rule=f"trust.{rule}", values={})
