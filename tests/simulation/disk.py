"""A disk under the spool, and the writer that commits when the scheduler says so.

A ``Disk`` outlives the processes that use it. Its database is SQLite in memory, so transactions and statements are the
product's; what a file has besides (WAL, fsync, damage) is for other tests. A fault that is armed strikes at the next
transaction: an error or a power cut, before or after the commit.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import QueueFullError, StorageError
from edge.spooldb import PAGE_BYTES, SpoolDb
from edge.spooltables import SCHEMA, Changes, State
from tests.simulation.truth import NodeTruth

DISK_FAULTS = ("error_before", "error_after", "cut_before", "cut_after")
_PENDING = (
    "SELECT (SELECT total(weight) FROM results) + (SELECT total(weight) FROM messages), "
    "(SELECT total(weight) FROM results WHERE id <= ?)"
)


class Crash(BaseException):
    """The process is gone: kill -9, or the power with it. Nothing may catch it but the scheduler."""


@cache
def _empty() -> bytes:
    """A database with the spool's tables and nothing in them."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    db.executescript(SCHEMA)
    return db.serialize()


class Disk:
    """What is committed. ``fault`` strikes once; without ``synced`` a power cut takes what was committed last."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.deserialize(_empty())
        self.last_epoch = 0
        self.fault = ""
        self.synced = True
        self._unsynced: bytes | None = None

    def before_commit(self) -> None:
        """Remember what is safe already."""
        if not self.synced and self._unsynced is None:
            self._unsynced = self.db.serialize()

    def power_cut(self) -> None:
        """What was not synced is gone."""
        if self._unsynced is not None:
            self.db.deserialize(self._unsynced)
            self._unsynced = None


class FileDb(SpoolDb):
    """The product's spool file, with armed faults, and the truth that is told of each commit."""

    def __init__(self, path: Path, node: str, root: str, disk: Disk, truth: NodeTruth) -> None:
        super().__init__(path, node, root)
        self.disk, self.truth = disk, truth

    def apply(self, changes: Changes) -> None:
        fault, self.disk.fault = self.disk.fault, ""
        if fault == "error_before":
            raise StorageError("disk I/O error, by the seed")
        if fault == "cut_before":
            raise Crash
        gone = self._bodies(changes.gone_results)
        behind = [b for row, b in zip(changes.gone_results, gone, strict=True) if row <= changes.state.backlog_through]
        self.truth.lanes(changes, behind, self.waiting(changes.state.backlog_through))
        self.disk.before_commit()
        super().apply(changes)
        pending, backlog = next(self._rows(_PENDING, changes.state.backlog_through))
        self.truth.committed(changes, int(pending), gone, int(backlog))
        if fault == "error_after":
            raise StorageError("disk I/O error after the commit, by the seed")
        if fault == "cut_after":
            raise Crash

    def _bodies(self, rows: Iterable[int]) -> list[bytes]:
        return [next(self._rows("SELECT body FROM results WHERE id = ?", row))[0] for row in rows]


class MemoryDb(FileDb):
    """The same over the disk's database in memory: opening and syncing, the slow parts, cost nothing."""

    _bytes_used: int | None = None

    def open(self) -> State:
        self._db, self._bytes_used = self.disk.db, None
        return self._own(self._db)

    def apply(self, changes: Changes) -> None:
        self._bytes_used = None
        super().apply(changes)

    def bytes_used(self) -> int:
        """Only a transaction changes it, and the spool asks several times in each."""
        if self._bytes_used is None:
            self._bytes_used = super().bytes_used()
        return self._bytes_used

    def close(self) -> None:
        self._db = None

    @property
    def last_epoch(self) -> int:
        return self.disk.last_epoch

    def remember_epoch(self, n: int) -> None:
        self.disk.last_epoch = n


class SteppedWriter:
    """A GroupWriter without a thread: the scheduler says when a group is committed and when its outcome is handed over.

    What lies between is what a thread makes possible: further submits, commits whose outcome nobody knows yet, a crash.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[list[Any]], Any],
        done: Callable[[Any], None],
        failed: Callable[[list[Any], BaseException], None],
        *,
        group_max: int = 8192,
        queue_max: int = 100_000,
    ) -> None:
        self._name, self._commit, self._done, self._failed = name, commit, done, failed
        self._group_max, self._queue_max = group_max, queue_max
        self._queue: deque[Any] = deque()
        self._group: list[Any] = []  # to be repeated after a StorageError
        self._outcomes: deque[Any] = deque()

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def submit(self, op: Any, /) -> None:
        if len(self._queue) >= self._queue_max:
            raise QueueFullError(self._name, self._queue_max)
        self._queue.append(op)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """True while something is not committed, or not handed over."""
        return bool(self._queue or self._group or self._outcomes)

    def commit(self, most: int) -> int:
        """Commit a group of at most ``most`` operations, or the failed one again; 0 when there is none, -1 on error."""
        group = self._group or [self._queue.popleft() for _ in range(min(most, len(self._queue), self._group_max))]
        if not group:
            return 0
        self._group = group
        try:
            outcome = self._commit(group)
        except StorageError:
            return -1
        self._group = []
        self._outcomes.append(outcome)
        return len(group)

    def hand_over(self) -> bool:
        """Hand the oldest outcome to the loop's side."""
        if not self._outcomes:
            return False
        self._done(self._outcomes.popleft())
        return True
