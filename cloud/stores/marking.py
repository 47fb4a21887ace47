"""Marking a rule as changed: the first half of the outbox (protocol P8.2)."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from cloud.stores.desired import dialect_insert
from cloud.stores.tables import changes


def mark_changed(conn: Connection, rules: Iterable[tuple[str, str, str]], at: float) -> None:
    """Raise the version of what is told of these rules (namespace, name, uid), in the transaction that changes it."""
    rows = [
        {"namespace": namespace, "rule": rule, "uid": uid, "version": 1, "changed_at": at}
        for namespace, rule, uid in sorted(set(rules))
    ]
    if not rows:
        return
    statement = dialect_insert(conn)(changes)
    new = {"version": changes.c.version + 1, "changed_at": statement.excluded.changed_at}
    conn.execute(statement.on_conflict_do_update(index_elements=["namespace", "rule", "uid"], set_=new), rows)
