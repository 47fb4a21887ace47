"""Many rows in one statement, for SQLite.

Python's sqlite3 gives up the interpreter lock around every step, and ``executemany`` makes a step of each row. With a
busy event loop beside it the lock comes back late and costs a switch of threads each time, more than the row does. So
rows go by the dozens into one statement, which is one step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

ROWS_MAX = 128  # in one statement; times the columns it stays far below SQLite's bound of 32,766 parameters

_GROUP = re.compile(r"VALUES (\(\?(?:, \?)*\))")


class _Executes(Protocol):
    def execute(self, text: str, values: Sequence[Any], /) -> Any: ...


def execute_rows(cursor: _Executes, text: str, rows: Sequence[Sequence[Any]]) -> None:
    """Execute ``text`` for all ``rows``.

    Arguments: ``cursor`` or connection of sqlite3; ``text`` with one ``VALUES (?, ...)``, the place of a row: an
    INSERT, or ``WHERE (a, b) IN (VALUES (?, ?))``; it has no other parameters. Raises what sqlite3 raises.
    """
    at = 0
    while at < len(rows):
        size = _size(len(rows) - at)
        cursor.execute(_for_rows(text, size), list(chain.from_iterable(rows[at : at + size])))
        at += size


def _size(left: int) -> int:
    """How many of ``left`` rows go into the next statement: a power of two. All that are ever prepared stay in memory,
    with nearly a kilobyte a row.
    """
    return min(ROWS_MAX, 1 << left.bit_length() - 1)


@lru_cache(maxsize=512)
def _for_rows(text: str, count: int) -> str:
    found = _GROUP.search(text)
    if found is None:
        raise ValueError(f"no VALUES (?, ...) in {text!r}")
    return text[: found.end()] + f", {found[1]}" * (count - 1) + text[found.end() :]
