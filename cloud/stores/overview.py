"""All rules in a list: counts as ``queries.rules`` has them, with latencies, rates and conditions (protocol P8.1).

For a list of everything; of single rules ``status.rule_statuses`` says more. Each table is read once, as a whole.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Double, Table, cast, func, select

from cloud.stores.base import RuleRow
from cloud.stores.latency import SLOT_S, SLOTS, percentiles, slot_of
from cloud.stores.queries import of_rule, rules
from cloud.stores.rates import rates_query
from cloud.stores.status import DEGRADED, READY, RuleKey
from cloud.stores.tables import conditions, latencies, rates


def rule_rows(conn: Connection, namespace: str, rule: str, now: float) -> list[RuleRow]:
    """Return the rules that were counted, in the order of their keys; empty filters take all. ``now`` is unix seconds.

    A rule that is wanted and was never counted has no row here.
    """
    more: dict[RuleKey, dict[str, Any]] = {}
    key, c = _key(latencies), latencies.c
    query = select(*key, c.bucket, func.sum(cast(c["count"], Double))).group_by(*key, c.bucket)
    buckets: dict[RuleKey, dict[int, int]] = {}
    recent = c.start > slot_of(now) - SLOTS * SLOT_S
    for *of, bucket, count in conn.execute(query.where(*of_rule(latencies, namespace, rule), recent)):
        buckets.setdefault(RuleKey(*of), {})[bucket] = int(count)
    for found, counts in buckets.items():
        p50, p95 = percentiles(counts, (0.5, 0.95))
        more[found] = {"p50_us": p50, "p95_us": p95}
    for *of, minute, hour, day in conn.execute(rates_query(now, *of_rule(rates, namespace, rule))):
        sums = {"last_minute": int(minute), "last_hour": int(hour), "last_day": int(day)}
        more.setdefault(RuleKey(*of), {}).update(sums)
    names = {READY: ("ready", "ready_reason"), DEGRADED: ("degraded", "degraded_reason")}
    query = select(*_key(conditions), conditions.c.type, conditions.c.status, conditions.c.reason)
    for *of, kind, status, reason in conn.execute(query.where(*of_rule(conditions, namespace, rule))):
        more.setdefault(RuleKey(*of), {}).update(zip(names[kind], (status, reason), strict=True))
    rows = rules(conn, namespace, rule, per_node=False)
    return [msgspec.structs.replace(row, **more.get(RuleKey(row.namespace, row.rule, row.uid), {})) for row in rows]


def _key(table: Table) -> tuple[Any, ...]:
    return tuple(table.c[name] for name in RuleKey._fields)
