"""Step 0 of the pipeline: a request as a row, without its secrets, and back again.

What a pending request needs later is kept as a PKCS#10 of our own with an empty signature
(RFC 2986): subject, key, names and wishes, and nothing of the challenge that came with them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from tmad.ca.keycheck import Key
from tmad.ca.requests import (
    DomainControl,
    EndpointID,
    EnrollmentRequest,
    Intent,
    KeyWish,
    NoCredential,
    Proof,
    SignedBy,
)
from tmad.ca.x509 import extension
from tmad.events import JSON
from tmad.identity.credentials import new_id
from tmad.storage.requests import RequestRow
from tmad.wire import der

# How long a request may wait for a person.
PATIENCE = timedelta(days=14)

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_EXTENSION_REQUEST = der.oid("1.2.840.113549.1.9.14")
_NO_SIGNATURE = der.sequence(der.oid("1.3.101.112")) + der.tlv(der.BIT_STRING, b"\0")
_VERSION = der.integer(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What authentication found out about the applicant of a pending request.

    ``path`` holds a manufacturer's certificates (DER), from the device's to the last one below
    the trust anchor.
    """

    applicant: str
    method: str
    secret_id: str = ""
    renews_id: int = 0
    path: tuple[bytes, ...] = ()


def spki_der(request: EnrollmentRequest) -> bytes:
    """Return the public key of a request, encoded; nothing where it is to be made."""
    if isinstance(request.public_key, KeyWish):
        return b""
    return request.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def digest_of(public_key: CertificatePublicKeyTypes) -> bytes:
    """Return the SHA-256 of a public key's SubjectPublicKeyInfo."""
    return hashlib.sha256(
        public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).digest()


def fingerprint(request: EnrollmentRequest) -> bytes:
    """Return the SHA-256 of the signed request as received, or of what it says."""
    return hashlib.sha256(request.evidence or _csr(request, spki_der(request))).digest()


def signer(request: EnrollmentRequest) -> bytes:
    """Return the SHA-256 of the key, or of the account, that signed; empty without one."""
    if isinstance(request.credential, DomainControl):
        return hashlib.sha256(request.credential.account.encode()).digest()
    if not isinstance(request.credential, SignedBy):
        return b""
    return digest_of(request.credential.certificate.public_key())


def idempotency(request: EnrollmentRequest, identity: str = "") -> bytes:
    """Return what makes two messages the same request (GEN-24, SCEP-45).

    The signer belongs to it: an answer is sealed to him; so does ``identity``, where a name and
    a password or a MAC have shown it.
    """
    parts: tuple[bytes, ...] = (
        str(request.endpoint).encode(),
        request.transaction.encode(),
        fingerprint(request),
        signer(request),
    )
    if identity:
        parts += (identity.encode(),)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def row(
    request: EnrollmentRequest,
    standing: Standing,
    *,
    tenant: str,
    state: str,
    same: bytes,
    key: Key,
    now: datetime,
) -> RequestRow:
    """Return the row that records this request; ``same`` is its ``idempotency``."""
    csr = _csr(request, key.spki_der)
    return RequestRow(
        id=new_id(now),
        tenant=tenant,
        endpoint=str(request.endpoint),
        via=request.via,
        transaction=request.transaction,
        spki_sha256=key.spki_sha256,
        fingerprint=hashlib.sha256(request.evidence or csr).digest(),
        idempotency=same,
        state=state,
        applicant=standing.applicant,
        peer=request.peer,
        subject=request.subject.rfc4514_string(),
        body=_ENCODER.encode(_body(request, standing, csr)),
        created_at=now,
        updated_at=now,
        expires_at=now + PATIENCE,
    )


def is_of(row: RequestRow, key: bytes) -> bool:
    """Tell whether a key made this request: the one to be certified, or the signer's."""
    if row.spki_sha256 == key:
        return True
    signed_by = json.loads(row.body)["signer"]
    return bool(signed_by) and bytes.fromhex(signed_by) == key


def secret_of(row: RequestRow) -> str:
    """Return the id of the enrolment secret that a request claimed, if any."""
    secret_id: str = json.loads(row.body)["secret"]
    return secret_id


def proof_of(row: RequestRow) -> Proof:
    """Return how possession of the key was shown with a request."""
    return Proof(json.loads(row.body)["proof"])


def restore(row: RequestRow) -> tuple[EnrollmentRequest, Standing]:
    """Return the request of a row, without its credential, and who was behind it."""
    body: Mapping[str, Any] = json.loads(row.body)
    csr = x509.load_der_x509_csr(base64.b64decode(body["csr"]))
    names: tuple[x509.GeneralName, ...] = ()
    wanted = []
    for found in csr.extensions:
        if isinstance(found.value, x509.SubjectAlternativeName):
            names = tuple(found.value)
        else:
            wanted.append(found)
    request = EnrollmentRequest(
        via=row.via,
        endpoint=EndpointID.parse(row.endpoint),
        public_key=csr.public_key(),
        subject=csr.subject,
        names=names,
        wanted=tuple(wanted),
        proof=Proof(body["proof"]),
        credential=NoCredential(),
        intent=Intent(body["intent"]),
        transaction=row.transaction,
        peer=row.peer,
        selector=body["selector"],
    )
    standing = Standing(
        applicant=row.applicant,
        method=body["method"],
        secret_id=body["secret"],
        renews_id=int(body["renews"]),
        path=tuple([base64.b64decode(each) for each in body.get("path", ())]),
    )
    return request, standing


def _body(request: EnrollmentRequest, standing: Standing, csr: bytes) -> dict[str, JSON]:
    body: dict[str, JSON] = {
        "csr": base64.b64encode(csr).decode(),
        "proof": request.proof.value,
        "intent": request.intent.value,
        "selector": request.selector,
        "signer": signer(request).hex(),
        "method": standing.method,
        "secret": standing.secret_id,
        "renews": str(standing.renews_id),
    }
    if standing.path:
        body["path"] = [base64.b64encode(each).decode() for each in standing.path]
    return body


def _csr(request: EnrollmentRequest, spki: bytes) -> bytes:
    wishes = [
        extension(wish.oid, wish.value.public_bytes(), critical=wish.critical)
        for wish in request.wanted
        if wish.oid != ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    ]
    if request.names:
        value = x509.SubjectAlternativeName(request.names)
        wishes.append(extension(value.oid, value.public_bytes(), critical=False))
    attributes = b""
    if wishes:
        values = der.set_of([der.sequence(*wishes)])
        attributes = der.sequence(_EXTENSION_REQUEST, values)
    info = der.sequence(_VERSION, request.subject.public_bytes(), spki, der.explicit(0, attributes))
    return der.sequence(info, _NO_SIGNATURE)
