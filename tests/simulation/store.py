"""The cloud's store for a simulation: the product's SqlStore, its transactions called on the scheduler's thread.

SQLite in memory, one database a process, emptied for each run: what takes time is to open one and to compile its
statements. A crash in the middle of a transaction rolls it back, as the loss of a process would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from sqlalchemy import Engine, Executable

from cloud.counting import Effects, Sampler
from cloud.settings import StoreSettings
from cloud.stores import bounds, presence, writes
from cloud.stores.base import CommitOutcome, StatusMessage
from cloud.stores.rings import Rings
from cloud.stores.sql import SqlStore, _Batch, _Presence
from cloud.stores.tables import metadata, schema
from common.models import WINDOW, Epoch, ExecResult, NodeBirth
from tests.simulation.prepared import PreparedConnection
from tests.simulation.truth import Id, ids_in

STORE_FAULTS = ("effects_written", "progress_written", "committed")
IN_MEMORY = "sqlite://"
EPOCHS_SPARE = 16  # that are open of a node beside those of its window: some births may be lost
_SETTINGS = StoreSettings(ring_rate_max=0, epochs_per_node_max=WINDOW + EPOCHS_SPARE)
_EMPTY = [f"DELETE FROM {table.name}" for table in metadata.sorted_tables if table is not schema]

Watch = Callable[[list[Id]], None]  # is told what a committed transaction has counted
Fault = Callable[[str], None]  # is called at the named points, and may raise StorageError or Crash


class _Seen(Effects):
    """Effects that note whose they are."""

    def __init__(self, sampler: Sampler, errors_max: int, ids: list[Id]) -> None:
        super().__init__(sampler, errors_max)
        self._ids = ids

    def add(self, node: str, namespace: str, results: Sequence[ExecResult], at: float, msg_id: str = "") -> None:
        super().add(node, namespace, results, at, msg_id)
        for result in results:
            self._ids += ids_in(result.source_id.encode())


class _WatchedRings(Rings):
    """Rings whose effects note what they count."""

    ids: list[Id]

    def effects(self) -> Effects:
        self.ids = []
        return _Seen(self._sampler, self._settings.errors_per_rule_max, self.ids)


@cache
def _in_memory() -> SqlStore:
    """The store in memory, with a connection in the place of its engine: both have ``begin``."""
    store = SqlStore(IN_MEMORY, _SETTINGS)
    store._open()
    assert store._engine is not None
    kept = [vars(module).values() for module in (bounds, presence, writes)] + [vars(store._statements).values()]
    constants = [value for values in kept for value in values if isinstance(value, Executable)]
    constants.append(presence._upsert(store._statements.insert))
    store._engine = PreparedConnection(store._engine, constants)  # type: ignore[assignment]
    return store


class SimStore:
    """A store of its own for one run: begins empty with ``open``, and outlives every controller.

    Arguments: ``url`` of a file, or IN_MEMORY (one run at a time); ``watch`` and ``fault`` as above.
    """

    def __init__(self, url: str, watch: Watch, fault: Fault) -> None:
        self._url, self._watch, self._fault = url, watch, fault

    def open(self) -> None:
        """Open the database, or empty the one in memory."""
        if self._url == IN_MEMORY:
            self._store = _in_memory()
            with self._engine.begin() as conn:
                for statement in _EMPTY:
                    conn.exec_driver_sql(statement)
        else:
            self._store = SqlStore(self._url, _SETTINGS)
            self._store._open()
        self._store._fault = self._at
        self._store._rings = self._rings = _WatchedRings(_SETTINGS, self._store._statements.insert)
        self._rings.ids = []

    @property
    def _engine(self) -> Engine:
        engine = self._store._engine
        assert engine is not None
        return engine

    def _at(self, point: str) -> None:
        if point == "committed":
            counted, self._rings.ids = self._rings.ids, []
            self._watch(counted)
        self._fault(point)

    def commit(self, messages: Sequence[StatusMessage]) -> CommitOutcome:
        """One transaction of the product."""
        return self._store._commit([_Batch(list(messages), None)])[0][1]  # type: ignore[arg-type,no-any-return]

    def presence(self, birth: NodeBirth, epoch: Epoch, at: float, *, retained: bool = False, received: int = 0) -> bool:
        """One transaction of the product."""
        self._rings.ids = []  # of a transaction that was rolled back
        op = _Presence(birth, epoch, at, None, retained, received)  # type: ignore[arg-type]
        return bool(self._store._commit([op])[0][1])

    def totals(self) -> dict[str, int]:
        """Executions counted, by node."""
        with self._engine.begin() as conn:
            rows = conn.exec_driver_sql("SELECT node, sum(count) FROM counters GROUP BY node")
            return {node: int(count) for node, count in rows}

    def open_epochs(self) -> dict[str, int]:
        """Epochs that are not retired, by node."""
        with self._engine.begin() as conn:
            return dict(tuple(row) for row in conn.exec_driver_sql("SELECT node, count(*) FROM progress GROUP BY node"))

    def alarms(self) -> dict[str, str]:
        """What the store holds against nodes (P5.8), by node: a conflict, or messages that it thinks it has lost."""
        with self._engine.begin() as conn:
            rows = conn.exec_driver_sql("SELECT node, conflict, cloud_lost FROM nodes")
            return {node: text or f"{lost} lost" for node, text, lost in rows if text or lost}

    def close(self) -> None:
        """Close the database if it is this run's own."""
        if self._url != IN_MEMORY:
            for engine in (self._store._engine, self._store._reader):
                if engine is not None:
                    engine.dispose()
            self._store._pool.shutdown()
