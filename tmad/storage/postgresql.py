"""PostgreSQL through psycopg 3: time limits, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import psycopg
import sqlalchemy as sa

from tmad.events import Clock
from tmad.storage.lane import STANDBY

# Milliseconds. A statement that takes longer than this is a mistake or an outage; the thread
# that waits for it must come back either way.
_WRITE_STATEMENT = 4_000
_READ_STATEMENT = 25_000
_LOCK = 3_000
_IDLE_IN_TRANSACTION = 10_000
_UNACKNOWLEDGED = 4_000
_CONNECT_SECONDS = 3

# Not an OperationalError for the driver, but a standby that was asked to write.
_READ_ONLY_TRANSACTION = "25006"
# What libpq says when target_session_attrs finds no server that takes changes.
_READ_ONLY_SESSION = "session is read-only"
# A standby ends a query whose rows the primary has removed for good (hot standby conflict).
_CONFLICTS = frozenset(("40001", "40P01"))


class PostgreSQL:
    """Opens connections; with ``point`` those that read without a transaction around."""

    dialect = "postgresql"

    def __init__(self, url: sa.URL, now: Clock, *, point: bool = False) -> None:
        self._url = url.set(drivername="postgresql+psycopg")
        self._now = now
        self._point = point
        self._engines = {read_only: self._make_engine(read_only) for read_only in (False, True)}

    def _make_engine(self, read_only: bool) -> sa.Engine:
        limits = {
            "statement_timeout": _READ_STATEMENT if read_only else _WRITE_STATEMENT,
            "lock_timeout": _LOCK,
            "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
            "default_transaction_read_only": "on" if read_only else "off",
        }
        arguments: dict[str, Any] = {
            "application_name": "tmad",
            "connect_timeout": _CONNECT_SECONDS,
            "tcp_user_timeout": _UNACKNOWLEDGED,
            "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
            # BEGIN is sent by _begin, so that a lost connection is noticed before any work.
            "autocommit": True,
        }
        if not read_only:
            # Of a name's several addresses, writers want the one that is not a standby's; of one
            # they hear at once that it is.
            arguments["target_session_attrs"] = "read-write"
        engine = sa.create_engine(self._url, poolclass=sa.pool.NullPool, connect_args=arguments)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def connect(self, read_only: bool) -> sa.Connection:
        """Open a connection."""
        connection = self._engines[read_only].connect()
        connection.info["tmad.now"] = self._now
        if not self._point:
            connection.info["tmad.begin"] = (
                "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if read_only else "BEGIN"
            )
        return connection

    def outage(self, error: BaseException) -> str:
        """Say how this error means that the database cannot serve; "" when it does not."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) or (
            isinstance(cause, psycopg.Error) and cause.sqlstate == _READ_ONLY_TRANSACTION
        ):
            why = f"{cause.sqlstate or type(cause).__name__}: {cause}".strip()
            is_standby = cause.sqlstate == _READ_ONLY_TRANSACTION or (
                cause.sqlstate is None and _READ_ONLY_SESSION in why
            )
            return f"{STANDBY}: {why}" if is_standby else why
        return ""

    def is_conflict(self, error: BaseException) -> bool:
        """Whether a read failed only because of what happened at the same time."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        return isinstance(cause, psycopg.Error) and cause.sqlstate in _CONFLICTS

    def is_lost(self, connection: sa.Connection) -> bool:
        """Whether the connection has died, and the transaction with it."""
        driver: Any = connection.connection.driver_connection
        return driver is None or bool(driver.closed)

    def has_failed(self, connection: sa.Connection) -> bool:
        """Whether a commit would keep nothing."""
        driver: Any = connection.connection.driver_connection
        return bool(driver.info.transaction_status == psycopg.pq.TransactionStatus.INERROR)

    def interrupt(self, connection: sa.Connection) -> None:
        """Shut the socket, so that a thread that waits for a silent server comes back."""
        with contextlib.suppress(Exception):
            driver: Any = connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)


def _begin(connection: sa.Connection) -> None:
    statement = connection.info.get("tmad.begin")
    if statement:
        driver: Any = connection.connection.driver_connection
        driver.execute(statement)
