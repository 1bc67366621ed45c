"""Rows of certificates that exist, and their names (intents.py makes them).

Serial numbers are big-endian octets without leading zeros, so that any foreign one fits too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from tmad.storage import changes
from tmad.storage.statement import Statement
from tmad.storage.tables import certificate_names, certificates, issuers

KEY_COMPROMISE = 1  # RFC 5280, 5.3.1


class CertificateRow(NamedTuple):
    """One certificate; ``certificate_der`` is None while the state is "intent" or "void"."""

    id: int
    tenant: str
    issuer_id: int
    serial: int
    state: str  # "intent", "issued", "void", "imported"
    via: str
    endpoint: str
    profile: str
    profile_revision: int
    request_id: str | None
    replaces_id: int | None
    owner: str
    subject: str
    not_before: datetime
    not_after: datetime
    spki_sha256: bytes
    certificate_der: bytes | None
    sha256: bytes | None
    created_at: datetime
    revoked_at: datetime | None
    reason: int | None


_COLUMNS = tuple(
    certificates.c[name]
    for name in CertificateRow._fields  # the class is the one list of columns
)
_SERIAL = CertificateRow._fields.index("serial")
_SELECT = sa.select(*_COLUMNS)
_BY_ID = Statement(
    _SELECT.where(
        certificates.c.id == sa.bindparam("row"), certificates.c.tenant == sa.bindparam("whose")
    )
)
_BY_SERIAL = Statement(
    _SELECT.where(
        certificates.c.issuer_id == sa.bindparam("signer"),
        certificates.c.serial == sa.bindparam("number"),
    )
)
_BY_SHA256 = Statement(
    _SELECT.where(
        certificates.c.sha256 == sa.bindparam("digest"),
        certificates.c.tenant == sa.bindparam("whose"),
    ).limit(1)
)
_VOID = Statement(
    certificates.update()
    .where(certificates.c.id == sa.bindparam("row"), certificates.c.state == "intent")
    .values(state="void", revoked_at=sa.bindparam("now"), reason=0)
)
_MARK = Statement(
    certificates.update()
    .where(certificates.c.id == sa.bindparam("row"))
    .values(changed_id=sa.bindparam("change"))
)
_NAME_COLUMNS = ("certificate_id", "tenant", "kind", "value")
_INSERT_NAMES = Statement(certificate_names.insert(), columns=_NAME_COLUMNS)


def serial_octets(serial: int) -> bytes:
    """Return the stored form of a serial number."""
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def void(connection: sa.Connection, row: CertificateRow, now: datetime) -> bool:
    """Give an intent up and revoke it, for it may have been signed; True when it was one."""
    if _VOID.run(connection, {"row": row.id, "now": now}) != 1:
        return False
    key = f"{row.issuer_id}:{serial_octets(row.serial).hex()}"
    _MARK.run(connection, {"row": row.id, "change": changes.record(connection, "status", key)})
    return True


def insert_names(connection: sa.Connection, names: Iterable[tuple[int, str, str, str]]) -> None:
    """Make certificates findable: by their ids, the tenant, and kind and value of a name."""
    _INSERT_NAMES.run_many(
        connection, [dict(zip(_NAME_COLUMNS, name, strict=True)) for name in names]
    )


def by_id(connection: sa.Connection, tenant: str, certificate_id: int) -> CertificateRow | None:
    """Return one certificate of a tenant."""
    return _first(_BY_ID.rows(connection, {"row": certificate_id, "whose": tenant}))


def by_serial(connection: sa.Connection, issuer_id: int, serial: int) -> CertificateRow | None:
    """Return the certificate with this serial number."""
    values = {"signer": issuer_id, "number": serial_octets(serial)}
    return _first(_BY_SERIAL.rows(connection, values))


def by_sha256(connection: sa.Connection, tenant: str, sha256: bytes) -> CertificateRow | None:
    """Return the certificate whose DER has this SHA-256."""
    return _first(_BY_SHA256.rows(connection, {"digest": sha256, "whose": tenant}))


def find(
    connection: sa.Connection, tenant: str, *, after: int, limit: int, state: str | None = None
) -> tuple[CertificateRow, ...]:
    """Return a page of a tenant's certificates, oldest first."""
    query = _SELECT.where(certificates.c.tenant == tenant, certificates.c.id > after)
    if state is not None:
        query = query.where(certificates.c.state == state)
    return _many(connection, query.order_by(certificates.c.id).limit(limit))


def find_by_name(
    connection: sa.Connection, tenant: str, value: str, *, after: int, limit: int
) -> tuple[CertificateRow, ...]:
    """Return a page of the certificates that hold this name, whatever its kind."""
    ids = (
        sa.select(certificate_names.c.certificate_id)
        .distinct()
        .where(
            certificate_names.c.tenant == tenant,
            certificate_names.c.value == value.lower(),
            certificate_names.c.certificate_id > after,
        )
        .order_by(certificate_names.c.certificate_id)
        .limit(limit)
    )
    return _many(connection, _SELECT.where(certificates.c.id.in_(ids)).order_by(certificates.c.id))


def find_by_key(
    connection: sa.Connection, spki_sha256: bytes, after: int, limit: int
) -> list[CertificateRow]:
    """Return a page of the certificates for one public key, in every tenant."""
    return list(
        _many(
            connection,
            _SELECT.where(certificates.c.spki_sha256 == spki_sha256, certificates.c.id > after)
            .order_by(certificates.c.id)
            .limit(limit),
        )
    )


def find_expiring(
    connection: sa.Connection,
    tenant: str,
    *,
    until: datetime,
    after: tuple[datetime, int],
    limit: int,
) -> tuple[CertificateRow, ...]:
    """Return a page of the certificates that end up to ``until``, by (not_after, id)."""
    place = sa.tuple_(certificates.c.not_after, certificates.c.id)
    return _many(
        connection,
        _SELECT.where(
            certificates.c.tenant == tenant,
            certificates.c.not_after <= until,
            place
            > sa.tuple_(
                sa.bindparam("at", after[0], type_=certificates.c.not_after.type), after[1]
            ),
        )
        .order_by(certificates.c.not_after, certificates.c.id)
        .limit(limit),
    )


def find_stale_intents(
    connection: sa.Connection, before: datetime, *, limit: int
) -> tuple[CertificateRow, ...]:
    """Return intents of every tenant that were made before ``before``, oldest first."""
    return _many(
        connection,
        _SELECT.where(
            # A literal, so that the partial index serves the query.
            certificates.c.state == sa.literal_column("'intent'"),
            certificates.c.created_at < before,
        )
        .order_by(certificates.c.created_at)
        .limit(limit),
    )


_MAY_ISSUE = Statement(
    sa.select(issuers.c.state, issuers.c.compromised_at).where(
        issuers.c.id == sa.bindparam("issuer")
    )
)


def issuer_state(connection: sa.Connection, issuer_id: int) -> tuple[str, datetime | None] | None:
    """Return an issuer's state and when its key was compromised, inside this transaction."""
    for state, compromised_at in _MAY_ISSUE.rows(connection, {"issuer": issuer_id}):
        return state, compromised_at
    return None


def _first(rows: list[tuple[Any, ...]]) -> CertificateRow | None:
    return _read(rows[0]) if rows else None


def _many(connection: sa.Connection, query: sa.Select[Any]) -> tuple[CertificateRow, ...]:
    return tuple(_read(row) for row in connection.execute(query))


def _read(row: Iterable[Any]) -> CertificateRow:
    values = [*row]
    values[_SERIAL] = int.from_bytes(values[_SERIAL])
    return CertificateRow._make(values)
