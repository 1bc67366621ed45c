"""EST messages: HTTP bodies to values and back (RFC 7030, section 4; RFC 8951)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import cms, csr, der
from tmad.wire.csr import CSR
from tmad.wire.envelopes import AES128, AES192, AES256, Cipher
from tmad.wire.signatures import Policy

CERTS_ONLY: Final = "application/pkcs7-mime; smime-type=certs-only"
# RFC 7030, 4.1.3; older Bouncy Castle compares the whole string, so no parameter (EST-04).
CA_CERTS: Final = "application/pkcs7-mime"
CSR_ATTRIBUTES: Final = "application/csrattrs"
_PKCS10: Final = "application/pkcs10"
_PKCS8: Final = "application/pkcs8"
_SEALED_KEY: Final = "application/pkcs7-mime; smime-type=server-generated-key"

CHALLENGE_PASSWORD = der.oid("1.2.840.113549.1.9.7")
IDENTITY_LINKING = der.oid("1.2.840.113549.1.9.16.2.58")  # RFC 7894, 3.3
_OTP_CHALLENGE = der.oid("1.2.840.113549.1.9.16.2.56")  # RFC 7894, 3.1
_CHANGE_SUBJECT_NAME = der.oid("1.3.6.1.5.5.7.7.36")  # RFC 6402, 2.8
_SMIME_CAPABILITIES = der.oid("1.2.840.113549.1.9.15")
_SYMMETRIC_KEY = der.oid("1.2.840.113549.1.9.16.2.37")
_ASYMMETRIC_KEY = der.oid("1.2.840.113549.1.9.16.2.54")

# RFC 7468, 7; the second is what Microsoft's tools write.
_LABELS: Final = (b"CERTIFICATE REQUEST-----", b"NEW CERTIFICATE REQUEST-----")
_SPACE: Final = b" \t\r\n"
_LINE: Final = 64
# The lengths of a Finished message and of an exporter's value, in octets (RFC 5929, 9266).
_BINDINGS: Final = frozenset({12, 32, 48})
_CIPHERS: Final = (AES256, AES192, AES128)  # the best first

# How a Fault is told. What speaks against the request itself is 400, against who asks 403; 401
# is the responder's own: it is only sent where a password could help (EST-11).
FAULTS: Mapping[FaultCode, int] = {
    FaultCode.MALFORMED: 400,
    FaultCode.UNSUPPORTED: 400,
    FaultCode.BAD_ALGORITHM: 400,
    FaultCode.BAD_INTEGRITY: 400,
    FaultCode.BAD_TIME: 400,
    FaultCode.BAD_PROOF: 400,
    FaultCode.UNAUTHENTICATED: 403,
    FaultCode.FORBIDDEN: 403,
    FaultCode.REJECTED: 400,
    FaultCode.NOT_FOUND: 404,
    FaultCode.CONFLICT: 409,
    FaultCode.RATE_LIMITED: 429,
    FaultCode.UNAVAILABLE: 503,
    FaultCode.INTERNAL: 500,
}


class Basic(NamedTuple):
    """A name and a password from an Authorization field."""

    user: str
    password: Secret


class KeyRecipient(NamedTuple):
    """How a client wants to have a private key encrypted: to which key, and how."""

    identifier: bytes
    cipher: Cipher


# -- requests -------------------------------------------------------------------------------


def decode_request(body: bytes, policy: Policy, *, is_proof: bool = True) -> CSR:
    """Read a PKCS#10 in base64, whatever Content-Transfer-Encoding says (RFC 8951, 3).

    White space, PEM armour and bare DER are tolerated (EST-03). Faults are those of
    :func:`tmad.wire.csr.decode`.
    """
    return csr.decode(_octets(body), policy, is_proof=is_proof)


def decode_full_request(body: bytes) -> bytes:
    """Return the CMS message in the body of fullcmc, which CMC reads (RFC 8951, 3)."""
    return _octets(body)


def _octets(body: bytes) -> bytes:
    if body[:1] == b"\x30":
        # The base64 of a DER sequence begins with M, so a zero is a sequence itself.
        return body
    text = _without_armour(body).translate(None, _SPACE)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Fault(
            FaultCode.MALFORMED,
            "the body is not a request in base64",
            private=str(error),
            rule="est.base64",
        ) from None


def _without_armour(body: bytes) -> bytes:
    """Return what stands between the lines of PEM, else the whole body.

    Not by a regular expression: a body full of beginnings would take minutes.
    """
    for label in _LABELS:
        _, begin, rest = body.partition(b"-----BEGIN " + label)
        inside, end, _ = rest.partition(b"-----END " + label)
        if begin and end:
            return inside
    return body


def check_type(field: str) -> None:
    """Raise Fault(UNSUPPORTED) unless a Content-Type field says PKCS#10, parameters or not."""
    if field.partition(";")[0].strip().lower() != _PKCS10:
        raise Fault(
            FaultCode.UNSUPPORTED,
            f"the Content-Type must be {_PKCS10}",
            rule="est.content-type",
            values={"Content-Type": field[:100]},
        )


def decode_basic(field: str) -> Basic | None:
    """Read an Authorization field; None for none, Fault(MALFORMED) for any but Basic."""
    if not field:
        return None
    scheme, _, text = field.strip().partition(" ")
    try:
        if scheme.lower() != "basic":
            # Digest is MD5, and a Bearer token nothing that is known here.
            raise ValueError("another scheme than Basic")
        user, colon, password = base64.b64decode(text.strip(), validate=True).partition(b":")
        if not colon:
            raise ValueError("no colon")
        return Basic(user.decode(), Secret(password))
    except ValueError as error:
        raise Fault(
            FaultCode.MALFORMED,
            "the Authorization field is not Basic with name and password",
            private=str(error),
            rule="est.authorization",
        ) from None


def check_subject(request: CSR) -> None:
    """Refuse the wish for another name at a renewal (RFC 7030, 4.2.2)."""
    if _CHANGE_SUBJECT_NAME in request.attributes:
        raise Fault(
            FaultCode.REJECTED,
            "a renewal keeps its names: ChangeSubjectName is not served",
            rule="est.change-subject",
        )


def challenge(request: CSR) -> Secret | None:
    """Return the password that stands in a request itself, if any (RFC 7894, 3.1)."""
    values = request.attributes.get(_OTP_CHALLENGE, ())
    if not values:
        values = request.attributes.get(CHALLENGE_PASSWORD, ())
    texts = [text for value in values if not _is_binding(text := _text(value))]
    return Secret(texts[0]) if len(texts) == 1 else None


def links(request: CSR) -> tuple[bytes, ...]:
    """Return what a request says of the TLS session it was made in (RFC 7030, 3.5; RFC 7894, 3.3).

    A challengePassword that cannot be such a value is a password.
    """
    claimed = [_text(value) for value in request.attributes.get(IDENTITY_LINKING, ())]
    if not claimed:
        claimed = [
            text
            for value in request.attributes.get(CHALLENGE_PASSWORD, ())
            if _is_binding(text := _text(value))
        ]
    return tuple(claimed)


def is_linked(claimed: Sequence[bytes], bindings: Sequence[bytes]) -> bool:
    """Tell whether each of the ``links`` is a binding of this TLS session."""
    own = [base64.b64encode(binding) for binding in bindings]
    found = [any(hmac.compare_digest(text, each) for each in own) for text in claimed]
    return bool(found) and all(found)


def _text(value_der: bytes) -> bytes:
    try:
        return der.text(value_der).encode()
    except Fault:
        return b"\0"  # nothing that anybody could mean


def _is_binding(text: bytes) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) in _BINDINGS
    except binascii.Error:
        return False


def key_recipient(request: CSR) -> KeyRecipient | None:
    """Return how the client wants to have its new private key encrypted, None for not at all.

    Fault(REJECTED) for a symmetric key, none of which is known here, and for none of the
    ciphers that are (RFC 7030, 4.4.1.1 and 4.4.1.2).
    """
    if _SYMMETRIC_KEY in request.attributes:
        raise no_recipient("no symmetric keys are shared with clients here")
    identifiers = request.attributes.get(_ASYMMETRIC_KEY, ())
    if not identifiers:
        return None
    if len(identifiers) > 1:
        raise no_recipient("the key must be encrypted to one key")
    return KeyRecipient(der.content(identifiers[0], der.OCTET_STRING), _cipher(request))


def no_recipient(why: str) -> Fault:
    """Return the Fault for a key that cannot be encrypted as the client wants it."""
    return Fault(
        FaultCode.REJECTED,
        f"the private key cannot be encrypted as asked: {why}",
        rule="est.key-recipient",
    )


def check_recipient(recipient: KeyRecipient, certificate_der: bytes) -> None:
    """Refuse to encrypt to another key than that of the client's own certificate."""
    if not cms.identifies(recipient.identifier, certificate_der):
        raise no_recipient("it names another key than the client's certificate")


def _cipher(request: CSR) -> Cipher:
    """Return the strongest cipher that the client says it knows; AES-256 where it says nothing."""
    values = request.attributes.get(_SMIME_CAPABILITIES, ())
    if not values:
        return AES256
    known = set()
    for value in values:
        capabilities = der.read(value, der.SEQUENCE)
        for _ in capabilities.each():
            known.add(capabilities.enter(der.SEQUENCE).raw(der.OBJECT_IDENTIFIER))
    for cipher in _CIPHERS:
        if cipher.oid in known:
            return cipher
    raise no_recipient("none of the ciphers is AES in CBC mode")


# -- answers --------------------------------------------------------------------------------


def encode(body_der: bytes, *, is_one_line: bool = False) -> bytes:
    """Return a body in base64 with lines of 64 characters, or all of it without a line end.

    libest reads /cacerts with OpenSSL's line reader, which breaks on one long line (EST-02);
    RFC 8951, 3.1, allows both.
    """
    text = base64.b64encode(body_der)
    if is_one_line:
        return text
    return b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))


def encode_key(
    key_der: bytes, certificate_der: bytes, *, is_sealed: bool, boundary: str
) -> tuple[str, bytes]:
    """Return Content-Type and body of a serverkeygen answer (RFC 7030, 4.4.2): the key first.

    ``key_der`` is PKCS#8, or where ``is_sealed`` an envelope. ``boundary`` is random.
    """
    parts = (
        (_SEALED_KEY if is_sealed else _PKCS8, key_der),
        (CERTS_ONLY, cms.degenerate((certificate_der,))),
    )
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n".encode()
        + encode(content)
        + b"\r\n"
        for kind, content in parts
    )
    return f"multipart/mixed; boundary={boundary}", body + f"--{boundary}--\r\n".encode()
