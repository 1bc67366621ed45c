"""Certificates and keys that come in files, and certificates that somebody else issued.

Files are PEM (RFC 7468), DER, PKCS#7 (RFC 5652, degenerate SignedData) or PKCS#12 (RFC 7292).
Everything about them is bounded before a parser sees it: size, number, key derivation rounds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.utils import CryptographyDeprecationWarning

from tmad.ca import names
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.trust import Trust, spki_der, spki_sha256
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.signer.algorithms import PrivateKey, of
from tmad.storage import certificates as certificate_rows
from tmad.storage import imported
from tmad.storage.database import Database
from tmad.storage.imported import ImportedRow
from tmad.wire import ber, der, parsing
from tmad.wire.parsing import NO_EXTENSION, UNREADABLE

MAXIMUM_OCTETS = 32 * 1024 * 1024
MAXIMUM_CERTIFICATES = 20_000
_MAXIMUM_PKCS12 = 2 * 1024 * 1024
_MAXIMUM_ROUNDS = 10_000_000  # P-03: of a key derivation
_MAXIMUM_SCRYPT = 1 << 21  # N times r times p: 256 MiB, or a second of work
_BATCH = 200
_SERIAL_OCTETS = 64  # foreign ones may be longer than RFC 5280's 20

_ELEMENTS, _DEPTH = 1_000_000, 48
_SCRYPT = der.oid("1.3.6.1.4.1.11591.4.11")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")

_ARMOUR = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----([^-]*)-----END \1-----", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a file held; ``unreadable`` counts the certificates that no parser accepts."""

    certificates: tuple[x509.Certificate, ...]
    private_key: PrivateKey | None = None
    unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One certificate that was not taken, and why."""

    subject: str
    sha256: bytes
    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Imports:
    """What became of each certificate of one import."""

    imported: tuple[int, ...]  # ids of the new rows
    present: tuple[int, ...]  # ids of rows that were there before
    refused: tuple[Refusal, ...]


class CertificateImport:
    """Takes in certificates that were issued elsewhere."""

    def __init__(
        self, database: Database, journal: Journal, hierarchy: Hierarchy, now: Clock
    ) -> None:
        self.journal = journal
        self._database = database
        self._trust = Trust(hierarchy)
        self._now = now

    @guarded("certificate.import")
    async def import_(
        self,
        actor: Actor,
        tenant: str,
        certificates: Sequence[x509.Certificate],
        *,
        owner: str = "",
        dry_run: bool = False,
    ) -> Imports:
        """Add certificates as "imported"; the same ones again change nothing.

        Their CA must be known in this tenant, with or without its key, and its signature must
        be right. What is refused does not keep the others out.
        """
        if len(certificates) > MAXIMUM_CERTIFICATES:
            raise _too_much("certificates", MAXIMUM_CERTIFICATES)
        rows: list[tuple[x509.Certificate, ImportedRow]] = []
        refused: list[Refusal] = []
        for certificate in certificates:
            try:
                issuer = await self._issuer(tenant, certificate)
                rows.append((certificate, self._row(tenant, issuer, certificate, owner)))
            except Fault as fault:
                refused.append(_refusal(certificate, fault))
        new: list[int] = []
        present: list[int] = []
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            outcome = await self._database.write(self._insert, actor, batch, dry_run=dry_run)
            new += outcome.imported
            present += outcome.present
            refused += outcome.refused
        return Imports(imported=tuple(new), present=tuple(present), refused=tuple(refused))

    async def _issuer(self, tenant: str, certificate: x509.Certificate) -> Issuer:
        issuer = await self._trust.issuer_of(certificate, tenant=tenant)
        if issuer is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                "no authority of this tenant signed it: import its CA first",
                rule="import.issuer",
                values={"issuer": certificate.issuer.rfc4514_string()},
            )
        return issuer

    def _row(
        self, tenant: str, issuer: Issuer, certificate: x509.Certificate, owner: str
    ) -> ImportedRow:
        try:
            serial = certificate.serial_number
            if serial < 0 or serial.bit_length() > 8 * _SERIAL_OCTETS:
                raise Fault(
                    FaultCode.UNSUPPORTED,
                    "its serial number is negative or too long",
                    rule="import.serial",
                )
            certificate_der = certificate.public_bytes(serialization.Encoding.DER)
            return ImportedRow(
                tenant=tenant,
                issuer_id=issuer.id,
                serial=serial,
                owner=owner,
                subject=certificate.subject.rfc4514_string(),
                not_before=certificate.not_valid_before_utc,
                not_after=certificate.not_valid_after_utc,
                spki_sha256=spki_sha256(certificate.public_key()),
                tbs_sha256=hashlib.sha256(certificate.tbs_certificate_bytes).digest(),
                certificate_der=certificate_der,
                sha256=hashlib.sha256(certificate_der).digest(),
                created_at=self._now(),
            )
        except UNREADABLE as error:
            raise Fault(
                FaultCode.UNSUPPORTED, f"it cannot be read: {error}", rule="import.unreadable"
            ) from error

    def _insert(
        self,
        connection: sa.Connection,
        actor: Actor,
        batch: Sequence[tuple[x509.Certificate, ImportedRow]],
    ) -> Imports:
        new: list[int] = []
        present: list[int] = []
        refused: list[Refusal] = []
        for certificate, row in batch:
            known = imported.by_serial(connection, row.issuer_id, row.serial)
            if known is not None:
                if known[1] == row.sha256:
                    present.append(known[0])
                else:
                    refused.append(_refusal(certificate, _serial_taken()))
                continue
            row_id = imported.insert(connection, row)
            certificate_rows.insert_names(
                connection, [(row_id, row.tenant, *term) for term in _terms(certificate)]
            )
            new.append(row_id)
            self.journal.append(
                connection,
                Event(
                    kind="certificate.imported",
                    tenant=row.tenant,
                    actor=actor.name,
                    object=f"certificate/{row_id}",
                    data={
                        "issuer": row.issuer_id,
                        "serial": f"{row.serial:x}",
                        "subject": row.subject,
                        "sha256": row.sha256.hex(),
                    },
                ),
            )
        return Imports(imported=tuple(new), present=tuple(present), refused=tuple(refused))


def read_bundle(data: bytes, password: bytes | None = None) -> Bundle:
    """Return the certificates and the private key in a file of any known format.

    Raise Fault(MALFORMED) for anything else, UNAUTHENTICATED for a wrong or missing password.
    """
    if len(data) > MAXIMUM_OCTETS:
        raise _too_much("octets", MAXIMUM_OCTETS)
    with warnings.catch_warnings():
        # Old certificates break rules of RFC 5280, such as a negative serial number (X5-01);
        # they are read as long as they can be.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return _read_file(data, password)


def _read_file(data: bytes, password: bytes | None) -> Bundle:
    if b"-----BEGIN " in data:
        return _read_pem(data, password)
    # A PFX begins with its version, 3; ContentInfo with an OID; a certificate with its TBS.
    try:
        data = ber.normalise(data, elements=_ELEMENTS, depth=_DEPTH)
        reader = der.read(data, der.SEQUENCE)
        tag = reader.peek()
    except Fault:
        raise _unknown() from None
    if tag == der.INTEGER:
        if reader.integer() == 3:
            return _read_pkcs12(data, password)
        return Bundle(certificates=(), private_key=_read_key(data, password))
    if tag == der.OBJECT_IDENTIFIER:
        return _bundle(_read_pkcs7(data))
    try:
        return _bundle([_read_certificate(data)])
    except Fault:
        # An EncryptedPrivateKeyInfo looks alike from outside (RFC 5958, 3).
        return Bundle(certificates=(), private_key=_read_key(data, password))


def _read_pem(data: bytes, password: bytes | None) -> Bundle:
    found: list[x509.Certificate] = []
    key: PrivateKey | None = None
    unreadable = 0
    for label, content, block in _blocks(data):
        if label in (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"):
            try:
                found.append(_read_certificate(content))
            except Fault:
                unreadable += 1
        elif label in (b"PKCS7", b"CMS"):
            found += _read_pkcs7(content)
        elif label.endswith(b"PRIVATE KEY"):
            if key is not None:
                raise Fault(FaultCode.MALFORMED, "there is more than one private key")
            key = _read_key(block, password)
        if len(found) + unreadable > MAXIMUM_CERTIFICATES:
            raise _too_much("certificates", MAXIMUM_CERTIFICATES)
    if not (found or unreadable or key):
        raise _unknown()
    return Bundle(certificates=tuple(found), private_key=key, unreadable=unreadable)


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    for match in _ARMOUR.finditer(data):
        text = b"".join(match[2].split())
        # The headers of an old encrypted key (RFC 1421) are no base64; it is read as a whole.
        try:
            content = base64.b64decode(text, validate=True)
        except binascii.Error:
            if not match[1].endswith(b"PRIVATE KEY"):
                raise Fault(FaultCode.MALFORMED, "a PEM block is not base64") from None
            content = b""
        yield match[1], content, match[0]


def _read_pkcs7(data: bytes) -> list[x509.Certificate]:
    # Read here, since openssl writes the SET of certificates unsorted, which is BER.
    info = der.read(ber.normalise(data, elements=_ELEMENTS, depth=_DEPTH), der.SEQUENCE)
    if info.raw(der.OBJECT_IDENTIFIER) != _SIGNED_DATA:
        raise Fault(FaultCode.MALFORMED, "a PKCS#7 without certificates", rule="import.format")
    signed = info.enter(0xA0).enter(der.SEQUENCE)
    signed.raw(der.INTEGER)
    signed.raw(der.SET)  # digestAlgorithms
    signed.raw(der.SEQUENCE)  # encapContentInfo
    if signed.peek() != 0xA0:
        return []
    certificates = signed.enter(0xA0)
    found = []
    for tag in certificates.each():
        element = certificates.raw()
        # The other choices are attribute certificates and the like (RFC 5652, 10.2.2).
        if tag == der.SEQUENCE:
            found.append(_read_certificate(element))
    return found


def _read_certificate(data: bytes) -> x509.Certificate:
    try:
        certificate = parsing.certificate(data)
        parsing.key_of(certificate)
    except ValueError as error:
        raise Fault(
            FaultCode.UNSUPPORTED, f"a certificate cannot be read: {error}", rule="import.format"
        ) from error
    return certificate


def _read_pkcs12(data: bytes, password: bytes | None) -> Bundle:
    if len(data) > _MAXIMUM_PKCS12:
        raise _too_much("octets", _MAXIMUM_PKCS12)
    _check_rounds(data, depth=24)
    pfx = der.read(data, der.SEQUENCE)
    pfx.raw(der.INTEGER)
    pfx.raw(der.SEQUENCE)
    if pfx.peek() != der.SEQUENCE:
        # RFC 7292, 4: without a MAC nobody can tell whether it was changed on the way.
        raise Fault(FaultCode.BAD_INTEGRITY, "the PKCS#12 file has no MAC", rule="import.mac")
    # An absent password is encoded in two ways (RFC 7292, B.1): nothing, or an empty string.
    attempts = (password,) if password else (b"", None)
    for attempt in attempts:
        try:
            key, certificate, others = pkcs12.load_key_and_certificates(data, attempt)
        except UNREADABLE as error:
            reason = error
            continue
        found = [*([certificate] if certificate else ()), *others]
        if key is not None:
            of(key.public_key())
        return _bundle(found, key)  # type: ignore[arg-type]  # of() has looked at it
    raise Fault(
        FaultCode.UNAUTHENTICATED,
        "the PKCS#12 file is damaged or its password is another one",
        private=str(reason),
        rule="import.password",
    )


def _read_key(data: bytes, password: bytes | None) -> PrivateKey:
    load = (
        serialization.load_pem_private_key
        if data.startswith(b"-----")
        else serialization.load_der_private_key
    )
    if not data.startswith(b"-----"):
        _check_rounds(data, depth=24)
    try:
        key = load(data, password or None)
    except TypeError as error:
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the key is encrypted" if not password else "the key is not encrypted",
            rule="import.password",
        ) from error
    except UNREADABLE as error:
        raise Fault(
            FaultCode.MALFORMED,
            "not a private key, or its password is another one",
            private=str(error),
            rule="import.key",
        ) from error
    of(key.public_key())
    return key  # type: ignore[return-value]  # of() has looked at it


def _check_rounds(data: bytes, *, depth: int) -> None:
    """Refuse a key derivation that would keep a processor busy for minutes.

    In PBKDF2-params (RFC 8018, A.2), pkcs-12PbeParams and MacData (RFC 7292, 4 and C) the
    rounds are the INTEGER that follows the salt, an OCTET STRING.
    """
    reader = der.Reader(data)
    before = 0
    is_scrypt = False
    for tag in reader.each():
        element = reader.raw()
        if is_scrypt:
            _check_scrypt(element)
        is_scrypt = element == _SCRYPT
        if tag == der.INTEGER and before == der.OCTET_STRING:
            rounds = int.from_bytes(der.content(element, tag), signed=True)
            if rounds > _MAXIMUM_ROUNDS:
                raise _too_much("key derivation rounds", _MAXIMUM_ROUNDS)
        before = tag
        if depth and (tag & 0x20 or tag == der.OCTET_STRING):
            content = der.content(element, tag)
            if tag & 0x20 or content[:1] == b"\x30":
                try:
                    _check_rounds(content, depth=depth - 1)
                except Fault as fault:
                    # Octets that only look like a structure are a salt or a key.
                    if fault.rule == "import.limit" or tag & 0x20:
                        raise


def _check_scrypt(parameters: bytes) -> None:
    """Refuse what would take gigabytes of memory: 128 octets times N times r (RFC 7914, 7)."""
    reader = der.read(parameters, der.SEQUENCE)
    reader.raw(der.OCTET_STRING)
    cost, block, parallel = (max(1, reader.integer()) for _ in range(3))
    if max(cost, block, parallel) > _MAXIMUM_SCRYPT or cost * block * parallel > _MAXIMUM_SCRYPT:
        raise _too_much("units of scrypt's work", _MAXIMUM_SCRYPT)


def _bundle(found: Sequence[x509.Certificate], key: PrivateKey | None = None) -> Bundle:
    if len(found) > MAXIMUM_CERTIFICATES:
        raise _too_much("certificates", MAXIMUM_CERTIFICATES)
    if key is not None:
        # The key's own certificate first, as whoever imports a CA expects.
        own = spki_der(key.public_key())
        found = sorted(found, key=lambda c: spki_der(c.public_key()) != own)
    return Bundle(certificates=tuple(found), private_key=key)


def _terms(certificate: x509.Certificate) -> list[tuple[str, str]]:
    """Return what the certificate can be found by."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found: Sequence[x509.GeneralName] = tuple(extension.value)
    except NO_EXTENSION:
        found = ()
    return list(names.search_terms(certificate.subject, found))


def _refusal(certificate: x509.Certificate, fault: Fault) -> Refusal:
    octets = certificate.public_bytes(serialization.Encoding.DER)
    try:
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        subject = ""
    return Refusal(subject=subject, sha256=hashlib.sha256(octets).digest(), fault=fault)


def _serial_taken() -> Fault:
    return Fault(
        FaultCode.CONFLICT,
        "its CA has used the serial number for another certificate",
        rule="import.serial-taken",
    )


def _too_much(what: str, limit: int) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        f"more than {limit} {what}",
        rule="import.limit",
        values={"limit": str(limit)},
    )


def _unknown() -> Fault:
    return Fault(
        FaultCode.MALFORMED,
        "neither PEM, DER, PKCS#7 nor PKCS#12",
        rule="import.format",
    )
