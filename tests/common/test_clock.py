"""The door to time."""

from __future__ import annotations

import time

from common.clock import Clock, ManualClock, SystemClock


def test_system_clock_is_the_machines() -> None:
    """Wall and monotonic time are those of the machine."""
    clock: Clock = SystemClock()
    assert abs(clock.time() - time.time()) < 5
    before = clock.monotonic()
    assert before <= clock.monotonic() <= time.monotonic()


def test_manual_clock_moves_when_told() -> None:
    """Time stands still between two calls of advance, and both clocks move together."""
    clock = ManualClock(start=1000.0)
    assert (clock.time(), clock.monotonic()) == (1000.0, 0.0)
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (1002.5, 2.5)


def test_jump_moves_the_wall_clock_alone() -> None:
    """A clock that is set, forward or back, does not touch timers (reliability R3, time)."""
    clock = ManualClock(start=1000.0)
    clock.jump(-3600)
    assert (clock.time(), clock.monotonic()) == (-2600.0, 0.0)
    clock.jump(10 * 365 * 86400)
    assert clock.monotonic() == 0.0
