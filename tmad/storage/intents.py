"""Rows of certificates while they are made: intents before the signature, what came of them.

Each function serves many certificates at once: what one of them costs is mostly the way to the
database. Who has a conflict spoils it for all, and asks again alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.certificates import insert_names, serial_octets
from tmad.storage.statement import Statement, is_integrity
from tmad.storage.tables import certificates


class Intent(NamedTuple):
    """What is about to be signed; committed before the key is touched."""

    tenant: str
    issuer_id: int
    serial: int
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
    tbs_sha256: bytes
    tbs_der: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A certificate that was signed, and under which (kind, value) pairs it can be found."""

    id: int
    tenant: str
    certificate_der: bytes
    sha256: bytes
    names: frozenset[tuple[str, str]]


_INSERT = Statement(
    certificates.insert(), columns=(*Intent._fields, "state"), key=certificates.c.id
)
_COMPLETE = Statement(
    certificates.update()
    .where(certificates.c.id == sa.bindparam("row"), certificates.c.state == "intent")
    .values(
        state="issued",
        tbs_der=None,
        certificate_der=sa.bindparam("der"),
        sha256=sa.bindparam("digest"),
    )
)


def insert(connection: sa.Connection, intents: Sequence[Intent]) -> list[int]:
    """Add what is about to be signed and return the ids, in their order.

    Raise Fault(CONFLICT) when an issuer has used one of the serial numbers.
    """
    try:
        return _INSERT.numbered(connection, [_values(intent) for intent in intents])
    except Exception as error:
        if not is_integrity(connection, error):
            raise
        raise Fault(
            FaultCode.CONFLICT, "the serial number is taken", rule="certificate.serial"
        ) from error


def complete(connection: sa.Connection, completed: Sequence[Completed]) -> None:
    """Turn intents into certificates; Fault(CONFLICT) when one was voided meanwhile."""
    done = _COMPLETE.run_many(
        connection,
        [{"row": one.id, "der": one.certificate_der, "digest": one.sha256} for one in completed],
    )
    if done != len(completed):
        raise Fault(
            FaultCode.CONFLICT,
            "the certificate was given up meanwhile",
            rule="certificate.void",
            values={"certificate": ", ".join(str(one.id) for one in completed)},
        )
    insert_names(
        connection,
        ((one.id, one.tenant, kind, value) for one in completed for kind, value in one.names),
    )


def _values(intent: Intent) -> dict[str, Any]:
    return intent._asdict() | {"serial": serial_octets(intent.serial), "state": "intent"}
