"""What a certificate says of itself, read once: it never changes, whatever its status does."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tmad.ca.names import NameKind, kind_of, text_of
from tmad.ca.trust import names_der, spki_der
from tmad.errors import Fault, FaultCode
from tmad.events import JSON
from tmad.storage.status import serial_octets
from tmad.wire.parsing import UNREADABLE


class Blocked(Protocol):
    """Keys that are publicly known (tmad.ca.keycheck.Blocklist, or an empty tuple)."""

    def __contains__(self, key: Any, /) -> bool: ...


_LONGEST_SUBJECT: Final = 1024  # characters that a stranger may put into the journal
_KEPT: Final = 4096  # certificates whose facts are remembered
_MOST_NAMES: Final = 64
_SEARCHED: Final = frozenset(
    {NameKind.DNS, NameKind.IP, NameKind.EMAIL, NameKind.URI, NameKind.UPN}
)
# RFC 4514, 3, and what else a policy may ask of a subject.
_ATTRIBUTES: Final[Mapping[ObjectIdentifier, str]] = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.COUNTRY_NAME: "C",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
    NameOID.SERIAL_NUMBER: "SERIALNUMBER",
    NameOID.EMAIL_ADDRESS: "EMAIL",
    NameOID.TITLE: "TITLE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One certificate, decoded as far as a decision needs it.

    ``purpose`` is "client" where it names client authentication, "any" where it allows any
    purpose or names none, "" where it is for something else.
    """

    certificate: x509.Certificate
    sha256: bytes
    spki_sha256: bytes
    serial: bytes
    issuer_der: bytes
    subject: str
    attributes: Mapping[str, tuple[str, ...]]
    names: tuple[tuple[str, str], ...]  # kind, value
    not_before: datetime
    not_after: datetime
    purpose: str
    signs: bool  # keyUsage allows digital signatures (E-41)
    is_blocklisted: bool  # the private key is publicly known
    data: Mapping[str, JSON]  # what the journal tells of it

    def of_kind(self, kind: str) -> tuple[str, ...]:
        """Return the names of one kind; "cn" is the subject's."""
        if kind == "cn":
            return self.attributes.get("CN", ())
        return tuple(value for its_kind, value in self.names if its_kind == kind)


class Reader:
    """Reads certificates, and remembers what it read of those that came last."""

    def __init__(self, blocklist: Blocked = ()) -> None:
        self._kept: OrderedDict[bytes, Facts] = OrderedDict()
        # By the object's id: it stays one object as long as it stands here.
        self._objects: dict[int, Facts] = {}
        self._blocklist = blocklist

    def read(self, certificate: x509.Certificate) -> Facts:
        """Return a certificate's facts; Fault(MALFORMED) for one that cannot be read."""
        found = self._objects.get(id(certificate))
        if found is not None and found.certificate is certificate:
            return found
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
        found = self._kept.get(digest)
        if found is None:
            found = self._kept[digest] = read(certificate, digest, self._blocklist)
            self._objects[id(certificate)] = found
            if len(self._kept) > _KEPT:
                _, oldest = self._kept.popitem(last=False)
                self._objects.pop(id(oldest.certificate), None)
        else:
            self._kept.move_to_end(digest)
        return found


def read(
    certificate: x509.Certificate,
    digest: bytes,
    blocklist: Blocked = (),
) -> Facts:
    """Read a certificate with this SHA-256; Fault(MALFORMED) for one that cannot be read."""
    try:
        extensions = certificate.extensions
        issuer_der, _ = names_der(certificate)
        public_key = certificate.public_key()
        serial = serial_octets(abs(certificate.serial_number))
        subject = certificate.subject.rfc4514_string()
        not_after = certificate.not_valid_after_utc
        return Facts(
            certificate=certificate,
            sha256=digest,
            spki_sha256=hashlib.sha256(spki_der(public_key)).digest(),
            serial=serial,
            issuer_der=issuer_der,
            subject=subject,
            attributes=_attributes(certificate.subject),
            names=tuple(_names(extensions)),
            not_before=certificate.not_valid_before_utc,
            not_after=not_after,
            purpose=_purpose(extensions),
            signs=_signs(extensions),
            is_blocklisted=public_key in blocklist,
            data={
                "subject": subject[:_LONGEST_SUBJECT],
                "serial": serial.hex(),
                "sha256": digest.hex(),
                "not_after": not_after.isoformat(),
            },
        )
    except (*UNREADABLE, Fault) as error:
        raise Fault(
            FaultCode.MALFORMED,
            "the certificate cannot be read",
            private=f"{type(error).__name__}: {error}",
            rule="network.malformed-certificate",
            values={"sha256": digest.hex(), "mistake": str(error)[:200]},
        ) from error


def _purpose(extensions: x509.Extensions) -> str:
    try:
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "any"
    if ExtendedKeyUsageOID.CLIENT_AUTH in usages:
        return "client"
    return "any" if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages else ""


def _signs(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True  # RFC 5280, 4.2.1.3: without it the key is not restricted


def _attributes(subject: x509.Name) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for attribute in subject:
        name = _ATTRIBUTES.get(attribute.oid)
        if name is not None and isinstance(attribute.value, str):
            found[name] = (*found.get(name, ()), attribute.value)
    return found


def _names(extensions: x509.Extensions) -> Iterable[tuple[str, str]]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in list(names)[:_MOST_NAMES]:
        if kind_of(name) in _SEARCHED:
            yield kind_of(name).value, text_of(name)
