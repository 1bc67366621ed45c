"""Every way to change the journal behind tmad's back is found, and the row is named."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Clock, drive
from tests.unit.test_journal import Keys, event
from tmad.journal import Journal
from tmad.storage.database import Database
from tmad.wire.chain import Head, Report, canonical, checkpoint_hash, genesis, link
from tmad.wire.evidence import end_line, verify_export

RECORDS = 200
SEALED = (50, 120, 180)
WRITER = "node1"


@dataclass
class Evidence:
    """A journal of RECORDS rows with checkpoints after some of them."""

    database: Database
    journal: Journal
    keys: Keys

    def verify(self) -> Report:
        return drive(self.journal.verify(self.keys.public))

    def sql(self, statement: str, **values: Any) -> list[Any]:
        def run(connection: sa.Connection) -> list[Any]:
            result = connection.execute(sa.text(statement), values)
            return list(result.all()) if result.returns_rows else []

        return drive(self.database.write(run))

    def export(self) -> list[bytes]:
        async def collect() -> list[bytes]:
            return [line async for line in self.journal.export(self.keys.public)]

        return drive(collect())


@pytest.fixture(scope="module")
def whole() -> Evidence:
    clock = Clock()
    database = Database.in_memory(clock=clock)
    journal = Journal(database, WRITER, clock)
    keys = Keys(audit=ed25519.Ed25519PrivateKey.generate())
    for number in range(1, RECORDS + 1):
        clock.advance(seconds=1)
        drive(journal.write(event(number, trace=f"T{number}")))
        if number in SEALED:
            drive(journal.seal(keys, "audit"))
    return Evidence(database, journal, keys)


@pytest.fixture
def evidence(whole: Evidence) -> Iterator[Evidence]:
    """The journal, put back as it was when the test is over."""
    tables = ("journal", "journal_writers", "journal_checkpoints")
    for table in tables:
        whole.sql(f"CREATE TABLE saved_{table} AS SELECT * FROM {table}")
    yield whole
    for table in tables:
        whole.sql(f"DELETE FROM {table}")
        whole.sql(f"INSERT INTO {table} SELECT * FROM saved_{table}")
        whole.sql(f"DROP TABLE saved_{table}")
    assert whole.verify().is_intact


def flipped(value: Any, chance: random.Random) -> Any:
    """The value with one bit, digit or letter changed."""
    if isinstance(value, int):
        return value + chance.choice((-1, 1)) * 10 ** chance.randrange(6)
    if isinstance(value, bytes):
        place = chance.randrange(len(value))
        changed = value[place] ^ 1 << chance.randrange(8)
        return value[:place] + bytes([changed]) + value[place + 1 :]
    if not value:
        return "x"
    place = chance.randrange(len(value))
    return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]


def test_the_untouched_journal_is_intact(whole: Evidence) -> None:
    report = whole.verify()
    assert report.is_intact
    assert (report.records, report.sealed, report.checkpoints) == (RECORDS, SEALED[-1], 3)


COLUMNS = [
    "writer",
    "at",
    "tenant",
    "kind",
    "actor",
    "object",
    "trace",
    "data",
    "previous",
    "hash",
    "seq",
]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_change_in_any_column_of_any_row_is_found(evidence: Evidence, column: str) -> None:
    chance = random.Random(column)
    for seq in range(1, RECORDS + 1):
        row_id, value = evidence.sql(
            f"SELECT rowid, {column} FROM journal WHERE seq = :seq", seq=seq
        )[0]
        changed = flipped(value, chance)
        while column == "seq" and 1 <= changed <= RECORDS:
            changed = flipped(value, chance)
        update = f"UPDATE journal SET {column} = :value WHERE rowid = :row_id"
        evidence.sql(update, value=changed, row_id=row_id)
        findings = evidence.verify().findings
        assert findings, (column, seq)
        named = [finding.seq for finding in findings if finding.writer == WRITER]
        if column == "seq" and changed < 1:
            assert named == [changed]
        else:
            assert named == [seq]
        evidence.sql(update, value=value, row_id=row_id)


def test_a_removed_record_is_named(evidence: Evidence) -> None:
    for seq in range(1, RECORDS + 1):
        evidence.sql("DELETE FROM journal WHERE seq = :seq", seq=seq)
        (finding,) = evidence.verify().findings
        assert (finding.writer, finding.seq) == (WRITER, seq)
        assert finding.problem == ("removed" if seq < RECORDS else "truncated")
        evidence.sql("INSERT INTO journal SELECT * FROM saved_journal WHERE seq = :seq", seq=seq)


def test_neighbours_that_changed_places_are_named(evidence: Evidence) -> None:
    for seq in range(1, RECORDS):
        for old, new in ((seq, -1), (seq + 1, seq), (-1, seq + 1)):
            evidence.sql("UPDATE journal SET seq = :new WHERE seq = :old", new=new, old=old)
        (finding,) = evidence.verify().findings
        assert (finding.problem, finding.writer, finding.seq) == ("reordered", WRITER, seq)
        for old, new in ((seq, -1), (seq + 1, seq), (-1, seq + 1)):
            evidence.sql("UPDATE journal SET seq = :new WHERE seq = :old", new=new, old=old)


def test_a_tail_that_was_cut_off_is_named(evidence: Evidence) -> None:
    for seq in range(RECORDS, 0, -1):
        evidence.sql("DELETE FROM journal WHERE seq = :seq", seq=seq)
        (finding,) = evidence.verify().findings
        assert (finding.problem, finding.writer, finding.seq) == ("truncated", WRITER, seq)


def set_head(evidence: Evidence, seq: int) -> None:
    ((digest,),) = evidence.sql("SELECT hash FROM journal WHERE seq = :seq", seq=seq)
    evidence.sql("UPDATE journal_writers SET seq = :seq, hash = :hash", seq=seq, hash=digest)


def test_a_cut_with_a_matching_head_is_found_by_the_newest_checkpoint(
    evidence: Evidence,
) -> None:
    cut = SEALED[-1] - 5
    evidence.sql("DELETE FROM journal WHERE seq > :seq", seq=cut)
    set_head(evidence, cut)
    (finding,) = evidence.verify().findings
    assert (finding.problem, finding.seq) == ("truncated", cut + 1)


def test_a_head_that_was_set_back_is_found(evidence: Evidence) -> None:
    set_head(evidence, RECORDS - 1)
    (finding,) = evidence.verify().findings
    assert (finding.problem, finding.seq) == ("inserted", RECORDS)


@pytest.mark.parametrize("column", ["writer", "node", "started_at", "seq", "hash"])
def test_a_change_of_the_writer_s_row_is_found(evidence: Evidence, column: str) -> None:
    ((value,),) = evidence.sql(f"SELECT {column} FROM journal_writers")
    chance = random.Random(column)
    for _ in range(20):
        evidence.sql(f"UPDATE journal_writers SET {column} = :value", value=flipped(value, chance))
        assert not evidence.verify().is_intact


def test_a_writer_removed_with_all_its_records_is_found(evidence: Evidence) -> None:
    evidence.sql("DELETE FROM journal")
    evidence.sql("DELETE FROM journal_writers")
    (finding,) = evidence.verify().findings
    assert (finding.problem, finding.writer, finding.seq) == ("truncated", WRITER, 1)


@pytest.mark.parametrize("column", ["id", "at", "heads", "previous", "hash", "key_id", "signature"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_change_of_a_checkpoint_is_found(evidence: Evidence, column: str, number: int) -> None:
    chance = random.Random(f"{column}{number}")
    select = f"SELECT {column} FROM journal_checkpoints WHERE id = {number}"
    ((value,),) = evidence.sql(select)
    for _ in range(20):
        changed = flipped(value, chance)
        if column == "id" and 1 <= changed <= 3:
            continue
        evidence.sql(
            f"UPDATE journal_checkpoints SET {column} = :value WHERE id = {number}",
            value=changed,
        )
        findings = evidence.verify().findings
        assert findings[0].problem == "checkpoint"
        if column != "id":
            assert findings[0].seq == number
        evidence.sql("DELETE FROM journal_checkpoints")
        evidence.sql("INSERT INTO journal_checkpoints SELECT * FROM saved_journal_checkpoints")


@pytest.mark.parametrize("number", [1, 2])
def test_a_removed_checkpoint_is_found(evidence: Evidence, number: int) -> None:
    evidence.sql(f"DELETE FROM journal_checkpoints WHERE id = {number}")
    assert evidence.verify().findings[0].problem == "checkpoint"


def test_a_chain_rewritten_with_right_hashes_is_found_by_the_checkpoints(
    evidence: Evidence,
) -> None:
    """Whoever can write the whole database can do this; he cannot sign."""
    from_here = 60
    previous = evidence.sql("SELECT hash FROM journal WHERE seq = :seq", seq=from_here - 1)[0][0]
    for row in evidence.sql("SELECT * FROM journal WHERE seq >= :seq ORDER BY seq", seq=from_here):
        forged = Fields(**{name: row._mapping[name] for name in Fields.__annotations__})
        if row.seq == from_here:
            forged = replace(forged, actor="somebody else")
        digest = link(previous, canonical(WRITER, row.seq, row.at, forged))
        evidence.sql(
            "UPDATE journal SET actor = :actor, previous = :previous, hash = :hash"
            " WHERE seq = :seq",
            actor=forged.actor,
            previous=previous,
            hash=digest,
            seq=row.seq,
        )
        previous = digest
    set_head(evidence, RECORDS)
    (finding,) = evidence.verify().findings
    # The checkpoint after 50 still agrees, that after 120 does not.
    assert (finding.problem, finding.writer, finding.seq) == ("altered", WRITER, SEALED[0] + 1)
    report = verify_export(io.BytesIO(b"".join(evidence.export())), evidence.keys.public)
    assert report.findings[0] == finding


# -- the export, offline ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines(whole: Evidence) -> list[bytes]:
    return whole.export()


def checked(lines: list[bytes], whole: Evidence) -> Report:
    return verify_export(io.BytesIO(b"".join(lines)), whole.keys.public)


def test_the_untouched_export_is_intact_with_and_without_known_keys(
    whole: Evidence, lines: list[bytes]
) -> None:
    for keys in (whole.keys.public, None):
        report = verify_export(io.BytesIO(b"".join(lines)), keys)
        assert report.is_intact
        assert (report.records, report.sealed, report.checkpoints) == (RECORDS, SEALED[-1], 3)
    for line in lines:
        json.loads(line)


def record_lines(lines: list[bytes]) -> tuple[int, int]:
    numbers = [i for i, line in enumerate(lines) if line.startswith(b'{"type":"record"')]
    return numbers[0], numbers[-1] + 1


def test_a_flipped_byte_anywhere_in_an_export_is_found(whole: Evidence, lines: list[bytes]) -> None:
    start, end = record_lines(lines)
    few = [*lines[: start + 2], *lines[end - 1 :]]
    assert not checked(few, whole).is_intact  # it lacks the records between
    data = b"".join(lines)
    chance = random.Random(6)
    first_records = sum(map(len, lines[: start + 3]))
    places = {*range(0, first_records, 3), *chance.sample(range(len(data)), 300)}
    places |= set(range(len(data) - len(lines[-1]), len(data) - 1))
    for place in places:
        bad = bytearray(data)
        bad[place] ^= 1 << chance.randrange(8)
        assert not verify_export(io.BytesIO(bytes(bad)), whole.keys.public).is_intact, place


def without_end(change: Callable[[list[bytes]], object], lines: list[bytes]) -> list[bytes]:
    """The lines changed, and the end line that a forger would compute anew."""
    changed = lines[:-1]
    change(changed)
    return [*changed, end_line(hashlib.sha256(b"".join(changed)).digest())]


def test_a_removed_or_moved_line_is_named_even_with_a_new_end(
    whole: Evidence, lines: list[bytes]
) -> None:
    start, end = record_lines(lines)
    for index in range(start, end):
        seq = index - start + 1
        removed = without_end(lambda some, i=index: some.pop(i), lines)  # type: ignore[misc]
        (finding,) = checked(removed, whole).findings
        assert (finding.writer, finding.seq) == (WRITER, seq)
        assert finding.problem == ("removed" if seq < RECORDS else "truncated")
        if index + 1 < end:

            def swap(some: list[bytes], i: int = index) -> None:
                some[i], some[i + 1] = some[i + 1], some[i]

            (finding,) = checked(without_end(swap, lines), whole).findings
            assert (finding.problem, finding.seq) == ("reordered", seq)


def test_an_export_that_ends_early_is_found_at_every_length(
    whole: Evidence, lines: list[bytes]
) -> None:
    data = b"".join(lines)
    for length in range(0, len(data), 97):
        assert not verify_export(io.BytesIO(data[:length]), whole.keys.public).is_intact


@given(st.binary(max_size=400))
def test_any_file_is_verified_without_an_exception(data: bytes) -> None:
    assert not verify_export(io.BytesIO(data)).is_intact


# -- the formats ------------------------------------------------------------------------------

TEXT = st.text(max_size=30)


@dataclass(frozen=True)
class Fields:
    tenant: str
    kind: str
    actor: str
    object: str
    trace: str
    data: str


@given(TEXT, st.integers(0, 2**62), st.integers(0, 2**62), st.builds(Fields, *[TEXT] * 6))
def test_the_canonical_record_is_sorted_compact_json(
    writer: str, seq: int, at: int, record: Fields
) -> None:
    expected = vars(record) | {"writer": writer, "seq": seq, "at": at}
    assert canonical(writer, seq, at, record) == json.dumps(
        expected, sort_keys=True, separators=(",", ":")
    )


def test_chains_and_checkpoints_are_bound_to_what_they_describe() -> None:
    head = Head("w", "n", 1, 0, b"")
    assert len({genesis("w", "n", 1), genesis("w", "m", 1), genesis("v", "n", 1)}) == 3
    assert genesis(head.writer, head.node, 1) != genesis(head.writer, head.node, 2)
    one = checkpoint_hash(1, 2, "{}", "k", b"p")
    assert one != checkpoint_hash(2, 2, "{}", "k", b"p")
    assert one != checkpoint_hash(1, 2, "{}", "k", b"q")
