"""What CMC's controls say: their values to dataclasses and back (RFC 10002, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from tmad.events import Secret
from tmad.protocols.cmc import codec
from tmad.protocols.cmc.codec import Control, Path
from tmad.wire import crmf, der
from tmad.wire.cms import IssuerAndSerial
from tmad.wire.crmf import Template
from tmad.wire.signatures import Algorithm

_ENUMERATED: Final = 0x0A
_LONGEST: Final = 1_024  # nonces, transaction ids and the like, in octets


def octets(control: Control) -> bytes:
    """Read an OCTET STRING."""
    content = der.content(control.value, der.OCTET_STRING)
    if len(content) > _LONGEST:
        raise der.malformed("a control holds too many octets", "cmc.control.length")
    return content


def transaction_id(control: Control) -> bytes:
    """Read an INTEGER of any size; return its content, which is only ever repeated."""
    content = der.content(control.value, der.INTEGER)
    if not 1 <= len(content) <= _LONGEST:
        raise der.malformed("the transactionId has no sensible length", "cmc.control.length")
    return content


def text(control: Control) -> str:
    """Read a UTF8String."""
    return der.text(control.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """IdentityProofV2 and PopLinkWitnessV2 have one shape (RFC 10002, 6.2.1 and 6.3.1.1)."""

    key: Algorithm
    mac: Algorithm
    value: bytes


def witness(value_der: bytes) -> Witness:
    """Read the value of either."""
    reader = der.read(value_der, der.SEQUENCE)
    key, mac = Algorithm.read(reader), Algorithm.read(reader)
    value = reader.content(der.OCTET_STRING)
    reader.finish()
    return Witness(key=key, mac=mac, value=value)


class DecryptedPOP(NamedTuple):
    """That a client could decrypt (RFC 10002, 6.7)."""

    request: int
    algorithm: Algorithm
    value: bytes


def decrypted_pop(control: Control) -> DecryptedPOP:
    """Read DecryptedPOP."""
    reader = der.read(control.value, der.SEQUENCE)
    found = DecryptedPOP(
        codec.read_id(reader), Algorithm.read(reader), reader.content(der.OCTET_STRING)
    )
    reader.finish()
    return found


def encrypted_pop(
    request_der: bytes, envelope: bytes, mac: Algorithm, digest: Algorithm, hashed: bytes
) -> bytes:
    """Return EncryptedPOP; ``envelope`` is a ContentInfo, ``hashed`` the witness."""
    return der.sequence(request_der, envelope, mac.encode(), digest.encode(), der.octets(hashed))


class GetCRL(NamedTuple):
    """Which CRL is asked for (RFC 10002, 6.10); names as DER."""

    issuer: bytes
    name: bytes | None
    at: datetime | None


def get_crl(control: Control) -> GetCRL:
    """Read GetCRL. A complete CRL serves whatever reasons are asked for."""
    reader = der.read(control.value, der.SEQUENCE)
    issuer = reader.raw(der.SEQUENCE)
    name = reader.raw() if reader.peek() >= 0x80 else None
    at = None
    if reader.peek() == der.GENERALIZED_TIME:
        at = der.instant(reader.raw())
    if reader.peek() == der.BIT_STRING:
        reader.raw()
    reader.finish()
    return GetCRL(issuer, name, at)


def get_cert(control: Control) -> IssuerAndSerial:
    """Read GetCert, whose issuer is a GeneralName: a directoryName, or nothing of ours."""
    return crmf.read_cert_id(control.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeRequest:
    """What shall be revoked, and why (RFC 10002, 6.11)."""

    certificate: IssuerAndSerial
    reason: int
    invalidity_date: datetime | None
    passphrase: Secret | None = field(repr=False)
    comment: str


def revoke_request(control: Control) -> RevokeRequest:
    """Read RevokeRequest."""
    reader = der.read(control.value, der.SEQUENCE)
    issuer, serial = reader.raw(der.SEQUENCE), reader.integer()
    code = reader.content(_ENUMERATED)
    if len(code) != 1:
        raise der.malformed("the reason is none", "cmc.revocation")
    at = der.instant(reader.raw()) if reader.peek() == der.GENERALIZED_TIME else None
    secret = reader.content(der.OCTET_STRING) if reader.peek() == der.OCTET_STRING else None
    comment = der.text(reader.raw()) if reader.peek() == der.UTF8_STRING else ""
    reader.finish()
    return RevokeRequest(
        certificate=IssuerAndSerial(issuer, serial),
        reason=code[0],
        invalidity_date=at,
        passphrase=None if secret is None else Secret(secret),
        comment=comment[:500],
    )


def certificate_id(control: Control) -> IssuerAndSerial:
    """Read CMCCertId."""
    reader = der.Reader(control.value)
    found = IssuerAndSerial.read(reader)
    reader.finish()
    return found


def ids(control: Control) -> Path:
    """Read a BodyPartList or a BodyPartPath, neither of which is empty."""
    reader = der.Reader(control.value)
    found = _ids(reader)
    reader.finish()
    return found


def _ids(reader: der.Reader) -> Path:
    inside = reader.enter(der.SEQUENCE)
    found = tuple([codec.read_id(inside) for _ in inside.each()])
    if not found:
        raise der.malformed("a list of body parts is empty", "cmc.control.parts")
    return found


def references(control: Control) -> tuple[Path, ...]:
    """Read ControlsProcessed: paths to controls (RFC 10002, 6.19)."""
    inside = der.read(control.value, der.SEQUENCE).enter(der.SEQUENCE)
    found: list[Path] = []
    for tag in inside.each():
        found.append(_ids(inside) if tag == der.SEQUENCE else (codec.read_id(inside),))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modification:
    """What a registration authority changes in requests (RFC 10002, 6.5).

    ``path`` leads to the PKIData with the requests, ``(0,)`` being this one. Without ``replaces``
    the fields of the template are taken away. ``adds`` is for the older control, which may not
    change what is there.
    """

    control: int
    path: Path
    requests: Path
    replaces: bool
    template: Template
    adds: bool = False


def mod_cert_template(control: Control) -> Modification:
    """Read ModCertTemplate."""
    reader = der.read(control.value, der.SEQUENCE)
    path, requests = _ids(reader), _ids(reader)
    replaces = True
    if reader.peek() == der.BOOLEAN:
        replaces = reader.content(der.BOOLEAN) != b"\0"
    template = crmf.read_template(reader)
    reader.finish()
    return Modification(
        control=control.id, path=path, requests=requests, replaces=replaces, template=template
    )


def add_extensions(control: Control) -> Modification:
    """Read AddExtensions, the older form."""
    reader = der.read(control.value, der.SEQUENCE)
    path, requests = (codec.read_id(reader),), _ids(reader)
    extensions = reader.raw(der.SEQUENCE)
    reader.finish()
    return Modification(
        control=control.id,
        path=path,
        requests=requests,
        replaces=True,
        template=Template(extensions=extensions),
        adds=True,
    )


class Vouched(NamedTuple):
    """For which requests of which PKIData possession of the key was shown elsewhere."""

    message: int
    requests: Path


def lra_pop_witness(control: Control) -> Vouched:
    """Read LraPopWitness (RFC 10002, 6.8)."""
    reader = der.read(control.value, der.SEQUENCE)
    found = Vouched(codec.read_id(reader), _ids(reader))
    reader.finish()
    return found


def trusted_anchors(number: int, digest: Algorithm, hashes: Sequence[bytes]) -> bytes:
    """Return PublishTrustAnchors (RFC 10002, 6.15)."""
    return der.sequence(
        der.integer(number), digest.encode(), der.sequence(*[der.octets(each) for each in hashes])
    )


class Rejection(NamedTuple):
    """A client's own CMCStatusInfoV2: its status, and its words."""

    status: int
    text: str


def status_info(control: Control) -> Rejection:
    """Read as much of a client's CMCStatusInfo or CMCStatusInfoV2 as means something here."""
    reader = der.read(control.value, der.SEQUENCE)
    status = reader.integer()
    reader.raw(der.SEQUENCE)
    words = der.text(reader.raw()) if reader.peek() == der.UTF8_STRING else ""
    if reader.peek() >= 0:
        reader.raw()
    reader.finish()
    return Rejection(status, words[:500])


class NewNames(NamedTuple):
    """The names that a client wishes instead of those it has (RFC 10002, 7.1); DER."""

    subject: bytes
    alternative: bytes | None  # GeneralNames


def change_subject_name(value_der: bytes) -> NewNames:
    """Read ChangeSubjectName; what is absent shall not be in the certificate."""
    reader = der.read(value_der, der.SEQUENCE)
    subject = reader.raw(der.SEQUENCE) if reader.peek() == der.SEQUENCE else None
    alternative = None
    if reader.peek() == 0xA1:
        alternative = b"\x30" + reader.raw(0xA1)[1:]
    reader.finish()
    if subject is None and alternative is None:
        raise der.malformed("ChangeSubjectName is empty", "cmc.names")
    return NewNames(crmf.NULL_DN if subject is None else subject, alternative)
