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
BYTES_MAX = 1 << 16  # on the average, of the rows in one statement: it stays prepared, with the values that it had last

_GROUP = re.compile(r"VALUES (\(\?(?:, \?)*\))")


class _Executes(Protocol):
    def execute(self, text: str, values: Sequence[Any], /) -> Any: ...


def execute_rows(cursor: _Executes, text: str, rows: Sequence[Sequence[Any]], size: int = 0) -> None:
    """Execute ``text`` for all ``rows``.

    Arguments: ``cursor`` or connection of sqlite3; ``text`` with one ``VALUES (?, ...)``, the place of a row: an
    INSERT, or ``WHERE (a, b) IN (VALUES (?, ?))``; it has no other parameters. ``size`` is of what may be large in all
    rows, in bytes. Raises what sqlite3 raises.
    """
    at, most = 0, max(1, min(ROWS_MAX, BYTES_MAX * len(rows) // (size or 1)))
    while at < len(rows):
        count = _count(min(most, len(rows) - at))
        cursor.execute(_for_rows(text, count), list(chain.from_iterable(rows[at : at + count])))
        at += count


def _count(most: int) -> int:
    """How many rows go into the next statement: a power of two. All that are ever prepared stay in memory, with nearly
    a kilobyte a row.
    """
    return 1 << most.bit_length() - 1


@lru_cache(maxsize=512)
def _for_rows(text: str, count: int) -> str:
    found = _GROUP.search(text)
    if found is None:
        raise ValueError(f"no VALUES (?, ...) in {text!r}")
    return text[: found.end()] + f", {found[1]}" * (count - 1) + text[found.end() :]
