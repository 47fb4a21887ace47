"""Executions under bad luck: many that end at once, one that hangs, and a restart before the broker is back (F5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edge.messages import DELIVERED, Arrival, FlowMessage, Retry
from edge.rules.binding import Binding, Settlement
from edge.settings import FlowSettings, SpoolSettings
from edge.spooltables import Input
from edge.status import RuleRef, Status
from tests.edge.support import Collected
from tests.edge.test_binding import Bench, HeldTarget
from tests.support.wait import eventually

MANY = 900


async def test_a_full_queue_ends_when_the_connection_goes(tmp_path: Path):
    """F5: everything that waits fails at once when the target is gone, however many: one result each, none lost."""
    target = HeldTarget()
    it = Bench(tmp_path, target)
    for number in range(MANY):
        it.take(f"m{number}", reliable=False)
    target.answers = [Retry("target_unreachable", "no connection")]  # from now on at once
    for _, done in list(target.asked):
        done(Retry("target_unreachable", "the connection ended"))
    assert it.binding.running == 0
    await eventually(lambda: it.spool.spool.stats.accepted == MANY)
    await it.close()


async def test_many_resumed_inputs_end_without_a_connection(tmp_path: Path):
    """P5.3: more journalled inputs than the interpreter allows nested calls all get their result after a restart."""
    it = Bench(tmp_path, HeldTarget([Retry("target_unreachable", "no connection")]))
    for number in range(MANY):
        it.binding.resume(Input(f"i{number}", "default", "overheat", f"m{number}", "devices/a", b"x", 2))
    it.binding.sweep()
    await eventually(lambda: it.spool.spool.stats.accepted == MANY)
    assert it.binding.idle
    await it.close()


async def test_one_hanging_execution_keeps_no_others_in_memory(tmp_path: Path):
    """R1.6: what has ended is let go at once, also behind one whose target does not answer until its timeout."""
    target = HeldTarget()
    it = Bench(tmp_path, target, timeout_s=3600)
    it.take("hangs")
    target.answers = [DELIVERED]
    for number in range(5000):
        it.binding.take(Arrival(FlowMessage(b"x", "devices/a", f"m{number}")), Settlement(None, 1))
    it.binding.sweep()
    assert it.binding.running == 1
    assert len(it.binding._running) == 1
    await it.close()


async def test_settings_cannot_make_a_rule_that_never_runs(tmp_path: Path):
    """F4: with more running executions allowed than the spool's queue holds, a rule still runs."""
    it = Bench(tmp_path, HeldTarget([DELIVERED]), flow=FlowSettings(running_max=100_000))
    it.take("a")
    await eventually(lambda: it.settled == ["a"])
    await asyncio.sleep(0)
    await it.close()


async def test_flood_at_qos_0_against_a_full_spool_is_bounded_and_counted(tmp_path: Path):
    """R1.5, R1.6: when not even a drop can be recorded, memory stays bounded and what is lost is counted."""
    full = SpoolSettings(bytes_max=(1 << 20) + (1 << 16), queue_results_max=100)
    it = Bench(tmp_path, HeldTarget([DELIVERED]), flow=FlowSettings(queue_max=10))
    (tmp_path / "full").mkdir()
    await it.close()
    it.spool = Collected(tmp_path / "full", full)
    it.binding = Binding(
        RuleRef("default", "overheat"),
        it.target,
        Status(it.spool.spool),
        it.spool.spool,
        flow=FlowSettings(queue_max=10),
    )
    taken = 0

    def flooded() -> bool:
        nonlocal taken
        for _ in range(100):
            it.take(f"m{taken}", reliable=False)
            taken += 1
        it.binding.sweep()
        return it.binding.statistics()["uncounted"] > 500

    await eventually(flooded)
    stats = it.binding.statistics()
    known = it.spool.spool.stats.accepted + it.spool.spool.stats.held + it.spool.spool._writer.waiting
    assert it.spool.spool.stats.held <= 3 * full.queue_results_max
    assert known + sum(stats[name] for name in ("waiting", "running", "unrecorded", "uncounted")) >= taken - 100
    await it.close()
