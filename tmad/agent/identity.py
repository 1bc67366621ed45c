"""A key, its certificate and the authorities above it; and the request that leads there."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import AttributeOID

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import generalnames, parsing
from tmad.wire.parsing import NO_EXTENSION, UNREADABLE

PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

MOST_CERTIFICATES: Final = 20
_LONGEST_PEM: Final = 262_144  # octets
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[\r\n]+[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----"
)
_ITERATIONS: Final = 20_000  # of PKCS#12's password; the file has the key's mode, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A private key and its certificate; ``chain`` goes up to the root, which may be missing."""

    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    def __repr__(self) -> str:
        return f"Identity({self.certificate.subject.rfc4514_string()!r})"

    @classmethod
    def load(cls, key_pem: bytes, certificates_pem: bytes) -> Identity:
        """Read both from PEM, the certificate first; Fault(MALFORMED), Fault(BAD_PROOF)."""
        own, *others = read_certificates(certificates_pem)
        found = cls(key=read_key(key_pem), certificate=own, chain=order(own, others))
        check_key(found.key, own)
        return found

    @property
    def sha256(self) -> bytes:
        """Return the certificate's fingerprint."""
        return self.certificate.fingerprint(hashes.SHA256())

    @property
    def not_before(self) -> datetime:
        """Return the beginning of its validity."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """Return the end of its validity."""
        return self.certificate.not_valid_after_utc

    @property
    def names(self) -> tuple[str, ...]:
        """Return its alternative names as settings spell them; others are left out."""
        return names_of(self.certificate)

    def contents(self) -> dict[str, bytes]:
        """Return the files of a generation."""
        return {f"{kind}.pem": self.pem(kind) for kind in _KINDS}

    def pem(self, kind: str) -> bytes:
        """Return one of "key", "certificate", "chain", "fullchain", "bundle"."""
        own = self.certificate.public_bytes(Encoding.PEM)
        above = b"".join(
            each.public_bytes(Encoding.PEM) for each in self.chain if each.subject != each.issuer
        )
        match kind:
            case "key":
                return key_pem(self.key)
            case "certificate":
                return own
            case "chain":
                return above
            case "fullchain":
                return own + above
            case "bundle":
                return key_pem(self.key) + own + above
        raise ValueError(kind)

    def pkcs12(self, name: str, password: Secret, *, is_compatible: bool) -> bytes:
        """Return key, certificate and chain as PKCS#12 (RFC 7292)."""
        return pkcs12.serialize_key_and_certificates(
            name.encode(),
            self.key,
            self.certificate,
            [each for each in self.chain if each.subject != each.issuer],
            _protection(password.reveal(), is_compatible=is_compatible),
        )


_KINDS: Final = ("key", "certificate", "chain", "fullchain", "bundle")


def _protection(password: bytes, *, is_compatible: bool) -> KeySerializationEncryption:
    if not password:
        return NoEncryption()
    builder: Any = PrivateFormat.PKCS12.encryption_builder()
    if is_compatible:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        builder = builder.hmac_hash(hashes.SHA1())  # noqa: S303  old readers know no other
    else:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        builder = builder.hmac_hash(hashes.SHA256())
    found: KeySerializationEncryption = builder.kdf_rounds(_ITERATIONS).build(password)
    return found


# -- keys


def make_key(kind: str) -> PrivateKey:
    """Make a key of one of the kinds of settings.KEYS."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


def key_pem(key: PrivateKey) -> bytes:
    """Return a key in the clear, as servers read it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(text: bytes) -> PrivateKey:
    """Read a private key without a password; Fault(MALFORMED), Fault(UNSUPPORTED)."""
    try:
        key = load_pem_private_key(text, None)
    except UNREADABLE as error:
        raise Fault(
            FaultCode.MALFORMED,
            "the private key is not PEM, or a password protects it",
            private=type(error).__name__,
            rule="agent.key",
        ) from None
    known = rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey
    if isinstance(key, (*known, ed448.Ed448PrivateKey)):
        return key
    raise Fault(FaultCode.UNSUPPORTED, "this kind of private key is not kept", rule="agent.key")


def kind_of(key: PrivateKey) -> str:
    """Return what settings call this kind of key, or the nearest that they can say."""
    if isinstance(key, rsa.RSAPrivateKey):
        bits = min(max(key.key_size // 1024 * 1024, 2048), 4096)
        return f"rsa-{bits}"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "p256" if key.curve.key_size <= 256 else "p384"
    return "ed25519"


def check_key(key: PrivateKey, certificate: x509.Certificate) -> None:
    """Raise Fault(BAD_PROOF) unless the certificate is this key's."""
    try:
        theirs = parsing.key_of(certificate)
    except ValueError:
        theirs = None  # a kind that nobody knows is not ours
    if theirs != key.public_key():
        raise Fault(
            FaultCode.BAD_PROOF,
            "the certificate is not for the private key",
            rule="agent.other-key",
        )


# -- certificates


def read_certificates(text: bytes) -> list[x509.Certificate]:
    """Read one to twenty certificates from PEM, in their order; Fault(MALFORMED)."""
    if len(text) > _LONGEST_PEM:
        raise _no_certificates("it is too long")
    blocks = _PEM.findall(text)
    if not 1 <= len(blocks) <= MOST_CERTIFICATES:
        raise _no_certificates(f"it holds {len(blocks)} certificates in PEM")
    try:
        found = [each for block in blocks for each in parsing.certificates(block)]
        for each in found:
            _ = each.extensions
    except UNREADABLE as error:
        raise _no_certificates(f"a certificate is broken ({type(error).__name__})") from None
    return found


def order(
    certificate: x509.Certificate, others: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """Return those that lead upwards from a certificate, each signed by the next."""
    left = list(others)
    path = []
    below = certificate
    while below.subject != below.issuer:
        above = next((each for each in left if _is_signed_by(below, each)), None)
        if above is None:
            break
        left.remove(above)
        path.append(above)
        below = above
    return tuple(path)


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def check_answer(key: PrivateKey, wanted: Sequence[str], found: x509.Certificate) -> None:
    """Raise a Fault unless a certificate that came is for this key and has the names asked for."""
    check_key(key, found)
    missing = sorted(set(map(spelling, wanted)) - set(names_of(found)))
    if missing:
        raise Fault(
            FaultCode.REJECTED,
            f"the server has left out the names {', '.join(missing)}",
            rule="agent.names",
        )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the alternative names that settings can spell."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except NO_EXTENSION:
        return ()
    return tuple(text for name in found if (text := _spelled(name)))


def _spelled(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName():
            return f"dns:{name.value.lower()}"
        case x509.IPAddress():
            return f"ip:{name.value}"
        case x509.RFC822Name():
            return f"email:{name.value}"
        case x509.UniformResourceIdentifier():
            return f"uri:{name.value}"
    return ""


def spelling(text: str) -> str:
    """Return one name of the settings as a certificate would show it; Fault(REJECTED)."""
    return _spelled(general_name(text))


def general_name(text: str) -> x509.GeneralName:
    """Read ``dns:…``, ``ip:…``, ``email:…`` or ``uri:…``; Fault(REJECTED)."""
    kind, _, value = text.partition(":")
    found = None
    if value:
        with contextlib.suppress(ValueError):
            found = generalnames.of_kind(kind, value)
    if found is not None:
        return found
    raise Fault(
        FaultCode.REJECTED,
        f"{text!r} is no name: dns:HOST, ip:ADDRESS, email:ADDRESS or uri:URI",
        rule="agent.name-form",
    )


def make_request(key: PrivateKey, subject: str, names: Sequence[str]) -> bytes:
    """Return a certification request (PKCS#10, DER); Fault(REJECTED) for a bad subject."""
    try:
        name = x509.Name.from_rfc4514_string(subject) if subject else x509.Name([])
    except ValueError:
        raise Fault(
            FaultCode.REJECTED,
            f"{subject!r} is not a distinguished name; write it as CN=…,O=…",
            rule="agent.subject",
        ) from None
    return request_for(key, name, [general_name(each) for each in names])


def request_again(key: PrivateKey, old: x509.Certificate) -> bytes:
    """Return a request for exactly the names of a certificate (RFC 7030, 4.2.2)."""
    try:
        names = list(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    return request_for(key, old.subject, names)


def request_with(key: PrivateKey, request_der: bytes, challenge: Secret) -> bytes:
    """Return the same request with a challengePassword in it (RFC 2985, 5.4.1)."""
    request = x509.load_der_x509_csr(request_der)
    try:
        names = list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    return request_for(key, request.subject, names, challenge)


def request_for(
    key: PrivateKey,
    subject: x509.Name,
    names: Sequence[x509.GeneralName],
    challenge: Secret | None = None,
) -> bytes:
    """Return a request in DER, signed by the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        # RFC 5280, 4.2.1.6: critical where nothing else names the subject.
        builder = builder.add_extension(
            x509.SubjectAlternativeName(names), critical=not list(subject)
        )
    if challenge:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.reveal())
    pure = isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    return builder.sign(key, None if pure else hashes.SHA256()).public_bytes(Encoding.DER)


def fingerprint(octets: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(octets).hexdigest()


def _no_certificates(why: str) -> Fault:
    return Fault(
        FaultCode.MALFORMED, f"no certificates can be read: {why}", rule="agent.certificates"
    )
