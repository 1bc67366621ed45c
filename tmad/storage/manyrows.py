"""One INSERT or UPDATE of many rows for SQLite, made of one for a single row.

Each step of SQLite gives the interpreter's lock away, and a busy reactor does not give it back
before its time is over: a statement that is executed for each row pays for that with each row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any

_MOST = 64  # rows of one statement, a power of two
_INSERT = re.compile(r"INSERT (.*? VALUES )(\([?, ]*\))(.*)", re.DOTALL)
_UPDATE = re.compile(r"UPDATE (.*?) WHERE (.*)", re.DOTALL)


class ManyRows:
    """An INSERT or UPDATE whose parameters are written "?", for any number of rows.

    Each row of an UPDATE finds its own by a key. A row that several of them find is changed by
    one of these, and counted once.
    """

    def __init__(self, sql: str) -> None:
        self._alone = sql
        if insert := _INSERT.fullmatch(sql):
            # With FAIL the rows before a broken constraint stay until the transaction is rolled
            # back, as those of single statements do. Else SQLite keeps a copy of every page that
            # it touches, to be able to undo the statement alone, which costs more than the rows.
            self._head, self._row, self._tail = f"INSERT OR FAIL {insert[1]}", insert[2], insert[3]
            return
        columns = count(1)
        update = _UPDATE.fullmatch(re.sub(r"\?", lambda _: f"given.column{next(columns)}", sql))
        assert update is not None, sql
        self._head = f"UPDATE OR FAIL {update[1]} FROM (VALUES "
        self._row = f"({', '.join('?' * sql.count('?'))})"
        self._tail = f") AS given WHERE {update[2]}"

    def calls(self, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
        """Yield statements and their parameters for these rows.

        In powers of two, so that there are few different statements to compile.
        """
        start = 0
        while left := len(rows) - start:
            number = min(1 << (left.bit_length() - 1), _MOST)
            sql = self._alone
            if number > 1:
                sql = f"{self._head}{', '.join([self._row] * number)}{self._tail}"
            yield sql, [*chain.from_iterable(rows[start : start + number])]
            start += number
