"""Was the certificate revoked? What its own OCSP responder says (RFC 6960, 9654).

An answer counts when the issuer has signed it, or whom the issuer has named for that; anything
else says nothing, and whoever says nothing stops no renewal.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tmad.agent.identity import Identity
from tmad.agent.transport import Trust, ask
from tmad.errors import Fault
from tmad.wire import der, signatures
from tmad.wire.parsing import NO_EXTENSION, UNREADABLE
from tmad.wire.signatures import Age, Algorithm, Policy

GOOD, REVOKED, HOLD = "good", "revoked", "hold"
_POLICY: Final = Policy(Age.MODERN)
_SECONDS: Final = 10.0
_SKEW: Final = timedelta(minutes=10)
_OLDEST: Final = timedelta(days=7)  # of an answer that does not say how long it holds


def status(own: Identity, now: datetime) -> str:
    """Return "good", "revoked" or "hold"; an empty text where nobody can tell."""
    if not own.chain:
        return ""
    url = responder(own.certificate)
    if not url:
        return ""
    builder = ocsp.OCSPRequestBuilder()
    builder = builder.add_certificate(own.certificate, own.chain[0], hashes.SHA1())  # noqa: S303
    question = builder.build().public_bytes(Encoding.DER)
    try:
        answer = ask(
            "POST", url, Trust(), body=question, seconds=_SECONDS,
            headers={"Content-Type": "application/ocsp-request"},
        )  # fmt: skip
    except Fault:
        return ""
    return judge(answer.body, own.certificate, own.chain[0], now)


def responder(certificate: x509.Certificate) -> str:
    """Return the address of a certificate's OCSP responder, or an empty text."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except NO_EXTENSION:
        return ""
    for each in found.value:
        location = each.access_location
        if each.access_method == AuthorityInformationAccessOID.OCSP and isinstance(
            location, x509.UniformResourceIdentifier
        ):
            return location.value if location.value.startswith("http://") else ""
    return ""


def judge(
    body: bytes, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime
) -> str:
    """Return what an OCSP answer says of a certificate; an empty text for one that counts not."""
    try:
        answer = ocsp.load_der_ocsp_response(body)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return ""
        if not _is_for(answer, certificate, issuer):
            return ""
        begin = answer.this_update_utc
        end = answer.next_update_utc or begin + _OLDEST
        if not begin - _SKEW <= now <= end + _SKEW or not _is_signed(answer, issuer, now):
            return ""
        if answer.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            is_hold = answer.revocation_reason is x509.ReasonFlags.certificate_hold
            return HOLD if is_hold else REVOKED
        return GOOD if answer.certificate_status is ocsp.OCSPCertStatus.GOOD else ""
    except UNREADABLE:
        return ""


def _is_for(
    answer: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> bool:
    builder = ocsp.OCSPRequestBuilder()
    wanted = builder.add_certificate(certificate, issuer, answer.hash_algorithm).build()
    return (answer.issuer_key_hash, answer.issuer_name_hash, answer.serial_number) == (
        wanted.issuer_key_hash,
        wanted.issuer_name_hash,
        wanted.serial_number,
    )


def _is_signed(answer: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> bool:
    """Tell whether the issuer, or a responder that it has certified, has signed this."""
    for signer in (issuer, *answer.certificates):
        if signer is not issuer and not _is_delegate(signer, issuer, now):
            continue
        try:
            _verify(signer, answer)
        except Fault:
            continue
        return True
    return False


def _is_delegate(signer: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    """RFC 6960, 4.2.2.2: certified by the issuer itself, for this."""
    try:
        signer.verify_directly_issued_by(issuer)
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, *NO_EXTENSION):
        return False
    is_valid = signer.not_valid_before_utc - _SKEW <= now <= signer.not_valid_after_utc + _SKEW
    return is_valid and ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _verify(signer: x509.Certificate, answer: ocsp.OCSPResponse) -> None:
    algorithm = Algorithm(der.oid(answer.signature_algorithm_oid.dotted_string))
    signatures.verify_whole(
        signer.public_key(), algorithm, answer.signature, answer.tbs_response_bytes, _POLICY
    )
