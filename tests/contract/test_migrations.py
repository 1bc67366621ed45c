"""The migrations make exactly what tables.py describes, from empty, on both databases."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.postgres import Cluster
from tmad.errors import Fault, FaultCode
from tmad.storage import migrations, schema
from tmad.storage.database import Database, migrate
from tmad.storage.tables import metadata


@pytest.fixture
def empty_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if dialect == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        return cluster.empty_database()
    return f"sqlite:///{tmp_path}/data/tmad.db"


def engine_for(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def described(engine: sa.Engine) -> list[tuple[str, ...]]:
    """What the database itself says about its tables, columns and indexes."""
    if engine.dialect.name == "sqlite":
        query = "SELECT type, name, tbl_name FROM sqlite_master"
        columns = (
            'SELECT m.name, c.name, c.type, c."notnull", c.pk FROM sqlite_master m,'
            " pragma_table_info(m.name) c WHERE m.type = 'table'"
        )
        partial = (
            "SELECT name, CASE WHEN sql LIKE '%WHERE%' THEN substr(sql, instr(sql, 'WHERE'))"
            " END FROM sqlite_master WHERE type = 'index'"
        )
        queries = [query, columns, partial]
    else:
        queries = [
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "SELECT table_name, column_name, data_type, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        ]
    with engine.connect() as connection:
        rows = [
            tuple(str(value) for value in row)
            for query in queries
            for row in connection.execute(sa.text(query))
        ]
    return sorted(row for row in rows if not any("alembic_version" in text for text in row))


def test_migrations_from_empty_equal_the_tables(
    empty_url: str, request: pytest.FixtureRequest, dialect: str, tmp_path: Path
) -> None:
    assert migrate(empty_url) == ("", schema.HEAD)
    migrated = engine_for(empty_url)
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    if dialect == "postgresql":
        created = engine_for(request.getfixturevalue("postgres").empty_database())
    else:
        created = engine_for(f"sqlite:///{tmp_path}/created.db")
    metadata.create_all(created)
    # Alembic does not compare everything (conditions of partial indexes, for one).
    assert described(migrated) == described(created)
    migrated.dispose()
    created.dispose()


def test_the_newest_step_is_the_one_that_the_program_wants() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_a_second_migration_changes_nothing(empty_url: str) -> None:
    migrate(empty_url)
    assert migrate(empty_url) == (schema.HEAD, schema.HEAD)


def test_two_migrations_at_once_are_one(empty_url: str) -> None:
    program = "import sys; from tmad.storage.database import migrate; migrate(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", program, empty_url]) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    Database(empty_url).close()


def test_a_database_without_schema_is_refused(empty_url: str, dialect: str) -> None:
    with pytest.raises(Fault, match="tmad migrate") as caught:
        Database(empty_url)
    assert caught.value.code is FaultCode.UNAVAILABLE
    if dialect == "sqlite":
        assert not Path(sa.make_url(empty_url).database or "").exists()


@pytest.mark.parametrize("version", ["0000", "9999"])
def test_an_older_or_newer_schema_is_refused(empty_url: str, version: str) -> None:
    migrate(empty_url)
    engine = engine_for(empty_url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version}
        )
    engine.dispose()
    with pytest.raises(Fault, match="tmad migrate") as caught:
        Database(empty_url)
    assert caught.value.values == {"found": version, "wanted": schema.HEAD}
    if version == "9999":
        with pytest.raises(Fault, match="newer"):
            migrate(empty_url)


def test_nobody_else_can_read_the_sqlite_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    migrate(f"sqlite:///{folder}/tmad.db")
    (folder / "tmad.db").chmod(0o644)
    database = Database(f"sqlite:///{folder}/tmad.db")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    database.close()
