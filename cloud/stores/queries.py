"""Reads. Totals are sums over the counters' rows in the database, never numbers of their own (P8.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Double, Table, cast, delete, false, func, literal, select, tuple_

from cloud.stores.assigning import effective_labels
from cloud.stores.base import Counted, DeadLetter, ErrorRow, Letters, LossSum, NodeRow, ResultRow, RuleRow
from cloud.stores.losses import sums
from cloud.stores.tables import counters, dead_letters, errors, nodes, results
from common.models import SUCCESS, Epoch, NodeStatus

_RESULT_COLUMNS = [results.c[name] for name in ResultRow.__struct_fields__]


def nodes_row(row: Any, lost: dict[str, LossSum]) -> NodeRow:
    """Return the value of one row of ``nodes``."""
    return NodeRow(
        node=row.node,
        online=row.online,
        epoch=str(Epoch(row.epoch_n, row.epoch_uuid)) if row.epoch_n else "",
        session=row.session,
        version=row.version,
        rules_version=row.rules_version,
        labels=effective_labels(row.labels, row.added_labels),
        status=msgspec.json.decode(row.status, type=NodeStatus) if row.status else None,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        since=row.since,
        retired_through=row.retired_through,
        cloud_lost=row.cloud_lost,
        duplicates=row.duplicates,
        refused=row.refused,
        conflict=row.conflict,
        reported_at=row.reported_at,
        lost=lost,
    )


def of_rule(table: Table, namespace: str, rule: str) -> list[Any]:
    """SQL for: the row is of this namespace and rule; empty ones take all."""
    wanted = ((table.c.namespace, namespace), (table.c.rule, rule))
    return [column == value for column, value in wanted if value]


def above(columns: Sequence[Any], after: Sequence[str]) -> list[Any]:
    """SQL for: the columns come after these values in their order; without values all do."""
    return [tuple_(*columns) > tuple_(*map(literal, after))] if after else []


def nodes_all(conn: Connection) -> list[NodeRow]:
    """See Store.nodes."""
    lost = sums(conn)
    query = select(nodes).where(nodes.c.retired_at == 0).order_by(nodes.c.node)
    return [nodes_row(row, lost.get(row.node, {})) for row in conn.execute(query)]


def counted(conn: Connection) -> dict[str, Counted]:
    """See Store.counted."""
    c = counters.c
    query = select(c.node, func.sum(cast(c["count"], Double)), func.max(c.last_at)).group_by(c.node)
    return {node: Counted(int(results), last_at) for node, results, last_at in conn.execute(query)}


def rules(
    conn: Connection, namespace: str, rule: str, per_node: bool, after: Sequence[str] = (), limit: int | None = None
) -> list[RuleRow]:
    """See Store.rules."""
    c = counters.c
    identity = [c.namespace, c.rule, c.uid, *([c.node] if per_node else [])]
    order = [c.namespace, c.rule, c.node, c.uid] if per_node else identity
    wanted = of_rule(counters, namespace, rule) + above(order, after)
    if limit is not None:
        last = conn.execute(select(*order).where(*wanted).group_by(*order).order_by(*order).limit(limit)).all()
        wanted.append(~above(order, last[-1])[0] if last else false())
    # Sums as floating point: exact far beyond any honest count, and a hostile one cannot make the sum overflow.
    total = func.sum(cast(c["count"], Double))
    query = (
        select(
            *identity, c.status, c.outcome, c.reason, total, func.sum(cast(c.duration_sum, Double)),
            func.max(c.duration_max), func.min(c.first_at), func.max(c.last_at),
        )
        .where(*wanted)
        .group_by(*identity, c.status, c.outcome, c.reason)
        .order_by(*order, c.status, c.outcome, c.reason)
    )  # fmt: skip
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    width = len(identity)
    for row in conn.execute(query):
        key = tuple(row[:width])
        _add(found.setdefault(key, _empty_rule(key)), *row[width:])
    return [RuleRow(**fields) for fields in found.values()]


def _empty_rule(key: tuple[str, ...]) -> dict[str, Any]:
    namespace, rule, uid = key[:3]
    return {
        "namespace": namespace, "rule": rule, "uid": uid, "node": key[3] if len(key) > 3 else "", "success": 0,
        "fail": 0, "duration_sum": 0, "duration_max": 0, "first_at": 0.0, "last_success": 0.0, "last_failure": 0.0,
        "outcomes": {},
    }  # fmt: skip


def _add(
    into: dict[str, Any], status: str, outcome: str, reason: str, count: float, duration_sum: float, duration_max: int,
    first_at: float, last_at: float,
) -> None:  # fmt: skip
    good = status == SUCCESS
    into["success" if good else "fail"] += int(count)
    into["duration_sum"] += int(duration_sum)
    into["duration_max"] = max(into["duration_max"], duration_max)
    into["first_at"] = min(into["first_at"] or first_at, first_at)
    last = "last_success" if good else "last_failure"
    into[last] = max(into[last], last_at)
    into["outcomes"]["/".join((status, outcome, reason)).rstrip("/")] = int(count)


def results_of(
    conn: Connection, limit: int, namespace: str, rule: str, status: str, since: int | None, before: int | None = None
) -> list[ResultRow]:
    """See Store.results."""
    query = select(*_RESULT_COLUMNS).where(*of_rule(results, namespace, rule)).limit(limit)
    if status:
        query = query.where(results.c.status == status)
    if before is not None:
        query = query.where(results.c.id < before)
    if since is not None:
        return [ResultRow(*row) for row in conn.execute(query.where(results.c.id > since).order_by(results.c.id))]
    return [ResultRow(*row) for row in conn.execute(query.order_by(results.c.id.desc()))][::-1]


def last_result(conn: Connection) -> int:
    """See Store.last_result."""
    return conn.execute(select(func.max(results.c.id))).scalar() or 0


def errors_of(conn: Connection, namespace: str, rule: str, bound: int) -> list[ErrorRow]:
    """See Store.errors; ``bound`` per rule, which the table may exceed a little between trims."""
    c = errors.c
    query = (
        select(
            c.namespace, c.rule, c.uid, c.reason, c.detail, c["count"], c.first_at, c.last_at, c.node, c.source_id,
            c.step,
        )
        .where(*of_rule(errors, namespace, rule))
        .order_by(c.namespace, c.rule, c.uid, c.last_at.desc(), c.digest)
    )  # fmt: skip
    per_rule: Counter[tuple[str, str, str]] = Counter()
    kept = []
    for row in conn.execute(query):
        per_rule[row[:3]] += 1
        if per_rule[row[:3]] <= bound:
            kept.append(ErrorRow(*row))
    return kept


def letters_of(conn: Connection, limit: int, which: Letters) -> list[DeadLetter]:
    """See Store.dead_letters."""
    columns = [dead_letters.c[name] for name in DeadLetter.__struct_fields__]
    number = dead_letters.c.id
    query = select(*columns).where(*_those(which)).order_by(number if which.oldest else number.desc()).limit(limit)
    return [DeadLetter(*row) for row in conn.execute(query)]


def drop_letters(conn: Connection, which: Letters) -> int:
    """See Store.drop_letters."""
    return conn.execute(delete(dead_letters).where(*_those(which))).rowcount


def _those(which: Letters) -> list[Any]:
    c = dead_letters.c
    wanted: list[Any] = [c.id.in_(which.ids)] if which.ids else []
    wanted += [column == value for column, value in ((c.node, which.node), (c.reason, which.reason)) if value]
    wanted += [c.id < which.below] if which.below is not None else []
    return [*wanted, c.at < which.before] if which.before else wanted
