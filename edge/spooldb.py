"""The spool's file: a SQLite database and the one transaction that changes it (protocol P5.1 to P5.3).

Only the spool's writer thread uses a SpoolDb, after ``open``. WAL with ``synchronous=FULL``: with NORMAL a power cut
takes every commit since the last checkpoint (reliability R2).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from common.durable import sync_directory, write_synced
from common.errors import ConfigError, DamageError, FieldpostError, StorageError
from common.models import Epoch
from common.rows import execute_rows
from edge.batching import Frozen, Packed
from edge.spooltables import SCHEMA, SCHEMA_VERSION, UPGRADES, Changes, DeadMessage, Input, State

FSYNC_TRIES = 4  # of the WAL, written anew each time
CACHE_KIB = 512  # of pages in memory: a queue has few that come again
WAL_BYTES_KEPT_MAX = 16 << 20  # of the file, when a transaction that was larger is in the database
COPY_BYTES = 1 << 20  # that are in memory while the WAL is written anew
SCHEMA_PLAUSIBLE_MAX = 1000  # above it the number is not of a later program, its bits are damaged
PAGE_BYTES = 4096
SELECT_ROWS = 512  # result rows that one promotion looks at
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)  # primary codes
_RESULT = "id, namespace, rule, codec, count, weight, body, kind"
_INSERT = f"INSERT INTO results ({_RESULT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class SpoolDb:
    """One open spool file.

    Arguments: ``path`` of the file; ``node`` and ``root`` it belongs to.
    ``open`` raises StorageError when the file cannot be used, and ConfigError when it belongs to another node or root
    and still holds results (P5.12).
    """

    def __init__(self, path: Path, node: str, root: str) -> None:
        self._path, self._node, self._root = path, node, root
        self._db: sqlite3.Connection | None = None
        self._checked = False

    def open(self) -> State:
        """Open (or make) the file and return its state; the first time after a look for damage."""
        try:
            self._check()
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=1.0)
            self._pragma(f"page_size = {PAGE_BYTES}")
            if (mode := self._pragma("journal_mode = WAL")) != "wal":  # SQLite says so and goes on, less safely
                raise StorageError(f"{self._path}: the journal mode cannot be WAL, it stays {mode}")
            self._pragma("synchronous = FULL")
            self._pragma(f"cache_size = -{CACHE_KIB}")
            self._pragma(f"journal_size_limit = {WAL_BYTES_KEPT_MAX}")
            self._pragma("locking_mode = EXCLUSIVE")  # a second process on the same spool is refused, not interleaved
            with self._transaction() as db:
                self._rewrite_wal()  # we have the lock, and SQLite has neither appended nor copied anything yet
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    self._make(db, SCHEMA)
                elif version in UPGRADES:
                    self._make(db, UPGRADES[version])
                elif not 0 < version <= SCHEMA_PLAUSIBLE_MAX:
                    raise DamageError(f"{self._path}: damaged: schema version {version}")
                elif version != SCHEMA_VERSION:
                    raise StorageError(f"{self._path}: spool of schema {version}, this program knows {SCHEMA_VERSION}")
                state = self._own(db)
            return state
        except (sqlite3.Error, OSError, UnicodeError) as exc:  # the last: of damage, named in an error's text
            self.close()
            hint = "; another agent runs with this data_dir" if "locked" in str(exc) else ""
            raise self._error(exc, hint) from exc
        except FieldpostError:
            self.close()
            raise

    def _make(self, db: sqlite3.Connection, statements: str) -> None:
        for statement in statements.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check(self) -> None:
        """Refuse a damaged file before anything can change it; reading only, so that closing writes nothing either."""
        wal, journal = (Path(f"{self._path}{tail}") for tail in ("-wal", "-journal"))
        if self._checked or journal.exists():  # the last: it was never made to the end
            return
        if not _size(self._path) and _size(wal):  # SQLite would delete the WAL
            raise DamageError(f"{self._path}: damaged: it is empty, and accepted results are in {wal.name}")
        if not self._path.exists():
            return
        db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        finally:
            db.close()
        if found != "ok":
            raise DamageError(f"{self._path}: damaged: {' '.join(found.split())}")
        self._checked = True

    def set_aside(self, stamp: str) -> list[Path]:
        """Give a damaged file and what belongs to it other names, so that a new one can begin; returns those names."""
        kept = []
        for tail in ("", "-wal", "-shm", "-journal"):
            old = Path(f"{self._path}{tail}")
            if old.exists():
                kept.append(old.rename(f"{self._path}.damaged-{stamp}{tail}"))
        self._checked = False
        return kept

    @property
    def last_epoch(self) -> int:
        """The highest epoch counter that was ever begun here, as a small file beside the spool remembers it."""
        with suppress(OSError, ValueError):
            return int(self._epoch_file.read_text())
        return 0

    def remember_epoch(self, n: int) -> None:
        """Note an epoch counter before it is named: a spool that is set aside or restored must not use it again."""
        new = self._epoch_file.with_suffix(".epoch-new")
        try:
            write_synced(new, str(n).encode())
            new.replace(self._epoch_file)
            sync_directory(self._path.parent)
        except OSError as exc:
            raise StorageError(f"{self._epoch_file}: {exc.strerror}") from exc

    @property
    def _epoch_file(self) -> Path:
        return self._path.with_suffix(".epoch")

    def _rewrite_wal(self) -> None:
        """Make sure that what was read is on the disk. After a failed fsync it may be in the page cache only, and the
        kernel, which reports the error once, takes it for written: a transaction that failed would count as durable.

        What is written again is what the next fsync must write. Raises OSError when that fails, too, several times.
        """
        for left in reversed(range(FSYNC_TRIES)):
            try:
                with suppress(FileNotFoundError), open(f"{self._path}-wal", "r+b", buffering=0) as wal:
                    while held := os.pread(wal.fileno(), COPY_BYTES, wal.tell()):
                        wal.write(held)
                    os.fsync(wal.fileno())
                return
            except OSError:
                if not left:
                    raise

    def _own(self, db: sqlite3.Connection) -> State:
        row = db.execute("SELECT * FROM state").fetchone()
        if row is None:
            return State(Epoch(0, ""))
        _, node, root, n, uuid, *counts = row
        if (node, root) != (self._node, self._root):
            tables = ("results", "messages", "dead")
            left = sum(db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables)
            if left:
                raise ConfigError(
                    f"the spool belongs to node {node!r} under root {root!r} and still holds {left} rows: start once "
                    f"more as that node until they are sent and no dead letters are left, or move the file away",
                    file=str(self._path),
                )
            return State(Epoch(n, ""))  # an account of its own, which only goes on counting epochs
        return State(Epoch(n, uuid), *counts)

    def close(self) -> None:
        """Close the file; harmless when it is not open.

        Closing copies the WAL into the file and deletes it: what a failed fsync left in the page cache only is put on
        the disk before, or a power cut meanwhile would take both.
        """
        if self._db is not None:
            with suppress(OSError):  # the disk is gone, then nothing is worse
                self._rewrite_wal()
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def apply(self, changes: Changes) -> None:
        """Do all changes in one durable transaction; new result rows get their ids in it. Raises StorageError: then the
        file must be opened anew; DamageError: then that is of no use.
        """
        try:
            with self._transaction() as db:
                self._write(db, changes)
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    def _write(self, db: sqlite3.Connection, changes: Changes) -> None:
        if changes.gone_messages:
            for n in {n for n, _ in changes.gone_messages}:
                gone = f"DELETE FROM messages WHERE sequence IN (VALUES (?)) AND epoch_n = {n:d}"  # by the key: no scan
                execute_rows(db, gone, [(sequence,) for of, sequence in changes.gone_messages if of == n])
        if changes.gone_results:
            gone = "DELETE FROM results WHERE id IN (VALUES (?))"
            execute_rows(db, gone, [(row,) for row in changes.gone_results])
        if changes.new_inputs:
            db.executemany("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", changes.new_inputs)
        if changes.gone_inputs:
            db.executemany("DELETE FROM inputs WHERE id = ?", [(row,) for row in changes.gone_inputs])
        if changes.new_results:
            first = changes.state.next_row
            changes.state.next_row += len(changes.new_results)
            rows = [(row, *packed[:6], packed.kind) for row, packed in enumerate(changes.new_results, first)]
            execute_rows(db, _INSERT, rows, sum([len(packed.body) for packed in changes.new_results]))
        if changes.folded_results:
            db.executemany(_INSERT, [(*packed.rows, *packed[:6], packed.kind) for packed in changes.folded_results])
        if changes.new_dead:
            db.executemany("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", changes.new_dead)
        if changes.gone_dead:
            db.executemany("DELETE FROM dead WHERE id = ?", [(row,) for row in changes.gone_dead])
        if changes.new_messages:
            execute_rows(
                db,
                "INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (m.epoch.n, m.sequence, m.epoch.uuid, m.msg_id, m.topic, m.codec, m.weight, m.payload)
                    for m in changes.new_messages
                ],
                sum([len(m.payload) for m in changes.new_messages]),
            )
        s = changes.state
        db.execute(
            "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._node, self._root, *s.epoch, *msgspec.structs.astuple(s)[1:]),
        )

    def oldest_results(self, bytes_max: int, after: int, through: int, *, rows_max: int = SELECT_ROWS) -> list[Packed]:
        """The oldest result rows with ids above ``after`` and up to ``through``, at most ``rows_max`` and about
        ``bytes_max`` bytes (always one, if there is one).
        """
        query = f"SELECT {_RESULT} FROM results WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        return self._packed(query, bytes_max, after, through, rows_max)

    def oldest_of_rules(self, bytes_max: int, through: int, *, rows_max: int = SELECT_ROWS) -> list[Packed]:
        """Rows up to ``through`` of rules that have several, rule by rule, beginning with those that have waited
        longest; none when each has one. The rules are found in the index alone.
        """
        rules = (
            "SELECT namespace, rule FROM results WHERE kind = 'rulestatus' AND id <= ? GROUP BY 1, 2 "
            "HAVING count(*) > 1 ORDER BY min(id) LIMIT ?"
        )
        query = (
            f"SELECT {_RESULT} FROM results WHERE kind = 'rulestatus' AND namespace = ? AND rule = ? AND id <= ? "
            "ORDER BY id LIMIT ?"
        )
        found: list[Packed] = []
        for namespace, rule in list(self._rows(rules, through, rows_max // 2)):
            size = sum(len(packed.body) for packed in found)
            if len(found) >= rows_max or size >= bytes_max:
                break
            found += self._packed(query, bytes_max - size, namespace, rule, through, rows_max - len(found))
        return found

    def _packed(self, query: str, bytes_max: int, *values: object) -> list[Packed]:
        found: list[Packed] = []
        size = 0
        for row, namespace, rule, codec, count, weight, body, kind in self._rows(query, *values):
            found.append(Packed(namespace, rule, codec, count, weight, body, (row,), kind))
            size += len(body)
            if size >= bytes_max:
                break
        return found

    def dead(self) -> list[DeadMessage]:
        """All messages that the cloud refused for good, oldest first."""
        return [DeadMessage(*row) for row in self._rows("SELECT * FROM dead ORDER BY at, id")]

    def dead_sizes(self) -> list[tuple[str, int, int]]:
        """Id, weight and bytes of the same."""
        return list(self._rows("SELECT id, weight, length(payload) FROM dead ORDER BY at, id"))

    def messages(self) -> list[Frozen]:
        """All frozen messages, oldest first: at most a window of them."""
        query = (
            "SELECT epoch_n, epoch_uuid, sequence, msg_id, topic, payload, codec, weight FROM messages ORDER BY 1, 3"
        )
        return [Frozen(Epoch(n, uuid), *rest) for n, uuid, *rest in self._rows(query)]

    def inputs(self) -> list[Input]:
        """All journalled inputs in the order in which they were journalled."""
        return [Input(*row) for row in self._rows("SELECT * FROM inputs ORDER BY rowid")]

    def waiting(self, through: int) -> tuple[int, int]:
        """How many result rows wait with ids up to ``through``, and how many with later ones."""
        query = "SELECT count(*) FILTER (WHERE id <= ?), count(*) FILTER (WHERE id > ?) FROM results"
        behind, live = next(self._rows(query, through, through))
        return behind, live

    def bytes_used(self) -> int:
        """Bytes of the pages in use; free pages do not count."""
        (pages,), (free,) = next(self._rows("PRAGMA page_count")), next(self._rows("PRAGMA freelist_count"))
        return int(pages - free) * PAGE_BYTES

    def _rows(self, query: str, *values: object) -> Iterator[tuple]:  # type: ignore[type-arg]
        assert self._db is not None, "open the spool first"
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    def _error(self, exc: Exception, hint: str = "") -> StorageError:
        """What to raise for an error of SQLite or of the system."""
        return (DamageError if _is_damage(exc) else StorageError)(f"{self._path}: {exc}{hint}")

    def _pragma(self, text: str) -> object:
        """Set something; returns what SQLite says that it is now, if it says anything."""
        assert self._db is not None
        row = self._db.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._db is not None, "open the spool first"
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise


def _is_damage(exc: Exception) -> bool:
    """Whether the file is damaged. A UnicodeError is of damage, too, which SQLite names in an error's text."""
    return isinstance(exc, UnicodeError) or getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _size(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    return path.stat().st_size if path.exists() else 0
