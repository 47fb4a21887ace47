"""Summaries: the successes of a rule that wants no single ones become one result a second (flow F5, protocol P1.4).

Theory of operation. A tally adds up the executions of one rule by outcome and reason; counts are exact. Once a second
what it has goes to the spool as results with ``Count``, ``First``, ``DurationSum`` and ``DurationMax``. A source that
repeats a message until it is acknowledged cannot wait so long, for it would stop: it hurries the tally, and is
acknowledged when the summary that counts its message is on disk (P5.3). Until then a crash takes the count and not the
message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from common.clock import Clock, SystemClock
from common.errors import QueueFullError
from common.models import SUCCESS, ExecResult, rfc3339
from edge.messages import Ending
from edge.status import RuleRef, Status

SUMMARY_S = 1.0  # between two summaries of a rule

Callback = Callable[[], None]


class _Sum(msgspec.Struct, eq=False):
    """Executions of one outcome and reason. Times are monotonic seconds, durations microseconds."""

    first: float
    last: float = 0.0
    count: int = 0
    duration_sum: int = 0
    duration_max: int = 0
    duration_us: int = 0  # of the last, as source, step and ending
    attempts: int = 1
    source_id: str = ""
    ending: Ending = Ending()
    waiting: list[Callback] = []


class Tally:
    """The successes of one rule (and version) that are in no result yet. ``early_s`` bounds how long a source waits."""

    def __init__(self, owner: Summaries, rule: RuleRef, early_s: float) -> None:
        self.early_s = early_s
        self._owner, self._rule = owner, rule
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._last = _Sum(0.0)  # the sum that was added to last; mostly the next execution ends the same way

    def add(
        self,
        ending: Ending,
        source_id: str,
        now: float,
        duration_us: int,
        attempts: int = 1,
        on_durable: Callback | None = None,
    ) -> None:
        """Count one execution that ended well at ``now`` (monotonic seconds); ``on_durable`` is called when a power cut
        cannot take its summary.
        """
        found = self._last
        if found.ending is not ending:
            found = self._last = self._sum(ending, now)
        found.last, found.source_id, found.duration_us = now, source_id, duration_us
        found.count += 1
        found.duration_sum += duration_us
        if duration_us > found.duration_max:
            found.duration_max = duration_us
        if attempts > found.attempts:
            found.attempts = attempts
        if on_durable is not None:
            found.waiting.append(on_durable)
            self._owner.hurry(self)

    def _sum(self, ending: Ending, now: float) -> _Sum:
        key = ending.outcome, ending.reason
        found = self._sums.get(key)
        if found is None:
            if not self._sums:
                self._owner.begun(self)
            found = self._sums[key] = _Sum(now)
        found.ending = ending
        return found

    def give(self, status: Status) -> None:
        """Make the results. Raises QueueFullError: what the spool did not take is still here, and adds up."""
        wall = self._owner.wall()
        for key, found in list(self._sums.items()):
            status.take(self._result(found, wall), partial(_tell, found.waiting) if found.waiting else None)
            del self._sums[key]
            if found is self._last:
                self._last = _Sum(0.0)

    def _result(self, found: _Sum, wall: float) -> ExecResult:
        """The result of a sum; ``wall`` is unix time less monotonic time, in seconds."""
        rule, ending, many = self._rule, found.ending, found.count > 1
        return ExecResult(
            rule.name,
            rule.namespace,
            SUCCESS,
            time=rfc3339(wall + found.last),
            outcome=ending.outcome,
            reason=ending.reason,
            duration_us=found.duration_us,
            attempts=found.attempts,
            rule_version=rule.version,
            source_id=found.source_id,
            step=ending.step,
            count=found.count,
            first=rfc3339(wall + found.first) if many else "",
            duration_sum=found.duration_sum if many else 0,
            duration_max=found.duration_max if many else 0,
            rule_uid=rule.uid,
        )


class Summaries:
    """The tallies of all rules, and when they are written."""

    def __init__(self, status: Status, clock: Clock | None = None) -> None:
        self._status, self._clock = status, clock or SystemClock()
        self._open: dict[Tally, None] = {}
        self._hurried: dict[Tally, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._early: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def wall(self) -> float:
        """Unix time less monotonic time, in seconds."""
        return self._clock.time() - self._clock.monotonic()

    def of(self, rule: RuleRef, early_s: float) -> Tally:
        """The tally of one rule; ``early_s`` is how long the source of a reliable arrival may wait, in seconds."""
        return Tally(self, rule, early_s)

    def begun(self, tally: Tally) -> None:
        """A tally has its first execution since it was written."""
        self._open[tally] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_S, self.flush)

    def hurry(self, tally: Tally) -> None:
        """A source waits for this tally."""
        self._hurried[tally] = None
        if self._early is None:
            self._early = asyncio.get_running_loop().call_later(tally.early_s, self._flush_early)

    def flush(self) -> None:
        """Write everything now; what the spool cannot take waits for the next time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._give(self._open)
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_S, self.flush)

    def _flush_early(self) -> None:
        self._early = None
        self._give(self._hurried)
        self._hurried.clear()  # what is left of them, because the spool is full, waits for the next summaries

    def _give(self, tallies: dict[Tally, None]) -> None:
        try:
            for tally in list(tallies):
                tally.give(self._status)
                self._open.pop(tally, None)
                self._hurried.pop(tally, None)
        except QueueFullError:
            return


def _tell(waiting: list[Callback]) -> None:
    for callback in waiting:
        callback()
