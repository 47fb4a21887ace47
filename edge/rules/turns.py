"""Fair turns: which rule decides next when chains need more time than there is (flow F4).

A rule runs a message at once while it has used little of the current window. One that needs more waits in its own
bounded queue, and gets turns by the time it has used, the least first, in slices between which the loop does
everything else. While rules run that do not wait for turns, they get at least as much time between two slices as the
slice took. So a flood of one rule, or a chain that takes long, delays nobody but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from typing import NamedTuple, Protocol

WINDOW_S = 0.02  # after it, what a rule has used is forgotten
AT_ONCE_S = 0.002  # that a rule may use at once in a window
SLICE_S = 0.002  # of turns, before the loop does something else
SETBACK_S = 0.1  # at most that others go before a rule for what it has used till then


class Taker(Protocol):
    """A rule that takes turns."""

    def turn(self) -> bool:
        """Run one message that waits; False when none can run now."""


class Account:
    """What a rule has used: in all (with what it was set back by), and in the window that began at ``since``.

    ``ready``: it is among those that get turns.
    """

    __slots__ = ("ready", "since", "total", "used")

    def __init__(self) -> None:
        self.since = self.used = self.total = 0.0
        self.ready = False

    def at_once(self, now: float) -> bool:
        """True when the rule may run a message at once."""
        return self.used < AT_ONCE_S or now - self.since > WINDOW_S


class _Ready(NamedTuple):
    """A rule in the heap of those that get turns, by what it had used when it was put there."""

    total: float
    number: int  # falls, so that of equals the one that came last is first
    taker: Taker
    account: Account


class Turns:
    """The turns of one node's rules. Times are seconds of the monotonic clock ``now``."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._queue: list[_Ready] = []  # a heap
        self._number = 0
        self._scheduled = False
        self._paused: asyncio.TimerHandle | None = None  # the next slice, while others have the loop
        self.slices = 0
        self.at_once = 0  # messages that ran without a turn since the last slice

    def used(self, account: Account, began: float, now: float) -> None:
        """The rule of this account has run from ``began`` till ``now``."""
        if now - account.since > WINDOW_S:
            account.since, account.used = now, 0.0
        took = now - began
        account.used += took
        account.total += took
        if not account.ready:
            self.at_once += 1

    def later(self, taker: Taker, account: Account) -> None:
        """The rule has messages that wait: it gets turns."""
        if not account.ready:
            # What it did not use while it had nothing to do is not saved up, nor is what it used while nobody waited.
            first = self._first()
            least = first.total if first is not None else 0.0
            account.total, account.ready = min(max(account.total, least), least + SETBACK_S), True
            self._number -= 1
            heappush(self._queue, _Ready(account.total, self._number, taker, account))
            if self._paused is not None:  # that pause was for others, not for this one
                self._paused.cancel()
                self._paused, self._scheduled = None, False
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._slice)

    def _first(self) -> _Ready | None:
        """The rule that has used least; on the way to it, those that have run since get their new places."""
        queue = self._queue
        while queue:
            first = queue[0]
            total = first.account.total
            if total <= first.total:
                return first
            heapreplace(queue, _Ready(total, first.number, first.taker, first.account))
        return None

    def _slice(self) -> None:
        self.slices += 1  # until it ends no other is scheduled, whatever its turns bring about
        others, self.at_once, self._paused = self.at_once, 0, None
        began = self._now()
        while self._now() - began < SLICE_S and (first := self._first()) is not None:
            if not first.taker.turn():  # it has run nothing, so it is still the first
                heappop(self._queue)
                first.account.ready = False
        self._scheduled = bool(self._queue)
        if others and len(self._queue) == 1:
            self._paused = asyncio.get_running_loop().call_later(self._now() - began, self._slice)
        elif self._queue:
            asyncio.get_running_loop().call_soon(self._slice)
