"""Connections to the database, with what each dialect needs for a durable and whole transaction.

On PostgreSQL a writer's transaction is READ COMMITTED, whatever the server's default: all that decides is read after
the node's row is locked (``writes``), so a stricter level would find nothing more and only make controllers that meet
at a rule's counters repeat their work. Reads are snapshots, as SQLite's are. The server ends a writer's transaction
whose controller stands still or is gone, so that its locks hold nobody up for long.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError

from cloud.stores.bulk import drive

log = logging.getLogger(__name__)

IDLE_IN_TRANSACTION_MS = 10_000  # after which the server ends the transaction of a controller that stands still
PEER_GONE_S = 20  # after which the server, and this side, give up a connection whose other end does not answer
_OF_VALUES = (DataError, IntegrityError, ProgrammingError)
_STATES_OF_VALUES = ("22", "23", "54")  # classes of SQLSTATE: data, integrity, limits of the program


def make_engine(
    url: str,
    *,
    begin: str,
    busy_timeout_ms: int,
    readonly: bool = False,
    connections: int = 1,
    connect_timeout_s: int = 5,
) -> Engine:
    """Return an engine. ``begin`` opens SQLite's transactions, and ``busy_timeout_ms`` is SQLite's too.

    Arguments: ``readonly`` for reads; ``connections`` at most, each opened when it is first needed, within
    ``connect_timeout_s`` seconds on PostgreSQL. Raises ArgumentError for a database that is not supported,
    NoSuchModuleError or ImportError without its driver.
    """
    of = make_url(url)
    if of.get_backend_name() == "postgresql":
        return _postgresql(of, readonly, connections, connect_timeout_s)
    engine = create_engine(of)
    if engine.dialect.name != "sqlite":
        engine.dispose()
        raise ArgumentError(f"{engine.dialect.name} is not supported, only sqlite and postgresql")
    _sqlite(engine, begin, busy_timeout_ms, readonly)
    return engine


def _sqlite(engine: Engine, begin: str, busy_timeout_ms: int, readonly: bool) -> None:
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


def _postgresql(url: URL, readonly: bool, connections: int, connect_timeout_s: int) -> Engine:
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    limits = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3}
    given = {"connect_timeout": connect_timeout_s, **limits, "tcp_user_timeout": PEER_GONE_S * 1000}
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=connect_timeout_s,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ" if readonly else "READ COMMITTED",
        connect_args={name: value for name, value in given.items() if name not in url.query},
    )

    @event.listens_for(engine, "connect")
    def _configure(dbapi_connection: Any, _record: Any) -> None:
        cursor = dbapi_connection.cursor()
        if readonly:
            cursor.execute("SET default_transaction_read_only = on")
        else:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
            cursor.execute(f"SET tcp_user_timeout = {PEER_GONE_S * 1000}")
            (said,) = cursor.execute("SHOW synchronous_commit").fetchone()
            if said == "off":  # a commit would then outlive no crash of the server
                cursor.execute("SET synchronous_commit = on")
            (said,) = cursor.execute("SHOW fsync").fetchone()
            if said == "off":
                log.warning("PostgreSQL runs with fsync = off: a power cut there can lose what was confirmed")
        cursor.close()
        dbapi_connection.commit()

    return engine


def is_of_values(exc: BaseException) -> bool:
    """True when the database is well and only these values are not for it; all else is worth a repetition."""
    if not isinstance(exc, DBAPIError):
        return isinstance(exc, (ValueError, OverflowError, TypeError))  # a value that the driver cannot even bind
    state = getattr(exc.orig, "sqlstate", None)
    return state[:2] in _STATES_OF_VALUES if state else isinstance(exc, _OF_VALUES)
