"""Rates and latencies: rows that add up, whoever writes them, and never touch a count (P8.1)."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import func, select

from cloud.stores.sql import SqlStore
from cloud.stores.status import RuleKey, RuleStatus, rule_statuses
from cloud.stores.tables import changes, latencies, rates
from common.errors import StorageError
from tests.cloud.samples import AT, bad, ok, open_store, status, totals, want

KEY = RuleKey("default", "overheat", "")
MINUTE = 60.0


async def told(store: SqlStore, at: float) -> RuleStatus:
    """The rule's status at ``at``."""
    (found,) = await store.read(lambda conn: rule_statuses(conn, [KEY], now=at, stale_s=60))
    return found


async def test_two_controllers_show_one_truth(tmp_path: Path) -> None:
    """What two stores on one database gathered of a rule adds up: rates, and percentiles over both."""
    async with open_store(tmp_path) as one, open_store(tmp_path) as two:
        await one.commit([status(1, [ok(duration_us=1000)] * 90)])
        await two.commit([status(1, [bad(duration_us=900_000)] * 10, node="edge-2", at=AT + 30)])
        for store in (one, two):
            await store.keep_statistics(AT + 31, everything=True)
        found = await told(one, AT + MINUTE + 31)
        assert (found.last_minute, found.last_hour, found.last_day) == (100, 100, 100)
        assert abs(found.p50_us - 1000) <= 1000 / 9
        assert abs(found.p95_us - 900_000) <= 900_000 / 9
        assert await totals(one) == (90, 10)


async def test_a_summary_counts_as_its_executions(tmp_path: Path) -> None:
    """A summary of a hundred executions is a hundred in rates and histogram, one of them with the maximum."""
    async with open_store(tmp_path) as store:
        summary = ok(count=100, duration_us=0, duration_sum=99 * 1000 + 50_000, duration_max=50_000)
        await store.commit([status(1, [summary])])
        await store.keep_statistics(AT, everything=True)
        found = await told(store, AT + MINUTE)
        assert found.last_minute == 100
        assert abs(found.p50_us - 1000) <= 1000 / 9
        query = select(latencies.c.bucket, latencies.c["count"]).order_by(latencies.c.bucket)
        rows = await store.read(lambda conn: [tuple(row) for row in conn.execute(query)])
    assert [count for _, count in rows] == [99, 1]


async def test_minutes_become_hours_and_days_and_go(tmp_path: Path) -> None:
    """Each execution stands in one row at any time; sums over an hour and a day stay right while rows are added up."""
    async with open_store(tmp_path, rate_days=4) as store:
        for sequence, minutes in enumerate((0, 1, 70, 600, 1430), start=1):
            await store.commit([status(sequence, [ok()], at=AT + minutes * MINUTE)])
            await store.keep_statistics(AT + minutes * MINUTE, everything=True)
        found = await told(store, AT + 1431 * MINUTE)
        assert (found.last_minute, found.last_hour, found.last_day) == (1, 1, 5)
        total = select(func.sum(rates.c.success))
        assert await store.read(lambda conn: conn.execute(total).scalar()) == 5
        await store.keep_statistics(AT + 3 * 1440 * MINUTE)
        spans = select(rates.c.span, func.sum(rates.c.success)).group_by(rates.c.span).order_by(rates.c.span)
        assert await store.read(lambda conn: [tuple(row) for row in conn.execute(spans)]) == [(86_400, 5)]
        await store.keep_statistics(AT + 7 * 1440 * MINUTE)
        assert await store.read(lambda conn: conn.execute(total).scalar()) is None
        assert await store.read(lambda conn: conn.execute(select(func.count()).select_from(latencies)).scalar()) == 0
        assert await totals(store) == (5, 0)


async def test_rules_take_turns(tmp_path: Path) -> None:
    """Few rows at once are written for the rules that wait longest; in the end all are, and a stop loses none."""
    async with open_store(tmp_path, statistics_rows_max=4) as store:
        await store.commit([status(1, [ok(f"rule-{n}") for n in range(5)])])
        written = []
        query = select(rates.c.rule).order_by(rates.c.rule)
        for _ in range(3):
            await store.keep_statistics(AT)
            written.append(len(await store.read(lambda conn: conn.execute(query).all())))
    assert written == [2, 4, 5]


async def test_a_repeated_transaction_notes_nothing_twice(tmp_path: Path) -> None:
    """A group that failed and is done again counts once in the statistics, too."""
    failures = ["progress_written"]

    def fault(point: str) -> None:
        if point in failures:
            failures.remove(point)
            raise StorageError("locked")

    async with open_store(tmp_path, fault=fault) as store:
        await store.commit([status(1)])
        await store.keep_statistics(AT, everything=True)
        assert (await told(store, AT + MINUTE)).last_minute == 1


async def test_what_is_counted_is_marked(tmp_path: Path) -> None:
    """With somebody to tell, each transaction raises the version of the rules that it counted, and of no others."""
    query = select(changes.c.rule, changes.c.uid, changes.c.version).order_by(changes.c.rule)

    async def marks(store: SqlStore) -> list[tuple[object, ...]]:
        return await store.read(lambda conn: [tuple(row) for row in conn.execute(query)])

    async with open_store(tmp_path) as store:
        await store.commit([status(1, [ok("before")])])
        await want(store, "wanted", "u1", edge_1={})
        assert await marks(store) == []
    async with open_store(tmp_path, mark_changes=True) as store:
        assert await marks(store) == [("before", "", 1), ("wanted", "u1", 1)]
        await store.commit([status(2, [ok("wanted", rule_uid="u1"), bad("wanted", rule_uid="u1")])])
        await store.commit([status(2)])  # a duplicate changes nothing
        assert await marks(store) == [("before", "", 1), ("wanted", "u1", 2)]
    async with open_store(tmp_path) as store:
        await store.commit([status(3, [ok("before")], at=AT + 10**9)])
    async with open_store(tmp_path, mark_changes=True) as store:
        assert await marks(store) == [("before", "", 2), ("wanted", "u1", 2)]
