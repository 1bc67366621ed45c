"""Core statements that run by the driver's own cursor: for the paths where each 100 µs counts.

SQLAlchemy's execution costs several times what SQLite needs for the statement itself
(performance 5.5). The statement stays written in Core, for both databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from tmad.storage.manyrows import ManyRows

_Processor: TypeAlias = "Callable[[Any], Any] | None"


@dataclass(frozen=True, slots=True)
class _Form:
    """A statement in one dialect's SQL."""

    sql: str
    is_positional: bool
    binds: tuple[tuple[str, Any, _Processor], ...]  # name, default; in their order
    results: tuple[_Processor, ...]
    many: ManyRows | None  # an INSERT's or UPDATE's on SQLite
    order: tuple[int, ...]  # where each parameter stands in ``columns``; empty without them
    processed: tuple[tuple[int, Callable[[Any], Any]], ...]  # parameters that are converted

    def parameters(self, values: Mapping[str, Any]) -> Any:
        get = values.get
        found = [
            get(name, default) if process is None else process(get(name, default))
            for name, default, process in self.binds
        ]
        if self.is_positional:
            return tuple(found)
        return {bind[0]: value for bind, value in zip(self.binds, found, strict=True)}

    def row_parameters(self, values: Sequence[Any]) -> Any:
        """Return the parameters for values in the order of ``columns``."""
        found = [values[place] for place in self.order]
        for place, process in self.processed:
            found[place] = process(found[place])
        if self.is_positional:
            return found
        return {bind[0]: value for bind, value in zip(self.binds, found, strict=True)}

    def row(self, found: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            [
                value if process is None else process(value)
                for value, process in zip(found, self.results, strict=True)
            ]
        )


class Statement:
    """One statement, compiled once for each dialect.

    An insert names its columns with ``columns``, and with ``key`` the column that the database
    numbers. Whatever the driver raises comes out as it is; ``is_integrity`` tells a broken
    constraint.
    """

    def __init__(
        self,
        statement: Any,
        *,
        columns: Iterable[str] = (),
        key: sa.Column[int] | None = None,
    ) -> None:
        self._statement = statement
        self._columns = tuple(columns) or None
        self._key = key
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

    def run_many(self, connection: sa.Connection, values: Iterable[Mapping[str, Any]]) -> int:
        """Execute once for each set of values; return how many rows that changed altogether."""
        form = self._form(connection)
        return self._run(connection, form, [form.parameters(each) for each in values])

    def insert(self, connection: sa.Connection, rows: Iterable[Sequence[Any]]) -> int:
        """Execute once for each row, whose values stand in the order of ``columns``."""
        form = self._form(connection)
        return self._run(connection, form, [form.row_parameters(each) for each in rows])

    def _run(self, connection: sa.Connection, form: _Form, parameters: list[Any]) -> int:
        if not parameters:
            return 0
        cursor = connection.connection.cursor()
        try:
            if form.many is None:
                cursor.executemany(form.sql, parameters)
                return int(cursor.rowcount)
            changed = 0
            for sql, given in form.many.calls(parameters):
                cursor.execute(sql, given)
                changed += cursor.rowcount
            return changed
        finally:
            cursor.close()

    def numbered(self, connection: sa.Connection, values: Iterable[Mapping[str, Any]]) -> list[int]:
        """Insert a row for each set of values; return the keys that they got, in their order."""
        form = self._form(connection)
        parameters = [form.parameters(each) for each in values]
        cursor: Any = connection.connection.cursor()
        keys: list[int] = []
        try:
            if form.many is None:
                # In one go: a round trip for each would cost more than the rows.
                cursor.executemany(form.sql, parameters, returning=True)
                while True:
                    keys.append(cursor.fetchone()[0])
                    if not cursor.nextset():
                        break
            else:
                for sql, given in form.many.calls(parameters):
                    cursor.execute(sql, given)
                    # A rowid is one more than the largest, and nobody else writes meanwhile.
                    keys += range(cursor.lastrowid - cursor.rowcount + 1, cursor.lastrowid + 1)
        finally:
            cursor.close()
        return keys

    def rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute once; return every row, its columns in the statement's order."""
        form = self._form(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(form.sql, form.parameters(values))
            found = cursor.fetchall()
        finally:
            cursor.close()
        return [form.row(each) for each in found] if found else []

    def _form(self, connection: sa.Connection) -> _Form:
        form = self._forms.get(connection.dialect.name)
        if form is None:
            form = self._forms[connection.dialect.name] = self._compile(connection.dialect)
        return form

    def _compile(self, dialect: sa.Dialect) -> _Form:
        statement = self._statement
        if self._key is not None and dialect.name != "sqlite":
            statement = statement.returning(self._key)
        compiled = statement.compile(dialect=dialect, column_keys=self._columns)
        if compiled.isinsert or compiled.isupdate or compiled.isdelete:
            columns = compiled.effective_returning or ()
        else:
            columns = self._statement.selected_columns
        defaults = compiled.construct_params(_check=False)
        binds = tuple(
            (
                name,
                defaults[name],
                compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect),
            )
            for name in (compiled.positiontup if compiled.positional else defaults)
        )
        return _Form(
            sql=str(compiled),
            is_positional=compiled.positional,
            binds=binds,
            order=tuple(
                [self._columns.index(bind[0]) for bind in binds if bind[0] in self._columns]
                if self._columns
                else ()
            ),
            processed=tuple(
                (place, bind[2]) for place, bind in enumerate(binds) if bind[2] is not None
            ),
            results=tuple(
                column.type.dialect_impl(dialect).result_processor(dialect, None)
                for column in columns
            ),
            many=ManyRows(str(compiled))
            if (compiled.isinsert or compiled.isupdate) and dialect.name == "sqlite"
            else None,
        )


class Listing:
    """A select whose ``WHERE`` names several values of one column, compiled once for each size.

    ``select`` makes it for a list of parameters. Fewer values than that repeat the last one, so
    there are few sizes.
    """

    def __init__(self, select: Callable[[Sequence[sa.BindParameter[Any]]], Any]) -> None:
        self._select = select
        self._sizes: dict[int, Statement] = {}

    def rows(
        self, connection: sa.Connection, listed: Sequence[Any], **values: Any
    ) -> list[tuple[Any, ...]]:
        """Execute for one to many values; return every row."""
        size = 1 << (len(listed) - 1).bit_length()
        statement = self._sizes.get(size)
        if statement is None:
            parameters: list[sa.BindParameter[Any]] = [
                sa.bindparam(f"listed_{number}") for number in range(size)
            ]
            statement = self._sizes[size] = Statement(self._select(parameters))
        filled = [*listed, *[listed[-1]] * (size - len(listed))]
        values |= {f"listed_{number}": value for number, value in enumerate(filled)}
        return statement.rows(connection, values)


def is_integrity(connection: sa.Connection, error: Exception) -> bool:
    """Tell whether the driver refused a row because of a constraint."""
    return isinstance(error, connection.dialect.loaded_dbapi.IntegrityError)
