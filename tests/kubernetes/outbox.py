"""Sixteen controllers over one outbox, as hostile as they can be: they share rules, hang, die and repeat themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from cloud.forwarders.base import Delivered, Refused
from cloud.forwarders.kubernetes import KubernetesSink
from cloud.stores.status import RuleStatus
from tests.kubernetes.samples import status


class Entry:
    """What the store has of a rule: exact totals, the version of what is told, and the version that was told."""

    def __init__(self, name: str, uid: str) -> None:
        self.name, self.uid = name, uid
        self.success = self.fail = self.version = self.told = 0

    def count(self, good: bool) -> None:
        """A result was committed."""
        self.success += good
        self.fail += not good
        self.version += 1

    def read(self) -> RuleStatus:
        """The status as a controller reads it now."""
        return status(self.uid, self.version, self.success, self.fail, self.name)


class Controllers:
    """``number`` forwarders that tell every rule of ``entries`` ``times`` times. ``make`` makes a controller's sink."""

    def __init__(
        self, entries: list[Entry], make: Callable[[], KubernetesSink], rng: random.Random, number: int, times: int
    ) -> None:
        self._entries, self._make, self._rng, self._times = entries, make, rng, times
        self._tasks = [self._start() for _ in range(number)]
        self.deliveries = self.kills = 0
        self.refused: list[str] = []

    def _start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._forward(self._make()))

    async def _forward(self, sink: KubernetesSink) -> None:
        try:
            while True:
                due = [entry for entry in self._entries if entry.told < entry.version]
                if not due:
                    await asyncio.sleep(0.002)
                    continue
                some = self._rng.sample(due, min(len(due), 3))
                read = [entry.read() for entry in some]
                if self._rng.random() < 0.2:  # it stands still with an old status in its hands
                    await asyncio.sleep(0.03 * self._rng.random())
                for _ in range(self._times):
                    answers = await sink.deliver(read)
                    self.deliveries += len(answers)
                for entry, told, answer in zip(some, read, answers, strict=True):
                    if isinstance(answer, Delivered):
                        entry.told = max(entry.told, told.version)
                    elif isinstance(answer, Refused):
                        self.refused.append(answer.reason)
        finally:
            await sink.stop()

    async def kill_one(self) -> None:
        """End a controller wherever it is, without a word, and start another one, which knows nothing."""
        at = self._rng.randrange(len(self._tasks))
        self._tasks[at].cancel()
        with suppress(asyncio.CancelledError):
            await self._tasks[at]
        self._tasks[at] = self._start()
        self.kills += 1

    async def stop(self) -> None:
        """End all."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
