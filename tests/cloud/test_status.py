"""The status of rules as it is told onward: what it is made of, for many rules at once (P8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from cloud.stores.sql import SqlStore
from cloud.stores.status import LOCAL, NodeShare, RuleKey, RuleStatus, rule_statuses
from cloud.stores.tables import APPLIED, FAILED, STALE
from tests.cloud.samples import AT, bad, birth, epoch, ok, open_store, status, want

STALE_S = 60.0


async def statuses(store: SqlStore, keys: Sequence[RuleKey], now: float = AT) -> list[RuleStatus]:
    """The rules' statuses at ``now``."""
    return await store.read(lambda conn: rule_statuses(conn, keys, now=now, stale_s=STALE_S))


async def test_a_status_says_what_is_wanted_and_what_was_done_on_each_node(tmp_path: Path) -> None:
    """Counts, times, versions and each node's share are of the rule of that uid; others of its name have their own."""
    key = RuleKey("default", "overheat", "u1")
    async with open_store(tmp_path) as store:
        for node in ("edge-1", "edge-2"):
            await store.presence(birth(node=node), epoch(), AT)
        await want(store, "overheat", "u1", 3, edge_1={}, edge_2={"reported": 2, "state": FAILED, "error": "line 1"})
        await store.commit([status(1, [ok(rule_uid="u1"), bad(rule_uid="u1")])])
        await store.commit([status(1, [ok(rule_uid="u1", count=4)], node="edge-2", at=AT + 5)])
        await store.commit([status(2, [ok(), bad(detail="other")], at=AT + 9)])
        mine, local, unknown = await statuses(store, [key, key._replace(uid=""), key._replace(rule="none")], AT + 10)
    assert (mine.key, mine.generation, mine.origin, mine.success, mine.fail) == (key, 3, "api", 5, 1)
    assert (mine.last_success, mine.last_failure) == (AT + 5, AT)
    assert mine.nodes == [
        NodeShare("edge-1", 1, 1, APPLIED, 3, 3, "", AT),
        NodeShare("edge-2", 4, 0, FAILED, 3, 2, "line 1", AT + 5),
    ]
    assert [(error.detail, error.count) for error in mine.errors] == [("no answer", 1)]
    assert (local.origin, local.success, local.fail, local.generation) == (LOCAL, 1, 1, 0)
    assert unknown == RuleStatus("default", "none", "u1", 0, origin="gone")


async def test_a_silent_nodes_share_is_stale(tmp_path: Path) -> None:
    """A node that is offline, or was not heard, longer than the stale time no longer runs for sure what it did run."""
    key = RuleKey("default", "overheat", "u1")
    async with open_store(tmp_path) as store:
        await store.presence(birth(node="edge-1"), epoch(), AT)
        await store.presence(birth(node="edge-2"), epoch(), AT)
        await store.presence(birth(node="edge-2", online=False), epoch(), AT + 30)
        await want(store, "overheat", "u1", edge_1={}, edge_2={}, edge_3={})
        states = {}
        for after in (59, 61, 91):
            (found,) = await statuses(store, [key], AT + after)
            states[after] = [share.state for share in found.nodes]
    assert states == {59: [APPLIED, APPLIED, STALE], 61: [STALE, APPLIED, STALE], 91: [STALE, STALE, STALE]}


@pytest.mark.sqlite
@pytest.mark.parametrize("rules", [1, 40])
async def test_the_number_of_queries_does_not_depend_on_the_rules(tmp_path: Path, rules: int) -> None:
    """One rule or forty cost the same few queries, each by the rules' keys: a sink may ask for hundreds at once."""
    keys = [RuleKey("default", f"rule-{n}", f"u{n}") for n in range(rules)]
    async with open_store(tmp_path) as store:
        for key in keys:
            await want(store, key.rule, key.uid, edge_1={})
        await store.commit([status(1, [ok(key.rule, rule_uid=key.uid) for key in keys])])
        queries: list[str] = []
        assert store._reader is not None
        event.listen(store._reader, "before_cursor_execute", lambda *args: queries.append(args[2]))
        found = await statuses(store, keys)
        plans = []

        def explain(conn: Connection) -> None:
            for query in tuple(queries):
                rows = conn.exec_driver_sql("EXPLAIN QUERY PLAN " + query, ("",) * query.count("?"))
                plans.append([row[-1] for row in rows])

        await store.read(explain)
    assert [(each.key, each.success) for each in found] == [(key, 1) for key in keys]
    assert len(plans) <= 9
    scans = [step for plan in plans for step in plan if step.startswith("SCAN") and "CONSTANT" not in step]
    assert not scans, "a whole table is read"
