"""What is known of public keys: whose they are, and what was certified for them (KEY-04)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tmad.storage.certificates import KEY_COMPROMISE
from tmad.storage.statement import Listing, Statement
from tmad.storage.tables import certificates, private_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """One earlier certificate for a key."""

    id: int
    tenant: str
    issuer_id: int
    subject: str
    not_after: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """What the installation knows of a public key, in every tenant."""

    is_own: bool  # a private key of the appliance's own
    is_compromised: bool  # a certificate for it was revoked with keyCompromise
    uses: tuple[KeyUse, ...]  # unexpired ones of one tenant


_NOTHING = KeyHistory(is_own=False, is_compromised=False, uses=())


def histories(
    connection: sa.Connection, keys: Sequence[tuple[str, bytes]], now: datetime
) -> list[KeyHistory]:
    """Return what is known of some keys: (tenant, SHA-256 of the SubjectPublicKeyInfo).

    Most keys are new ones; two look-ups tell so for all of them.
    """
    digests = [digest for _, digest in keys]
    known = {digest for (digest,) in _AMONG_OWN.rows(connection, digests)}
    certified = _AMONG_CERTIFIED.rows(connection, digests)
    if len(certified) == _LIMIT:  # there may be others
        known.update(digests)
    known.update(digest for (digest,) in certified)
    return [
        history(connection, tenant, digest, now) if digest in known else _NOTHING
        for tenant, digest in keys
    ]


def history(
    connection: sa.Connection, tenant: str, spki_sha256: bytes, now: datetime
) -> KeyHistory:
    """Return what is known of a public key: own, compromised, certified before (KEY-04).

    Own and compromised hold for every tenant of the installation; the uses are the tenant's.
    """
    digest = {"digest": spki_sha256}
    own = bool(_OWN.rows(connection, digest))
    rows = _KEY_ROWS.rows(connection, digest)
    compromised = any(reason == KEY_COMPROMISE and at for *_, at, reason in rows)
    if not compromised and len(rows) == _LIMIT:
        compromised = bool(_COMPROMISED.rows(connection, digest))
    uses = tuple(
        KeyUse(
            id=certificate_id,
            tenant=owner,
            issuer_id=issuer_id,
            subject=subject,
            not_after=not_after,
            revoked_at=revoked_at,
        )
        for certificate_id, owner, issuer_id, state, subject, not_after, revoked_at, _ in rows
        if owner == tenant and state != "void" and not_after >= now
    )
    return KeyHistory(own, compromised, uses)


_LIMIT = 50
_OWN = Statement(
    sa.select(private_keys.c.id)
    .where(private_keys.c.spki_sha256 == sa.bindparam("digest"))
    .limit(1)
)
_KEY_ROWS = Statement(
    sa.select(
        certificates.c.id,
        certificates.c.tenant,
        certificates.c.issuer_id,
        certificates.c.state,
        certificates.c.subject,
        certificates.c.not_after,
        certificates.c.revoked_at,
        certificates.c.reason,
    )
    .where(certificates.c.spki_sha256 == sa.bindparam("digest"))
    .order_by(certificates.c.id.desc())
    .limit(_LIMIT)
)
_COMPROMISED = Statement(
    sa.select(certificates.c.id)
    .where(
        certificates.c.spki_sha256 == sa.bindparam("digest"),
        certificates.c.reason == KEY_COMPROMISE,
        certificates.c.revoked_at.is_not(None),
    )
    .limit(1)
)
_AMONG_OWN = Listing(
    lambda listed: sa.select(private_keys.c.spki_sha256).where(
        private_keys.c.spki_sha256.in_(listed)
    )
)
_AMONG_CERTIFIED = Listing(
    lambda listed: (
        sa.select(certificates.c.spki_sha256)
        .where(certificates.c.spki_sha256.in_(listed))
        .limit(_LIMIT)
    )
)
