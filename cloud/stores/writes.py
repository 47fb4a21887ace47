"""What one transaction does with rulestatus messages: effect and progress together, or neither (P5.5, P5.7).

Rows are locked in one order everywhere: nodes, then progress by (node, epoch), then counters by (node, rule), then
errors and what sinks are to hear of by rule. The first statement touches the node rows, so two controllers that hold
messages of one node follow each other, also when neither finds a progress row yet; and nobody waits at a counter, for
each belongs to one node. Nothing read here is kept for the next transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnDefault, Connection, Table, bindparam, case, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cloud.counting import TOTAL_MAX, CounterKey, Effects, Tally
from cloud.progress import Progress, Sight
from cloud.stores import conflicts, presence
from cloud.stores.base import (
    BEYOND_WINDOW,
    CONFLICT,
    NOT_ASSIGNED,
    RETIRED,
    STALE_EPOCH,
    TOO_MANY_EPOCHS,
    CommitOutcome,
    Confirmed,
    RefusedStatus,
    StatusMessage,
)
from cloud.stores.bounds import CounterBound
from cloud.stores.bulk import Bulk, Lookup
from cloud.stores.conflicts import Held
from cloud.stores.losses import EDGE, Loss, cloud_lost, restored_copy, write_losses
from cloud.stores.marking import mark_changed
from cloud.stores.owners import Owners
from cloud.stores.presence import Origin
from cloud.stores.rings import Rings, saturating
from cloud.stores.tables import DOUBTFUL, NORMAL, REPLACED, counters, nodes, progress
from common.models import WINDOW, Epoch

log = logging.getLogger(__name__)

Key = tuple[str, int, str]  # node, epoch counter, epoch uuid
_SEEN = ("first_seen", "last_seen", "since")
_NEW_NODE = {column.name: column.default.arg for column in nodes.columns if isinstance(column.default, ColumnDefault)}


class _Known(NamedTuple):
    """What the store knows of a node, by the columns of ``nodes``."""

    node: str
    retired_through: int
    lowest_n: int
    epoch_n: int
    epoch_uuid: str
    born_n: int
    retired_at: float


_LOCK = Lookup(
    lambda names: select(nodes.c.node).where(nodes.c.node.in_(names)).order_by(nodes.c.node).with_for_update()
)


def lock_nodes(conn: Connection, names: set[str], counting: set[str]) -> None:
    """Lock all nodes of a group in one order, before births, statistics and letters each touch theirs in another one.

    ``counting`` are those whose messages are counted: they alone need no lock of their own, for their first statement
    locks them in this order too. A node that is new is not there to be locked: then two controllers may meet in a
    deadlock, of which the database ends one, and that group is done again.
    """
    if names:
        _LOCK.fetch(conn, sorted(names | counting))


class Statements:
    """The statements that differ by dialect: both have INSERT ... ON CONFLICT DO UPDATE, each in its own module."""

    def __init__(self, dialect: str) -> None:
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        touch = _upsert(insert, nodes, ("node",), lambda new: {"last_seen": new.last_seen})
        self.touch = Bulk(touch, ("node", *_NEW_NODE, *_SEEN))
        moved = _upsert(insert, progress, ("node", "n", "uuid"), lambda new: {"mark": new.mark, "above": new.above})
        self.progress = Bulk(moved, ("node", "n", "uuid", "mark", "above"))
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
        known = select(*(nodes.c[name] for name in _Known._fields))
        self.known = Lookup(lambda names: known.where(nodes.c.node.in_(names)))
        held = select(progress).order_by(progress.c.node, progress.c.n, progress.c.uuid).with_for_update()
        self.held = Lookup(lambda names: held.where(progress.c.node.in_(names)))
        self.insert = insert


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


class Tools(NamedTuple):
    """What a commit works with. ``mark``: somebody is told of rules onward (P8.2)."""

    statements: Statements
    rings: Rings
    owners: Owners
    bound: CounterBound
    mark: bool
    epochs_max: int
    losses_max: int


class StatusCommit:
    """One commit group of rulestatus messages inside an open transaction. Used once.

    When the transaction is committed, ``committed`` are to be called, and ``tallies`` were counted.
    """

    def __init__(self, conn: Connection, tools: Tools, fault: Callable[[str], None]) -> None:
        self._conn, self._tools, self._fault = conn, tools, fault
        self._statements, self._rings = tools.statements, tools.rings
        self._epochs_max, self._losses_max = tools.epochs_max, tools.losses_max
        self._strays: dict[int, list[tuple[str, str]]] = {}
        self.tallies: dict[CounterKey, Tally] = {}
        self.committed: list[Callable[[], None]] = []
        self._nodes: dict[str, _Known] = {}
        self._progress: dict[Key, Progress] = {}
        self._epochs: dict[str, int] = {}
        self._fresh: set[str] = set()  # nodes that got their first message of an epoch in this group
        self._touched: set[Key] = set()
        self._deltas: dict[str, list[int]] = {}  # node -> duplicates, refused, lost
        self._odd: dict[Key, Held] = {}  # epochs of which not every message counts
        self._present: dict[str, tuple[Epoch, int]] = {}  # the epoch that spoke last, the counter that was born last
        self._uuids: dict[tuple[str, int], str] = {}  # of the epochs that count, by node and counter
        self._alarms: list[tuple[str, Epoch, int, str, float]] = []
        self._conflicts: list[tuple[str, Epoch, str, float]] = []
        self._losses: list[Loss] = []

    def run(self, batches: Sequence[Sequence[StatusMessage]]) -> list[CommitOutcome]:
        """Give every new message its effect, note it, and say per batch what is committed and what is refused."""
        messages = [message for batch in batches for message in batch]
        self._read(messages)
        self._strays, known = self._tools.owners.strays(self._conn, messages)
        self.committed.append(known)
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
        if self._conflicts or self._alarms or self._losses:
            self._write_losses()
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
        rows = [(node, *_NEW_NODE.values(), *[heard[node]] * len(_SEEN)) for node in names]
        self._statements.touch.execute(self._conn, rows)
        self._nodes = {row[0]: _Known(*row) for row in self._statements.known.fetch(self._conn, names)}
        self._present = {
            row.node: (Epoch(row.epoch_n, row.epoch_uuid), row.born_n) for row in self._nodes.values() if row.epoch_n
        }
        for node, n, uuid, mark, above, state, session, ended in self._statements.held.fetch(self._conn, names):
            seen = self._progress[node, n, uuid] = Progress(mark, above)
            if state != NORMAL or ended:
                self._odd[node, n, uuid] = Held(seen, state, session, ended)
            if state == NORMAL:
                self._uuids[node, n] = uuid
                self._epochs[node] = self._epochs.get(node, 0) + 1

    def _take(self, message: StatusMessage, effects: Effects, outcome: CommitOutcome) -> bool:
        """Judge one message; True when it is to be confirmed, be it new or a duplicate."""
        node, epoch = message.node, message.epoch
        key = (node, epoch.n, epoch.uuid)
        if self._nodes[node].retired_at:
            return self._refuse(message, outcome, RETIRED, f"node {node} was deleted")
        seen = self._progress.get(key)
        if seen is None or key in self._odd or epoch.n <= self._nodes[node].retired_through:
            reason, detail = self._objection(message, key)
            if reason:
                return self._refuse(message, outcome, reason, detail)
        if id(message) in self._strays and (seen is None or not seen.holds(message.sequence)):
            return self._refuse_strays(message, outcome)
        if seen is None:
            seen = self._progress[key] = Progress()
            self._uuids[node, epoch.n] = epoch.uuid
            self._epochs[node] = self._epochs.get(node, 0) + 1
        if not seen.mark:
            self._fresh.add(node)
        first, lost = seen.mark + 1, seen.raise_to(message.low - 1)
        if lost:
            log.warning(
                "node %s: %d messages of epoch %s up to %d were confirmed once and are unknown here: the store was "
                "restored or replaced", node, lost, epoch, message.low - 1,
            )  # fmt: skip
            self._delta(node)[2] += lost
            self._losses.append(cloud_lost(node, epoch, first, message.low - 1, lost, message.received_at))
        self._touched.add(key)
        sight = seen.see(message.sequence)
        if sight is Sight.NEW:
            effects.add(node, message.namespace, message.results, message.received_at, message.msg_id)
            self._losses += [Loss(node, record, EDGE, message.received_at) for record in message.losses]
            outcome.new += 1
            outcome.results += sum([result.count for result in message.results])
        elif sight is Sight.SEEN:
            outcome.duplicate += 1
            self._delta(node)[0] += 1
        else:
            detail = f"sequence {message.sequence} is more than {WINDOW} above {seen.mark}"
            return self._refuse(message, outcome, BEYOND_WINDOW, detail)
        return True

    def _objection(self, message: StatusMessage, key: Key) -> tuple[str, str]:
        """Say why a message is not for counting, or nothing. Called for epochs that are new, odd or retired."""
        node, epoch = message.node, message.epoch
        odd = self._odd.get(key)
        if odd is not None and odd.state == DOUBTFUL:
            return CONFLICT, f"epoch {epoch} is in doubt: see fieldpost get nodes"
        if odd is not None and odd.state == REPLACED:
            return CONFLICT, f"epoch {epoch} was given up by node replace"
        through = self._nodes[node].retired_through
        if odd is not None and epoch.n > through:
            if odd.ended > message.sequence:
                return "", ""
            text = f"epoch {epoch} ended before message {odd.ended} in the spool that is known, and goes on with it"
            self._alarms.append((node, epoch, odd.ended, text, message.received_at))
            return CONFLICT, text
        present, born_n = self._present.get(node, (Epoch(0, ""), 0))
        known = self._named_twice(node, epoch, present)
        if known is not None:
            self._raise_conflict(message, conflicts.named_twice(epoch, known))
            return CONFLICT, conflicts.named_twice(epoch, known)
        if epoch.n <= max(born_n, through):
            origin = presence.origin_of(self._conn, node, epoch, message.sequence, through, max(born_n, through))
            if origin is Origin.RETIRED:
                return STALE_EPOCH, f"epoch {epoch} is retired"
            if origin is Origin.UNKNOWN:  # its node keeps it, if there is one that has it
                return CONFLICT, f"epoch {epoch} is older than what is known of this node"
            text = (
                f"message {message.sequence} of epoch {epoch} comes, but epoch {max(born_n, through)} is known, whose "
                "spool never had it"
            )
            self._raise_conflict(message, text)
            return CONFLICT, text
        if self._epochs.get(node, 0) >= self._epochs_max:
            return TOO_MANY_EPOCHS, f"more than {self._epochs_max} epochs"
        return "", ""

    def _named_twice(self, node: str, epoch: Epoch, present: Epoch) -> Epoch | None:
        """Return the counted epoch of the same counter and another uuid: two spools speak for this node (P5.8)."""
        uuid = self._uuids.get((node, epoch.n), epoch.uuid)
        if uuid != epoch.uuid:
            return Epoch(epoch.n, uuid)
        same = present.n == epoch.n and present.uuid != epoch.uuid
        return present if same and (node, *present) not in self._odd else None

    def _raise_conflict(self, message: StatusMessage, text: str) -> None:
        key = (message.node, *message.epoch)
        self._progress[key] = Progress()
        self._odd[key] = Held(self._progress[key], DOUBTFUL)
        self._conflicts.append((message.node, message.epoch, text, message.received_at))

    def _refuse_strays(self, message: StatusMessage, outcome: CommitOutcome) -> bool:
        """Refuse a message with results of rules that its node never had: none of it has an effect, for its node
        replaces it (P5.9) and sends what is left of it anew.
        """
        strays = self._strays[id(message)]
        rule, uid = strays[0]
        more = f", nor {len(strays) - 1} others" if len(strays) > 1 else ""
        detail = f"rule {message.namespace}/{rule} with uid {uid[:80]} was never assigned to node {message.node}{more}"
        return self._refuse(message, outcome, NOT_ASSIGNED, detail, sorted({uid for _, uid in strays}))

    def _refuse(
        self, message: StatusMessage, outcome: CommitOutcome, reason: str, detail: str, uids: Sequence[str] = ()
    ) -> bool:
        outcome.refused.append(RefusedStatus(message, reason, detail, uids))
        self._delta(message.node)[1] += 1
        return False

    def _delta(self, node: str) -> list[int]:
        return self._deltas.setdefault(node, [0, 0, 0])

    def _write_effects(self, effects: Effects) -> None:
        tallies = effects.counters()
        if not tallies:
            return
        bounded = self._tools.bound.apply(self._conn, tallies)
        self.tallies = bounded.tallies
        self.committed.append(lambda: self._tools.bound.note(bounded))
        self._statements.counters.execute(self._conn, _counter_rows(bounded.tallies))
        self._rings.write(self._conn, bounded.errors(effects.errors()), effects.samples)
        if self._tools.mark:
            at = max(tally.last_at for tally in bounded.tallies.values())
            mark_changed(self._conn, {key[1:4] for key in bounded.tallies}, at)

    def _write_progress(self) -> None:
        rows = []
        for node, n, uuid in sorted(self._touched):
            seen = self._progress[node, n, uuid]
            rows.append((node, n, uuid, seen.mark, seen.above))
        if rows:
            self._statements.progress.execute(self._conn, rows)
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

    def _write_losses(self) -> None:
        insert = self._statements.insert
        for node, epoch, text, at in self._conflicts:
            verdict = conflicts.Verdict(conflicts.Sight.CONFLICT, text, str(epoch))
            self._losses.append(presence.doubt(self._conn, insert, node, epoch, verdict, at))
        for node, epoch, first, text, at in self._alarms:
            said = presence.alarm(self._conn, node, text)
            self._losses.append(restored_copy(node, f"conflict-{epoch}", str(epoch), first, 0, said, at))
        if self._losses:
            write_losses(self._conn, insert, self._losses, self._losses_max)


def _counter_rows(tallies: Mapping[CounterKey, Tally]) -> list[tuple[Any, ...]]:
    """Return what to add to ``counters``, by its columns, in the order in which rows are locked."""
    rows = []
    for key, tally in tallies.items():
        count, total, longest = tally.sums()
        if total > TOTAL_MAX or count > TOTAL_MAX:
            count, total = min(count, TOTAL_MAX), min(total, TOTAL_MAX)
        rows.append((*key, count, total, longest, tally.first_at, tally.last_at))
    return rows
