"""What a login is decided by, in two point reads: the certificate; people and devices.

Both run by the driver's own cursor (performance 5.5).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NAMES: Final = 6  # how many names of one certificate are looked for among people and devices


class Standing(NamedTuple):
    """One certificate as the database knows it now, and who issued it."""

    issuer_id: int
    serial: bytes
    state: str
    revoked_at: datetime | None
    reason: int | None
    profile: str
    owner: str
    issuer_tenant: str
    authority: str
    issuer_state: str
    compromised_at: datetime | None  # the issuer's key
    is_key_compromised: bool  # some certificate with this key was revoked for its compromise


class PersonStanding(NamedTuple):
    """One person, as far as a login depends on it."""

    name: str
    mail: str
    groups: tuple[str, ...]
    disabled_at: datetime | None
    valid_until: datetime | None


class DeviceStanding(NamedTuple):
    """One device, with its owner where it has one that we know."""

    name: str
    mac: str
    owner: str
    blocked_at: datetime | None
    owner_is_known: bool
    owner_disabled_at: datetime | None
    owner_valid_until: datetime | None


class Principals(NamedTuple):
    """Whom the names of one login may mean."""

    people: tuple[PersonStanding, ...]
    devices: tuple[DeviceStanding, ...]


# RFC 5280, 5.3.1: reason 1 is keyCompromise. The octets of a certificate are what it is
# looked for by: whoever finds its row has the very certificate that was issued.
_CERTIFICATES = (
    "SELECT c.tenant, c.sha256, c.issuer_id, c.serial, c.state, c.revoked_at, c.reason,"
    " c.profile, c.owner,"
    " i.tenant, i.authority, i.state, i.compromised_at,"
    " EXISTS (SELECT 1 FROM certificates k WHERE k.spki_sha256 = c.spki_sha256"
    " AND k.reason = 1 AND k.revoked_at IS NOT NULL)"
    " FROM certificates c JOIN issuers i ON i.id = c.issuer_id"
    " WHERE c.sha256 IN ({digests})"
)
_BY_SERIAL = (
    "SELECT c.tenant, c.state, c.sha256 FROM certificates c"
    " WHERE c.issuer_id = {0} AND c.serial = {0}"
)
_COMPROMISED_KEY = (
    "SELECT 1 FROM certificates WHERE spki_sha256 = {0} AND reason = 1"
    " AND revoked_at IS NOT NULL LIMIT 1"
)
_PRINCIPALS = (
    "SELECT 0, p.name, p.mail, p.groups, p.disabled_at, p.valid_until, NULL, NULL, NULL"
    " FROM people p WHERE (p.tenant = {0} AND p.name IN ({names}))"
    " OR (p.tenant = {0} AND p.mail IN ({names}) AND p.mail <> '')"
    " UNION ALL "
    "SELECT 1, d.name, d.mac, d.owner, d.blocked_at, NULL, o.name, o.disabled_at, o.valid_until"
    " FROM devices d LEFT JOIN people o ON o.tenant = d.tenant AND o.name = d.owner"
    " WHERE (d.tenant = {0} AND d.name IN ({names}))"
    " OR (d.tenant = {0} AND d.mac = {0})"
)
_MARKS = {"sqlite": "?", "postgresql": "%s"}


def _forms(sql: str, digests: int = 0) -> dict[str, str]:
    return {
        dialect: sql.format(
            mark, names=", ".join([mark] * NAMES), digests=", ".join([mark] * digests)
        )
        for dialect, mark in _MARKS.items()
    }


@functools.cache
def _certificates_forms(digests: int) -> dict[str, str]:
    return _forms(_CERTIFICATES, digests)


_BY_SERIALS = _forms(_BY_SERIAL)
_COMPROMISED_KEYS = _forms(_COMPROMISED_KEY)
_PRINCIPALS_FORMS = _forms(_PRINCIPALS)


def by_sha256(connection: sa.Connection, tenant: str, sha256: bytes) -> Standing | None:
    """Return a tenant's certificate with exactly these octets, and its issuer."""
    return standings(connection, [sha256]).get((tenant, sha256))


def standings(
    connection: sa.Connection, digests: Sequence[bytes]
) -> dict[tuple[str, bytes], Standing]:
    """Return the certificates with exactly these octets, by tenant and SHA-256."""
    if not digests:
        return {}
    # Few sizes of the statement: the last digest is repeated.
    size = 1 << (len(digests) - 1).bit_length()
    sql = _certificates_forms(size)[connection.dialect.name]
    driver: Any = connection.connection.driver_connection
    found = driver.execute(sql, (*digests, *[digests[-1]] * (size - len(digests)))).fetchall()
    return {(row[0], row[1]): _standing(*row[2:]) for row in found}


def _standing(
    issuer_id: int,
    serial: bytes,
    state: str,
    revoked_at: int | None,
    reason: int | None,
    profile: str,
    owner: str,
    issuer_tenant: str,
    authority: str,
    issuer_state: str,
    compromised_at: int | None,
    is_key_compromised: int,
) -> Standing:
    return Standing(
        issuer_id,
        serial,
        state,
        _instant(revoked_at),
        reason,
        profile,
        owner,
        issuer_tenant,
        authority,
        issuer_state,
        _instant(compromised_at),
        bool(is_key_compromised),
    )


def by_serial(
    connection: sa.Connection, issuer_id: int, serial: bytes
) -> tuple[str, str, bytes | None] | None:
    """Return tenant, state and SHA-256 of what an issuer used a serial number for."""
    driver: Any = connection.connection.driver_connection
    found: tuple[str, str, bytes | None] | None = driver.execute(
        _BY_SERIALS[connection.dialect.name], (issuer_id, serial)
    ).fetchone()
    return found


def is_key_compromised(connection: sa.Connection, spki_sha256: bytes) -> bool:
    """Tell whether a certificate for this key was ever revoked because the key was lost."""
    driver: Any = connection.connection.driver_connection
    sql = _COMPROMISED_KEYS[connection.dialect.name]
    return driver.execute(sql, (spki_sha256,)).fetchone() is not None


def principals(
    connection: sa.Connection,
    tenant: str,
    people: Sequence[str],
    mails: Sequence[str],
    devices: Sequence[str],
    mac: str,
) -> Principals:
    """Return the people and devices that have one of these names, addresses or this MAC.

    Of each list no more than NAMES are looked for.
    """
    driver: Any = connection.connection.driver_connection
    values = (
        tenant,
        *_padded(people),
        tenant,
        *_padded(mails),
        tenant,
        *_padded(devices),
        tenant,
        mac or "-",
    )
    found_people: list[PersonStanding] = []
    found_devices: list[DeviceStanding] = []
    for kind, name, two, three, four, five, six, seven, eight in driver.execute(
        _PRINCIPALS_FORMS[connection.dialect.name], values
    ).fetchall():
        if kind == 0:
            found_people.append(
                PersonStanding(name, two, tuple(json.loads(three)), _instant(four), _instant(five))
            )
        else:
            found_devices.append(
                DeviceStanding(
                    name,
                    two or "",
                    three,
                    _instant(four),
                    six is not None,
                    _instant(seven),
                    _instant(eight),
                )
            )
    return Principals(tuple(found_people), tuple(found_devices))


def _padded(names: Sequence[str]) -> tuple[str, ...]:
    # No name is empty, so an empty one finds nobody.
    return (*names[:NAMES], *[""] * (NAMES - len(names)))


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
