"""Growing delays with jitter, so that a thousand nodes do not come back in the same second."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from ``first`` to ``cap`` seconds, each drawn between half and all of its bound.

    paho's own reconnect delay has no jitter (reliability R2); half the bound is kept, so no retry comes at once.
    """

    def __init__(self, first: float, cap: float, rng: random.Random | None = None) -> None:
        self._first, self._cap = first, cap
        self._rng = rng or random.Random()
        self._bound = first

    def next(self) -> float:
        """Return the next delay in seconds."""
        bound, self._bound = self._bound, min(self._bound * 2, self._cap)
        return bound * (0.5 + 0.5 * self._rng.random())

    def reset(self) -> None:
        """Begin at ``first`` again, after something worked."""
        self._bound = self._first
