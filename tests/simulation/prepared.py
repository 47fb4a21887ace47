"""A connection that executes the product's prepared statements at the driver's speed.

Most of a simulated run would be SQLAlchemy's work for each execution. Here a statement that the product keeps as a
constant is compiled once, by SQLAlchemy for SQLite, and its text, parameters and column types are kept; the database
and its transactions are the same. A statement that is made for one execution goes through SQLAlchemy, over the same
connection of the driver.
"""

from __future__ import annotations

import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine, Executable, Insert, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

_EXPANDING = re.compile(r"\(__\[POSTCOMPILE_(\w+)\]\)")


class Rows:
    """What a statement returned: as much of SQLAlchemy's CursorResult as the store uses."""

    def __init__(self, rows: Iterable[Any], rowcount: int, make: Callable[[Sequence[Any]], Any]) -> None:
        self._rows, self.rowcount, self._make = rows, rowcount, make

    def __iter__(self) -> Iterator[Any]:
        return map(self._make, self._rows)

    def first(self) -> Any:
        return next(iter(self), None)

    def one(self) -> Any:
        (row,) = self
        return row

    def scalar(self) -> Any:
        row = self.first()
        return None if row is None else row[0]

    def mappings(self) -> Rows:
        make = self._make
        return Rows(self._rows, self.rowcount, lambda row: make(row)._asdict())


class _Prepared:
    """One statement for one set of parameter names: its text, the order of its values, and what makes its rows."""

    def __init__(self, statement: Any, dialect: Any, names: tuple[str, ...]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=list(names))
        self.text, order = str(compiled), tuple(compiled.positiontup or ())
        found = _EXPANDING.search(self.text)
        self.expanding = found.group(1) if found else ""
        self._at = order.index(self.expanding) if found else 0
        defaults = [c for c in statement.table.columns if c.default] if isinstance(statement, Insert) else []
        values = {name: bind.value for name, bind in compiled.binds.items()} | {c.key: c.default.arg for c in defaults}
        self._fixed = {name: values[name] for name in order if name not in names}
        self._take: Callable[[Any], Any] = itemgetter(*order) if order else lambda params: ()
        self._single = len(order) == 1
        self.make = _maker(compiled, dialect)

    def values(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """The parameters in the order of the text."""
        taken = self._take({**self._fixed, **params} if self._fixed else params)
        taken = (taken,) if self._single else taken
        if self.expanding:
            at = self._at
            return (*taken[:at], *taken[at], *taken[at + 1 :])
        return taken  # type: ignore[no-any-return]

    def text_for(self, params: Mapping[str, Any]) -> str:
        """The text, with as many marks as a list of parameters has."""
        if not self.expanding:
            return self.text
        return _EXPANDING.sub(f"({', '.join('?' * len(params[self.expanding]))})", self.text)


def _maker(compiled: Any, dialect: Any) -> Callable[[Sequence[Any]], Any]:
    columns = compiled._result_columns or ()
    if not columns:
        return tuple
    row = namedtuple("row", [column.keyname for column in columns], rename=True)  # type: ignore[misc]
    processors = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    converted = [(at, convert) for at, convert in enumerate(processors) if convert is not None]
    if not converted:
        return row._make  # type: ignore[no-any-return]

    def make(values: Sequence[Any]) -> Any:
        found = list(values)
        for at, convert in converted:
            found[at] = convert(found[at])
        return row._make(found)

    return make


class PreparedConnection:
    """One connection of the driver, as the store's transactions expect a connection of SQLAlchemy.

    Arguments: ``engine`` whose pool gives the connection; ``constants`` are the statements that are kept. Used by one
    thread.
    """

    def __init__(self, engine: Engine, constants: Iterable[Executable]) -> None:
        self._raw: sqlite3.Connection = engine.raw_connection().driver_connection  # type: ignore[assignment]
        beside = create_engine("sqlite://", creator=lambda: self._raw, poolclass=StaticPool)
        self._real, self.dialect = beside.connect(), beside.dialect  # it begins and ends no transactions of its own
        self._constants = {id(statement): statement for statement in constants}
        self._prepared: dict[tuple[int, tuple[str, ...]], _Prepared] = {}
        self.passed_on = 0  # executions that went through SQLAlchemy

    @property
    def connection(self) -> Any:
        """The driver's connection, as Connection.connection gives it: for statements that go past SQLAlchemy."""
        return SimpleNamespace(cursor=self._raw.cursor, dbapi_connection=self._raw)

    def connect(self) -> PreparedConnection:
        """Itself: it stands for the engine, too."""
        return self

    def close(self) -> None:
        """Stay open, for the next run."""

    def __enter__(self) -> PreparedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def begin(self) -> Iterator[PreparedConnection]:
        """A transaction, rolled back when the block raises anything."""
        self._raw.execute("BEGIN IMMEDIATE")
        try:
            yield self
            self._raw.execute("COMMIT")
        except BaseException:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            raise

    def execute(self, statement: Any, params: Any = None) -> Any:
        """See Connection.execute."""
        if id(statement) not in self._constants:
            self.passed_on += 1
            return self._real.execute(statement, params)
        many = isinstance(params, list)
        first = (params[0] if params else {}) if many else params or {}
        key = (id(statement), tuple(first))
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepared[key] = _Prepared(statement, self.dialect, key[1])
        try:
            if many:
                cursor = self._raw.executemany(prepared.text, [prepared.values(row) for row in params])
            else:
                cursor = self._raw.execute(prepared.text_for(first), prepared.values(first))
        except sqlite3.Error as exc:
            raise DBAPIError.instance(prepared.text, params, exc, sqlite3.Error, dialect=self.dialect) from exc  # type: ignore[call-overload]
        return Rows(cursor, cursor.rowcount, prepared.make)

    def exec_driver_sql(self, text: str, params: Any = None) -> Any:
        """See Connection.exec_driver_sql."""
        if isinstance(params, list):
            return self._raw.executemany(text, params)
        return self._raw.execute(text, params or ())
