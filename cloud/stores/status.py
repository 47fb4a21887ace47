"""The status of a rule as it is told onward: counts, latency, nodes, errors and conditions in one value (P8.1).

``rule_statuses`` reads any number of rules with a fixed number of queries, each by the rules' keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Double, Table, and_, cast, func, or_, select

from cloud.stores.base import ErrorRow
from cloud.stores.latency import SLOT_S, SLOTS, percentiles, slot_of
from cloud.stores.rates import rates_query
from cloud.stores.tables import (
    STALE,
    assignments,
    changes,
    conditions,
    counters,
    errors,
    latencies,
    nodes,
    objects,
    rates,
)
from common.models import SUCCESS
from common.rules import RULE_KIND

READY, DEGRADED = "Ready", "Degraded"  # types of conditions
TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"  # their status
LOCAL = "local"  # origin of a rule that a node has of its own layers
GONE = "gone"  # origin of a rule that was deleted
KEYS_MAX = 128  # rules that one query reads; more are read in turns


class RuleKey(NamedTuple):
    """Which rule. A rule that is deleted and made again under its name has another ``uid``; local ones have none."""

    namespace: str
    rule: str
    uid: str


class NodeShare(msgspec.Struct, frozen=True):
    """What a rule did and is on one node. ``state`` is pending, applied, failed, stale or removed; empty for a local
    rule. Versions are 0 when there is none; ``error`` is the node's finding about the version ``refused``.
    """

    node: str
    success: int = 0
    fail: int = 0
    state: str = ""
    desired: int = 0
    reported: int = 0
    error: str = ""
    last_at: float = 0
    refused: int = 0


class Condition(msgspec.Struct, frozen=True):
    """A condition as Kubernetes has them; ``since`` is the time of its last transition (unix seconds)."""

    type: str
    status: str
    reason: str
    message: str
    since: float


class RuleStatus(msgspec.Struct, frozen=True):
    """Everything that a sink is told of a rule. ``version`` rises with every change (P8.2), ``generation`` is the
    desired version, 0 for a local rule. Durations are microseconds, times unix seconds, 0 when never. p50 and p95 are
    of the last one to two hours, 0 when nothing ran; ``last_minute`` to ``last_day`` are executions.
    """

    namespace: str
    rule: str
    uid: str
    version: int
    generation: int = 0
    origin: str = LOCAL
    success: int = 0
    fail: int = 0
    last_success: float = 0
    last_failure: float = 0
    p50_us: int = 0
    p95_us: int = 0
    nodes: list[NodeShare] = []
    errors: list[ErrorRow] = []
    conditions: list[Condition] = []
    last_minute: int = 0
    last_hour: int = 0
    last_day: int = 0

    @property
    def key(self) -> RuleKey:
        """Which rule."""
        return RuleKey(self.namespace, self.rule, self.uid)

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, None as long as there is none."""
        return next((each for each in self.conditions if each.type == kind), None)


def silent(online: bool, last_seen: float, since: float, now: float, stale_s: float) -> bool:
    """True when a node was not heard for ``stale_s``, or is offline for as long (the columns of ``nodes``).

    A ``last_seen`` that lies far ahead means that a clock jumped: not heard, either, until its next word.
    """
    return abs(now - last_seen) > stale_s if online else now - since > stale_s


def is_silent(now: float, stale_s: float) -> Any:
    """SQL of the same of a row of ``nodes``; true also where the row is missing in an outer join."""
    n = nodes.c
    return or_(
        n.node.is_(None),
        and_(n.online, or_(n.last_seen < now - stale_s, n.last_seen > now + stale_s)),
        and_(n.online.is_(False), n.since < now - stale_s),
    )


class _Parts:
    """What is known of one rule while it is gathered."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {"success": 0, "fail": 0, "last_success": 0.0, "last_failure": 0.0}
        self.shares: dict[str, dict[str, Any]] = {}
        self.errors: list[ErrorRow] = []
        self.conditions: list[Condition] = []
        self.buckets: dict[int, int] = {}

    def share(self, node: str) -> dict[str, Any]:
        """What the rule did and is on one node."""
        return self.shares.setdefault(node, {"node": node, "success": 0, "fail": 0, "last_at": 0.0})

    def status(self, key: RuleKey) -> RuleStatus:
        """The whole."""
        p50, p95 = percentiles(self.buckets, (0.5, 0.95))
        found = [NodeShare(**self.shares[node]) for node in sorted(self.shares)]
        fields = {"origin": GONE if key.uid else LOCAL, "version": 0, **self.fields}
        return RuleStatus(
            *key, **fields, p50_us=p50, p95_us=p95, nodes=found, errors=self.errors, conditions=self.conditions
        )


def of_rules(columns: Sequence[Any], keys: Collection[RuleKey]) -> Any:
    """SQL for: ``columns`` (namespace, rule, ...) are of rules with these names, whatever their uid.

    Two lists, for SQLite uses no index for a list of rows; so it may find a few too many, and ``_each`` looks again.
    """
    namespaces, rules, _ = zip(*keys, strict=True)
    return and_(columns[0].in_(sorted(set(namespaces))), columns[1].in_(sorted(set(rules))))


def rule_statuses(
    conn: Connection, keys: Sequence[RuleKey], *, now: float, stale_s: float, errors_max: int = 32
) -> list[RuleStatus]:
    """Return the status of each rule, in the order of ``keys``; one that nothing is known of is all zeros.

    Arguments: ``now`` is the wall clock (unix seconds); a node that was not heard for ``stale_s`` has shares of state
    ``stale``; at most ``errors_max`` errors of each rule, the last ones first. Conditions are those in the store.
    """
    found: list[RuleStatus] = []
    for at in range(0, len(keys), KEYS_MAX):
        some = [RuleKey(*key) for key in keys[at : at + KEYS_MAX]]
        parts = {key: _Parts() for key in some}
        _read_counts(conn, parts)
        _read_desired(conn, parts, now, stale_s)
        _read_statistics(conn, parts, now)
        _read_errors(conn, parts, errors_max)
        _read_told(conn, parts)
        found += [parts[key].status(key) for key in some]
    return found


_Found = dict[RuleKey, _Parts]


def _each(conn: Connection, query: Any, found: _Found) -> Iterator[tuple[_Parts, Any]]:
    """The rows of a query whose first columns are a rule's key, each with what is known of the rule."""
    for row in conn.execute(query):
        part = found.get(RuleKey(*row[:3]))
        if part is not None:
            yield part, row[3:]


def _key(table: Table, rule: str = "rule") -> tuple[Any, Any, Any]:
    return table.c.namespace, table.c[rule], table.c.uid


def _read_counts(conn: Connection, found: _Found) -> None:
    key, c = _key(counters), counters.c
    identity = (*key, c.node, c.status)
    query = select(*identity, func.sum(cast(c["count"], Double)), func.max(c.last_at)).group_by(*identity)
    for part, (node, status, count, last_at) in _each(conn, query.where(of_rules(key, found)), found):
        share, good = part.share(node), status == SUCCESS
        name, last = ("success", "last_success") if good else ("fail", "last_failure")
        share[name] += int(count)
        share["last_at"] = max(share["last_at"], last_at)
        part.fields[name] += int(count)
        part.fields[last] = max(part.fields[last], last_at)


def _read_desired(conn: Connection, found: _Found, now: float, stale_s: float) -> None:
    key = _key(objects, "name")
    query = select(*key, objects.c.version, objects.c.origin).where(objects.c.kind == RULE_KIND, of_rules(key, found))
    for part, (version, origin) in _each(conn, query, found):
        part.fields |= {"generation": version, "origin": origin}
    key, a = _key(assignments, "name"), assignments.c
    columns = (
        *key,
        a.node,
        a.desired,
        a.reported,
        a.refused,
        a.state,
        a.error,
        nodes.c.online,
        nodes.c.last_seen,
        nodes.c.since,
    )
    query = select(*columns).outerjoin_from(assignments, nodes, nodes.c.node == a.node)
    for part, row in _each(conn, query.where(a.kind == RULE_KIND, of_rules(key, found)), found):
        node, desired, reported, refused, state, error, online, last_seen, since = row
        heard = last_seen is not None and not silent(online, last_seen, since, now, stale_s)
        known = state if heard or not desired else STALE
        part.share(node).update(state=known, desired=desired, reported=reported, refused=refused, error=error)


def _read_statistics(conn: Connection, found: _Found, now: float) -> None:
    key, c = _key(latencies), latencies.c
    query = select(*key, c.bucket, func.sum(cast(c["count"], Double))).group_by(*key, c.bucket)
    recent = c.start > slot_of(now) - SLOTS * SLOT_S
    for part, (bucket, count) in _each(conn, query.where(of_rules(key, found), recent), found):
        part.buckets[bucket] = int(count)
    for part, sums in _each(conn, rates_query(now, of_rules(_key(rates), found)), found):
        part.fields |= dict(zip(("last_minute", "last_hour", "last_day"), map(int, sums), strict=True))


def _read_errors(conn: Connection, found: _Found, errors_max: int) -> None:
    names = {"first": "first_at", "last": "last_at"}
    columns = [errors.c[names.get(name, name)] for name in ErrorRow.__struct_fields__]
    query = select(*_key(errors), *columns).where(of_rules(_key(errors), found))
    for part, row in _each(conn, query.order_by(errors.c.last_at.desc(), errors.c.digest), found):
        if len(part.errors) < errors_max:
            part.errors.append(ErrorRow(*row))


def _read_told(conn: Connection, found: _Found) -> None:
    key, c = _key(conditions), conditions.c
    query = select(*key, c.type, c.status, c.reason, c.message, c.since).where(of_rules(key, found))
    for part, row in _each(conn, query.order_by(c.type.desc()), found):  # Ready before Degraded
        part.conditions.append(Condition(*row))
    key = _key(changes)
    for part, (version,) in _each(conn, select(*key, changes.c.version).where(of_rules(key, found)), found):
        part.fields["version"] = version
