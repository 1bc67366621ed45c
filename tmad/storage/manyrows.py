"""One INSERT of many rows for SQLite, made of one for a single row.

Each step of SQLite gives the interpreter's lock away, and a busy reactor does not give it back
before its time is over: a statement that is executed for each row pays for that with each row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

_MOST = 64  # rows of one statement, a power of two
_INSERT = re.compile(r"INSERT (.*? VALUES )(\([?, ]*\))(.*)", re.DOTALL)


class ManyRows:
    """An INSERT whose parameters are written "?", for any number of rows."""

    def __init__(self, sql: str) -> None:
        found = _INSERT.fullmatch(sql)
        assert found is not None, sql
        # With FAIL the rows before a broken constraint stay until the transaction is rolled back,
        # as those of single statements do. Else SQLite keeps a copy of every page that it
        # touches, to be able to undo the statement alone, which costs more than the rows.
        self._head, self._row, self._tail = f"INSERT OR FAIL {found[1]}", found[2], found[3]

    def calls(self, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
        """Yield statements and their parameters for these rows.

        In powers of two, so that there are few different statements to compile.
        """
        start = 0
        while left := len(rows) - start:
            count = min(1 << (left.bit_length() - 1), _MOST)
            sql = f"{self._head}{', '.join([self._row] * count)}{self._tail}"
            yield sql, [*chain.from_iterable(rows[start : start + count])]
            start += count
