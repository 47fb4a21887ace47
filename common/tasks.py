"""Background tasks that are named, supervised and awaited at stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from common.backoff import Backoff

log = logging.getLogger(__name__)

CANCEL_AGAIN_S = 1.0
STEADY_S = 60.0  # a task that ran so long before it failed is started again without a long wait


class Tasks:
    """The background tasks of one owner. What fails is logged and started again with backoff; none dies silently."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.restarts = 0

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, forever: bool = True) -> None:
        """Run ``work()`` in the background. ``forever`` starts it again when it raises; otherwise it runs once.

        Raises ValueError when a task of that name runs already.
        """
        if name in self._tasks and not self._tasks[name].done():
            raise ValueError(f"{self._owner}: task {name} runs already")
        self._tasks[name] = asyncio.create_task(self._supervise(name, work, forever), name=f"{self._owner}.{name}")

    async def _supervise(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], forever: bool) -> None:
        backoff = Backoff(0.1, 10.0)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                return await work()
            except Exception:
                self.restarts += 1
                if loop.time() - began > STEADY_S:
                    backoff.reset()
                delay = backoff.next()
                log.exception("%s: task %s failed%s", self._owner, name, f", again in {delay:.1f} s" if forever else "")
                if not forever:
                    return
                await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Cancel all tasks and wait until they are done. One that has swallowed its cancellation is cancelled again."""
        left = {task for task in self._tasks.values() if not task.done()}
        for task in left:
            task.cancel()
        while left:
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
            for task in left:
                log.warning("task %s does not end, it is cancelled again", task.get_name())
                task.cancel()
        self._tasks.clear()
