"""What a controller does now and then: silence that it could have heard, statistics at a stop, the list of rules."""

from __future__ import annotations

from pathlib import Path

from cloud.settings import CloudSettings
from cloud.stores.status import RuleKey, rule_statuses
from cloud.upkeep import Upkeep
from common import tables
from common.clock import ManualClock
from common.control import call
from common.messaging.memory import MemoryHub
from tests.cloud.node import node_on, running
from tests.cloud.samples import bad, birth, epoch, ok, open_store, status, want
from tests.support.wait import eventually

KEY = RuleKey("default", "overheat", "u1")


async def test_only_a_controller_that_listened_calls_a_node_silent(tmp_path: Path) -> None:
    """For the stale time after it connected, a controller cannot know whether a node was silent (P8.1)."""
    clock, connected = ManualClock(), [True]
    async with open_store(tmp_path) as store:
        upkeep = Upkeep(store, clock, CloudSettings(stale_s=60), lambda: connected[0])
        await store.presence(birth(), epoch(), clock.time())
        await want(store, "overheat", "u1", edge_1={})

        async def ready() -> str:
            await upkeep.look()
            (found,) = await store.read(lambda conn: rule_statuses(conn, [KEY], now=clock.time(), stale_s=60))
            condition = found.condition("Ready")
            return condition.status if condition else ""

        assert await ready() == "True"
        connected[0] = False
        clock.advance(100)
        assert await ready() == "True"
        connected[0] = True
        clock.advance(59)
        assert await ready() == "True"
        clock.advance(2)
        assert await ready() == "Unknown"
        assert upkeep.statistics() == {"looks": 4, "transitions": 3, "failures": 0}


async def test_a_stop_writes_the_statistics_that_wait(tmp_path: Path) -> None:
    """A controller that is stopped in good order loses no rates and latencies."""
    clock = ManualClock()
    async with open_store(tmp_path, statistics_rows_max=1) as store:
        await store.commit([status(1, [ok(f"rule-{n}") for n in range(20)], at=clock.time())])
        assert store.statistics()["statistics_waiting"] == 20
        await Upkeep(store, clock, CloudSettings(), lambda: True).stop()
        assert store.statistics()["statistics_waiting"] == 0


async def test_the_list_of_rules_says_how_fast_how_often_and_how_well(tmp_path: Path) -> None:
    """``get rules`` has percentiles, rate and conditions beside the counts, of one rule or all."""
    hub, clock = MemoryHub(), ManualClock()
    async with running(tmp_path, hub, clock=clock) as controller, node_on(hub) as node:
        path = tmp_path / "data" / "cloud.sock"
        await node.results(1, [ok(duration_us=2000), bad(duration_us=2000), ok("cold")])
        await eventually(node.confirmations)
        await controller.store.keep_statistics(clock.time(), everything=True)
        await controller._upkeep.look()
        clock.advance(60)
        rows = await call(path, "get.rules")
        cold, overheat = rows
        assert (overheat["rule"], overheat["success"], overheat["fail"], overheat["last_minute"]) == (
            "overheat", 1, 1, 2,
        )  # fmt: skip
        assert abs(overheat["p95_us"] - 2000) <= 2000 / 9
        assert (overheat["degraded"], overheat["degraded_reason"], cold["degraded"]) == ("True", "Failing", "False")
        assert await call(path, "get.rules", rule="cold") == [cold]
        shown = tables.render(tables.RULES, rows, "table").splitlines()
        assert shown[2].split()[:2] == ["default", "overheat"]
        assert " ".join(["1", "1", "1.9", "2", "-"]) in " ".join(shown[2].split())
        assert "True (Failing)" in shown[2]
