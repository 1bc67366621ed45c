"""PKCS#10 certification requests, as every enrolment protocol reads them (RFC 2986, 2985)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import cms, der
from tmad.wire.signatures import SHA1, Algorithm, Policy, bad_algorithm

ELEMENTS = 1_500
DEPTH = 32

_CHALLENGE_PASSWORD = der.oid("1.2.840.113549.1.9.7")
_TEMPLATE_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class CSR:
    """A certification request whose signature was verified.

    ``names`` are those of its subjectAltName, ``wanted`` its other requested extensions.
    ``challenge`` is its challengePassword, None where it is absent or empty. ``template`` is
    the name in Microsoft's certificate template extension, which some clients use to choose
    among profiles.
    """

    der: bytes = field(repr=False)  # holds the challenge in clear
    subject: x509.Name
    public_key: CertificatePublicKeyTypes
    names: tuple[x509.GeneralName, ...]
    wanted: tuple[x509.Extension[x509.ExtensionType], ...]
    challenge: Secret | None
    template: str


def decode(csr_der: bytes, policy: Policy) -> CSR:
    """Read a request and check its signature, which proves possession of the key.

    Raise Fault(MALFORMED) for what is no PKCS#10 at all, Fault(UNSUPPORTED) for one that holds
    what cannot be read, Fault(BAD_ALGORITHM) and Fault(BAD_PROOF) for its signature.
    """
    der.scan(csr_der, elements=ELEMENTS, depth=DEPTH)
    try:
        request = x509.load_der_x509_csr(csr_der)
    except x509.InvalidVersion:
        raise _unreadable("its version is not 1") from None
    except ValueError as error:
        fault = der.malformed("not a certification request", "wire.csr")
        fault.private = str(error)
        raise fault from None
    try:
        public_key = request.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "this kind of key is not supported",
            private=str(error),
            rule="wire.csr.key",
        ) from None
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        _check_named_curve(csr_der)
    _check_signature(request, public_key, policy)
    try:
        subject = request.subject
        extensions = tuple(request.extensions)
    except x509.DuplicateExtension:
        raise _unreadable("an extension occurs twice") from None
    except (ValueError, x509.UnsupportedGeneralNameType) as error:
        # T61Strings with octets above 127, broken addresses, x400Address and the like.
        raise _unreadable(f"a name or an extension in it: {error}"[:200]) from None
    names: tuple[x509.GeneralName, ...] = ()
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = tuple(extension.value)
    return CSR(
        der=csr_der,
        subject=subject,
        public_key=public_key,
        names=names,
        wanted=tuple(
            [e for e in extensions if not isinstance(e.value, x509.SubjectAlternativeName)]
        ),
        challenge=_challenge(csr_der),
        template=_template(extensions),
    )


def _unreadable(what: str) -> Fault:
    return Fault(
        FaultCode.UNSUPPORTED,
        f"the certification request cannot be read: {what}",
        rule="wire.csr.content",
    )


def _check_named_curve(csr_der: bytes) -> None:
    """Refuse curve parameters written out, which the library accepts for curves it knows.

    RFC 5480, 2.1.1: the curve must be named (CVE-2020-0601, CVE-2022-0778).
    """
    info = der.read(csr_der, der.SEQUENCE).enter(der.SEQUENCE)
    info.integer()
    info.raw(der.SEQUENCE)
    algorithm = Algorithm.read(info.enter(der.SEQUENCE))
    if algorithm.parameters[:1] != bytes((der.OBJECT_IDENTIFIER,)):
        raise Fault(
            FaultCode.BAD_ALGORITHM, "the elliptic curve must be named", rule="wire.csr.curve"
        )


def _check_signature(
    request: x509.CertificateSigningRequest, key: CertificatePublicKeyTypes, policy: Policy
) -> None:
    try:
        digest = request.signature_hash_algorithm
        if isinstance(digest, hashes.SHA1) and policy.legacy:
            # The library refuses SHA-1 in a request; it still proves possession.
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(
                    request.signature,
                    request.tbs_certrequest_bytes,
                    padding.PKCS1v15(),
                    SHA1.hash,
                )
                return
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(request.signature, request.tbs_certrequest_bytes, ec.ECDSA(SHA1.hash))
                return
        if isinstance(digest, hashes.SHA1 | hashes.MD5):
            raise bad_algorithm(
                "signature algorithm", der.oid(request.signature_algorithm_oid.dotted_string)
            )
        if request.is_signature_valid:
            return
    except InvalidSignature:
        pass
    except (UnsupportedAlgorithm, ValueError) as error:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the signature algorithm of the certification request is not supported",
            private=str(error),
            rule="wire.csr.signature",
        ) from None
    raise Fault(
        FaultCode.BAD_PROOF,
        "the signature of the certification request is not valid",
        rule="wire.csr.signature",
    )


def _challenge(csr_der: bytes) -> Secret | None:
    """Return the challengePassword in whichever string type it came, without a length limit."""
    info = der.read(csr_der, der.SEQUENCE).enter(der.SEQUENCE)
    info.integer()
    info.raw(der.SEQUENCE)
    info.raw(der.SEQUENCE)
    if info.peek() != 0xA0:
        return None
    values = cms.read_attributes(info.enter(0xA0)).get(_CHALLENGE_PASSWORD, ())
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
