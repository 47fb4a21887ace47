"""Forwarders at work: every change told, each sink on its own, nothing lost by faults or by a second controller."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.forwarders.base import Delivered, Refused, Retry
from cloud.forwarders.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from cloud.settings.forward import ForwardSettings
from cloud.stores.status import RuleStatus
from cloud.stores.tables import changes
from common.errors import StorageError
from common.metrics import exposition
from tests.cloud.samples import bad, ok, open_store, status
from tests.forwarders.parts import QUICK, FakeSink, delivery, forwarding, key, mark, wanting
from tests.support.wait import eventually


async def test_counts_are_exact_under_concurrent_commits(tmp_path: Path) -> None:
    """16 writers commit for 8 rules at once: each sink ends with the exact counts, versions only rise."""
    rules = [f"rule-{n}" for n in range(8)]
    first, second = FakeSink("one", batch_max=3), FakeSink("two", interval_s=0.05)
    async with open_store(tmp_path, mark_changes=True) as store, forwarding(store, first, second) as it:

        async def write(node: int) -> None:
            for sequence in range(1, 6):
                results = [make(rule) for rule in rules for make in (ok, bad)]
                await store.commit([status(sequence, results, node=f"edge-{node}")])
                it.wake()

        await asyncio.gather(*(write(node) for node in range(16)))
        for sink in (first, second):
            await eventually(
                lambda sink=sink: [(s.success, s.fail) for s in sink.last().values()] == [(80, 80)] * 8, what=sink.name
            )
            assert all(sink.versions(rule) == sorted(set(sink.versions(rule))) for rule in rules)
        assert max(first.batches) <= 3
        assert max(Counter(second.versions("rule-0")).values()) == 1


async def test_a_sink_that_hangs_delays_only_itself_and_its_lag_shows(tmp_path: Path) -> None:
    """While one sink hangs the other is told at once, and the lag of the first grows with the change's age."""
    slow, quick = FakeSink("slow"), FakeSink("quick")
    async with open_store(tmp_path) as store, forwarding(store, slow, quick) as it:
        slow.hang.clear()
        for version in range(1, 11):
            await mark(store, key(), at=time.time() - 30)
            it.wake()
            await eventually(lambda version=version: quick.versions()[-1:] == [version], interval=0.005)
        await eventually(lambda: {row.sink: row.delivered for row in it.rows()} == {"slow": 0, "quick": 10})
        await eventually(lambda: {row.sink: row.lag_s for row in it.rows()}["slow"] >= 30)
        await eventually(lambda: {row.sink: row.lag_s for row in it.rows()}["quick"] == 0)
        text = exposition("cloud", it.families())
        assert 'fieldpost_cloud_forwarder_pending{sink="slow"} 1.0' in text
        assert 'fieldpost_cloud_forwarder_lag_seconds{sink="quick"} 0.0' in text
        slow.hang.set()
        await eventually(lambda: slow.versions()[-1:] == [10])


async def test_a_stop_is_quick_and_frees_what_was_claimed(tmp_path: Path) -> None:
    """A stop during a hanging delivery ends soon, and another controller tells it at once."""
    stuck, other = FakeSink("hook"), FakeSink("hook")
    stuck.hang.clear()
    async with open_store(tmp_path) as store:
        async with forwarding(store, stuck) as it:
            await mark(store, key())
            it.wake()
            await eventually(lambda: stuck.batches)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert stuck.stopped
        async with forwarding(store, other, holder="cloud-2"):
            await eventually(lambda: other.versions() == [1], timeout=QUICK.claim_s / 2)


async def test_failures_open_the_breaker_and_a_probe_of_one_closes_it(tmp_path: Path) -> None:
    """After failures in a row only single items are tried, with pauses; what the sink takes again is told in full."""
    sink = FakeSink()
    sink.answer = lambda item: Retry("503")
    async with open_store(tmp_path) as store, forwarding(store, sink) as it:
        await mark(store, *(key(f"rule-{n}") for n in range(20)))
        await eventually(lambda: it.rows()[0].breaker != CLOSED and len(sink.batches) > 5)
        assert set(sink.batches[QUICK.failures_max :]) == {1}
        row = it.rows()[0]
        assert (row.last_error, row.delivered) == ("503", 0)
        assert it.statistics()["fake"]["breaker_openings"] == 1
        sink.answer = lambda item: Delivered()
        await eventually(lambda: it.rows()[0].delivered == 20)
        assert it.rows()[0].breaker == CLOSED


def test_the_breaker_opens_waits_and_probes() -> None:
    """Closed below the bound, then open for a growing while, then half-open until an answer comes."""
    breaker = Breaker(2, 1.0, 8.0)
    breaker.failed(0)
    assert (breaker.state(0), breaker.wait_s(0) > 0) == (CLOSED, True)
    breaker.failed(10, after_s=60)
    assert (breaker.state(69), breaker.state(70), breaker.opened) == (OPEN, HALF_OPEN, 1)
    breaker.failed(70)
    assert 70.5 < 70 + breaker.wait_s(70) <= 78
    breaker.succeeded()
    assert (breaker.state(71), breaker.wait_s(71)) == (CLOSED, 0)


async def test_one_rule_that_fails_or_is_refused_stops_no_other(tmp_path: Path) -> None:
    """A rule that is to be retried waits alone; a refused version is shown, and the next one is told."""
    sink = FakeSink(batch_max=4)
    verdict: dict[str, Any] = {"late": Retry("not yet", 30), "never": Refused("422 no such field")}
    sink.answer = lambda item: verdict.get(item.rule, Delivered())
    async with open_store(tmp_path) as store, forwarding(store, sink) as it:
        await mark(store, *map(key, ("late", "never", "a", "b")))
        await eventually(lambda: it.rows()[0].refused == 1)
        for _ in range(3):
            await mark(store, key("a"))
            await eventually(lambda: sink.versions("a")[-1] == len(sink.versions("a")))
        assert (sink.versions("late"), sink.versions("never")) == ([1], [1])
        row = it.rows()[0]
        assert [(each.rule, each.reason) for each in row.refusals] == [("default/never", "422 no such field")]
        assert row.breaker == CLOSED
        verdict.clear()
        await mark(store, key("never"))
        await eventually(lambda: sink.versions("never") == [1, 2])
        await eventually(lambda: not it.rows()[0].refused)


@pytest.mark.parametrize("fault", ["raises", "short"])
async def test_a_sink_that_breaks_its_contract_loses_nothing(tmp_path: Path, fault: str) -> None:
    """A sink that raises, or answers for too few, is told everything again."""
    sink = FakeSink()
    deliver, faults = sink.deliver, [fault]

    async def broken(items: Any) -> Any:
        if faults and faults.pop() == "raises":
            raise RuntimeError("a bug")
        return [] if len(sink.batches) == 0 and fault == "short" and not await deliver([]) else await deliver(items)

    sink.deliver = broken  # type: ignore[method-assign]
    async with open_store(tmp_path) as store, forwarding(store, sink):
        await mark(store, key())
        await eventually(lambda: sink.versions() == [1])


async def test_an_interval_is_kept_and_the_last_change_is_told(tmp_path: Path) -> None:
    """A rule that changes all the time is told once per interval, and its last version without another commit."""
    sink = FakeSink(interval_s=0.3)
    async with open_store(tmp_path) as store, forwarding(store, sink, settings=ForwardSettings(poll_s=60)) as it:
        began = time.monotonic()
        for _ in range(40):
            await mark(store, key())
            it.wake()
            await asyncio.sleep(0.01)
        await eventually(lambda: sink.versions()[-1:] == [40])
        assert len(sink.told) <= (time.monotonic() - began) / 0.3 + 1


async def test_trouble_of_the_store_is_waited_out(tmp_path: Path) -> None:
    """A store that cannot be read or written for a while delays what is told, and nothing is lost."""
    sink = FakeSink()
    async with open_store(tmp_path) as store:
        failures = {"read": 3, "write": 3}
        for name in failures:
            work = getattr(store, name)

            def failing(query: Any, name: str = name, work: Any = work) -> Any:
                if failures[name]:
                    failures[name] -= 1
                    raise StorageError("the database is away")
                return work(query)

            setattr(store, name, failing)
        async with forwarding(store, sink):
            failures["write"] = 0
            await mark(store, key())
            failures["write"] = 2
            await eventually(lambda: sink.versions() == [1])


async def test_a_rule_that_vanished_is_settled_without_a_word(tmp_path: Path) -> None:
    """When nothing is known of a claimed rule any more it is not told, and not looked at again and again."""
    sink = FakeSink()
    async with open_store(tmp_path) as store:
        reads: list[int] = []

        def nothing(conn: Any, keys: Any) -> list[Any]:
            reads.append(len(keys))
            return []

        async with forwarding(store, sink, reader=nothing) as it:
            await mark(store, key())
            it.wake()
            await eventually(lambda: reads)
            await eventually(lambda: store.read(lambda conn: delivery(conn, "fake", key()).version == 1))
        assert (sink.told, reads) == ([], [1])


async def test_what_is_told_never_holds_less_than_its_version(tmp_path: Path) -> None:
    """A commit while a status is being read is told again with a higher version, whatever the reader has seen of it."""
    sink = FakeSink()
    async with open_store(tmp_path) as store:

        def late(conn: Any, keys: Any) -> list[RuleStatus]:
            return [RuleStatus(*each, version=9, success=len(sink.told)) for each in keys]

        async with forwarding(store, sink, reader=late):
            await mark(store, key())
            await eventually(lambda: sink.versions() == [1])
            await mark(store, key())
            await eventually(lambda: sink.versions() == [1, 2])


async def test_a_sink_without_its_connection_is_told_nothing_and_everything_after(tmp_path: Path) -> None:
    """While the connection is away nothing is tried, nothing counts as a failure, and a wake tells all at once."""

    class Linked(FakeSink):
        connected = False

    sink = Linked()
    slow = msgspec.structs.replace(QUICK, poll_s=60)
    async with open_store(tmp_path) as store, forwarding(store, sink, settings=slow) as it:
        await mark(store, key())
        it.wake()
        await eventually(lambda: it.rows()[0].last_error == "not connected")
        sink.connected = True
        it.wake()
        await eventually(lambda: sink.versions() == [1])
        assert it.rows()[0].failures == 0


async def test_gone_rules_are_cleared_at_sinks_that_keep_a_state(tmp_path: Path) -> None:
    """A sink that can forget is asked once for each rule that was deleted, again when it could not."""
    asked: list[Any] = []
    verdicts = [Retry("not now"), Delivered()]

    class Keeping(FakeSink):
        async def forget(self, keys: Any) -> Any:
            asked.append(list(keys))
            return [verdicts.pop(0)] * len(keys)

    sink = Keeping()
    async with open_store(tmp_path) as store:
        await store.write(lambda conn: wanting(conn, key("r", "u1")))
        await mark(store, key("r", "u1"))
        async with forwarding(store, sink) as it:
            await eventually(lambda: sink.versions("r") == [1])
            await store.write(lambda conn: conn.exec_driver_sql("DELETE FROM objects"))
            await mark(store, key("r", "u1"))
            for _ in range(2):
                await it._forwarders[0]._feed.tidy()
            await it._forwarders[0]._feed.tidy()
        assert asked == [[key("r", "u1")]] * 2
        assert sink.versions("r") == [1]


async def test_nothing_happens_without_sinks(tmp_path: Path) -> None:
    """A controller without sinks has no task, no row, no metric."""
    async with open_store(tmp_path) as store, forwarding(store) as it:
        assert (it.rows(), it.statistics(), list(it.families())) == ([], {}, [])
        assert not await store.read(lambda conn: conn.execute(changes.select()).all())
