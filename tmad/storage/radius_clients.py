"""Rows of RADIUS clients: their sealed secrets, and what they were seen to do.

A change of either that matters to a decision is announced as topic "radius-secrets", key
TENANT/CLIENT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from tmad.storage import changes
from tmad.storage.objects import ObjectRow
from tmad.storage.tables import objects
from tmad.storage.tables import radius_client_states as states
from tmad.storage.tables import radius_secrets as secrets

TOPIC: Final = "radius-secrets"
KIND: Final = "radius-client"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRow:
    """One shared secret; the one in use has no ``expires_at``."""

    id: int
    tenant: str
    client: str
    sealed: bytes
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRow:
    """What one client was seen to do; ``signed_since`` is when "auto" has learned."""

    tenant: str
    client: str
    seen_at: datetime | None
    unsigned_at: datetime | None
    signed_since: datetime | None


def every(connection: sa.Connection) -> list[ObjectRow]:
    """Return the documents of all clients of all tenants."""
    query = sa.select(objects).where(objects.c.kind == KIND)
    return [ObjectRow(*row) for row in connection.execute(query)]


def containing(connection: sa.Connection, text: str) -> Iterator[ObjectRow]:
    """Yield the clients of all tenants in whose JSON ``text`` stands as a string."""
    query = sa.select(objects).where(
        objects.c.kind == KIND, objects.c.document.contains(f'"{text}"', autoescape=True)
    )
    for row in connection.execute(query):
        yield ObjectRow(*row)


def every_secret(connection: sa.Connection, now: datetime) -> list[SecretRow]:
    """Return all secrets that are good now, each client's newest first."""
    query = (
        sa.select(secrets)
        .where(sa.or_(secrets.c.expires_at.is_(None), secrets.c.expires_at > now))
        .order_by(secrets.c.id.desc())
    )
    return [SecretRow(**row) for row in connection.execute(query).mappings()]


def every_state(connection: sa.Connection) -> list[StateRow]:
    """Return what is known of all clients."""
    return [StateRow(**row) for row in connection.execute(sa.select(states)).mappings()]


def find_secrets(connection: sa.Connection, tenant: str, client: str) -> tuple[SecretRow, ...]:
    """Return the secrets of one client, newest first, expired ones included."""
    query = sa.select(secrets).where(secrets.c.tenant == tenant, secrets.c.client == client)
    rows = connection.execute(query.order_by(secrets.c.id.desc())).mappings()
    return tuple([SecretRow(**row) for row in rows])


def state_of(connection: sa.Connection, tenant: str, client: str) -> StateRow | None:
    """Return what is known of one client."""
    query = sa.select(states).where(states.c.tenant == tenant, states.c.client == client)
    row = connection.execute(query).mappings().first()
    return None if row is None else StateRow(**row)


def replace_secret(
    connection: sa.Connection,
    tenant: str,
    client: str,
    sealed: bytes,
    *,
    now: datetime,
    old_until: datetime | None,
) -> None:
    """Put a new secret into use; the old one works until ``old_until``, or no longer."""
    is_own = sa.and_(secrets.c.tenant == tenant, secrets.c.client == client)
    if old_until is None:
        connection.execute(sa.delete(secrets).where(is_own))
    else:
        # Of those before the last one none is needed: two overlap, not three.
        connection.execute(sa.delete(secrets).where(is_own, secrets.c.expires_at.is_not(None)))
        connection.execute(sa.update(secrets).where(is_own).values(expires_at=old_until))
    connection.execute(
        sa.insert(secrets).values(
            tenant=tenant, client=client, sealed=sealed, created_at=now, expires_at=None
        )
    )
    changes.record(connection, TOPIC, f"{tenant}/{client}")


def forget(connection: sa.Connection, tenant: str, client: str) -> None:
    """Delete all that is kept beside a client's document."""
    for table in (secrets, states):
        connection.execute(
            sa.delete(table).where(table.c.tenant == tenant, table.c.client == client)
        )
    changes.record(connection, TOPIC, f"{tenant}/{client}")


def delete_expired(connection: sa.Connection, now: datetime) -> int:
    """Delete the secrets whose overlap is over."""
    return connection.execute(sa.delete(secrets).where(secrets.c.expires_at <= now)).rowcount


def learn(connection: sa.Connection, tenant: str, client: str, now: datetime) -> bool:
    """Note that a client signs its requests; tell whether that is new."""
    current = state_of(connection, tenant, client)
    if current is not None and current.signed_since is not None:
        return False
    _store(connection, tenant, client, {"signed_since": now}, current)
    changes.record(connection, TOPIC, f"{tenant}/{client}")
    return True


def unlearn(connection: sa.Connection, tenant: str, client: str) -> bool:
    """Forget that a client signs its requests; tell whether it was known."""
    current = state_of(connection, tenant, client)
    if current is None or current.signed_since is None:
        return False
    _store(connection, tenant, client, {"signed_since": None}, current)
    changes.record(connection, TOPIC, f"{tenant}/{client}")
    return True


def note(
    connection: sa.Connection,
    seen: Iterable[tuple[str, str, datetime | None, datetime | None]],
) -> None:
    """Store when clients were seen, and seen unsigned; an older time changes nothing."""
    for tenant, client, seen_at, unsigned_at in seen:
        current = state_of(connection, tenant, client)
        values = {
            name: at
            for name, at in (("seen_at", seen_at), ("unsigned_at", unsigned_at))
            if at is not None and (current is None or (getattr(current, name) or at) <= at)
        }
        if values:
            _store(connection, tenant, client, values, current)


def _store(
    connection: sa.Connection,
    tenant: str,
    client: str,
    values: Mapping[str, datetime | None],
    current: StateRow | None,
) -> None:
    if current is None:
        # Of two processes that see a client for the first time, one inserts.
        backend = connection.dialect.name
        assert backend in ("sqlite", "postgresql")
        if backend == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]  # twins
        statement = insert(states).values(tenant=tenant, client=client, **values)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[states.c.tenant, states.c.client], set_=dict(values)
            )
        )
        return
    connection.execute(
        sa.update(states)
        .where(states.c.tenant == tenant, states.c.client == client)
        .values(**values)
    )
