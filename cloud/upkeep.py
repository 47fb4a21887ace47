"""What a controller does now and then: writes rates and latencies, looks at the conditions of all rules (P8.1).

Every controller does both. Rows of rates and latencies add up, and a transition of a condition is written by the first
that sees it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cloud.settings import CloudSettings
from cloud.stores.base import Store
from cloud.stores.conditions import Terms, transitions, write_transitions
from common.clock import Clock
from common.errors import QueueFullError, StorageError
from common.tasks import Tasks

log = logging.getLogger(__name__)

STATISTICS_S = 5.0  # between two writes of rates and latencies: what a controller that is killed may lose of them
STOP_S = 2.0  # that a stop waits for the last of them
TRANSITIONS_AT_ONCE = 250  # in one transaction: results wait for it
LOOKS_SHARE = 50  # a look at the conditions is followed by a pause of at least so many times its own time


class Upkeep:
    """The periodic tasks. ``connected`` tells whether this controller hears nodes at all; ``mark``: somebody is told of
    rules onward.
    """

    def __init__(
        self, store: Store, clock: Clock, settings: CloudSettings, connected: Callable[[], bool], *, mark: bool = False
    ) -> None:
        self._store, self._clock, self._connected, self._mark = store, clock, connected, mark
        self._stale_s, self._settings = settings.stale_s, settings.conditions
        self._deaf_at = clock.monotonic()  # when it was last seen not to be connected
        self._counts = dict.fromkeys(("looks", "transitions", "failures"), 0)

    def start(self, tasks: Tasks) -> None:
        """Run among the owner's tasks."""
        tasks.start("statistics", self._keep_statistics)
        tasks.start("conditions", self._keep_conditions)

    async def stop(self) -> None:
        """Write the rates and latencies that wait, unless the store takes too long."""
        try:
            async with asyncio.timeout(STOP_S):
                await self._store.keep_statistics(self._clock.time(), everything=True)
        except (StorageError, QueueFullError, TimeoutError) as exc:
            log.warning("the last statistics of rules were not written: %s", exc)

    async def _keep_statistics(self) -> None:
        while True:
            await asyncio.sleep(STATISTICS_S)
            try:
                await self._store.keep_statistics(self._clock.time())
            except (StorageError, QueueFullError) as exc:
                self._failed("statistics of rules were not written", exc)

    async def _keep_conditions(self) -> None:
        while True:
            began = self._clock.monotonic()
            try:
                await self.look()
            except (StorageError, QueueFullError) as exc:
                self._failed("conditions of rules were not looked at", exc)
            took = self._clock.monotonic() - began
            await asyncio.sleep(max(self._settings.interval_s, LOOKS_SHARE * took))

    def _failed(self, what: str, exc: Exception) -> None:
        self._counts["failures"] += 1
        log.warning("%s: %s", what, exc)

    async def look(self) -> int:
        """Look at the conditions of all rules once; return how many changed. Raises StorageError, QueueFullError."""
        now, mark = self._clock.time(), self._mark
        if not self._connected():
            self._deaf_at = self._clock.monotonic()
        heard = self._clock.monotonic() - self._deaf_at > self._stale_s
        share, minutes = self._settings.degraded_share, self._settings.degraded_minutes
        terms = Terms(now, self._stale_s, heard, share, minutes)
        found = await self._store.read(lambda conn: transitions(conn, terms))
        self._counts["looks"] += 1
        changed = 0
        for at in range(0, len(found), TRANSITIONS_AT_ONCE):
            some = found[at : at + TRANSITIONS_AT_ONCE]
            changed += await self._store.write(lambda conn, some=some: write_transitions(conn, some, now, mark=mark))  # type: ignore[misc]
        self._counts["transitions"] += changed
        return changed

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)
