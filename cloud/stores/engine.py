"""Connections to the database, with what each dialect needs for a durable and whole transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError

from cloud.stores.bulk import drive


def make_engine(url: str, *, begin: str, busy_timeout_ms: int, readonly: bool = False) -> Engine:
    """Return an engine. ``begin`` opens SQLite's transactions; ``busy_timeout_ms`` and ``readonly`` are SQLite's too.

    Raises ArgumentError for a database that is not supported, NoSuchModuleError or ImportError without its driver.
    """
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name not in ("sqlite", "postgresql"):
        engine.dispose()
        raise ArgumentError(f"{engine.dialect.name} is not supported, only sqlite and postgresql")
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _configure(dbapi_connection: Any, _record: Any) -> None:
            # The driver opens transactions late, at the first write; what is read before would not belong to them.
            dbapi_connection.isolation_level = None
            cursor = dbapi_connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
            (mode,) = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode not in ("wal", "memory"):  # SQLite says so and goes on, but commits then outlive no power cut
                raise sqlite3.OperationalError(f"the journal mode cannot be WAL, it stays {mode}")
            cursor.execute("PRAGMA synchronous = FULL")
            if readonly:
                cursor.execute("PRAGMA query_only = ON")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(conn: Connection) -> None:
            drive(conn, begin, lambda cursor: cursor.execute(begin))

    return engine
