"""Rows of issuers: one authority with one key, which serial numbers, CRLs and CertIDs refer to.

Changes are announced on the topic "issuers" with the key ``TENANT/AUTHORITY``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tmad.errors import Fault, FaultCode
from tmad.storage import changes
from tmad.storage.tables import issuers

TOPIC = "issuers"


class IssuerState(StrEnum):
    """Where one generation of an authority stands."""

    CREATING = "creating"  # key saved, certificate not yet signed: completed or removed
    PENDING = "pending"  # waits for a certificate from outside
    NEXT = "next"  # staged: announced, does not issue yet
    ACTIVE = "active"
    RETIRED = "retired"  # issues no more, still signs its CRL and OCSP answers
    WITHDRAWN = "withdrawn"  # by a decision: as retired, and never active again
    ANCHOR = "anchor"  # somebody else's CA that we know: certificate without a key


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRow:
    """One generation of one authority; ``id`` is 0 before it is inserted."""

    id: int = 0
    tenant: str
    authority: str
    generation: int
    state: IssuerState
    key_id: str  # empty for an anchor
    subject_der: bytes
    certificate_der: bytes | None
    chain_der: bytes  # concatenated DER, this certificate first, root last
    parent_issuer_id: int | None
    not_before: datetime | None
    not_after: datetime | None
    compromised_at: datetime | None = None
    created_at: datetime


_COLUMNS = (
    issuers.c.id,
    issuers.c.tenant,
    issuers.c.authority,
    issuers.c.generation,
    issuers.c.state,
    issuers.c.key_id,
    issuers.c.subject_der,
    issuers.c.certificate_der,
    issuers.c.chain_der,
    issuers.c.parent_issuer_id,
    issuers.c.not_before,
    issuers.c.not_after,
    issuers.c.compromised_at,
    issuers.c.created_at,
)


def insert(connection: sa.Connection, row: IssuerRow) -> int:
    """Add a generation and return its id; Fault(CONFLICT) when it exists."""
    try:
        result = connection.execute(
            issuers.insert().values(
                tenant=row.tenant,
                authority=row.authority,
                generation=row.generation,
                state=row.state.value,
                key_id=row.key_id,
                subject_der=row.subject_der,
                certificate_der=row.certificate_der,
                chain_der=row.chain_der,
                parent_issuer_id=row.parent_issuer_id,
                not_before=row.not_before,
                not_after=row.not_after,
                compromised_at=row.compromised_at,
                created_at=row.created_at,
            )
        )
    except IntegrityError as error:
        raise Fault(
            FaultCode.CONFLICT,
            f"authority {row.authority} has a generation {row.generation} already",
        ) from error
    changes.record(connection, TOPIC, f"{row.tenant}/{row.authority}")
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def in_turn(connection: sa.Connection) -> None:
    """Let nobody else change an issuer before this transaction ends.

    It comes before the row is read that ``update`` writes: a whole row that was read earlier
    would undo what somebody else has done to it, as a withdrawal.
    """
    changes.in_turn(connection)


def update(connection: sa.Connection, row: IssuerRow) -> None:
    """Write the changeable columns of a row that was read after ``in_turn``.

    Fault(CONFLICT) when it has gone.
    """
    result = connection.execute(
        issuers.update()
        .where(issuers.c.id == row.id)
        .values(
            state=row.state.value,
            subject_der=row.subject_der,
            certificate_der=row.certificate_der,
            chain_der=row.chain_der,
            parent_issuer_id=row.parent_issuer_id,
            not_before=row.not_before,
            not_after=row.not_after,
            compromised_at=row.compromised_at,
        )
    )
    if result.rowcount != 1:
        raise Fault(FaultCode.CONFLICT, f"issuer {row.id} is gone")
    changes.record(connection, TOPIC, f"{row.tenant}/{row.authority}")


def delete(connection: sa.Connection, row: IssuerRow) -> None:
    """Remove a generation that never signed anything."""
    connection.execute(issuers.delete().where(issuers.c.id == row.id))
    changes.record(connection, TOPIC, f"{row.tenant}/{row.authority}")


def by_id(connection: sa.Connection, issuer_id: int) -> IssuerRow | None:
    """Return one issuer."""
    row = connection.execute(sa.select(*_COLUMNS).where(issuers.c.id == issuer_id)).one_or_none()
    return None if row is None else _read(row)


def find_of_authority(connection: sa.Connection, tenant: str, authority: str) -> list[IssuerRow]:
    """Return every generation of one authority, oldest first."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(issuers.c.tenant == tenant, issuers.c.authority == authority)
        .order_by(issuers.c.generation)
    )
    return [_read(row) for row in rows]


def find(connection: sa.Connection, *, after: int = 0, limit: int) -> list[IssuerRow]:
    """Return a page of all issuers of all tenants, by id."""
    rows = connection.execute(
        sa.select(*_COLUMNS).where(issuers.c.id > after).order_by(issuers.c.id).limit(limit)
    )
    return [_read(row) for row in rows]


def find_by_subject(
    connection: sa.Connection, subject_der: bytes, *, limit: int
) -> list[IssuerRow]:
    """Return issuers with exactly these octets as their name, of any tenant, by id."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(issuers.c.subject_der == subject_der)
        .order_by(issuers.c.id)
        .limit(limit)
    )
    return [_read(row) for row in rows]


def find_children(connection: sa.Connection, parent_issuer_id: int) -> list[IssuerRow]:
    """Return the issuers whose certificate this issuer signed, of any tenant, by id."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(issuers.c.parent_issuer_id == parent_issuer_id)
        .order_by(issuers.c.id)
    )
    return [_read(row) for row in rows]


def find_in_state(
    connection: sa.Connection, state: IssuerState, *, after: int = 0, limit: int
) -> list[IssuerRow]:
    """Return a page of issuers in one state, by id."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(issuers.c.state == state.value, issuers.c.id > after)
        .order_by(issuers.c.id)
        .limit(limit)
    )
    return [_read(row) for row in rows]


def _read(row: sa.Row[*tuple[Any, ...]]) -> IssuerRow:
    values = dict(row._mapping)
    values["state"] = IssuerState(values["state"])
    return IssuerRow(**values)
