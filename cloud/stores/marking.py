"""Marking a rule as changed: the first half of the outbox (protocol P8.2).

Whoever changes what is told of a rule raises its version in the same transaction; who is told is the other half's
matter. Rows are locked in the order of their keys, after those of counters.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import Connection, func, literal_column, select

from cloud.stores.bulk import Bulk, dialect_insert
from cloud.stores.tables import changes, counters, objects
from common.rules import RULE_KIND

Key = tuple[str, str, str]  # namespace, rule, uid
_NAMES = ("namespace", "rule", "uid")


@cache
def _bulk(dialect: str) -> Bulk:
    statement = dialect_insert(dialect)(changes)
    new = {"version": changes.c.version + literal_column("1"), "changed_at": statement.excluded.changed_at}
    upsert = statement.on_conflict_do_update(index_elements=list(_NAMES), set_=new)
    return Bulk(upsert, (*_NAMES, "version", "changed_at"))


def mark_changed(conn: Connection, rules: Iterable[Key], at: float) -> None:
    """Raise the version of what is told of these rules (namespace, name, uid), in the transaction that changes it.

    ``at`` is unix seconds.
    """
    rows = [(*key, 1, at) for key in sorted(set(rules))]
    if rows:
        _bulk(conn.dialect.name).execute(conn, rows)


def seed_changes(conn: Connection, at: float) -> int:
    """Mark every rule that is not marked as it is: for sinks that were enabled on a store which had none.

    These are wanted rules that were never marked, and those that were counted after they were marked last. Returns how
    many they are; a second time there are none.
    """
    marked = {tuple(key): changed for *key, changed in conn.execute(select(*_of(changes), changes.c.changed_at))}
    wanted = select(objects.c.namespace, objects.c.name, objects.c.uid).where(objects.c.kind == RULE_KIND)
    due = {tuple(row) for row in conn.execute(wanted) if tuple(row) not in marked}
    counted = select(*_of(counters), func.max(counters.c.last_at)).group_by(*_of(counters))
    due |= {tuple(key) for *key, last in conn.execute(counted) if last > marked.get(tuple(key), float("-inf"))}
    mark_changed(conn, due, at)
    return len(due)


def _of(table: Any) -> list[Any]:
    return [table.c[name] for name in _NAMES]
