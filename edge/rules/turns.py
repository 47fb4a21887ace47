"""Fair turns: which rule decides next when chains need more time than there is (flow F4).

A rule runs a message at once while it has used little of the current window. One that needs more waits in its own
bounded queue, and gets turns by the time it has used, the least first, in slices between which the loop does
everything else. While rules run that do not wait for turns, they get at least as much time between two slices as the
slice took. So a flood of one rule, or a chain that takes long, delays nobody but itself.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from time import perf_counter
from typing import Protocol

WINDOW_S = 0.02  # after it, what a rule has used is forgotten
AT_ONCE_S = 0.002  # that a rule may use at once in a window
SLICE_S = 0.002  # of turns, before the loop does something else
SETBACK_S = 0.1  # at most that others go before a rule for what it has used till then


class Taker(Protocol):
    """A rule that takes turns."""

    def turn(self) -> bool:
        """Run one message that waits; False when none can run now."""


class _Account:
    """What a rule has used: in all (with what it was set back by), and in the window that began at ``since``."""

    __slots__ = ("since", "total", "used")

    def __init__(self) -> None:
        self.since = self.used = self.total = 0.0


class Turns:
    """The turns of one node's rules. Times are seconds of ``perf_counter``."""

    def __init__(self) -> None:
        self._accounts: dict[Taker, _Account] = {}
        self._ready: dict[Taker, _Account] = {}
        self._queue: list[tuple[float, int, Taker, _Account]] = []  # a heap of the ready: least total, latest first
        self._number = 0
        self._scheduled = False
        self._paused: asyncio.TimerHandle | None = None  # the next slice, while others have the loop
        self.slices = 0
        self.at_once = 0  # messages that ran without a turn since the last slice

    def now(self, taker: Taker) -> bool:
        """True when the rule may run a message at once."""
        account = self._accounts.get(taker)
        return account is None or account.used < AT_ONCE_S or perf_counter() - account.since > WINDOW_S

    def used(self, taker: Taker, began: float) -> None:
        """The rule has run since ``began``."""
        account = self._accounts.get(taker)
        if account is None:
            account = self._accounts[taker] = _Account()
        now = perf_counter()
        if now - account.since > WINDOW_S:
            account.since, account.used = now, 0.0
        account.used += now - began
        account.total += now - began
        self.at_once += taker not in self._ready

    def later(self, taker: Taker) -> None:
        """The rule has messages that wait: it gets turns."""
        if taker not in self._ready:
            account = self._accounts.setdefault(taker, _Account())
            # What it did not use while it had nothing to do is not saved up, nor is what it used while nobody waited.
            least = min((other.total for other in self._ready.values()), default=0.0)
            account.total = min(max(account.total, least), least + SETBACK_S)
            self._ready[taker] = account
            self._number += 1
            heappush(self._queue, (account.total, -self._number, taker, account))
            if self._paused is not None:  # that pause was for others, not for this one
                self._paused.cancel()
                self._paused, self._scheduled = None, False
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._slice)

    def forget(self, taker: Taker) -> None:
        """The rule is gone."""
        self._accounts.pop(taker, None)
        self._ready.pop(taker, None)

    def _slice(self) -> None:
        self.slices += 1  # until it ends no other is scheduled, whatever its turns bring about
        others, self.at_once, self._paused = self.at_once, 0, None
        began = perf_counter()
        while self._queue and perf_counter() - began < SLICE_S:
            _, number, taker, account = heappop(self._queue)
            if self._ready.get(taker) is not account:  # forgotten
                continue
            if taker.turn():
                heappush(self._queue, (account.total, number, taker, account))
            else:
                self._ready.pop(taker, None)
        self._scheduled = bool(self._ready)
        if others and len(self._ready) == 1:
            self._paused = asyncio.get_running_loop().call_later(perf_counter() - began, self._slice)
        elif self._ready:
            asyncio.get_running_loop().call_soon(self._slice)
