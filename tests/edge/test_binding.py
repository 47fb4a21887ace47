"""A binding: one result an execution, bounds, retries, and the journal that frees the source (F4, F5; P5.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from common.models import ExecResult
from edge.messages import DELIVERED, Arrival, Delivery, FlowMessage, Rejected, Retry
from edge.rules.binding import Binding
from edge.rules.execution import RetryPolicy, Settlement
from edge.settings import FlowSettings
from edge.status import RuleRef, Status
from tests.edge.support import Collected, results_of
from tests.support.wait import eventually


class HeldTarget:
    """A target that answers when the test says so, with what the test says."""

    ready = True

    def __init__(self, answers: list[Delivery] | None = None) -> None:
        self.asked: list[tuple[FlowMessage, Callable[[Delivery], None]]] = []
        self.answers = answers or []

    def deliver(self, message: FlowMessage, done: Callable[[Delivery], None]) -> None:
        self.asked.append((message, done))
        if self.answers:
            done(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


class Bench:
    """One binding over a real spool."""

    def __init__(self, path: Path, target: HeldTarget, **binding) -> None:
        self.spool = Collected(path)
        self.settled: list[str] = []
        self.target = target
        self.binding = Binding(
            RuleRef("default", "overheat"), target, Status(self.spool.spool), self.spool.spool, **binding
        )

    def take(self, name: str, reliable: bool = True) -> None:
        settlement = Settlement(lambda: self.settled.append(name), 1)
        self.binding.take(Arrival(FlowMessage(b"payload", f"devices/{name}", name), reliable), settlement)

    def results(self) -> list[ExecResult]:
        return [r for m in self.spool.frozen for r in results_of(m)]

    async def close(self) -> None:
        await self.spool.spool.stop()


async def test_source_is_settled_after_the_durable_result(tmp_path: Path):
    """P5.3: an immediate execution acknowledges its source when its result is on disk, not before."""
    it = Bench(tmp_path, HeldTarget([DELIVERED]))
    it.take("a")
    assert it.settled == []
    await eventually(lambda: it.settled == ["a"])
    (one,) = it.results()
    assert (one.status, one.outcome, one.source_id, one.attempts) == ("SUCCESS", "delivered", "a", 1)
    await it.close()


async def test_slow_target_journals_the_input_and_settles(tmp_path: Path):
    """P5.3: what takes longer is journalled, the source is free, and the result ends the journal row."""
    it = Bench(tmp_path, HeldTarget(), flow=FlowSettings(journal_after_s=0.001))
    it.take("a")
    await asyncio.sleep(0.002)
    it.binding.sweep()
    await eventually(lambda: it.settled == ["a"])
    assert it.results() == []
    it.target.asked[0][1](DELIVERED)
    await eventually(lambda: len(it.results()) == 1)
    assert it.settled == ["a"]
    await it.close()
    assert Collected(tmp_path).inputs == []


async def test_input_that_was_running_at_a_crash_runs_again(tmp_path: Path):
    """P5.3: after a restart a journalled input runs with Attempts + 1, beyond every bound, and ends in one result."""
    it = Bench(tmp_path, HeldTarget(), flow=FlowSettings(journal_after_s=0.001))
    it.take("a")
    await asyncio.sleep(0.002)
    it.binding.sweep()
    await eventually(lambda: it.settled == ["a"])
    await it.close()
    again = Bench(tmp_path, HeldTarget([DELIVERED]))
    for item in again.spool.inputs:
        again.binding.resume(item)
    again.binding.sweep()
    await eventually(lambda: len(again.results()) == 1)
    assert (again.results()[0].source_id, again.results()[0].attempts) == ("a", 2)
    assert again.target.asked[0][0].payload == b"payload"
    await again.close()
    assert Collected(tmp_path).inputs == []


async def test_bound_drops_and_counts(tmp_path: Path):
    """F5: at queue_max the next message ends as dropped with reason queue_full; the others run in their turn."""
    it = Bench(tmp_path, HeldTarget(), flow=FlowSettings(running_max=2, queue_max=3))
    for n in range(7):
        it.take(str(n))
    while len(it.target.asked) < 5 or it.binding.running:
        for _, done in it.target.asked[-2:]:
            done(DELIVERED)
    await eventually(lambda: len(it.results()) == 7)
    by_outcome = {r.source_id: (r.outcome, r.reason) for r in it.results()}
    assert by_outcome == {str(n): ("delivered", "") if n < 5 else ("dropped", "queue_full") for n in range(7)}
    assert [m.msgid for m, _ in it.target.asked] == ["0", "1", "2", "3", "4"]
    await eventually(lambda: len(it.settled) == 7)
    await it.close()


async def test_timeout_ends_once_and_a_late_answer_is_counted(tmp_path: Path):
    """F5: a target that does not answer is failed with target_timeout; its late answer changes nothing."""
    it = Bench(tmp_path, HeldTarget(), timeout_s=0.01)
    it.take("a")
    await asyncio.sleep(0.012)
    it.binding.sweep()
    it.target.asked[0][1](DELIVERED)
    await eventually(lambda: len(it.results()) == 1)
    (one,) = it.results()
    assert (one.status, one.reason, one.error.detail) == (
        "FAIL", "target_timeout", "the target did not answer within 0.01 s",
    )  # fmt: skip
    assert it.binding.late == 1
    await it.close()


async def test_retries_are_one_outcome_with_attempts(tmp_path: Path):
    """F5: what can be tried again is, with backoff; it stays one result."""
    retry = Retry("target_unreachable", "by the test")
    it = Bench(tmp_path, HeldTarget([retry, retry, DELIVERED]), retry=RetryPolicy(3, 0.001))
    it.take("a")
    await eventually(lambda: len(it.results()) == 1)
    assert (it.results()[0].outcome, it.results()[0].attempts) == ("delivered", 3)
    await it.close()


async def test_retries_end_and_rejections_are_not_tried_again(tmp_path: Path):
    """F5: the last failed try is the result; a rejection is final at once. The error says detail, reason and step."""
    it = Bench(tmp_path, HeldTarget([Retry("target_unreachable", "no")]), retry=RetryPolicy(2, 0.001))
    it.take("a")
    await eventually(lambda: len(it.results()) == 1)
    it.target.answers = [Rejected("payload_too_large", "too much")]
    it.take("b")
    await eventually(lambda: len(it.results()) == 2)
    told = [(r.status, r.reason, r.attempts, r.error.detail, r.step) for r in it.results()]
    assert told == [
        ("FAIL", "target_unreachable", 2, "no", "target"),
        ("FAIL", "payload_too_large", 1, "too much", "target"),
    ]
    assert it.results()[0].error.timestamp.endswith("Z")
    await it.close()


async def test_arrival_for_several_rules_is_settled_by_the_last(tmp_path: Path):
    """P5.3: fan-out to three rules acknowledges the source once, after the third."""
    settled: list[int] = []
    settlement = Settlement(lambda: settled.append(1), 3)
    settlement.one()
    settlement.one()
    assert settled == []
    settlement.one()
    assert settled == [1]
