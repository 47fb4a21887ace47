"""The bounded parts of the store: distinct errors per rule, single results, dead letters (P8.1, P8.6, P4.2).

Rings are trimmed in the transaction that fills them. A trim costs an index walk, so a ring may grow a tenth (errors: a
quarter) above its bound before it is cut back to it. How much was added since is kept in memory; a start trims all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from cloud.counting import TOTAL_MAX, Effects, ErrorKey, ErrorTally, Sample, Sampler
from cloud.settings import StoreSettings
from cloud.stores.base import CONFLICT, NOT_ASSIGNED, DeadLetter
from cloud.stores.bulk import Bulk
from cloud.stores.tables import dead_letters, errors, nodes, results
from common.models import clean_text

_RULE_BINDS = ("of_namespace", "of_rule", "of_uid")
RULES_TRACKED_MAX = 100_000  # rules whose additions are remembered between trims; above, all are trimmed once more


_TOTAL_MAX = literal_column(
    str(TOTAL_MAX), BigInteger
)  # in the statement's text: a Bulk has no parameters but its rows'


def saturating(old: Any, more: Any) -> Any:
    """SQL for ``old + more``, at most TOTAL_MAX: no hostile count may overflow a column or a sum."""
    return case((old > _TOTAL_MAX - more, _TOTAL_MAX), else_=old + more)


class Rings:
    """Writes errors, single results and dead letters, and keeps them within their bounds. Writer thread only."""

    def __init__(self, settings: StoreSettings, dialect_insert: Any) -> None:
        self._settings = settings
        self._sampler = Sampler(settings.ring_rate_max, settings.ring_rate_total_max)
        self._added: Counter[tuple[str, str]] = Counter()
        self._errors_added: Counter[tuple[str, ...]] = Counter()
        self._added_total = self._letters_added = 0
        self._insert_results = Bulk(insert(results), [column.name for column in results.columns if column.name != "id"])
        self._upsert_errors = Bulk(_errors_upsert(dialect_insert), errors.columns.keys())
        self._trim_errors = _errors_trim(settings.errors_per_rule_max)
        of_rule = (results.c.namespace == bindparam("of_namespace"), results.c.rule == bindparam("of_rule"))
        self._trim_rule = _keep_last(results, settings.ring_rule_max, *of_rule)
        self._trim_all = _keep_last(results, settings.ring_total_max)
        self._trim_letters = _keep_last(dead_letters, settings.dead_letters_max)

    def trim(self, conn: Connection) -> None:
        """Cut everything to its bounds; at each start, and when more rules are tracked than memory is meant for."""
        conn.execute(self._trim_letters)
        conn.execute(self._trim_all)
        newest, of_result = (results.c.id.desc(),), ("namespace", "rule")
        conn.execute(_trim_each(results, "id", newest, of_result, self._settings.ring_rule_max))
        by_age, of_error = (errors.c.last_at.desc(), errors.c.digest), ("namespace", "rule", "uid")
        conn.execute(_trim_each(errors, "digest", by_age, of_error, self._settings.errors_per_rule_max))
        self._added.clear()
        self._errors_added.clear()

    def effects(self) -> Effects:
        """Return empty effects for one commit group, with this store's bounds."""
        return Effects(self._sampler, self._settings.errors_per_rule_max)

    def write(self, conn: Connection, found: Mapping[ErrorKey, ErrorTally], samples: list[Sample]) -> None:
        """Write errors and single results of one commit group, then trim what grew too far."""
        self._write_errors(conn, found)
        if samples:
            self._insert_results.execute(conn, [_sample_row(sample) for sample in samples])
            self._trim_results(conn, samples)
        if len(self._added) + len(self._errors_added) > RULES_TRACKED_MAX:
            self.trim(conn)

    def _write_errors(self, conn: Connection, found: Mapping[ErrorKey, ErrorTally]) -> None:
        rows, rules = [], Counter[tuple[str, ...]]()
        for key, tally in found.items():
            rules[key[:3]] += 1
            rows.append((
                *key[:3], _digest(key), key.reason, key.detail, min(tally.count, TOTAL_MAX), tally.first_at,
                tally.last_at, tally.node, tally.source_id, tally.step,
            ))  # fmt: skip
        if not rows:
            return
        self._upsert_errors.execute(conn, rows)
        self._errors_added.update(rules)
        due = [rule for rule in sorted(rules) if self._errors_added[rule] > self._settings.errors_per_rule_max // 4]
        if due:
            conn.execute(self._trim_errors, [dict(zip(_RULE_BINDS, rule, strict=True)) for rule in due])
            for rule in due:
                del self._errors_added[rule]

    def _trim_results(self, conn: Connection, samples: list[Sample]) -> None:
        bound = self._settings.ring_rule_max
        touched = Counter((sample.namespace, sample.result.rule_id) for sample in samples)
        self._added.update(touched)
        due = [rule for rule in sorted(touched) if self._added[rule] > bound // 10]  # in one order, as rows are locked
        if due:
            conn.execute(self._trim_rule, [{"of_namespace": rule[0], "of_rule": rule[1]} for rule in due])
            for rule in due:
                del self._added[rule]
        self._added_total += len(samples)
        if self._added_total > self._settings.ring_total_max // 10:
            conn.execute(self._trim_all)
            self._added_total = 0

    def write_letters(self, conn: Connection, letters: list[DeadLetter]) -> None:
        """Keep refused messages, count them on the nodes that are known, and trim the oldest."""
        size = self._settings.dead_letter_bytes_max
        rows = [
            {
                "node": letter.node, "topic": clean_text(letter.topic), "reason": letter.reason,
                "detail": clean_text(letter.detail), "sha256": letter.sha256, "size": letter.size,
                "payload": letter.payload[:size], "at": letter.at,
            }
            for letter in letters
        ]  # fmt: skip
        fresh = self._not_again(conn, rows)
        if fresh:
            conn.execute(insert(dead_letters), fresh)
        for node, refused in sorted(Counter(letter.node for letter in letters if letter.node).items()):
            conn.execute(update(nodes).where(nodes.c.node == node).values(refused=nodes.c.refused + refused))
        bound = self._settings.dead_letters_max
        self._letters_added += len(fresh)
        if self._letters_added > bound // 10:
            conn.execute(self._trim_letters)
            self._letters_added = 0

    def _not_again(self, conn: Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the letters that are not here yet: what is in conflict, or whose refusal gets lost, comes again."""
        fresh = []
        c = dead_letters.c
        for row in rows:
            again = row["reason"] in (CONFLICT, NOT_ASSIGNED) and conn.execute(
                update(dead_letters)
                .where(c.sha256 == row["sha256"], c.node == row["node"], c.reason == row["reason"])
                .values(times=c.times + 1)
            )
            if not again or not again.rowcount:
                fresh.append(row)
        return fresh


def _keep_last(table: Table, bound: int, *where: Any) -> Delete:
    """Return the statement that deletes all but the ``bound`` rows with the highest ids."""
    oldest_kept = select(table.c.id).where(*where).order_by(table.c.id.desc()).limit(1).offset(bound - 1)
    return delete(table).where(*where, table.c.id < oldest_kept.scalar_subquery())


def _trim_each(table: Table, name: str, order: Sequence[Any], of: Sequence[str], bound: int) -> Delete:
    """Return the statement that keeps the first ``bound`` rows by ``order`` of each group of the columns ``of``."""
    columns = [table.c[column] for column in (*of, name)]
    rank = func.row_number().over(partition_by=columns[:-1], order_by=order)
    ranked = select(*columns, rank.label("rank")).subquery()
    return delete(table).where(tuple_(*columns).in_(select(*list(ranked.c)[:-1]).where(ranked.c.rank > bound)))


def _errors_trim(bound: int) -> Delete:
    """Return the statement that keeps the ``bound`` errors of a rule that were seen last.

    What another controller is about to touch is left alone: it is among the last ones, and to wait for it with rows of
    our own locked, while it trims the same rule, would be a deadlock.
    """
    of_rule = [errors.c[bind.removeprefix("of_")] == bindparam(bind) for bind in _RULE_BINDS]
    order = (errors.c.last_at.desc(), errors.c.digest)
    older = select(errors.c.digest).where(*of_rule).order_by(*order).offset(bound).with_for_update(skip_locked=True)
    return delete(errors).where(*of_rule, errors.c.digest.in_(older))


def _errors_upsert(dialect_insert: Any) -> Any:
    statement = dialect_insert(errors)
    new = statement.excluded
    changes = {name: new[name] for name in ("last_at", "node", "source_id", "step")}
    changes["count"] = saturating(errors.c.count, new["count"])
    return statement.on_conflict_do_update(index_elements=["namespace", "rule", "uid", "digest"], set_=changes)


def _digest(key: ErrorKey) -> str:
    return blake2b(f"{key.reason}\x00{key.detail}".encode(), digest_size=16).hexdigest()


def _sample_row(sample: Sample) -> tuple[Any, ...]:
    """The columns of ``results`` after its id."""
    result = sample.result
    return (
        sample.namespace, result.rule_id, result.rule_uid, sample.node, result.status, result.outcome, result.reason,
        clean_text(result.error.detail), result.time, sample.received_at, result.duration_us, result.count,
        result.source_id, result.step, sample.msg_id,
    )  # fmt: skip
