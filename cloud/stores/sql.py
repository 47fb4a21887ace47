"""The store on SQLAlchemy Core: SQLite by default (WAL, synchronous FULL), PostgreSQL for several controllers.

Theory of operation. All writes are operations of one GroupWriter: its thread takes what waits, does it in one
transaction, and hands the outcomes back. Any trouble of the database itself (locked, full, broken off, fate of the
commit unknown) rolls back and repeats the whole group; that is safe, because progress is read again inside the
transaction and what was committed after all is then a duplicate. Only when the database refuses the *values* is the
group done again operation by operation, and the guilty message alone is left out: it cannot stop the others (R1.7).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, bindparam, insert, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from cloud.settings import StoreSettings
from cloud.stores import queries
from cloud.stores.base import (
    CONFLICT,
    NOT_STORED,
    CommitOutcome,
    DeadLetter,
    Letters,
    RefusedStatus,
    StatusMessage,
)
from cloud.stores.bounds import CounterBound
from cloud.stores.bulk import Prepared
from cloud.stores.conflicts import Claim
from cloud.stores.engine import is_of_values, make_engine
from cloud.stores.lifecycle import retired_error
from cloud.stores.losses import write_losses
from cloud.stores.marking import seed_changes
from cloud.stores.migrations import migrate
from cloud.stores.owners import Owners
from cloud.stores.presence import apply_presence
from cloud.stores.reads import SqlReads, storage_errors
from cloud.stores.replacing import replace_node
from cloud.stores.rings import Rings
from cloud.stores.statistics import Statistics
from cloud.stores.tables import SCHEMA_VERSION, nodes
from cloud.stores.writes import Statements, StatusCommit, Tools, lock_nodes
from common.clock import SystemClock
from common.errors import ControlError, RefusedError, StorageError
from common.faults import Fault, no_fault
from common.metrics import Histogram
from common.models import Epoch, NodeBirth, NodeStatus
from common.writer import GroupWriter

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Batch(msgspec.Struct):
    messages: list[StatusMessage]
    future: asyncio.Future[CommitOutcome]


class _Presence(msgspec.Struct):
    birth: NodeBirth
    epoch: Epoch
    at: float
    future: asyncio.Future[bool]
    retained: bool = False
    received: int = 0


class _Report(msgspec.Struct):
    node: str
    status: NodeStatus
    at: float
    future: asyncio.Future[None]


class _Letter(msgspec.Struct):
    letter: DeadLetter
    future: asyncio.Future[None]


class _Task(msgspec.Struct):
    """Something rare: ``work`` is called in the transaction, a ControlError that it raises goes to who asked."""

    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]


# A node that was deleted reports nothing.
_REPORT = Prepared(update(nodes).where(nodes.c.node == bindparam("of"), nodes.c.retired_at == 0))

_Op = _Batch | _Presence | _Report | _Letter | _Task
_Done = list[tuple[_Op, Any]]


class SqlStore(SqlReads):
    """A ``Store`` in a SQL database.

    Arguments: ``url`` of SQLAlchemy; ``settings`` with all bounds; ``fault`` is called at the named points of a
    transaction (``effects_written``, ``progress_written``, ``committed``), for tests that crash or fail there;
    ``mark_changes``: somebody is told of rules onward, so what changes them marks them (P8.2).
    """

    def __init__(
        self, url: str, settings: StoreSettings, *, fault: Fault = no_fault, mark_changes: bool = False
    ) -> None:
        super().__init__(settings)
        self._url, self._fault, self._mark_changes = url, fault, mark_changes
        self._owners, self._bound = Owners(), CounterBound(settings.counters_per_node_max)
        self._statistics = Statistics(settings)
        self._engine: Engine | None = None
        self._connection: Connection | None = None  # the writer's
        self._writer: GroupWriter[_Op, _Done] = GroupWriter(
            "store",
            self._commit,
            self._deliver,
            self._give_up,
            group_max=settings.group_max,
            queue_max=settings.waiting_max,
        )
        self._seconds = Histogram()
        self._counts = dict.fromkeys(("messages", "duplicates", "refused", "results", "conflicts", "split_groups"), 0)

    async def start(self) -> None:
        """See Store. The database is made when it is missing."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._open)
        except StorageError:
            self._dispose()
            raise
        self._writer.start()

    async def stop(self) -> None:
        """See Store."""
        await self._writer.stop()
        self._pool.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()
        self._dispose()

    def _dispose(self) -> None:
        """Let go of the connections in the pools."""
        for engine in (self._engine, self._reader):
            if engine is not None:
                engine.dispose()

    def _open(self) -> None:
        timeout = self._settings.busy_timeout_ms
        try:
            self._engine = make_engine(self._url, begin="BEGIN IMMEDIATE", busy_timeout_ms=timeout)
            self._reader = make_engine(
                self._url, begin="BEGIN", busy_timeout_ms=timeout, readonly=True, connections=self._settings.readers
            )
            with self._engine.begin() as conn:
                found = migrate(conn)
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as exc:  # ValueError: its port
            raise StorageError(f"store url {self._shown()}: {exc}") from exc
        except DBAPIError as exc:
            raise StorageError(f"store {self._shown()} cannot be opened: {exc.orig}") from exc
        if found != SCHEMA_VERSION:
            raise StorageError(
                f"store {self._shown()} has schema version {found}, this program knows {SCHEMA_VERSION}: "
                "use the program version that wrote it, or another store"
            )
        self._statements = Statements(self._engine.dialect.name)
        self._rings = Rings(self._settings, self._statements.insert)
        with self._engine.begin() as conn:
            self._rings.trim(conn)
            if self._mark_changes:
                seed_changes(conn, SystemClock().time())

    def _shown(self) -> str:
        try:
            return make_url(self._url).render_as_string(hide_password=True)
        except (ArgumentError, ValueError):
            return "(unreadable)"

    # ---- writes, on the loop ----

    async def commit(self, messages: Sequence[StatusMessage]) -> CommitOutcome:
        """See Store."""
        future: asyncio.Future[CommitOutcome] = asyncio.get_running_loop().create_future()
        self._writer.submit(_Batch(list(messages), future))
        return await future

    async def keep_statistics(self, at: float, *, everything: bool = False) -> None:
        """See Store."""
        statistics, taken = self._statistics, list[Any]()
        if not statistics.due(at):
            return

        def work(conn: Connection) -> None:
            if not taken:  # the first time: a transaction that is repeated writes the same
                taken.append(statistics.take(None if everything else self._settings.statistics_rows_max))
            statistics.write(conn, taken[0])
            statistics.fold(conn, at)

        await self.write(work)

    async def presence(
        self, birth: NodeBirth, epoch: Epoch, at: float, *, retained: bool = False, received: int = 0
    ) -> bool:
        """See Store."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._writer.submit(_Presence(birth, epoch, at, future, retained, received))
        return await future

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See Store."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(_Task(work, future))
        return await future

    async def replace(self, node: str, at: float) -> str:
        """See Store."""

        def work(conn: Connection) -> str:
            present, lost = replace_node(conn, self._statements.insert, node, at)
            write_losses(conn, self._statements.insert, lost, self._settings.losses_per_node_max)
            return present

        return await self.write(work)

    async def drop_letters(self, which: Letters) -> int:
        """See Store."""
        return await self.write(lambda conn: queries.drop_letters(conn, which))

    async def report(self, node: str, status: NodeStatus, at: float) -> None:
        """See Store."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer.submit(_Report(node, status, at, future))
        await future

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See Store."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer.submit(_Letter(letter, future))
        await future

    def _deliver(self, done: _Done) -> None:
        for op, outcome in done:
            if isinstance(outcome, CommitOutcome):
                self._counts["conflicts"] += sum(each.reason == CONFLICT for each in outcome.refused)
                self._counts["messages"] += outcome.new
                self._counts["duplicates"] += outcome.duplicate
                self._counts["refused"] += len(outcome.refused)
                self._counts["results"] += outcome.results
            if op.future.done():
                continue
            if isinstance(outcome, Exception):
                op.future.set_exception(outcome)
            else:
                op.future.set_result(outcome)

    def _give_up(self, group: list[_Op], exc: BaseException) -> None:
        for op in group:
            if not op.future.done():
                op.future.set_exception(StorageError(f"not written: {exc}"))

    # ---- writes, on the writer's thread ----

    def _commit(self, group: list[_Op]) -> _Done:
        with storage_errors():
            try:
                return self._transact(group)
            except (DBAPIError, ValueError, OverflowError, TypeError) as exc:
                if not is_of_values(exc):
                    raise
                log.error("store: a group of %d is done one by one: %s", len(group), getattr(exc, "orig", exc))
            self._counts["split_groups"] += 1
            return [(op, self._alone(op)) for op in group]

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction on the writer's own connection, which is kept: to take one from the pool costs as much as half
        a small group. After a failure it is a new one.
        """
        assert self._engine is not None
        conn = self._connection = self._connection or self._engine.connect()
        try:
            with conn.begin():
                yield conn
        except BaseException:
            self._connection = None
            conn.close()
            raise

    def _transact(self, group: list[_Op]) -> _Done:
        by_kind: dict[type, list[Any]] = {_Presence: [], _Batch: [], _Report: [], _Letter: [], _Task: []}
        for op in group:
            by_kind[type(op)].append(op)
        done: _Done = []
        began = time.monotonic()
        work: StatusCommit | None = None
        with self._writing() as conn:
            births: list[_Presence] = sorted(by_kind[_Presence], key=lambda op: op.birth.node)  # one node's in order
            if conn.dialect.name == "postgresql":
                lock_nodes(conn, _nodes_of(births, by_kind[_Report], by_kind[_Letter]), _nodes_in(by_kind[_Batch]))
            for op in births:
                done.append((op, self._presence(conn, op)))
            batches: list[_Batch] = by_kind[_Batch]
            if any(batch.messages for batch in batches):
                work = StatusCommit(conn, self._tools(), self._fault)
                done += zip(batches, work.run([batch.messages for batch in batches]), strict=True)
            else:
                done += [(batch, CommitOutcome()) for batch in batches]
            for op in by_kind[_Report]:
                done.append((op, _write_report(conn, op)))
            if by_kind[_Letter]:
                self._rings.write_letters(conn, [op.letter for op in by_kind[_Letter]])
                done += [(op, None) for op in by_kind[_Letter]]
            done += [(op, _done(conn, op)) for op in by_kind[_Task]]
        self._seconds.observe(time.monotonic() - began)
        self._fault("committed")
        if work is not None:
            for remember in work.committed:
                remember()
            self._statistics.note(work.tallies)
        return done

    def _tools(self) -> Tools:
        limits = self._settings
        return Tools(
            self._statements, self._rings, self._owners, self._bound, self._mark_changes, limits.epochs_per_node_max,
            limits.losses_per_node_max,
        )  # fmt: skip

    def _presence(self, conn: Connection, op: _Presence) -> bool | RefusedError:
        claim = Claim(op.birth, op.epoch, op.retained, op.received)
        found = apply_presence(conn, self._statements.insert, claim, op.at)
        if found.losses:
            write_losses(conn, self._statements.insert, found.losses, self._settings.losses_per_node_max)
        return retired_error(op.birth.node) if found.retired else found.taken

    def _alone(self, op: _Op) -> Any:
        """Do one operation in transactions of its own; of a batch only the message that the store cannot take fails."""
        if not isinstance(op, _Batch):
            try:
                return self._transact([op])[0][1]
            except (DBAPIError, ValueError, OverflowError, TypeError) as exc:
                if not is_of_values(exc):
                    raise
                return StorageError(f"{NOT_STORED}: {exc}")
        whole = CommitOutcome()
        for message in op.messages:
            try:
                part: CommitOutcome = self._transact([_Batch([message], op.future)])[0][1]
            except (DBAPIError, ValueError, OverflowError, TypeError) as exc:
                if not is_of_values(exc):
                    raise
                whole.refused.append(RefusedStatus(message, NOT_STORED, str(exc)[:500]))
                continue
            whole.confirmed += part.confirmed
            whole.refused += part.refused
            whole.new += part.new
            whole.duplicate += part.duplicate
            whole.results += part.results
        return whole

    def commit_seconds(self) -> Histogram:
        """See Store."""
        return self._seconds

    def statistics(self) -> dict[str, int]:
        """See Store."""
        waiting, groups, retries = self._writer.waiting, self._writer.groups, self._writer.retries
        return {
            **self._counts, "waiting": waiting, "groups": groups, "retries": retries,
            "counters_overflowed": self._bound.overflowed, "statistics_waiting": self._statistics.waiting,
            "statistics_dropped": self._statistics.dropped,
        }  # fmt: skip


def _done(conn: Connection, op: _Task) -> Any:
    try:
        return op.work(conn)
    except ControlError as exc:  # it looked before it changed anything: the others of the group are not touched
        return exc


def _nodes_of(births: list[_Presence], reports: list[_Report], letters: list[_Letter]) -> set[str]:
    found = {op.birth.node for op in births} | {op.node for op in reports}
    return found | {op.letter.node for op in letters if op.letter.node}


def _nodes_in(batches: list[_Batch]) -> set[str]:
    return {message.node for batch in batches for message in batch.messages}


def _write_report(conn: Connection, op: _Report) -> RefusedError | None:
    status = msgspec.json.encode(op.status).decode()
    values: dict[str, Any] = {"status": status, "last_seen": op.at, "reported_at": op.at}
    values["rules_version"] = op.status.rules_version
    if _REPORT.change(conn, {"of": op.node, **values}):
        return None
    if conn.execute(update(nodes).where(nodes.c.node == op.node).values(refused=nodes.c.refused + 1)).rowcount:
        return retired_error(op.node)
    # a node that was never born here: the store is new, and its birth will come
    conn.execute(insert(nodes).values(node=op.node, first_seen=op.at, since=op.at, **values))
    return None
