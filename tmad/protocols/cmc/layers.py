"""What is around a PKIData: signatures, MACs and envelopes (RFC 10002, 3.2.1.3 and 5).

Decoding first, without believing; then checks, of which each takes what it needs. A signature is
checked over the octets received, before its content is looked into any further.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cryptography import x509

from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import codec
from tmad.protocols.cmc.codec import PKI_DATA
from tmad.wire import authenticated, ber, cms, der, envelopes, parsing, signatures
from tmad.wire.authenticated import AUTHENTICATED_DATA, AuthenticatedData
from tmad.wire.cms import ENVELOPED_DATA, SIGNED_DATA, SignedData, SignerInfo
from tmad.wire.signatures import Policy

_NO_SIGNATURE: Final = der.oid("1.3.6.1.5.5.7.6.2")
_MOST_CERTIFICATES: Final = 20


@dataclass(frozen=True, slots=True)
class Enveloped:
    """An EnvelopedData; ``der`` is its ContentInfo."""

    der: bytes = field(repr=False)


Layer: TypeAlias = SignedData | AuthenticatedData | Enveloped


def normalise(octets: bytes) -> bytes:
    """Return a CMS message as DER, within what a stranger's may hold; Fault(MALFORMED)."""
    return ber.normalise(octets, elements=codec.ELEMENTS, depth=codec.DEPTH)


def decode(content_info: bytes) -> Layer:
    """Read the outermost layer of a ContentInfo in DER; MALFORMED, BAD_ALGORITHM."""
    kind = der.read(content_info, der.SEQUENCE).raw(der.OBJECT_IDENTIFIER)
    if kind == SIGNED_DATA:
        return cms.decode_signed_data(content_info)
    if kind == AUTHENTICATED_DATA:
        return authenticated.decode(content_info)
    if kind == ENVELOPED_DATA:
        return Enveloped(content_info)
    raise der.malformed("a request is SignedData, AuthenticatedData or EnvelopedData", "cmc.layer")


def content_of(layer: SignedData | AuthenticatedData) -> bytes:
    """Return the PKIData inside; Fault(MALFORMED) for anything else."""
    if layer.content_type != PKI_DATA or not layer.content:
        raise der.malformed("there is no PKIData inside", "cmc.layer")
    return layer.content


def inner_envelope(layer: SignedData) -> Enveloped | None:
    """Return the envelope that a signature is around (RFC 10002, 5, option 2), if it is one."""
    if layer.content_type != ENVELOPED_DATA or layer.content is None:
        return None
    return Enveloped(der.sequence(ENVELOPED_DATA, der.explicit(0, layer.content)))


def within_envelope(content_type: bytes, content: bytes) -> bytes:
    """Return the ContentInfo that an envelope held; Fault(BAD_INTEGRITY) for anything else.

    RFC 10002, 5, has SignedData there without a ContentInfo; OpenSSL writes one, as data. What is
    no CMS is told like a wrong key, whoever sent it.
    """
    try:
        if content_type == SIGNED_DATA:
            content = der.sequence(SIGNED_DATA, der.explicit(0, normalise(content)))
        return normalise(content)
    except Fault as fault:
        raise envelopes.cannot_open(fault.detail) from None


def the_signer(layer: SignedData) -> SignerInfo | None:
    """Return who signed; None for nobody, Fault(UNSUPPORTED) for several."""
    if len(layer.signers) > 1:
        raise codec.bad_request("a request has one signature", "cmc.signers")
    return layer.signers[0] if layer.signers else None


def is_unsigned(signer: SignerInfo) -> bool:
    """Tell whether a "signature" is a digest only (RFC 10002, C.1)."""
    return signer.algorithm.oid == _NO_SIGNATURE


def check_digest(layer: SignedData, signer: SignerInfo, policy: Policy) -> None:
    """Check what no signature holds: that the digests fit; BAD_INTEGRITY, BAD_ALGORITHM."""
    digest = signatures.digest_for(signer.digest, policy)
    content = layer.content or b""
    covered = content
    if signer.signed_der is not None:
        claimed = signer.attribute(cms.MESSAGE_DIGEST)
        if claimed != der.octets(digest.of(content)):
            raise _broken("the content is not what was digested")
        if signer.attribute(cms.CONTENT_TYPE) != layer.content_type:
            raise _broken("the digested content type is another one")
        covered = signer.signed_der
    # NoSignatureValue is an OCTET STRING, which some put into the signature with its tag.
    found = digest.of(covered)
    if not any(hmac.compare_digest(each, signer.signature) for each in (found, der.octets(found))):
        raise _broken("the digest in the place of a signature does not fit")


def _broken(why: str) -> Fault:
    return Fault(FaultCode.BAD_INTEGRITY, why, rule="wire.signature")


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate that came along, and those that may stand above it."""

    certificate: x509.Certificate
    der: bytes = field(repr=False)
    chain: tuple[x509.Certificate, ...]


def certificate_of(layer: SignedData, signer: SignerInfo) -> Shown | None:
    """Return the signer's certificate, if it is in the message; Fault(UNSUPPORTED) for many."""
    if len(layer.certificates) > _MOST_CERTIFICATES:
        raise codec.bad_request(
            f"there are more than {_MOST_CERTIFICATES} certificates", "cmc.certificates"
        )
    found = None
    above = []
    for certificate_der in layer.certificates:
        certificate = _load(certificate_der)
        if certificate is None:
            continue
        if found is None and _is_meant(signer, certificate_der):
            found = certificate, certificate_der
        else:
            above.append(certificate)
    return None if found is None else Shown(*found, tuple(above))


def _is_meant(signer: SignerInfo, certificate_der: bytes) -> bool:
    try:
        return cms.identifies(signer.identifier, certificate_der)
    except Fault:
        return False


def _load(certificate_der: bytes) -> x509.Certificate | None:
    """Parse what came along; None for what is no certificate, which helps nobody."""
    try:
        certificate = parsing.certificate(certificate_der)
        parsing.key_of(certificate)
    except ValueError:
        return None
    return certificate


def check_usage(certificate: x509.Certificate) -> None:
    """Refuse a signer whose certificate is not for signatures; Fault(UNAUTHENTICATED)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    except parsing.UNREADABLE:
        usage = None
    if usage is None or not usage.digital_signature:
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the signer's certificate is not for signatures",
            rule="signer.key-usage",
        )
