"""The journal: what is appended, refused, explained and delivered."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import Event
from tmad.journal import Journal, make_explain_id
from tmad.storage.database import Database
from tmad.storage.journal import Record


class Keys:
    """The keyring, made small: keys by id, used where they are."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys

    async def use(self, key_id: str, operation: Any) -> Any:
        return operation(self.keys[key_id])

    @property
    def public(self) -> dict[str, Any]:
        return {key_id: key.public_key() for key_id, key in self.keys.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(clock: Clock) -> Database:
    return Database.in_memory(clock=clock)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "node1", clock)


def event(number: int = 0, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "kind": "certificate.issued",
        "tenant": "default",
        "actor": "scep/routers",
        "object": str(number),
        "data": {"serial": f"{number:x}"},
    }
    return Event(**(values | fields))


def rows(database: Database) -> int:
    return drive(
        database.read(lambda c: c.execute(sa.text("SELECT count(*) FROM journal")).scalar_one())
    )


def test_events_are_rows_of_one_chain(journal: Journal, clock: Clock) -> None:
    drive(journal.write(event(1), event(2)))
    clock.advance(seconds=5)
    drive(journal.write(event(3, data={"b": 1, "a": ["ü", None]})))
    first, second, third = drive(journal.tail("default"))
    assert [first.seq, second.seq, third.seq] == [1, 2, 3]
    assert (second.previous, third.previous) == (first.hash, second.hash)
    assert third.data == '{"a":["\\u00fc",null],"b":1}'
    assert third.at == clock()
    assert drive(journal.verify({})).records == 3
    assert drive(journal.verify({})).is_intact


def test_the_change_and_its_record_are_one_transaction(
    journal: Journal, database: Database
) -> None:
    def change(connection: sa.Connection, fail: bool) -> None:
        journal.append(connection, event())
        if fail:
            raise Fault(FaultCode.REJECTED, "no")

    with pytest.raises(Fault):
        drive(database.write(change, True))
    assert rows(database) == 0
    drive(database.write(change, False, dry_run=True))
    assert rows(database) == 0
    drive(database.write(change, False))
    assert rows(database) == 1


def test_the_chain_survives_a_savepoint_that_is_rolled_back(
    journal: Journal, database: Database
) -> None:
    def change(connection: sa.Connection) -> None:
        journal.append(connection, event(1))
        savepoint = connection.begin_nested()
        journal.append(connection, event(2))
        savepoint.rollback()
        journal.append(connection, event(3))

    drive(database.write(change))
    assert [record.object for record in drive(journal.tail(None))] == ["1", "3"]
    assert drive(journal.verify({})).is_intact


def test_nothing_happens_when_the_journal_cannot_be_written(
    journal: Journal, database: Database
) -> None:
    drive(
        database.write(
            lambda connection: connection.execute(
                sa.text(
                    "CREATE TRIGGER full BEFORE INSERT ON journal"
                    " BEGIN SELECT RAISE(ABORT, 'no space for evidence'); END"
                )
            )
        )
    )

    def issue(connection: sa.Connection, swallow: bool) -> str:
        connection.execute(
            sa.text("INSERT INTO leases VALUES (:name, 'h', 1, 0)"), {"name": "certificate"}
        )
        try:
            journal.append(connection, event())
        except Fault:
            if not swallow:
                raise
        return "issued"

    # A caller that swallows the fault cannot issue either.
    for swallow in (False, True):
        with pytest.raises(Fault) as caught:
            drive(database.write(issue, swallow))
        assert caught.value.code is FaultCode.UNAVAILABLE
        assert caught.value.rule == "journal.unwritable"
        assert "no space for evidence" in caught.value.private
        assert drive(database.read(lambda c: c.scalar(sa.text("SELECT 1 FROM leases")))) is None
    drive(database.write(lambda c: c.execute(sa.text("DROP TRIGGER full"))))
    assert drive(database.write(issue, False)) == "issued"


def test_a_refusal_is_journaled_once_and_explained_however_it_is_typed(
    journal: Journal, database: Database
) -> None:
    fault = Fault(
        FaultCode.REJECTED,
        "the key is too short",
        private="p" * 5_000,
        rule="profile.key.rsa-size",
        values={"bits": "1024", "minimum": "2048"},
    )
    arguments: dict[str, Any] = {"tenant": "default", "actor": "scep/routers", "object": "r1"}
    explain_id = drive(journal.refuse(fault, data={"peer": "10.0.0.1"}, **arguments))
    assert fault.explain_id == explain_id
    assert drive(journal.refuse(fault, data={}, **arguments)) == explain_id
    assert rows(database) == 1
    misread = explain_id.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    for typed in (explain_id, explain_id.lower(), explain_id.replace("-", ""), misread):
        (record,) = drive(journal.explain(typed))
        data = json.loads(record.data)
        assert record.kind == "request.refused"
        assert data["rule"] == "profile.key.rsa-size"
        assert data["values"] == {"bits": "1024", "minimum": "2048"}
        assert data["peer"] == "10.0.0.1"
        assert len(data["private"]) < 1_100


@pytest.mark.parametrize("typed", ["", "0000-0000", "x", "💥" * 9, "\0"])
def test_an_unknown_explain_id_is_not_found(journal: Journal, typed: str) -> None:
    with pytest.raises(Fault) as caught:
        drive(journal.explain(typed))
    assert caught.value.code is FaultCode.NOT_FOUND


def test_explain_ids_differ_and_avoid_letters_that_are_misread() -> None:
    made = {make_explain_id() for _ in range(1_000)}
    assert len(made) == 1_000
    assert not set("".join(made)) & set("ILOU")
    assert all(len(one) == 9 and one[4] == "-" for one in made)


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff\0"])
def test_no_text_of_a_stranger_prevents_its_record(journal: Journal, text: str) -> None:
    drive(journal.write(event(object=text, actor=text, data={"text": text})))
    (record,) = drive(journal.tail(None))
    assert json.loads(record.data)["text"] == text
    assert drive(journal.verify({})).is_intact


def test_a_tail_shows_one_tenant_and_goes_on_where_it_stopped(
    journal: Journal, clock: Clock
) -> None:
    for number in range(10):
        clock.advance(seconds=1)
        drive(journal.write(event(number, tenant="one" if number % 2 else "two")))
    newest = drive(journal.tail("one", limit=2))
    assert [record.object for record in newest] == ["7", "9"]
    assert [record.object for record in drive(journal.tail(None, limit=3))] == ["7", "8", "9"]
    last = drive(journal.tail(None, limit=10))[4]
    after = (last.at, last.writer, last.seq)
    assert [r.object for r in drive(journal.tail("one", after, 2))] == ["5", "7"]


def test_each_subscriber_gets_everything_in_order(journal: Journal) -> None:
    for number in range(10):
        drive(journal.write(event(number)))
    got: list[str] = []
    others: list[str] = []

    def take(connection: sa.Connection, records: list[Record]) -> None:
        if len(got) == 3 and "down" not in got:
            got.append("down")
            raise ConnectionError("the collector is down")
        got.extend(record.object for record in records)

    assert drive(journal.transfer("syslog", take, 3)) == 3
    with pytest.raises(ConnectionError):
        drive(journal.transfer("syslog", take))
    assert drive(journal.transfer("syslog", take)) == 7
    assert got == ["0", "1", "2", "down", "3", "4", "5", "6", "7", "8", "9"]
    drive(journal.transfer("mail", lambda _, records: others.extend(r.object for r in records)))
    assert others == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        mldsa.MLDSA65PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_checkpoints_are_signed_by_any_kind_of_key(journal: Journal, key: Any) -> None:
    keys = Keys(audit=key)
    assert drive(journal.seal(keys, "audit")) is None  # nothing happened yet
    for number in range(3):
        drive(journal.write(event(number)))
        assert drive(journal.seal(keys, "audit")) is not None
        assert drive(journal.seal(keys, "audit")) is None
    drive(journal.write(event(3)))
    report = drive(journal.verify(keys.public))
    assert report.is_intact
    assert (report.records, report.sealed, report.checkpoints) == (4, 3, 3)
    other = Keys(audit=ed25519.Ed25519PrivateKey.generate())
    (finding,) = drive(journal.verify(other.public)).findings
    assert (finding.problem, finding.seq) == ("checkpoint", 1)
    (finding,) = drive(journal.verify({})).findings
    assert "no public key 'audit'" in finding.detail


def test_a_clock_that_went_back_is_counted_and_not_hidden(journal: Journal, clock: Clock) -> None:
    drive(journal.write(event(1)))
    clock.advance(hours=-2)
    drive(journal.write(event(2)))
    report = drive(journal.verify({}))
    assert report.is_intact
    assert report.clock_steps == 1


def test_a_transfer_moves_the_cursor_with_what_it_wrote(
    journal: Journal, database: Database
) -> None:
    drive(journal.write(*(event(number) for number in range(1, 6))))
    taken: list[str] = []

    def take(connection: sa.Connection, records: list[Record]) -> None:
        connection.execute(sa.text("UPDATE journal_writers SET node = 'taken'"))
        taken.extend(record.object for record in records)

    assert drive(journal.transfer("mail", take, 3)) == 3
    assert drive(journal.transfer("mail", take, 3)) == 2
    assert drive(journal.transfer("mail", take, 3)) == 0
    assert taken == ["1", "2", "3", "4", "5"]


def test_a_transfer_that_fails_takes_nothing(journal: Journal, database: Database) -> None:
    drive(journal.write(event(1)))

    def refuse(connection: sa.Connection, records: list[Record]) -> None:
        connection.execute(sa.text("UPDATE journal_writers SET node = 'taken'"))
        raise Fault(FaultCode.UNAVAILABLE, "not now")

    with pytest.raises(Fault):
        drive(journal.transfer("mail", refuse))
    nodes = drive(
        database.read(lambda c: c.execute(sa.text("SELECT node FROM journal_writers")).scalar_one())
    )
    assert nodes == "node1"
    taken: list[Record] = []
    assert drive(journal.transfer("mail", lambda connection, records: taken.extend(records))) == 1
    assert [record.object for record in taken] == ["1"]


def test_what_is_skipped_is_not_delivered_later(journal: Journal) -> None:
    drive(journal.write(event(1), event(2)))
    drive(journal.skip("mail"))
    drive(journal.write(event(3)))
    taken: list[Record] = []
    drive(journal.transfer("mail", lambda connection, records: taken.extend(records)))
    assert [record.object for record in taken] == ["3"]


def test_committed_records_are_counted_by_kind(journal: Journal, database: Database) -> None:
    drive(journal.write(event(1), event(2), event(3, kind="certificate.revoked")))

    def rolled_back(connection: sa.Connection) -> None:
        journal.append(connection, event(4))
        raise Fault(FaultCode.REJECTED, "no")

    with pytest.raises(Fault):
        drive(database.write(rolled_back))
    drive(database.write(journal.append, event(5), dry_run=True))
    assert journal.counts == {"certificate.issued": 2, "certificate.revoked": 1}
