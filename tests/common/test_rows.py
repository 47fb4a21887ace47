"""Many rows in one statement: the same as one by one."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.rows import BYTES_MAX, ROWS_MAX, execute_rows


@given(st.integers(0, 2 * ROWS_MAX + 5))
def test_rows_go_in_and_out_as_they_are(count: int) -> None:
    """Any number of rows is inserted and deleted, each once, in few statements."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (a INTEGER, b TEXT, PRIMARY KEY (a, b))")
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    rows = [(at, f"'{at}") for at in range(count)]
    execute_rows(db, "INSERT INTO t VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
    assert db.execute("SELECT * FROM t ORDER BY a").fetchall() == rows
    assert len([text for text in statements if text.startswith("INSERT")]) <= 2 + ROWS_MAX.bit_length() - 1
    execute_rows(db, "DELETE FROM t WHERE a IN (VALUES (?)) AND b <> 'x'", [(at,) for at in range(1, count)])
    assert db.execute("SELECT * FROM t").fetchall() == rows[:1]
    db.close()


def test_few_statements_are_ever_prepared() -> None:
    """Whatever comes, there are eight texts: sqlite3 keeps each, with nearly a kilobyte a row."""
    texts: set[str] = set()
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (a INTEGER)")
    recorder = SimpleNamespace(execute=lambda text, values: (texts.add(text), db.execute(text, values)))
    for count in range(3 * ROWS_MAX):
        execute_rows(recorder, "INSERT INTO t VALUES (?)", [(at,) for at in range(count)])
    assert len(texts) == ROWS_MAX.bit_length() == 8
    db.close()


def test_large_rows_do_not_stay_in_memory_by_the_dozens() -> None:
    """A statement keeps the values that it had last: of rows that are large as many go into one as BYTES_MAX holds."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (a BLOB)")
    bound: list[int] = []
    recorder = SimpleNamespace(execute=lambda text, values: (bound.append(len(values)), db.execute(text, values)))
    for each, most in ((100, ROWS_MAX), (BYTES_MAX // 4, 4), (BYTES_MAX * 3, 1)):
        bound.clear()
        execute_rows(recorder, "INSERT INTO t VALUES (?)", [(bytes(each),)] * ROWS_MAX, each * ROWS_MAX)
        assert (max(bound), sum(bound)) == (most, ROWS_MAX)
    assert db.execute("SELECT count(*) FROM t").fetchone() == (3 * ROWS_MAX,)
    db.close()


def test_a_text_without_a_place_for_rows_is_an_error() -> None:
    """A statement without ``VALUES (?, ...)`` cannot take rows."""
    db = sqlite3.connect(":memory:")
    with pytest.raises(ValueError, match="no VALUES"):
        execute_rows(db, "SELECT ?", [(1,)])
    db.close()
