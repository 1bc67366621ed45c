"""Statements of many rows on both databases: what one statement does, many single ones would do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from tests.contract.conftest import Loop
from tmad.storage import enroll_secrets
from tmad.storage.database import Database
from tmad.storage.enroll_secrets import EnrollSecret
from tmad.storage.statement import Statement
from tmad.storage.tables import changes
from tmad.storage.tables import enroll_secrets as secrets

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INSERT = Statement(changes.insert(), columns=("topic", "key", "at"), key=changes.c.id)
RENAME = Statement(
    changes.update()
    .where(changes.c.id == sa.bindparam("row"), changes.c.topic == sa.bindparam("old"))
    .values(key=sa.bindparam("new"))
)


def rows(count: int) -> list[dict[str, object]]:
    return [{"topic": "t", "key": f"k{number}", "at": NOW} for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 13, 64, 150])
def test_keys_come_in_the_order_of_their_rows(
    open_database: Callable[..., Database], loop: Loop, count: int
) -> None:
    database = open_database()

    def insert(connection: sa.Connection) -> tuple[list[int], dict[int, str]]:
        keys = INSERT.numbered(connection, rows(count))
        found = connection.execute(sa.select(changes.c.id, changes.c.key)).all()
        return keys, {int(each.id): each.key for each in found}

    keys, found = loop.run(database.write(insert))
    assert [found[key] for key in keys] == [f"k{number}" for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 13, 64, 150])
def test_each_row_is_changed_by_its_own_values(
    open_database: Callable[..., Database], loop: Loop, count: int
) -> None:
    database = open_database()

    def change(connection: sa.Connection) -> tuple[int, list[str]]:
        keys = INSERT.numbered(connection, rows(count))
        wanted = [
            # Every third is not what its change believes it to be.
            {"row": key, "old": "t" if number % 3 else "other", "new": f"n{number}"}
            for number, key in enumerate(keys)
        ]
        changed = RENAME.run_many(connection, wanted)
        found = connection.execute(sa.select(changes.c.key).order_by(changes.c.id))
        return changed, list(found.scalars())

    changed, found = loop.run(database.write(change))
    assert found == [f"n{n}" if n % 3 else f"k{n}" for n in range(count)]
    assert changed == sum(1 for n in range(count) if n % 3)


def secret(name: str, uses_left: int | None, revoked_at: datetime | None = None) -> EnrollSecret:
    return EnrollSecret(
        id=name,
        tenant="default",
        endpoint="scep/routers",
        bound_to="{}",
        uses_left=uses_left,
        claimed_by=None,
        used_at=None,
        revoked_at=revoked_at,
        expires_at=None,
        created_by="operator",
        created_at=NOW,
    )


@pytest.mark.parametrize(
    ("wanted", "is_given"),
    [
        ([("one", "r1"), ("two", "r2")], True),
        ([("one", "r1"), ("one", "r2")], False),  # of two at once, none: each asks again alone
        ([("static", "r1"), ("static", "r2"), ("one", "r3")], True),
        ([("used", "r1")], False),
        ([("static", "r1"), ("used", "r2")], False),
        ([("withdrawn", "r1")], False),
        ([("absent", "r1"), ("static", "r2")], False),
    ],
    ids=["two", "twice", "static", "used", "static-and-used", "revoked-static", "absent"],
)
def test_claims_of_one_moment(
    open_database: Callable[..., Database],
    loop: Loop,
    wanted: list[tuple[str, str]],
    is_given: bool,
) -> None:
    database = open_database()

    def claim(connection: sa.Connection) -> tuple[bool, bool, list[int | None]]:
        for number, row in enumerate(
            [
                secret("one", 1),
                secret("two", 1),
                secret("used", 0),
                secret("static", None),
                secret("withdrawn", None, NOW),
            ]
        ):
            enroll_secrets.insert(connection, row, digest=bytes([number]))
        claimed = enroll_secrets.claim(connection, wanted, NOW)
        consumed = claimed and enroll_secrets.consume(connection, wanted, NOW)
        left = connection.execute(
            sa.select(secrets.c.uses_left)
            .where(secrets.c.id.in_(["one", "static"]))
            .order_by(secrets.c.id)
        )
        return claimed, consumed, list(left.scalars())

    claimed, consumed, left = loop.run(database.write(claim))
    assert (claimed, consumed) == (is_given, is_given)
    if is_given:
        assert left == [0 if ("one", "r1") in wanted or ("one", "r3") in wanted else 1, None]
