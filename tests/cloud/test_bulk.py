"""Statements at the driver's speed: the same rows, and SQLAlchemy's errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from cloud.stores.bulk import Bulk, Lookup, drive
from cloud.stores.engine import make_engine

TABLE = Table("t", MetaData(), Column("name", String, primary_key=True), Column("n", Integer, nullable=False))


@pytest.fixture
def conn() -> Iterator[Connection]:
    """A connection with the table, in a transaction."""
    engine = make_engine("sqlite://", begin="BEGIN", busy_timeout_ms=100)
    with engine.begin() as made:
        TABLE.create(made)
        yield made
    engine.dispose()


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 1000])
def test_rows_are_written_and_found_by_their_names(conn: Connection, count: int) -> None:
    """Any number of rows goes in, and any number of names finds its rows, no more."""
    Bulk(insert(TABLE), ("name", "n")).execute(conn, [(f"r{at}", at) for at in range(count)])
    lookup = Lookup(lambda names: select(TABLE).where(TABLE.c.name.in_(names)).order_by(TABLE.c.n))
    assert lookup.fetch(conn, [f"r{at}" for at in range(count)]) == [(f"r{at}", at) for at in range(count)]
    assert lookup.fetch(conn, ["r0", "nobody", "r0"]) == [("r0", 0)]


def test_the_drivers_errors_come_out_as_sqlalchemys(conn: Connection) -> None:
    """What the driver raises is told apart as everywhere: values that do not fit, and a database in trouble."""
    bulk = Bulk(insert(TABLE), ("name", "n"))
    with pytest.raises(IntegrityError):
        bulk.execute(conn, [("a", 1), ("a", 2)])
    with pytest.raises(OverflowError):
        bulk.execute(conn, [("b", 2**64)])
    with pytest.raises(OperationalError, match="no such table"):
        drive(conn, "SELECT * FROM missing", lambda cursor: cursor.execute("SELECT * FROM missing"))
