"""What is known of one node beside its own row: objects with their counts, errors, losses, dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Double, cast, func, select

from cloud.stores.assigning import assignments_of
from cloud.stores.base import ErrorRow, LossRow
from cloud.stores.losses import losses_of
from cloud.stores.status import GONE, LOCAL, RuleKey
from cloud.stores.tables import counters, dead_letters, errors
from common.models import SUCCESS
from common.rules import RULE_KIND


class ObjectOnNode(msgspec.Struct, frozen=True):
    """A rule or endpoint on one node, and what the rule counted there.

    ``state`` is pending, applied, failed or stale; of a rule that the cloud does not want there ``local`` (of the
    node's own layers) or ``gone``. Versions are 0 when there is none; ``error`` is the finding about ``refused``.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    state: str
    desired: int = 0
    reported: int = 0
    refused: int = 0
    error: str = ""
    success: int = 0
    fail: int = 0
    last_at: float = 0


class NodeFacts(NamedTuple):
    """The objects in order of kind and name; the newest errors and losses; how many dead letters there are."""

    objects: Sequence[ObjectOnNode]
    errors: Sequence[ErrorRow]
    losses: Sequence[LossRow]
    letters: int


def facts_of(conn: Connection, node: str, now: float, stale_s: float, rows_max: int) -> NodeFacts:
    """Read what is known of a node; at most ``rows_max`` errors and losses. Times are unix seconds."""
    of = select(func.count()).select_from(dead_letters).where(dead_letters.c.node == node)
    return NodeFacts(
        _objects(conn, node, now, stale_s),
        _errors(conn, node, rows_max),
        losses_of(conn, node, "", rows_max),
        int(conn.execute(of).scalar_one()),
    )


def counted_uids(conn: Connection, namespace: str, rule: str) -> list[str]:
    """The uids under which a rule was counted, the last one that was heard of first; ``""`` is a node's own rule."""
    c = counters.c
    query = select(c.uid).where(c.namespace == namespace, c.rule == rule).group_by(c.uid)
    return list(conn.execute(query.order_by(func.max(c.last_at).desc(), c.uid)).scalars())


def _objects(conn: Connection, node: str, now: float, stale_s: float) -> list[ObjectOnNode]:
    counts = _counts(conn, node)
    found = []
    for row in assignments_of(conn, now, stale_s, node=node):
        counted = counts.pop(RuleKey(row.namespace, row.name, row.uid), {}) if row.kind == RULE_KIND else {}
        wanted = (row.state, row.desired, row.reported, row.refused, row.error)
        found.append(ObjectOnNode(row.kind, row.namespace, row.name, row.uid, *wanted, **counted))
    for key, counted in counts.items():
        found.append(ObjectOnNode(RULE_KIND, *key, state=GONE if key.uid else LOCAL, **counted))
    return sorted(found, key=lambda each: (each.kind, each.namespace, each.name, each.uid))


def _counts(conn: Connection, node: str) -> dict[RuleKey, dict[str, Any]]:
    c = counters.c
    key = (c.namespace, c.rule, c.uid)
    query = select(*key, c.status, func.sum(cast(c["count"], Double)), func.max(c.last_at)).where(c.node == node)
    found: dict[RuleKey, dict[str, Any]] = {}
    for *of, status, count, last_at in conn.execute(query.group_by(*key, c.status)):
        counted = found.setdefault(RuleKey(*of), {"success": 0, "fail": 0, "last_at": 0.0})
        counted["success" if status == SUCCESS else "fail"] += int(count)
        counted["last_at"] = max(counted["last_at"], last_at)
    return found


_ERROR_NAMES: Mapping[str, str] = {"first": "first_at", "last": "last_at"}


def _errors(conn: Connection, node: str, rows_max: int) -> list[ErrorRow]:
    c = errors.c
    columns = [c[_ERROR_NAMES.get(name, name)] for name in ErrorRow.__struct_fields__]
    query = select(*columns).where(c.node == node).order_by(c.last_at.desc(), c.namespace, c.rule, c.digest)
    return [ErrorRow(*row) for row in conn.execute(query.limit(rows_max))]
