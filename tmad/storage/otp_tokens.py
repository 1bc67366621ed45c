"""One-time password tokens: rows whose counter only ever rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.statement import Statement
from tmad.storage.tables import otp_tokens as t


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One token. ``counter`` is the lowest counter (HOTP) or time step that is still accepted.

    ``person`` None means in stock; ``period`` is in seconds, 0 for HOTP; ``drift`` in steps;
    ``state`` is "new" (never shown to work yet), "active" or "disabled". ``seed`` is sealed.
    """

    id: str
    tenant: str
    serial: str
    person: str | None = None
    kind: str
    algorithm: str
    digits: int
    period: int
    seed: bytes = field(repr=False)
    counter: int = 0
    drift: int = 0
    pin_hash: str | None = field(default=None, repr=False)
    state: str = "new"
    description: str = ""
    created_at: datetime
    activated_at: datetime | None = None
    used_at: datetime | None = None


_COLUMNS = tuple(t.c)
_NAMES = tuple(column.name for column in _COLUMNS)
_SELECT = sa.select(*_COLUMNS)
_OF_PERSON = Statement(
    _SELECT.where(t.c.tenant == sa.bindparam("key_tenant"), t.c.person == sa.bindparam("holder"))
    .order_by(t.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_BY_SERIAL = _SELECT.where(
    t.c.tenant == sa.bindparam("key_tenant"), t.c.serial == sa.bindparam("key_serial")
)
# The one place where a code is used up: of many at once, the database lets one win.
_ADVANCE = Statement(
    sa.update(t)
    .where(
        t.c.id == sa.bindparam("key"),
        t.c.person == sa.bindparam("holder"),
        t.c.state != "disabled",
        t.c.counter <= sa.bindparam("accepted", type_=sa.BigInteger),
    )
    .values(
        counter=sa.bindparam("next", type_=sa.BigInteger),
        drift=sa.bindparam("learned", type_=sa.SmallInteger),
        used_at=sa.bindparam("now", type_=t.c.used_at.type),
        # The first accepted code shows that a new token works.
        state="active",
        activated_at=sa.func.coalesce(
            t.c.activated_at, sa.bindparam("now", type_=t.c.used_at.type)
        ),
    )
)
_REHASH = Statement(
    sa.update(t)
    .where(t.c.id == sa.bindparam("key"), t.c.pin_hash == sa.bindparam("old"))
    .values(pin_hash=sa.bindparam("new"))
)


def find_by_person(
    connection: sa.Connection, tenant: str, person: str, most: int
) -> tuple[TokenRow, ...]:
    """Return a person's tokens in whatever state, oldest first."""
    rows = _OF_PERSON.rows(connection, {"key_tenant": tenant, "holder": person, "most": most})
    return tuple([_token(row) for row in rows])


def by_serial(connection: sa.Connection, tenant: str, serial: str) -> TokenRow | None:
    """Return one token."""
    row = connection.execute(_BY_SERIAL, {"key_tenant": tenant, "key_serial": serial}).first()
    return None if row is None else _token(tuple(row))


def locked(connection: sa.Connection, tenant: str, serial: str) -> TokenRow | None:
    """Return one token whose row nobody else can change before this transaction ends."""
    row = connection.execute(
        _BY_SERIAL.with_for_update(), {"key_tenant": tenant, "key_serial": serial}
    ).first()
    return None if row is None else _token(tuple(row))


def find(
    connection: sa.Connection,
    tenant: str,
    *,
    person: str | None = None,
    state: str | None = None,
    in_stock: bool = False,
    after: str = "",
    limit: int = 100,
) -> tuple[TokenRow, ...]:
    """Return a page of a tenant's tokens by serial number, beginning after ``after``."""
    query = _SELECT.where(t.c.tenant == tenant, t.c.serial > after)
    if person is not None:
        query = query.where(t.c.person == person)
    if in_stock:
        query = query.where(t.c.person.is_(None))
    if state is not None:
        query = query.where(t.c.state == state)
    rows = connection.execute(query.order_by(t.c.serial).limit(limit))
    return tuple([_token(tuple(row)) for row in rows])


def insert(connection: sa.Connection, token: TokenRow) -> None:
    """Add a token; Fault(CONFLICT) when the serial number is taken."""
    try:
        connection.execute(sa.insert(t), _values(token))
    except sa.exc.IntegrityError:
        raise Fault(
            FaultCode.CONFLICT,
            f"there is a token {token.serial} already",
            rule="otp.serial",
            values={"serial": token.serial},
        ) from None


def update(connection: sa.Connection, token: TokenRow) -> None:
    """Write everything about a token that was read by ``locked``."""
    connection.execute(sa.update(t).where(t.c.id == token.id).values(**_values(token)))


def delete(connection: sa.Connection, token_id: str) -> None:
    """Remove a token."""
    connection.execute(sa.delete(t).where(t.c.id == token_id))


def release(connection: sa.Connection, tenant: str, person: str) -> int:
    """Put all tokens of somebody who leaves back into stock, disabled; return how many."""
    result = connection.execute(
        sa.update(t)
        .where(t.c.tenant == tenant, t.c.person == person)
        .values(person=None, state="disabled", pin_hash=None)
    )
    return result.rowcount


class Advance(NamedTuple):
    """A counter or time step ``accepted`` of a token that is to be used up."""

    token_id: str
    person: str | None
    accepted: int
    drift: int
    now: datetime


def advance_all(connection: sa.Connection, advances: Sequence[Advance]) -> int:
    """Use up one code of each of several tokens; return how many were still there to use.

    One conditional UPDATE, in the transaction whose commit is the success (RFC 6238, 5.2).
    """
    return _ADVANCE.run_many(
        connection,
        [
            {
                "key": each.token_id,
                "holder": each.person,
                "accepted": each.accepted,
                "next": each.accepted + 1,
                "learned": each.drift,
                "now": each.now,
            }
            for each in advances
        ],
    )


def rehash_pin(connection: sa.Connection, token_id: str, old: str, new: str) -> bool:
    """Replace the hash of a PIN that is still the same."""
    return _REHASH.run(connection, {"key": token_id, "old": old, "new": new}) == 1


def _values(token: TokenRow) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _NAMES}


def _token(row: tuple[Any, ...]) -> TokenRow:
    return TokenRow(**dict(zip(_NAMES, row, strict=True)))
