"""Summaries: exact counts, the fields of P1.4, and sources that are acknowledged when their summary is durable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import QueueFullError
from common.models import DELIVERED, FILTERED, ExecResult
from edge.messages import DELIVERED as TAKEN
from edge.messages import Ending, Rejected
from edge.rules.binding import Binding
from edge.settings import FlowSettings
from edge.status import RuleRef, Status
from edge.summaries import Summaries
from tests.edge.test_binding import Bench, HeldTarget
from tests.flow.node import Played, rule
from tests.support.wait import eventually

RULE = RuleRef("plant", "overheat", "7", "uid-1")


class Refusing(Status):
    """A status whose spool is full until the test says otherwise."""

    def __init__(self) -> None:
        self.full, self.taken = True, []

    def take(self, result: ExecResult, on_durable: Callable[[], None] | None = None, input_id: str = "") -> None:
        """Take the result, or refuse it."""
        if self.full:
            raise QueueFullError("spool", 1)
        self.taken.append((result, on_durable))


class Clock:
    """Wall time that the test sets, in unix seconds."""

    def __init__(self) -> None:
        self.now = 1_763_683_200.0

    def time(self) -> float:
        """See Clock."""
        return self.now

    def monotonic(self) -> float:
        """See Clock."""
        return self.now


async def test_a_summary_says_all_that_its_executions_said_together() -> None:
    """P1.4: Count and DurationSum are sums, DurationMax the longest, First and Time the span, one for each reason."""
    status, clock = Refusing(), Clock()
    summaries = Summaries(status, clock)
    tally = summaries.of(RULE, 0.02)
    for at, duration in enumerate((30, 70, 20)):
        tally.add(Ending(DELIVERED), f"m{at}", clock.monotonic(), duration, attempts=1 + at % 2)
        clock.now += 0.25
    tally.add(Ending(FILTERED, "chain_drop", "", "chain main:main:1"), "m9", clock.monotonic(), 5)
    status.full = False
    summaries.flush()
    (many, _), (one, _) = status.taken
    assert (many.count, many.duration_sum, many.duration_max, many.duration_us, many.attempts) == (3, 120, 70, 20, 2)
    assert (many.first, many.time) == ("2025-11-21T00:00:00.000Z", "2025-11-21T00:00:00.500Z")
    assert (many.rule_id, many.project_id, many.rule_version, many.rule_uid) == ("overheat", "plant", "7", "uid-1")
    assert (many.status, many.outcome, many.source_id) == ("SUCCESS", "delivered", "m2")
    assert one == ExecResult(
        "overheat", "plant", "SUCCESS", time=one.time, outcome="filtered", reason="chain_drop", duration_us=5,
        rule_version="7", source_id="m9", step="chain main:main:1", rule_uid="uid-1",
    )  # fmt: skip
    assert len(summaries) == 0


async def test_what_a_full_spool_does_not_take_adds_up() -> None:
    """P5.10: no execution is lost or counted twice when the spool refuses a summary; sources wait meanwhile."""
    status, told = Refusing(), []
    summaries = Summaries(status, Clock())
    tally = summaries.of(RULE, 0.001)
    tally.add(Ending(DELIVERED), "a", 0.0, 1, on_durable=lambda: told.append("a"))
    summaries.flush()
    assert status.taken == []
    assert len(summaries) == 1
    tally.add(Ending(DELIVERED), "b", 0.0, 1, on_durable=lambda: told.append("b"))
    status.full = False
    await eventually(lambda: status.taken)
    ((result, on_durable),) = status.taken
    assert result.count == 2
    assert told == []
    assert on_durable is not None
    on_durable()
    assert told == ["a", "b"]
    summaries.flush()
    assert len(status.taken) == 1


async def test_a_source_is_settled_when_its_summary_is_on_disk(tmp_path: Path) -> None:
    """P5.3: an execution that is only summed up does not acknowledge its source, nor is its input journalled; the
    summary comes early for it, and holds all of them.
    """
    it = Bench(tmp_path, HeldTarget([TAKEN]), flow=FlowSettings(journal_after_s=0.005))
    summaries = Summaries(it.binding.records._status)
    it.binding.records._tally = summaries.of(RuleRef("default", "overheat"), 0.005)
    for name in "abc":
        it.take(name)
    assert it.settled == []
    assert it.results() == []
    await eventually(lambda: len(it.settled) == 3)
    (result,) = it.results()
    assert (result.count, it.spool.spool.stats.accepted, it.spool.spool.stats.inputs) == (3, 3, 0)
    await it.close()


@pytest.mark.parametrize("journalled", [False, True])
async def test_failures_and_journalled_inputs_stay_single(tmp_path: Path, journalled: bool) -> None:
    """F5: only successes are summed up, and a result that ends a row of the journal stands for itself."""
    target = HeldTarget([] if journalled else [Rejected("target_status_500", "no")])
    it = Bench(tmp_path, target, flow=FlowSettings(journal_after_s=0.0001))
    it.binding.records._tally = Summaries(it.binding.records._status).of(RuleRef("default", "overheat"), 60.0)
    for name in "ab":
        it.take(name)
    if journalled:
        await eventually(lambda: _swept(it.binding) and len(it.settled) == 2)
        for _, done in target.asked:
            done(TAKEN)
    await eventually(lambda: len(it.results()) == 2)
    assert [(r.source_id, r.count) for r in it.results()] == [("a", 1), ("b", 1)]
    await it.close()
    assert it.spool.spool.stats.inputs == 0


async def test_a_clean_stop_writes_what_was_summed_up(tmp_path: Path) -> None:
    """F5: the counts of the last second are in the spool when the node stops, and those of another rule stay single."""
    node = Played(tmp_path, rule("sums", extra=", results: summary") + rule("one"))
    for at in range(5):
        node.arrive(f"m{at}")
    await node.rules.drain()
    await eventually(lambda: len(node.results()) == 6)
    counts = sorted((r.rule_id, r.count) for r in node.results())
    assert counts == [("one", 1)] * 5 + [("sums", 5)]
    await node.close()


def _swept(binding: Binding) -> bool:
    binding.sweep()
    return True
