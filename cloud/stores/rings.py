"""The bounded parts of the store: distinct errors per rule, single results, dead letters (P8.1, P8.6, P4.2).

Rings are trimmed in the transaction that fills them. A trim costs an index walk, so a ring may grow a tenth above its
bound before it is cut back to it; how much was added since is kept in memory, and a restart only trims once too often.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Delete, Table, bindparam, case, delete, insert, select, update

from cloud.counting import TOTAL_MAX, Effects, ErrorKey, Sample, Sampler
from cloud.settings import StoreSettings
from cloud.stores.base import DeadLetter
from cloud.stores.tables import dead_letters, errors, nodes, results
from common.models import clean_text

_RULE_BINDS = ("of_namespace", "of_rule", "of_uid")
RULES_TRACKED_MAX = 100_000  # rules whose additions are remembered between trims; above, all are trimmed once more


def saturating(old: Any, more: Any) -> Any:
    """SQL for ``old + more``, at most TOTAL_MAX: no hostile count may overflow a column or a sum."""
    return case((old > TOTAL_MAX - more, TOTAL_MAX), else_=old + more)


class Rings:
    """Writes errors, single results and dead letters, and keeps them within their bounds. Writer thread only."""

    def __init__(self, settings: StoreSettings, dialect_insert: Any) -> None:
        self._settings = settings
        self._sampler = Sampler(settings.ring_rate_max, settings.ring_rate_total_max)
        self._added: dict[tuple[str, str], int] = {}
        self._added_total: int | None = None
        self._letters_added: int | None = None
        self._upsert_errors = _errors_upsert(dialect_insert)
        self._trim_errors = _errors_trim(settings.errors_per_rule_max)
        of_rule = (results.c.namespace == bindparam("of_namespace"), results.c.rule == bindparam("of_rule"))
        self._trim_rule = _keep_last(results, settings.ring_rule_max, *of_rule)
        self._trim_all = _keep_last(results, settings.ring_total_max)
        self._trim_letters = _keep_last(dead_letters, settings.dead_letters_max)

    def effects(self) -> Effects:
        """Return empty effects for one commit group, with this store's bounds."""
        return Effects(self._sampler, self._settings.errors_per_rule_max)

    def counter_rows(self, effects: Effects) -> list[dict[str, Any]]:
        """Return the rows to add to ``counters``, in the order in which they are locked."""
        return [
            {
                **key._asdict(),
                "count": min(tally.count, TOTAL_MAX),
                "duration_sum": min(tally.duration_sum, TOTAL_MAX),
                "duration_max": min(tally.duration_max, TOTAL_MAX),
                "first_at": tally.first_at,
                "last_at": tally.last_at,
            }
            for key, tally in effects.counters().items()
        ]

    def write(self, conn: Connection, effects: Effects) -> None:
        """Write errors and single results of one commit group, then trim what grew too far."""
        self._write_errors(conn, effects)
        if effects.samples:
            conn.execute(insert(results), [_sample_row(sample) for sample in effects.samples])
            self._trim_results(conn, effects.samples)

    def _write_errors(self, conn: Connection, effects: Effects) -> None:
        rows, rules = [], set()
        for key, tally in effects.errors().items():
            rules.add(key[:3])
            rows.append({
                "namespace": key.namespace, "rule": key.rule, "uid": key.uid, "digest": _digest(key),
                "reason": key.reason, "detail": key.detail, "count": min(tally.count, TOTAL_MAX),
                "first_at": tally.first_at, "last_at": tally.last_at, "node": tally.node,
                "source_id": tally.source_id, "step": tally.step,
            })  # fmt: skip
        if not rows:
            return
        conn.execute(self._upsert_errors, rows)
        conn.execute(self._trim_errors, [dict(zip(_RULE_BINDS, rule, strict=True)) for rule in sorted(rules)])

    def _trim_results(self, conn: Connection, samples: list[Sample]) -> None:
        bound = self._settings.ring_rule_max
        touched: dict[tuple[str, str], int] = {}
        for sample in samples:
            rule = (sample.namespace, sample.result.rule_id)
            touched[rule] = touched.get(rule, 0) + 1
        if len(self._added) > RULES_TRACKED_MAX:
            self._added.clear()
        due = []
        for rule, count in touched.items():
            added = self._added.get(rule, bound) + count  # the first time after a start always trims
            self._added[rule] = 0 if added > bound // 10 else added
            if added > bound // 10:
                due.append({"of_namespace": rule[0], "of_rule": rule[1]})
        if due:
            conn.execute(self._trim_rule, due)
        total = self._settings.ring_total_max
        added_total = total if self._added_total is None else self._added_total + len(samples)
        if added_total > total // 10:
            conn.execute(self._trim_all)
            added_total = 0
        self._added_total = added_total

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
        conn.execute(insert(dead_letters), rows)
        for node, refused in sorted(Counter(letter.node for letter in letters if letter.node).items()):
            conn.execute(update(nodes).where(nodes.c.node == node).values(refused=nodes.c.refused + refused))
        bound = self._settings.dead_letters_max
        added = bound if self._letters_added is None else self._letters_added + len(rows)
        if added > bound // 10:
            conn.execute(self._trim_letters)
            added = 0
        self._letters_added = added


def _keep_last(table: Table, bound: int, *where: Any) -> Delete:
    """Return the statement that deletes all but the ``bound`` rows with the highest ids."""
    oldest_kept = select(table.c.id).where(*where).order_by(table.c.id.desc()).limit(1).offset(bound - 1)
    return delete(table).where(*where, table.c.id < oldest_kept.scalar_subquery())


def _errors_trim(bound: int) -> Delete:
    """Return the statement that keeps the ``bound`` errors of a rule that were seen last."""
    of_rule = [errors.c[bind.removeprefix("of_")] == bindparam(bind) for bind in _RULE_BINDS]
    keep = select(errors.c.digest).where(*of_rule).order_by(errors.c.last_at.desc(), errors.c.digest).limit(bound)
    return delete(errors).where(*of_rule, errors.c.digest.not_in(keep))


def _errors_upsert(dialect_insert: Any) -> Any:
    statement = dialect_insert(errors)
    new = statement.excluded
    changes = {name: new[name] for name in ("last_at", "node", "source_id", "step")}
    changes["count"] = saturating(errors.c.count, new["count"])
    return statement.on_conflict_do_update(index_elements=["namespace", "rule", "uid", "digest"], set_=changes)


def _digest(key: ErrorKey) -> str:
    return blake2b(f"{key.reason}\x00{key.detail}".encode(), digest_size=16).hexdigest()


def _sample_row(sample: Sample) -> dict[str, Any]:
    result = sample.result
    return {
        "namespace": sample.namespace, "rule": result.rule_id, "uid": result.rule_uid, "node": sample.node,
        "status": result.status, "outcome": result.outcome, "reason": result.reason,
        "detail": clean_text(result.error.detail), "time": result.time, "received_at": sample.received_at,
        "duration_us": result.duration_us, "count": result.count, "source_id": result.source_id,
        "step": result.step, "msg_id": sample.msg_id,
    }  # fmt: skip
