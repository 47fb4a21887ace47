"""What one transaction does with rulestatus messages: effect and progress together, or neither (P5.5, P5.7).

Rows are locked in one order everywhere: nodes, then progress by (node, epoch), then counters by (rule, node). The first
statement touches the node rows, so two controllers that hold messages of one node follow each other, also when neither
finds a progress row yet. Nothing read here is kept for the next transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, bindparam, case, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cloud.counting import Effects
from cloud.progress import WINDOW, Progress, Sight
from cloud.stores import presence
from cloud.stores.base import (
    BEYOND_WINDOW,
    STALE_EPOCH,
    TOO_MANY_EPOCHS,
    CommitOutcome,
    Confirmed,
    RefusedStatus,
    StatusMessage,
)
from cloud.stores.bulk import Bulk
from cloud.stores.rings import Rings, saturating
from cloud.stores.tables import counters, nodes, progress

log = logging.getLogger(__name__)

Key = tuple[str, int, str]  # node, epoch counter, epoch uuid


class Statements:
    """The statements that differ by dialect: both have INSERT ... ON CONFLICT DO UPDATE, each in its own module."""

    def __init__(self, dialect: str) -> None:
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        self.touch = _upsert(insert, nodes, ("node",), lambda new: {"last_seen": new.last_seen})
        self.progress = _upsert(
            insert, progress, ("node", "n", "uuid"), lambda new: {"mark": new.mark, "bits": new.bits}
        )
        upsert = _upsert(insert, counters, tuple(counters.primary_key.columns.keys()), _add_tally)
        self.counters = Bulk(upsert, counters.columns.keys())
        self.nodes = (
            update(nodes)
            .where(nodes.c.node == bindparam("of"))
            .values(
                duplicates=nodes.c.duplicates + bindparam("more_duplicates", type_=BigInteger),
                refused=nodes.c.refused + bindparam("more_refused", type_=BigInteger),
                cloud_lost=saturating(nodes.c.cloud_lost, bindparam("more_lost", type_=BigInteger)),
            )
        )
        self.known = select(nodes.c.node, nodes.c.retired_through, nodes.c.lowest_n).where(_among(nodes))
        self.held = (
            select(progress)
            .where(_among(progress))
            .order_by(progress.c.node, progress.c.n, progress.c.uuid)
            .with_for_update()
        )
        self.insert = insert


def _among(table: Table) -> ColumnElement[bool]:
    return table.c.node.in_(bindparam("names", expanding=True))


def _upsert(insert: Any, table: Table, key: Sequence[str], changes: Callable[[Any], dict[str, Any]]) -> Any:
    statement = insert(table)
    return statement.on_conflict_do_update(index_elements=list(key), set_=changes(statement.excluded))


def _add_tally(new: Any) -> dict[str, Any]:
    old = counters.c
    return {
        "count": saturating(old.count, new.count),
        "duration_sum": saturating(old.duration_sum, new.duration_sum),
        "duration_max": case((new.duration_max > old.duration_max, new.duration_max), else_=old.duration_max),
        "last_at": new.last_at,
    }


class StatusCommit:
    """One commit group of rulestatus messages inside an open transaction. Used once."""

    def __init__(
        self, conn: Connection, statements: Statements, rings: Rings, epochs_max: int, fault: Callable[[str], None]
    ) -> None:
        self._conn, self._statements, self._rings = conn, statements, rings
        self._epochs_max, self._fault = epochs_max, fault
        self._nodes: dict[str, Any] = {}
        self._progress: dict[Key, Progress] = {}
        self._epochs: dict[str, int] = {}
        self._fresh: set[str] = set()  # nodes that got their first message of an epoch in this group
        self._touched: set[Key] = set()
        self._deltas: dict[str, list[int]] = {}  # node -> duplicates, refused, lost

    def run(self, batches: Sequence[Sequence[StatusMessage]]) -> list[CommitOutcome]:
        """Give every new message its effect, note it, and say per batch what is committed and what is refused."""
        self._read([message for batch in batches for message in batch])
        effects = self._rings.effects()
        outcomes = [CommitOutcome() for _ in batches]
        last: dict[Key, tuple[int, StatusMessage]] = {}
        for at, batch in enumerate(batches):
            for message in batch:
                if self._take(message, effects, outcomes[at]):
                    last[message.node, *message.epoch] = (at, message)
        self._write_effects(effects)
        self._fault("effects_written")
        self._write_progress()
        self._fault("progress_written")
        for key, (at, message) in last.items():
            seen = self._progress[key]
            outcomes[at].confirmed.append(
                Confirmed(message.node, message.epoch, seen.mark, seen.also(), message.msg_id, message.namespace)
            )
        return outcomes

    def _read(self, messages: Iterable[StatusMessage]) -> None:
        """Lock and read what decides: the nodes' retired epochs, and all progress of these nodes."""
        heard = {message.node: message.received_at for message in messages}
        names = sorted(heard)
        rows = [{"node": n, "first_seen": heard[n], "last_seen": heard[n], "since": heard[n]} for n in names]
        self._conn.execute(self._statements.touch, rows)
        wanted = {"names": names}
        self._nodes = {row.node: row for row in self._conn.execute(self._statements.known, wanted)}
        for node, n, uuid, mark, bits in self._conn.execute(self._statements.held, wanted):
            self._progress[node, n, uuid] = Progress(mark, bits)
            self._epochs[node] = self._epochs.get(node, 0) + 1

    def _take(self, message: StatusMessage, effects: Effects, outcome: CommitOutcome) -> bool:
        """Judge one message; True when it is to be confirmed, be it new or a duplicate."""
        node, epoch = message.node, message.epoch
        if epoch.n <= self._nodes[node].retired_through:
            return self._refuse(message, outcome, STALE_EPOCH, f"epoch {epoch} is retired")
        key = (node, epoch.n, epoch.uuid)
        seen = self._progress.get(key)
        if seen is None:
            if self._epochs.get(node, 0) >= self._epochs_max:
                return self._refuse(message, outcome, TOO_MANY_EPOCHS, f"more than {self._epochs_max} epochs")
            seen = self._progress[key] = Progress()
            self._epochs[node] = self._epochs.get(node, 0) + 1
            self._fresh.add(node)
        lost = seen.raise_to(message.low - 1)
        if lost:
            log.warning(
                "node %s: %d messages of epoch %s up to %d were confirmed once and are unknown here: the store was "
                "restored or replaced", node, lost, epoch, message.low - 1,
            )  # fmt: skip
            self._delta(node)[2] += lost
        self._touched.add(key)
        sight = seen.see(message.sequence)
        if sight is Sight.NEW:
            effects.add(node, message.namespace, message.results, message.received_at, message.msg_id)
            outcome.new += 1
            outcome.results += sum([result.count for result in message.results])
        elif sight is Sight.SEEN:
            outcome.duplicate += 1
            self._delta(node)[0] += 1
        else:
            detail = f"sequence {message.sequence} is more than {WINDOW} above {seen.mark}"
            return self._refuse(message, outcome, BEYOND_WINDOW, detail)
        return True

    def _refuse(self, message: StatusMessage, outcome: CommitOutcome, reason: str, detail: str) -> bool:
        outcome.refused.append(RefusedStatus(message, reason, detail))
        self._delta(message.node)[1] += 1
        return False

    def _delta(self, node: str) -> list[int]:
        return self._deltas.setdefault(node, [0, 0, 0])

    def _write_effects(self, effects: Effects) -> None:
        rows = self._rings.counter_rows(effects)
        if rows:
            self._statements.counters.execute(self._conn, rows)
        self._rings.write(self._conn, effects)

    def _write_progress(self) -> None:
        rows = []
        for node, n, uuid in sorted(self._touched):
            seen = self._progress[node, n, uuid]
            rows.append({"node": node, "n": n, "uuid": uuid, "mark": seen.mark, "bits": seen.bits})
        if rows:
            self._conn.execute(self._statements.progress, rows)
        if self._deltas:
            changes = [
                {"of": node, "more_duplicates": delta[0], "more_refused": delta[1], "more_lost": delta[2]}
                for node, delta in sorted(self._deltas.items())
            ]
            self._conn.execute(self._statements.nodes, changes)
        for node in sorted(self._fresh):
            row = self._nodes[node]
            if row.lowest_n:
                presence.retire(self._conn, node, row.lowest_n, row.retired_through)
