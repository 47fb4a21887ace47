"""Two controllers with one database: they share a sink's rules, without doubling and within its rate (P8.2)."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from cloud.forwarders.base import Delivered
from tests.cloud.samples import open_store
from tests.forwarders.parts import FakeSink, forwarding, key, mark
from tests.support.wait import eventually


async def test_two_controllers_share_the_rules_without_doubling(tmp_path: Path) -> None:
    """Two stores on one database with a forwarder each: one holds its batch, the other tells all else, none both."""
    one, two = FakeSink("hook", batch_max=5), FakeSink("hook", batch_max=5)
    rules = [f"rule-{n}" for n in range(20)]
    one.hang.clear()
    async with open_store(tmp_path) as store, open_store(tmp_path) as other, forwarding(store, one) as a:
        await mark(store, *map(key, rules))
        a.wake()
        await eventually(lambda: one.batches)
        async with forwarding(other, two, holder="cloud-2") as b:
            await eventually(lambda: len(two.told) == 15)
            one.hang.set()
            await eventually(lambda: len(one.told) == 5)
            for version in (2, 3):
                await mark(store, *map(key, rules))
                a.wake()
                b.wake()
                await eventually(
                    lambda version=version: sum(s.version == version for s in one.told + two.told) == len(rules)
                )
        told = Counter((each.rule, each.version) for each in one.told + two.told)
        assert max(told.values()) == 1
        assert {rule for rule, _ in told} == set(rules)


async def test_the_rate_is_kept_over_all_controllers(tmp_path: Path) -> None:
    """Two controllers with 20 a second for one sink together tell at most about 20 in any second."""
    sinks = [FakeSink("hook", batch_max=10, rate_max=20) for _ in range(2)]
    at: list[float] = []
    for sink in sinks:
        sink.answer = lambda item: at.append(time.monotonic()) or Delivered()
    async with open_store(tmp_path) as store, open_store(tmp_path) as other:
        await mark(store, *(key(f"rule-{n}") for n in range(50)))
        async with forwarding(store, sinks[0]), forwarding(other, sinks[1], holder="cloud-2"):
            await eventually(lambda: len(at) == 50)
    assert at[-1] - at[0] > 1.0
    assert max(sum(one <= each < one + 0.9 for each in at) for one in at) <= 30
