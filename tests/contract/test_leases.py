"""Leases when a clock jumps; what pauses and takeovers mean is in test_database.py."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from tests.contract.conftest import Loop
from tests.support import Clock
from tmad.storage import leases
from tmad.storage.database import Database


def test_g_fault_6_a_clock_that_was_set_back_blocks_no_lease(
    loop: Loop, open_database: Callable[..., Database], clock: Clock
) -> None:
    database = open_database()

    def take(connection: sa.Connection, holder: str) -> leases.Lease | None:
        return leases.acquire(connection, "timers", holder, 16, clock())

    killed = loop.run(database.write(take, "killed"))
    assert killed is not None
    # Two nodes whose clocks differ a little still respect each other.
    clock.advance(seconds=-10)
    assert loop.run(database.write(take, "other")) is None
    # Three days ahead when it was taken, right again now: nobody waits for three days.
    clock.advance(days=-3)
    current = loop.run(database.write(take, "other"))
    assert current is not None
    assert current.token == killed.token + 1
    assert loop.run(database.write(leases.renew, killed, 16, clock())) is None
    # The same for a lease that was released in the future.
    clock.advance(days=400)
    later = loop.run(database.write(take, "later"))
    assert later is not None
    loop.run(database.write(leases.release, later, clock()))
    clock.advance(days=-400)
    assert loop.run(database.write(take, "other")) is not None
