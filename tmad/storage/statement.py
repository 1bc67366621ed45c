"""Core statements that run by the driver's own cursor: for the paths where each 100 µs counts.

SQLAlchemy's execution costs several times what SQLite needs for the statement itself
(performance 5.5). The statement stays written in Core, for both databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

_Processor: TypeAlias = "Callable[[Any], Any] | None"


@dataclass(frozen=True, slots=True)
class _Form:
    """A statement in one dialect's SQL."""

    sql: str
    is_positional: bool
    binds: tuple[tuple[str, Any, _Processor], ...]  # name, default; in their order
    results: tuple[_Processor, ...]

    def parameters(self, values: Mapping[str, Any]) -> Any:
        get = values.get
        found = [
            get(name, default) if process is None else process(get(name, default))
            for name, default, process in self.binds
        ]
        if self.is_positional:
            return tuple(found)
        return {bind[0]: value for bind, value in zip(self.binds, found, strict=True)}


class Statement:
    """One statement, compiled once for each dialect.

    An insert names its columns with ``columns``. Whatever the driver raises comes out as it
    is; ``is_integrity`` tells a broken constraint.
    """

    def __init__(self, statement: Any, *, columns: Iterable[str] = ()) -> None:
        self._statement = statement
        self._columns = tuple(columns) or None
        self._forms: dict[str, _Form] = {}

    def run(self, connection: sa.Connection, values: Mapping[str, Any]) -> int:
        """Execute once; return how many rows it changed."""
        form = self._form(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(form.sql, form.parameters(values))
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def run_many(self, connection: sa.Connection, values: Iterable[Mapping[str, Any]]) -> None:
        """Execute once for each set of values."""
        form = self._form(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(form.sql, [form.parameters(each) for each in values])
        finally:
            cursor.close()

    def rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute once; return every row, its columns in the statement's order."""
        form = self._form(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(form.sql, form.parameters(values))
            found = cursor.fetchall()
        finally:
            cursor.close()
        return [
            tuple(
                [
                    value if process is None else process(value)
                    for value, process in zip(row, form.results, strict=True)
                ]
            )
            for row in found
        ]

    def _form(self, connection: sa.Connection) -> _Form:
        form = self._forms.get(connection.dialect.name)
        if form is None:
            form = self._forms[connection.dialect.name] = self._compile(connection.dialect)
        return form

    def _compile(self, dialect: sa.Dialect) -> _Form:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        if compiled.isinsert or compiled.isupdate or compiled.isdelete:
            columns = compiled.effective_returning or ()
        else:
            columns = self._statement.selected_columns
        defaults = compiled.construct_params(_check=False)
        return _Form(
            sql=str(compiled),
            is_positional=compiled.positional,
            binds=tuple(
                (
                    name,
                    defaults[name],
                    compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect),
                )
                for name in (compiled.positiontup if compiled.positional else defaults)
            ),
            results=tuple(
                column.type.dialect_impl(dialect).result_processor(dialect, None)
                for column in columns
            ),
        )


def is_integrity(connection: sa.Connection, error: Exception) -> bool:
    """Tell whether the driver refused a row because of a constraint."""
    return isinstance(error, connection.dialect.loaded_dbapi.IntegrityError)
