"""Token buckets by key, for the command ``limit`` (L8)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

BUCKETS_MAX = 10_000
"""The least recently used bucket beyond these is forgotten, which is as if it were full."""


class Buckets:
    """Buckets that fill by the clock ``monotonic`` (seconds)."""

    def __init__(self, monotonic: Callable[[], float], buckets_max: int = BUCKETS_MAX) -> None:
        self._monotonic, self._buckets_max = monotonic, buckets_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.forgotten = 0

    def take(self, key: str, rate: float, burst: float) -> bool:
        """Take one token of the bucket ``key``, which holds ``burst`` and refills at ``rate`` a second."""
        now = self._monotonic()
        tokens, since = self._buckets.pop(key, (burst, now))
        tokens = min(burst, tokens + (now - since) * rate)
        taken = tokens >= 1
        self._buckets[key] = (tokens - 1 if taken else tokens), now
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
            self.forgotten += 1
        return taken
