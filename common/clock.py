"""The one door to time: wall clock for stamps, monotonic clock for every timer and deadline."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the parts take instead of calling ``time`` themselves, so that a test or simulation can hold the clock."""

    def time(self) -> float:
        """Wall clock, unix seconds. It may jump: only for stamps that people read, never for order or timers."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow; for timers, deadlines and durations."""
        ...


class SystemClock:
    """The machine's clock. Its methods are the machine's own functions: they are called several times a message."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


class ManualClock:
    """A clock that moves when told to. Wall and monotonic time move apart only through ``jump``."""

    def __init__(self, start: float = 1_763_683_200.0) -> None:
        self._wall, self._mono = start, 0.0

    def time(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._mono

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._wall += seconds
        self._mono += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP or a person would; monotonic time does not move."""
        self._wall += seconds
