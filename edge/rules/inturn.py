"""Work beside the rules that takes fair turns with them: chains on the hook points of HTTP servers (flow F4)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from edge.rules.turns import Account, Turns

T = TypeVar("T")


class InTurn:
    """Does the work of tasks that can wait for it, as one more rule would: at once while it has used little, else in
    turns by the time used.

    Arguments: ``turns`` are the node's, ``now`` is their clock. What waits is bounded by its callers: a request waits
    for one piece at a time, and ``requests_max`` bounds those.
    """

    def __init__(self, turns: Turns, now: Callable[[], float]) -> None:
        self._turns, self._now, self._account = turns, now, Account()
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()

    async def do(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, or raise what it raises. A caller that is cancelled meanwhile costs no turn."""
        began = self._now()
        if not self._waiting and self._account.at_once(began):
            try:
                return work()
            finally:
                self._turns.used(self._account, began, self._now())
        made: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, made))
        self._turns.later(self, self._account)
        return await made

    def turn(self) -> bool:
        """See ``edge.rules.turns.Taker``."""
        while self._waiting:
            work, made = self._waiting.popleft()
            if made.done():
                continue
            began = self._now()
            try:
                made.set_result(work())
            except Exception as exc:  # it is whoever waits that is to know
                made.set_exception(exc)
            self._turns.used(self._account, began, self._now())
            return True
        return False
