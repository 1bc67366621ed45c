"""Which version the schema has, and how to bring it to the version this program knows."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tmad.errors import Fault, FaultCode
from tmad.events import utc_now
from tmad.storage.sqlite import SQLite

if TYPE_CHECKING:
    from tmad.storage.postgresql import PostgreSQL

HEAD = "0005"

# "tmad" as a number: the advisory lock that lets one migration run at a time.
_MIGRATION_LOCK = 0x746D6164


def version(connection: sa.Connection) -> str:
    """Return the schema's version, "" for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or ""


def require_head(connection: sa.Connection) -> None:
    """Raise Fault(UNAVAILABLE) unless the schema is the one that this program was made for."""
    found = version(connection)
    if found == HEAD:
        return
    if found > HEAD:
        detail = (
            f"the database has schema {found}, newer than this tmad's {HEAD};"
            " install the newer tmad (`tmad migrate` never goes back)"
        )
    else:
        detail = f"the database has schema {found or 'none'}, not {HEAD}; run `tmad migrate`"
    raise Fault(
        FaultCode.UNAVAILABLE,
        detail,
        rule="database.schema",
        values={"found": found, "wanted": HEAD},
    )


def migrate(url: str) -> tuple[str, str]:
    """Bring the database to HEAD, creating it where SQLite has no file yet.

    Returns the versions before and after. Forward only: a newer schema is refused. Two
    migrations at once are safe: the second waits and then has nothing to do.
    """
    # Alembic is needed here only; a daemon that starts does not pay for it.
    from alembic import command
    from alembic.config import Config

    parsed = sa.make_url(url)
    backend: SQLite | PostgreSQL
    if parsed.get_backend_name() == "sqlite":
        backend = SQLite(parsed.database or "", utc_now, create=True)
    else:
        from tmad.storage.postgresql import PostgreSQL

        backend = PostgreSQL(parsed, utc_now)
    connection = backend.connect(read_only=False)
    try:
        with connection.begin():
            if connection.dialect.name == "postgresql":
                # A migration may take as long as it takes.
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
            before = version(connection)
            if before > HEAD:
                require_head(connection)
            if before != HEAD:
                config = Config()
                scripts = resources.files("tmad.storage.migrations")
                config.set_main_option("script_location", str(scripts).replace("%", "%%"))
                config.attributes["connection"] = connection
                command.upgrade(config, HEAD)
            return before, version(connection)
    except Exception as error:
        why = backend.outage(error)
        if why:
            raise Fault(
                FaultCode.UNAVAILABLE, "the database is not available", private=why
            ) from error
        raise
    finally:
        connection.close()
