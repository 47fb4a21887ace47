"""When to leave a sink alone: after failures in a row, for a growing while, then with one probe (protocol P8.2)."""

from __future__ import annotations

import random

from common.backoff import Backoff

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"  # states


class Breaker:
    """Counts failures of a whole batch, and says how long to wait.

    Arguments: ``failures_max`` in a row open it; waits double from ``first_s`` to ``longest_s`` with jitter. ``now`` of
    its methods is a monotonic clock, in seconds.
    """

    def __init__(self, failures_max: int, first_s: float, longest_s: float, rng: random.Random | None = None) -> None:
        self._failures_max = failures_max
        self._backoff = Backoff(first_s, longest_s, rng)
        self._failures = 0
        self._until = 0.0
        self.opened = 0  # how often

    def state(self, now: float) -> str:
        """``closed`` lets everything through, ``open`` nothing, ``half-open`` one item as a probe."""
        if self._failures < self._failures_max:
            return CLOSED
        return OPEN if now < self._until else HALF_OPEN

    def wait_s(self, now: float) -> float:
        """Seconds until something may be tried."""
        return max(0.0, self._until - now)

    def succeeded(self) -> None:
        """The sink answered: closed again."""
        self._failures, self._until = 0, 0.0
        self._backoff.reset()

    def failed(self, now: float, after_s: float = 0) -> None:
        """Nothing of a batch got through. ``after_s`` is what the sink asked for, 0 when it said nothing."""
        self._failures += 1
        if self._failures == self._failures_max:
            self.opened += 1
        self._until = now + max(after_s, self._backoff.next())
