"""Fair turns: which rule decides next when chains need more time than there is (flow F4).

A rule runs a message at once while it has used little of the current window. One that needs more waits in its own
bounded queue, and gets turns by the time it has used, the least first, in slices between which the loop does
everything else. So a flood of one rule, or a chain that takes long, delays nobody but itself.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Protocol

WINDOW_S = 0.02  # after it, what a rule has used is forgotten
AT_ONCE_S = 0.002  # that a rule may use at once in a window
SLICE_S = 0.002  # of turns, before the loop does something else


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
        self._scheduled = False
        self.slices = 0

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

    def later(self, taker: Taker) -> None:
        """The rule has messages that wait: it gets turns."""
        if taker not in self._ready:
            account = self._accounts.setdefault(taker, _Account())
            if self._ready:  # what it did not use while it had nothing to do is not saved up
                account.total = max(account.total, min(other.total for other in self._ready.values()))
            self._ready[taker] = account
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._slice)

    def forget(self, taker: Taker) -> None:
        """The rule is gone."""
        self._accounts.pop(taker, None)
        self._ready.pop(taker, None)

    def _slice(self) -> None:
        self._scheduled = False
        self.slices += 1
        until = perf_counter() + SLICE_S
        while self._ready and perf_counter() < until:
            taker = min(self._ready, key=self._total_of)
            if not taker.turn():
                self._ready.pop(taker, None)
        if self._ready:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._slice)

    def _total_of(self, taker: Taker) -> float:
        return self._ready[taker].total
