"""Leases: what one process of all may do, with a fencing token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.storage.tables import Instant, leases

# The token rises with every acquisition, also by the same holder: a holder that was paused
# and one that was restarted under its name are told apart. An end further away than any lease
# of this name lasts was written by a clock that has been set back since (G-FAULT-6).
_ACQUIRE = sa.text(
    "INSERT INTO leases (name, holder, token, expires_at)"
    " VALUES (:name, :holder, 1, :expires_at)"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = leases.token + 1,"
    " expires_at = excluded.expires_at"
    " WHERE leases.expires_at <= :now OR leases.holder = excluded.holder"
    " OR leases.expires_at > :longest"
    " RETURNING token"
).bindparams(
    sa.bindparam("expires_at", type_=Instant()),
    sa.bindparam("now", type_=Instant()),
    sa.bindparam("longest", type_=Instant()),
)
_SET_END = (
    leases.update()
    .where(
        leases.c.name == sa.bindparam("key"),
        leases.c.token == sa.bindparam("held"),
    )
    .values(expires_at=sa.bindparam("end"))
)
# FOR UPDATE (PostgreSQL only): whoever wants to take the lease over waits for our commit.
_HELD = (
    sa.select(leases.c.expires_at)
    .where(leases.c.name == sa.bindparam("key"), leases.c.token == sa.bindparam("held"))
    .with_for_update()
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do ``name`` until ``expires_at``; ``token`` rises with each holder."""

    name: str
    holder: str
    token: int
    expires_at: datetime


def acquire(
    connection: sa.Connection, name: str, holder: str, seconds: float, now: datetime
) -> Lease | None:
    """Take a lease that is free, expired or this holder's own; None if another has it.

    Every process asks for a lease of one name for the same number of ``seconds``.
    """
    end = now + timedelta(seconds=seconds)
    token = connection.execute(
        _ACQUIRE,
        {
            "name": name,
            "holder": holder,
            "expires_at": end,
            "now": now,
            # Two clocks may differ by as much as a lease lasts.
            "longest": end + timedelta(seconds=seconds),
        },
    ).scalar()
    return None if token is None else Lease(name, holder, token, end)


def renew(connection: sa.Connection, lease: Lease, seconds: float, now: datetime) -> Lease | None:
    """Hold on to a lease; None if somebody else has had it since."""
    end = now + timedelta(seconds=seconds)
    if connection.execute(_SET_END, _key(lease) | {"end": end}).rowcount != 1:
        return None
    return Lease(lease.name, lease.holder, lease.token, end)


def release(connection: sa.Connection, lease: Lease, now: datetime) -> None:
    """Let others have it at once; nothing happens if they have it already."""
    connection.execute(_SET_END, _key(lease) | {"end": now})


def assert_held(connection: sa.Connection, lease: Lease, now: datetime) -> None:
    """Raise Fault(CONFLICT) unless this transaction is still covered by the lease.

    Call it in the write transaction that the lease protects: a holder that was paused past
    the end of its lease can then do no harm.
    """
    end = connection.execute(_HELD, _key(lease)).scalar()
    if end is None or end <= now:
        raise Fault(
            FaultCode.CONFLICT,
            f"the lease {lease.name} is lost",
            rule="lease.lost",
            values={"token": str(lease.token), "expired": str(end or "taken over")},
        )


def _key(lease: Lease) -> dict[str, object]:
    return {"key": lease.name, "held": lease.token}
