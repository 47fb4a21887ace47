"""Fair turns: which rule decides next when chains need more time than there is (flow F4).

A rule runs a message at once while it has used little of the current window. One that needs more waits in its own
bounded queue, and gets turns by the time it has used, the least first, in slices between which the loop does
everything else. So a flood of one rule, or a chain that takes long, delays nobody but itself.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush, heapreplace
from time import perf_counter
from typing import Protocol

WINDOW_S = 0.02  # after it, what a rule has used is forgotten
AT_ONCE_S = 0.002  # that a rule may use at once in a window
SLICE_S = 0.002  # of turns, before the loop does something else


class Taker(Protocol):
    """A rule that takes turns."""

    def turn(self) -> bool:
        """Run one message that waits; False when none can run now."""


class Account:
    """What a rule has used: in all (with what it was set back by), and in the window that began at ``since``."""

    __slots__ = ("since", "total", "used")

    def __init__(self) -> None:
        self.since = self.used = self.total = 0.0

    @property
    def at_once(self) -> bool:
        """True when the rule may run a message at once."""
        return self.used < AT_ONCE_S or perf_counter() - self.since > WINDOW_S

    def spent(self, began: float) -> None:
        """The rule has run since ``began``."""
        now = perf_counter()
        if now - self.since > WINDOW_S:
            self.since, self.used = now, 0.0
        self.used += now - began
        self.total += now - began


class Turns:
    """The turns of one node's rules. Times are seconds of ``perf_counter``."""

    def __init__(self) -> None:
        self._ready: dict[Taker, Account] = {}
        self._queue: list[tuple[float, int, Taker]] = []  # a heap of those that are ready, by what they had used
        self._number = 0
        self._scheduled = False
        self.slices = 0

    def later(self, taker: Taker, account: Account) -> None:
        """The rule has messages that wait: it gets turns."""
        if taker not in self._ready:
            if self._queue:  # what it did not use while it had nothing to do is not saved up
                account.total = max(account.total, self._queue[0][0])
            self._ready[taker] = account
            self._number += 1  # equals go in the order in which they came
            heappush(self._queue, (account.total, self._number, taker))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._slice)

    def _slice(self) -> None:
        self._scheduled = False
        self.slices += 1
        queue, until = self._queue, perf_counter() + SLICE_S
        while queue and perf_counter() < until:
            _, number, taker = queue[0]
            if taker.turn():
                heapreplace(queue, (self._ready[taker].total, number, taker))
            else:
                heappop(queue)
                del self._ready[taker]
        if queue:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._slice)
