"""What a batch of results does to counters, errors and the ring of single results (protocol P8.1, P8.6). Pure values.

Theory of operation. A commit group holds thousands of results of a few rules, so the work per result is one dictionary
look-up and one duration in a list, which is counted, summed and put into a histogram afterwards; what is written is
proportional to the rules, not to the results. Counters take every result. Errors and the ring are bounded here already,
before anything reaches the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from common.models import FAIL, ExecResult, clean_text

TOTAL_MAX = 2**53 - 1  # a counter saturates here: exact in every JSON reader, and no sum of rows overflows the store
KEY_CHARS_MAX = 64  # of reason, outcome and uid in a key; longer ones are cut, so that every store can index them


class CounterKey(NamedTuple):
    """What is counted apart. Keys sort in the order in which rows are locked: by node and rule."""

    node: str
    namespace: str
    rule: str
    uid: str
    status: str
    outcome: str
    reason: str

    @property
    def of_rule(self) -> tuple[str, str, str]:
        """Namespace, rule and uid."""
        return self[1:4]


class ErrorKey(NamedTuple):
    """What makes an error distinct within the ring of its rule."""

    namespace: str
    rule: str
    uid: str
    reason: str
    detail: str


_key: Callable[[tuple[str, ...]], CounterKey] = partial(tuple.__new__, CounterKey)  # a third of what its own call costs


class Tally:
    """A counter's change. Durations are microseconds, times unix seconds by the cloud's clock.

    ``durations`` are those of single executions. Of a summary only sum and maximum are known: ``summed`` holds one
    execution with the maximum, and the others with their mean, each as (duration, executions).
    """

    __slots__ = ("durations", "first_at", "last_at", "summed", "summed_total")

    def __init__(self, at: float) -> None:
        self.durations: list[int] = []
        self.summed: list[tuple[int, int]] | None = None  # few have any, and thousands of tallies live at once
        self.summed_total = 0
        self.first_at = self.last_at = at

    def add_summary(self, result: ExecResult) -> None:
        """Add a result of several executions."""
        others, longest = result.count - 1, max(result.duration_max, result.duration_us)
        parts = [(max(result.duration_sum - longest, 0) // others, others), (longest, 1)]
        self.summed = [*self.summed, *parts] if self.summed else parts
        self.summed_total += result.duration_sum

    def sums(self) -> tuple[int, int, int]:
        """Return executions, the sum of their durations and the longest one."""
        durations = self.durations
        if not self.summed:
            if len(durations) == 1:  # most, when many nodes report in small messages
                return 1, durations[0], durations[0]
            return len(durations), sum(durations), max(durations)
        count = len(durations) + sum([count for _, count in self.summed])
        longest = max(*durations, *[duration for duration, _ in self.summed])
        return count, sum(durations) + self.summed_total, longest

    def merge(self, other: Tally) -> None:
        """Add another change of the same counter."""
        self.durations += other.durations
        self.summed = [*(self.summed or ()), *(other.summed or ())]
        self.summed_total += other.summed_total
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)


class ErrorTally:
    """A distinct error's change: how often, when, and the last place where it was seen."""

    __slots__ = ("count", "first_at", "last_at", "node", "source_id", "step")

    def __init__(self, at: float) -> None:
        self.count = 0
        self.first_at = self.last_at = at
        self.node = self.source_id = self.step = ""


class Sample(NamedTuple):
    """One result for the ring, as it came."""

    namespace: str
    node: str
    received_at: float
    msg_id: str
    result: ExecResult


class Sampler:
    """Lets at most ``per_rule`` results a second and status of a rule into the ring, and at most ``total`` of all.

    FAIL and SUCCESS have budgets of their own: a flood of SUCCESS never hides a FAIL.
    """

    def __init__(self, per_rule: int, total: int) -> None:
        self._per_rule, self._total = per_rule, total
        self._second = -1
        self._taken: dict[tuple[str, str, str], int] = {}
        self._left: dict[str, int] = {}

    def budget(self, at: float) -> dict[str, int]:
        """Return how many may still enter in this second, by status. Empty when there is no room for any."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._taken.clear()
            self._left = {FAIL: self._total, "SUCCESS": self._total} if self._total and self._per_rule else {}
        return self._left

    def take(self, namespace: str, rule: str, status: str) -> bool:
        """True when this result may enter; call only while ``budget`` has room for its status."""
        key = (namespace, rule, status)
        taken = self._taken.get(key, 0)
        if taken >= self._per_rule:
            return False
        self._taken[key] = taken + 1
        left = self._left[status] - 1
        if left:
            self._left[status] = left
        else:
            del self._left[status]
        return True


class Effects:
    """The sum of a commit group: ``add`` each new message, then write ``counters``, ``errors`` and ``samples``."""

    def __init__(self, sampler: Sampler, errors_per_rule_max: int) -> None:
        self._sampler, self._errors_max = sampler, errors_per_rule_max
        self._by_origin: dict[tuple[str, str], dict[tuple[str, str, str, str, str], Tally]] = {}  # node, namespace
        self._errors: dict[tuple[str, str, str], dict[tuple[str, str], ErrorTally]] = {}
        self.samples: list[Sample] = []

    def add(self, node: str, namespace: str, results: Sequence[ExecResult], at: float, msg_id: str = "") -> None:
        """Count the results of one message that came at ``at`` (unix seconds). A summary weighs its ``count``."""
        tallies = self._by_origin.setdefault((node, namespace), {})
        budget = self._sampler.budget(at)
        get = tallies.get
        for result in results:
            status, rule = result.status, result.rule_id
            key = (rule, result.rule_uid, status, result.outcome, result.reason)
            tally = get(key)
            if tally is None:
                tally = tallies[key] = Tally(at)
            if result.count == 1:
                tally.durations.append(result.duration_us)
            else:
                tally.add_summary(result)
            tally.last_at = at
            if status == FAIL:
                self._add_error(node, namespace, result, at)
            if status in budget and self._sampler.take(namespace, rule, status):
                self.samples.append(Sample(namespace, node, at, msg_id, result))

    def _add_error(self, node: str, namespace: str, result: ExecResult, at: float) -> None:
        ring = self._errors.setdefault((namespace, result.rule_id, result.rule_uid), {})
        key = (result.reason, result.error.detail)
        found = ring.pop(key, None) or ErrorTally(at)
        found.count += result.count
        found.last_at = at
        found.node, found.source_id, found.step = node, result.source_id, result.step
        ring[key] = found  # again at the end: the ring is in order of the last time
        if len(ring) > self._errors_max:
            del ring[next(iter(ring))]

    def counters(self) -> dict[CounterKey, Tally]:
        """Return the counters' changes in the order in which their rows are locked: by node, namespace and rule."""
        found: dict[CounterKey, Tally] = {}
        for (node, namespace), tallies in sorted(self._by_origin.items()):
            for rule, uid, status, outcome, reason in sorted(tallies):
                tally = tallies[rule, uid, status, outcome, reason]
                if len(uid) + len(outcome) + len(reason) > KEY_CHARS_MAX:
                    uid, outcome, reason = _cut(uid), _cut(outcome), _cut(reason)
                key = _key((node, namespace, rule, uid, status, outcome, reason))
                known = found.setdefault(key, tally)
                if known is not tally:
                    known.merge(tally)
        return found

    def errors(self) -> dict[ErrorKey, ErrorTally]:
        """Return the distinct errors' changes, at most the ring's size per rule, in order of their keys."""
        found: dict[ErrorKey, ErrorTally] = {}
        for (namespace, rule, uid), ring in self._errors.items():
            for (reason, detail), tally in ring.items():
                key = ErrorKey(namespace, rule, _cut(uid), _cut(reason), clean_text(detail))
                known = found.setdefault(key, tally)
                if known is not tally:
                    known.count += tally.count
        return dict(sorted(found.items()))


def _cut(text: str) -> str:
    return text if len(text) <= KEY_CHARS_MAX else text[:KEY_CHARS_MAX]
