"""Who may have a certificate revoked over ACME (RFC 8555, 7.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.acme import identifiers
from tmad.ca.acme.control import Standing
from tmad.ca.acme.faults import deny
from tmad.ca.revocation import Effect, Revocation, Wish
from tmad.ca.status import Reason
from tmad.ca.validation.contract import Identifier
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.storage import acme as rows
from tmad.storage import certificates, issuers
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint

# RFC 5280, 5.3.1; the others are the CA's own to say, or no status at all (ACME-50).
_REASONS: Final = frozenset(
    {
        Reason.UNSPECIFIED,
        Reason.KEY_COMPROMISE,
        Reason.AFFILIATION_CHANGED,
        Reason.SUPERSEDED,
        Reason.CESSATION_OF_OPERATION,
    }
)
_LOOKED_AT: Final = 20


class Revoking:
    """Revokes for accounts, and for whoever holds the key of a certificate."""

    def __init__(
        self, database: Database, journal: Journal, revocation: Revocation, now: Clock
    ) -> None:
        self._database = database
        self._journal = journal
        self._revocation = revocation
        self._now = now

    async def by_account(
        self, endpoint: Endpoint, standing: Standing, certificate: x509.Certificate, reason: int
    ) -> Effect:
        """Revoke for the account it was issued to, or one that controls all of its names."""
        return await self._run(endpoint, certificate, reason, standing, b"")

    async def by_key(
        self, endpoint: Endpoint, spki_der: bytes, certificate: x509.Certificate, reason: int
    ) -> Effect:
        """Revoke for whoever has signed with the certificate's own key."""
        return await self._run(endpoint, certificate, reason, None, spki_der)

    async def _run(
        self,
        endpoint: Endpoint,
        certificate: x509.Certificate,
        reason: int,
        standing: Standing | None,
        spki_der: bytes,
    ) -> Effect:
        if reason not in _REASONS:
            raise deny(
                FaultCode.REJECTED,
                "badRevocationReason",
                "this reason cannot be given here: 0, 1, 3, 4 and 5 can",
                "revocation.reason",
                reason=str(reason),
            )
        return await self._database.write(
            self._revoke, endpoint, certificate, reason, standing, spki_der
        )

    def _revoke(
        self,
        connection: Connection,
        endpoint: Endpoint,
        certificate: x509.Certificate,
        reason: int,
        standing: Standing | None,
        spki_der: bytes,
    ) -> Effect:
        row = certificates.by_sha256(
            connection, endpoint.tenant, certificate.fingerprint(hashes.SHA256())
        )
        if row is None or not _is_of(connection, endpoint, row):
            raise deny(
                FaultCode.NOT_FOUND,
                "malformed",
                "the certificate was not issued here",
                "revocation.certificate",
            )
        if standing is None:
            own = certificate.public_key().public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            )
            may = own == spki_der
        else:
            may = self._may(connection, standing, row, certificate)
        if not may:
            raise deny(
                FaultCode.FORBIDDEN,
                "unauthorized",
                "neither the account's certificate nor its names, nor signed with its key",
                "revocation.not-yours",
                serial=f"{row.serial:x}",
            )
        if row.revoked_at is not None:
            raise deny(
                FaultCode.CONFLICT,
                "alreadyRevoked",
                "the certificate is revoked already",
                "revocation.final",
                serial=f"{row.serial:x}",
            )
        name = str(endpoint.id) if standing is None else f"acme:{standing.account.id}"
        wish = Wish(reason=reason)
        return self._revocation.change_in(connection, Actor(name), row.tenant, row.id, wish)

    def _may(
        self,
        connection: Connection,
        standing: Standing,
        row: CertificateRow,
        certificate: x509.Certificate,
    ) -> bool:
        account = standing.account.id
        if rows.order_of_certificate(connection, row.request_id or "", account) is not None:
            return True
        wanted = _identifiers(certificate)
        return bool(wanted) and all(self._controls(connection, account, each) for each in wanted)

    def _controls(self, connection: Connection, account: str, wanted: Identifier) -> bool:
        now = self._now()
        bare, is_wildcard = identifiers.split(wanted)
        return any(
            each.state == "valid" and each.is_wildcard == is_wildcard and each.expires_at > now
            for each in rows.find_authorizations(connection, account, *bare, _LOOKED_AT)
        )


def _identifiers(certificate: x509.Certificate) -> frozenset[Identifier]:
    """Return a certificate's alternative names; none where it has any of another kind."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return frozenset(identifiers.of_name(name) for name in found)
    except (x509.ExtensionNotFound, Fault):
        return frozenset()


def _is_of(connection: Connection, endpoint: Endpoint, row: CertificateRow) -> bool:
    """Tell whether the endpoint's authority has issued it."""
    issuer = issuers.by_id(connection, row.issuer_id)
    document = endpoint.document
    return (
        issuer is not None
        and issuer.tenant == endpoint.tenant
        and issuer.authority in (document.renewal.authorities or (document.authority,))
    )
