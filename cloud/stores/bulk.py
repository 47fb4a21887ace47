"""Many rows through one statement, at the driver's speed.

SQLAlchemy makes the parameters of each row of an executemany anew from its own model of them, which costs more than
the database does. Here a statement is compiled once, by SQLAlchemy for the dialect in use; rows go to the driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection


class Bulk:
    """A statement for many rows of the same keys. Its parameters must need no conversion by SQLAlchemy.

    Arguments: ``statement`` of SQLAlchemy Core; ``keys`` that every row has, at least two.
    """

    def __init__(self, statement: Any, keys: Sequence[str]) -> None:
        self._statement, self._keys = statement, list(keys)
        self._text = ""
        self._values: Any = None

    def execute(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute the statement for all ``rows``, which are not empty."""
        if not self._text:
            compiled = self._statement.compile(dialect=conn.dialect, column_keys=self._keys)
            self._text = str(compiled)
            self._values = itemgetter(*compiled.positiontup) if compiled.positional else dict
        conn.exec_driver_sql(self._text, list(map(self._values, rows)))
