"""The schema's versions: a new database is made whole, an older one is brought up to date, a newer one is refused.

Several controllers may start at the same moment: SQLite's transaction holds the file, PostgreSQL's an advisory lock.
"""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, insert, select, update
from sqlalchemy.schema import CreateColumn

from cloud.stores.tables import SCHEMA_VERSION, counters, dead_letters, metadata, nodes, progress, schema

SCHEMA_LOCK = 0x6669656C64706F73  # key of the advisory lock: "fieldpos" in ASCII

# What each version added to tables that were there before. Whole new tables need no word here.
_ADDED = {
    2: (
        nodes.c.born_n, nodes.c.claim, nodes.c.reported_at, progress.c.state, progress.c.session, progress.c.ended,
        dead_letters.c.times,
    ),
    3: (nodes.c.retired_at, nodes.c.added_labels, nodes.c.chosen_for, nodes.c.rules_revision),
}  # fmt: skip

_REMADE = {4: counters, 5: progress}  # tables whose key or columns a version changed
_HEX = {"postgresql": "to_hex(bits)", "sqlite": "printf('%x', bits)"}


def migrate(conn: Connection) -> int:
    """Make or update the schema in the caller's transaction; return the version that was found, or the present one.

    A version above SCHEMA_VERSION changes nothing: the caller refuses it.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
    metadata.create_all(conn, tables=[schema])
    found: int | None = conn.execute(select(schema.c.version)).scalar()
    if found is None:
        rest = [table for table in metadata.sorted_tables if table is not schema]
        metadata.create_all(conn, tables=rest, checkfirst=False)  # to look for each costs as much as to make it
        conn.execute(insert(schema).values(version=SCHEMA_VERSION))
        return SCHEMA_VERSION
    if found >= SCHEMA_VERSION:
        return found
    for version in range(found + 1, SCHEMA_VERSION + 1):
        for column in _ADDED.get(version, ()):
            definition = CreateColumn(column).compile(dialect=conn.dialect)
            conn.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
    remade = [table for version, table in _REMADE.items() if version > found]
    for table in remade:
        conn.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO older_{table.name}")
    metadata.create_all(conn)
    for table in remade:
        _copy(conn, table)
    conn.exec_driver_sql("DROP TABLE IF EXISTS counter_rows")
    for table in (dead_letters,):  # create_all gives indexes only to tables that it makes
        for index in table.indexes:
            index.create(conn, checkfirst=True)
    conn.execute(update(schema).values(version=SCHEMA_VERSION))
    return SCHEMA_VERSION


def _copy(conn: Connection, table: Table) -> None:
    """Fill a table that was made anew from what it was before, and drop that."""
    names = [f'"{column.name}"' for column in table.columns]
    values = list(names)
    if table is progress:  # before version 5 what is committed above the mark was one integer
        values[names.index('"above"')] = f"CASE WHEN bits = 0 THEN '' ELSE {_HEX[conn.dialect.name]} END"
    conn.exec_driver_sql(
        f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(values)} FROM older_{table.name}"
    )
    conn.exec_driver_sql(f"DROP TABLE older_{table.name}")
