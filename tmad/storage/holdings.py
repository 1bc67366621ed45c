"""Who holds which certificate that is valid and not revoked, for whoever publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import sqlalchemy as sa

from tmad.storage.certificates import serial_octets
from tmad.storage.directory import MARKS, microseconds, run, valid
from tmad.storage.statement import Statement
from tmad.storage.tables import certificate_names, certificates


class Held(NamedTuple):
    """One certificate that is valid and not revoked, and why it is somebody's.

    ``owner`` is the row's ("person:alice"); ``mail`` is the address in it that was asked for,
    empty where the owner was.
    """

    owner: str
    mail: str
    id: int
    issuer_id: int
    profile: str
    certificate_der: bytes


_VALID_NOW = (
    "c.not_after > {0} AND c.not_before <= {0} AND c.revoked_at IS NULL"
    " AND c.state IN ('issued', 'imported')"
)
# What somebody owns, and what names an address and has no owner who is somebody else. The latter
# is the same tenant's: said of the certificate as well, SQLite would begin there.
_OWNED = (
    "SELECT c.owner, '', c.id, c.issuer_id, c.profile, c.certificate_der FROM certificates c"
    " WHERE c.tenant = {0} AND c.owner IN ({owners}) AND {valid}"
)
_NAMING = (
    " UNION ALL SELECT c.owner, n.value, c.id, c.issuer_id, c.profile, c.certificate_der"
    " FROM certificate_names n JOIN certificates c ON c.id = n.certificate_id"
    " WHERE n.tenant = {0} AND n.value IN ({mails}) AND n.kind = 'email' AND {valid}"
    " AND substr(c.owner, 1, 7) NOT IN ('person:', 'device:')"
)


@lru_cache(maxsize=256)
def _held_sql(dialect: str, owners: int, mails: int) -> str:
    mark = MARKS[dialect]
    return (_OWNED + (_NAMING if mails else "")).format(
        mark,
        owners=",".join([mark] * owners),
        mails=",".join([mark] * mails),
        valid=_VALID_NOW.format(mark),
    )


def held_by(
    connection: sa.Connection,
    tenant: str,
    owners: Sequence[str],
    mails: Sequence[str],
    now: datetime,
) -> list[Held]:
    """Return what these owners hold, and what names one of these addresses.

    There are at most some hundred of each.
    """
    at = microseconds(now)
    values = [tenant, *owners, at, at]
    if mails:
        values += [tenant, *mails, at, at]
    sql = _held_sql(connection.dialect.name, len(owners), len(mails))
    return [Held._make(row) for row in run(connection, sql, values)]


class Names(NamedTuple):
    """Whose a certificate is, as far as its row says."""

    owner: str
    mails: tuple[str, ...]


_NAMED = Statement(
    sa.select(certificates.c.owner, certificate_names.c.value)
    .select_from(
        certificates.outerjoin(
            certificate_names,
            sa.and_(
                certificate_names.c.certificate_id == certificates.c.id,
                certificate_names.c.kind == sa.literal_column("'email'"),
            ),
        )
    )
    .where(
        certificates.c.issuer_id == sa.bindparam("issuer"),
        certificates.c.serial == sa.bindparam("serial"),
        certificates.c.tenant == sa.bindparam("tenant"),
        valid(),
    )
)


def named_by(
    connection: sa.Connection, tenant: str, issuer_id: int, serial: int, now: datetime
) -> Names | None:
    """Return whom one valid certificate names; None when there is none such."""
    values = {"issuer": issuer_id, "serial": serial_octets(serial), "tenant": tenant}
    rows = _NAMED.rows(connection, values | {"now": microseconds(now)})
    if not rows:
        return None
    return Names(rows[0][0], tuple([mail for _, mail in rows if mail]))
