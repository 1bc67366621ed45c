"""The rules of the group: who is undone, who is told what; no threads, no reactor."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.events import utc_now
from tmad.storage.database import Database
from tmad.storage.lane import Job
from tmad.storage.session import GroupSession, after_commit
from tmad.storage.sqlite import SQLite


def put(connection: sa.Connection, name: str) -> str:
    connection.execute(sa.text("INSERT INTO t VALUES (:name)"), {"name": name})
    return name


def refuse(connection: sa.Connection, name: str) -> None:
    put(connection, name)
    raise Fault(FaultCode.REJECTED, "no")


def names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text("SELECT name FROM t ORDER BY name")).scalars())


@pytest.fixture
def session() -> GroupSession:
    session = GroupSession(SQLite("", utc_now), read_only=False)
    create = Job(lambda c: c.execute(sa.text("CREATE TABLE t (name TEXT PRIMARY KEY)")), ())
    session.run([create])
    create.finish()
    return session


def outcome(job: Job) -> Any:
    try:
        return job.finish()
    except Fault as fault:
        return fault.code


def run(session: GroupSession, *jobs: Job) -> list[Any]:
    session.run(jobs)
    return [outcome(job) for job in jobs]


def kept(session: GroupSession) -> list[str]:
    (found,) = run(session, Job(names, ()))
    return list(found)


def test_each_job_of_a_group_stands_for_itself(session: GroupSession) -> None:
    jobs = [Job(put, ("a",)), Job(refuse, ("b",)), Job(put, ("c",), True), Job(put, ("d",))]
    assert run(session, *jobs) == ["a", FaultCode.REJECTED, "c", "d"]
    assert kept(session) == ["a", "d"]


def test_later_jobs_of_a_group_see_what_earlier_ones_did(session: GroupSession) -> None:
    assert run(session, Job(put, ("a",)), Job(names, ())) == ["a", ["a"]]


def test_a_job_that_was_given_up_before_its_turn_in_the_group_never_runs(
    session: GroupSession,
) -> None:
    late = Job(put, ("b",))

    def give_up(connection: sa.Connection) -> str:
        late.abandoned = True  # its deadline passes while the one before it runs
        return put(connection, "a")

    assert run(session, Job(give_up, ()), late, Job(put, ("c",))) == [
        *("a", FaultCode.UNAVAILABLE, "c")
    ]
    assert kept(session) == ["a", "c"]


def test_a_commit_that_fails_fails_everyone(
    session: GroupSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []

    def announced(connection: sa.Connection) -> None:
        put(connection, "a")
        after_commit(connection, lambda: called.append(1))

    def broken(self: object, connection: object) -> None:
        raise OSError("fsync")

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.engine.default.DefaultDialect.do_commit", broken)
        jobs = [Job(announced, ()), Job(refuse, ("b",)), Job(put, ("c",), True)]
        # Also the refusal: it may rest on what a neighbour did, which is now undone.
        assert run(session, *jobs) == [FaultCode.UNAVAILABLE] * 3
    assert called == []


def test_callbacks_of_a_job_that_was_undone_never_run(session: GroupSession) -> None:
    called: list[str] = []

    def announced(connection: sa.Connection, name: str, fail: bool) -> None:
        after_commit(connection, lambda: called.append(name))
        if fail:
            raise Fault(FaultCode.REJECTED, "no")

    run(
        session,
        Job(announced, ("kept", False)),
        Job(announced, ("refused", True)),
        Job(announced, ("dry", False), True),
    )
    assert called == ["kept"]


def test_a_function_that_commits_by_itself_fails_its_group(session: GroupSession) -> None:
    def commits(connection: sa.Connection) -> None:
        connection.commit()

    jobs = [Job(put, ("a",)), Job(commits, ()), Job(put, ("b",))]
    session.run(jobs)
    for job in jobs:
        with pytest.raises(RuntimeError, match="must not end"):
            job.finish()


def test_a_closed_database_says_so() -> None:
    database = Database.in_memory()
    database.close()
    for call in (database.read, database.write, database.lookup):
        with pytest.raises(Fault) as caught:
            drive(call(names))
        assert caught.value.code is FaultCode.UNAVAILABLE
