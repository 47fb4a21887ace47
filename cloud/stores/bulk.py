"""Statements of the hot path at the driver's speed.

SQLAlchemy makes the parameters of each row of an executemany anew from its own model of them, and a context, a result
and an event or two for each statement: more than the database does. Here a statement is compiled once, by SQLAlchemy
for the dialect in use, and goes with its values to the driver; what that raises comes out as SQLAlchemy's errors.

To PostgreSQL all rows go as one JSON text, which the server takes apart: one statement that is the same for any number
of rows, so it is prepared once, in one round trip, and neither side does something for each value in a slow language.
The server takes the rows in the order in which they are given, which is the order in which they are locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import JSON, BindParameter, Connection, Table, Text, and_, bindparam, cast, column, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from common.rows import execute_rows


class Bulk:
    """An INSERT of many rows of the same keys. Its parameters must need no conversion by SQLAlchemy.

    Arguments: ``statement`` of SQLAlchemy Core, an INSERT or upsert; ``keys`` that every row has, at least two. On
    PostgreSQL no two rows of one call may have the same key of the table.
    """

    def __init__(self, statement: Any, keys: Sequence[str]) -> None:
        self._statement, self._keys = statement, list(keys)
        self._text = ""
        self._order: Any = None  # puts a row's values in the order of the driver's parameters, if that is another
        self._dialect = ""

    def execute(self, conn: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Execute the statement for all ``rows``, which are not empty; each has its values in the order of the keys."""
        self._compile(conn)
        if self._dialect == "postgresql":
            given = msgspec.json.encode([dict(zip(self._keys, row, strict=True)) for row in rows]).decode()
            drive(conn, self._text, lambda cursor: cursor.execute(self._text, {"rows": given}))
        else:
            values = rows if self._order is None else list(map(self._order, rows))
            drive(conn, self._text, lambda cursor: execute_rows(cursor, self._text, values))

    def _compile(self, conn: Connection) -> None:
        if self._text:
            return
        self._dialect = conn.dialect.name
        if self._dialect == "postgresql":
            table = self._statement.table
            columns = [column(key, table.c[key].type) for key in self._keys]
            text = cast(bindparam("rows", type_=Text), JSON)
            given = func.json_to_recordset(text).table_valued(*columns).render_derived(with_types=True)
            chosen = select(*(given.c[key] for key in self._keys))
            statement = self._statement.from_select(self._keys, chosen, include_defaults=False)
            self._text = str(statement.compile(dialect=conn.dialect))
        else:
            compiled = self._statement.compile(dialect=conn.dialect, column_keys=self._keys)
            self._text = str(compiled)
            if compiled.positiontup != self._keys:
                self._order = itemgetter(*map(self._keys.index, compiled.positiontup))


class Lookup:
    """A query for the rows that belong to several names.

    Argument: ``query`` makes it of so many parameters: ``lambda names: select(t).where(t.c.name.in_(names))``. Numbers
    of names are rounded up to a power of two, so that few statements are ever compiled.
    """

    def __init__(self, query: Callable[[Sequence[BindParameter[str]]], Any]) -> None:
        self._query = query
        self._texts: dict[int, tuple[str, list[str] | None]] = {}  # by number of names: text, order of parameters

    def fetch(self, conn: Connection, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the rows for ``names``, which are not empty, as tuples."""
        size = 1 << (len(names) - 1).bit_length()
        if size not in self._texts:
            query = self._query([bindparam(f"name_{at}", type_=None, value="") for at in range(size)])
            compiled = query.compile(dialect=conn.dialect)
            self._texts[size] = (str(compiled), compiled.positiontup if compiled.positional else None)
        text, order = self._texts[size]
        given = {f"name_{at}": names[min(at, len(names) - 1)] for at in range(size)}
        values = [given[name] for name in order] if order is not None else given
        rows: list[tuple[Any, ...]] = drive(conn, text, lambda cursor: cursor.execute(text, values).fetchall())
        return rows


class Prepared:
    """A statement for one row: SELECT, UPDATE or DELETE with the parameters that its ``bindparam`` name.

    An UPDATE without ``values`` sets the columns that are given beside those. Compiled once for each dialect and set of
    parameters; nothing is converted, so a boolean comes from SQLite as 0 or 1.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._texts: dict[tuple[str, ...], tuple[str, dict[str, Any], list[str] | None]] = {}

    def fetch(self, conn: Connection, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows, as tuples."""
        text, values = self._bind(conn, given)
        rows: list[tuple[Any, ...]] = drive(conn, text, lambda cursor: cursor.execute(text, values).fetchall())
        return rows

    def change(self, conn: Connection, given: Mapping[str, Any]) -> int:
        """Execute; return how many rows were changed."""
        text, values = self._bind(conn, given)
        changed: int = drive(conn, text, lambda cursor: cursor.execute(text, values).rowcount)
        return changed

    def _bind(self, conn: Connection, given: Mapping[str, Any]) -> tuple[str, Any]:
        key = (conn.dialect.name, *given)
        if key not in self._texts:
            compiled = self._statement.compile(dialect=conn.dialect, column_keys=list(given))
            own = {name: value for name, value in compiled.params.items() if name not in given}
            self._texts[key] = (str(compiled), own, compiled.positiontup if compiled.positional else None)
        text, own, order = self._texts[key]
        values = {**own, **given}
        return text, [values[name] for name in order] if order is not None else values


class KeyLookup:
    """A query for which of many keys are in a table: the columns ``names``, which an index begins with."""

    KEYS = 64  # of one query; SQLite uses the index for each of so many alternatives, but for no list of rows

    def __init__(self, table: Table, names: Sequence[str]) -> None:
        columns = [table.c[name] for name in names]
        self._binds = [[f"{name}_{at}" for name in names] for at in range(self.KEYS)]
        alternatives = (
            and_(*(column == bindparam(bind, type_=column.type) for column, bind in zip(columns, binds, strict=True)))
            for binds in self._binds
        )
        self._query = select(*columns).where(or_(*alternatives))
        self._text = ""
        self._order: list[str] | None = None

    def present(self, conn: Connection, keys: Iterable[Sequence[str]]) -> set[tuple[str, ...]]:
        """Return those of ``keys`` that are there."""
        if not self._text:
            compiled = self._query.compile(dialect=conn.dialect)
            self._text, self._order = str(compiled), compiled.positiontup if compiled.positional else None
        found, wanted = set[tuple[str, ...]](), list(keys)
        for at in range(0, len(wanted), self.KEYS):
            some = wanted[at : at + self.KEYS]
            some += some[-1:] * (self.KEYS - len(some))
            given = {
                b: value
                for binds, key in zip(self._binds, some, strict=True)
                for b, value in zip(binds, key, strict=True)
            }
            found.update(self._fetch(conn, [given[b] for b in self._order] if self._order is not None else given))
        return found

    def _fetch(self, conn: Connection, values: Any) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = drive(
            conn, self._text, lambda cursor: cursor.execute(self._text, values).fetchall()
        )
        return rows


def dialect_insert(dialect: str) -> Any:
    """Return the INSERT that has ON CONFLICT, which each dialect has in a module of its own."""
    return postgresql.insert if dialect == "postgresql" else sqlite.insert


def drive(conn: Connection, text: str, work: Callable[[Any], Any]) -> Any:
    """Do ``work`` with a cursor of the driver, inside the connection's transaction."""
    raw, dialect = conn.connection, conn.dialect
    cursor = raw.cursor()
    try:
        return work(cursor)
    except dialect.loaded_dbapi.Error as exc:
        gone = dialect.is_disconnect(exc, raw.dbapi_connection, cursor)
        wrapped = DBAPIError.instance(
            text, None, exc, dialect.loaded_dbapi.Error, connection_invalidated=gone, dialect=dialect
        )
        if gone:
            conn.invalidate(exc)
        raise wrapped from exc
    finally:
        cursor.close()
