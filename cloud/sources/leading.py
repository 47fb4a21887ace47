"""A source at work in one controller at a time: in the one that has the lease (protocol P8.3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

log = logging.getLogger(__name__)

OnChange = Callable[[bool], None]


class HeldLease(Protocol):
    """A lease as its would-be holder sees it."""

    @property
    def held(self) -> bool:
        """True while this controller has it."""
        ...

    async def run(self) -> None:
        """Take and keep it until cancelled, then give it back."""
        ...


class Leading:
    """Runs ``work`` while a lease is held. ``make_lease`` gets what is to be called when it was taken or lost."""

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, None]], make_lease: Callable[[OnChange], HeldLease]
    ) -> None:
        self._work = work
        self._changed = asyncio.Event()
        self._lease = make_lease(lambda held: self._changed.set())

    async def run(self) -> None:
        """Take the lease when it is free, work while it is held; until cancelled. Raises what ``work`` raises."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.run())
            group.create_task(self._lead())

    async def _lead(self) -> None:
        working: asyncio.Task[None] | None = None
        try:
            while True:
                self._changed.clear()
                if self._lease.held and working is None:
                    working = asyncio.create_task(self._work())
                    working.add_done_callback(lambda task: self._changed.set())
                elif working is not None and (working.done() or not self._lease.held):
                    ended, working = working, None
                    await _end(ended)
                    continue
                await self._changed.wait()
        finally:
            if working is not None:
                working.cancel()
                await asyncio.wait([working])


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended. Raises what it raised by itself."""
    task.cancel()
    await asyncio.wait([task])
    with suppress(asyncio.CancelledError):
        task.result()
